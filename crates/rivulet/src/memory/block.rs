//! A block: the range of bytes behind one tensor storage.

use super::content::Content;
use crate::hazard::Stamps;
use crate::hazard::lock::BlockLock;
use crate::ids::StreamId;
use rivulet_hal::sync::Arc;
use rivulet_hal::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use rivulet_hal::{BufferRange, ByteRange, Memory};

/// Where a block's bytes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockKind {
    /// From a segment of one stream, at most 1 MiB.
    Small,
    /// From a segment that all streams share.
    Large,
    /// Host memory that somebody else allocated.
    Adopted,
}

/// What a block is made of; fixed from when it is handed out until it is taken apart.
#[derive(Clone, Debug)]
pub(crate) struct Geometry {
    pub(crate) address: usize,
    pub(crate) size: u64,
    /// None where the memory is adopted.
    pub(crate) memory: Option<Arc<dyn Memory>>,
    /// Start of the segment.
    pub(crate) base: usize,
    pub(crate) home: StreamId,
    pub(crate) kind: BlockKind,
    /// Place in the table of adopted memory.
    pub(crate) slot: u32,
    /// Number of the allocator.
    pub(crate) owner: u64,
}

/// A range of bytes from the [allocator](crate::memory::Allocator), with its lock and its stamps. Shared by `Arc`;
/// given back with [`Allocator::free`](crate::memory::Allocator::free), not by dropping it: a block whose handles
/// were all dropped stays allocated.
///
/// All methods may be called from any thread.
#[derive(Debug)]
pub struct Block {
    // The lock's word and the stamps come first: an op touches nothing else of a block.
    lock: BlockLock,
    stamps: Stamps,
    content: Content,
    geometry: Geometry,
    requested: AtomicU64,
    /// Counts how often the block was handed out: two lives of one header differ in it.
    serial: AtomicU64,
    /// How often the block has been handed out and not yet freed; more than 1 only where memory was adopted twice.
    pub(super) owners: AtomicU32,
    /// True where somebody is to be told when the block is free. Changed under the lock of the home stream's cache.
    pub(super) lent: AtomicBool,
    /// Frees that wait on the return list.
    pub(super) returned: AtomicU32,
    /// [`Block::link`] of the next block of the return list; 0 ends it.
    pub(super) next: AtomicUsize,
}

impl Block {
    pub(crate) fn new(geometry: Geometry) -> Self {
        Self {
            lock: BlockLock::new(),
            stamps: Stamps::new(),
            content: Content::new(),
            geometry,
            requested: AtomicU64::new(0),
            serial: AtomicU64::new(0),
            owners: AtomicU32::new(0),
            lent: AtomicBool::new(false),
            returned: AtomicU32::new(0),
            next: AtomicUsize::new(0),
        }
    }

    /// Turns the header of an idle block into that of another, without stamps. False, and nothing done, where the
    /// lock is not idle.
    pub(crate) fn renew(&mut self, geometry: Geometry) -> bool {
        if !self.lock.is_idle() {
            return false;
        }
        self.stamps.clear(self.lock.cells());
        self.lock.reset();
        self.content = Content::new();
        self.geometry = geometry;
        true
    }

    /// Takes the memory out of an unused header.
    pub(crate) fn vacate(&mut self) -> Option<Arc<dyn Memory>> {
        self.geometry.memory.take()
    }

    /// Address of the first byte; the data pointer of a tensor storage.
    pub fn address(&self) -> usize {
        self.geometry.address
    }

    /// Bytes that may be used, at least those requested.
    pub fn size(&self) -> u64 {
        self.geometry.size
    }

    /// Bytes that were asked for.
    pub fn requested(&self) -> u64 {
        self.requested.load(Ordering::Relaxed)
    }

    pub(crate) fn set_requested(&self, bytes: u64) {
        self.requested.store(bytes, Ordering::Relaxed);
    }

    /// Which of the header's lives this is.
    #[cfg(not(loom))]
    pub(crate) fn serial(&self) -> u64 {
        self.serial.load(Ordering::Relaxed)
    }

    /// Begins another life. Changed under the lock of the home stream's cache alone, so a load and a store will do.
    #[inline]
    pub(super) fn begin_life(&self) {
        self.serial.store(self.serial.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Number of the allocator that the block came from and goes back to.
    pub(crate) fn owner(&self) -> u64 {
        self.geometry.owner
    }

    /// Stream that allocated the block.
    pub fn home(&self) -> StreamId {
        self.geometry.home
    }

    /// Where the bytes come from.
    pub fn kind(&self) -> BlockKind {
        self.geometry.kind
    }

    /// The block as the driver sees it; `None` for adopted memory, which only the CPU can reach.
    pub fn buffer(&self) -> Option<BufferRange> {
        let start = self.offset();
        let range = ByteRange { start, end: start + self.geometry.size };
        self.geometry.memory.as_ref().map(|memory| BufferRange { memory: Arc::clone(memory), range })
    }

    /// The driver's allocation that the block is a part of.
    pub fn memory(&self) -> Option<&Arc<dyn Memory>> {
        self.geometry.memory.as_ref()
    }

    /// Offset of the first byte in [`Block::memory`].
    pub fn offset(&self) -> u64 {
        (self.geometry.address - self.geometry.base) as u64
    }

    /// The lock that orders accesses.
    #[inline]
    pub fn lock(&self) -> &BlockLock {
        &self.lock
    }

    /// What the device still has to do with the block. To be read and written while holding the lock.
    #[inline]
    pub fn stamps(&self) -> &Stamps {
        &self.stamps
    }

    /// Which copies of the bytes are valid, on a device whose memory the CPU cannot see. To be changed while holding the
    /// lock exclusively.
    #[inline]
    pub(crate) fn content(&self) -> &Content {
        &self.content
    }

    /// Gives the mirror's pages back to the system; that copy of the bytes is gone. Needs the exclusive hold.
    pub(crate) fn release_mirror(&self) {
        if let Some(memory) = &self.geometry.memory {
            let start = self.offset();
            // The range is inside its memory, which is all that could be wrong with it.
            let _ = memory.release_mirror(ByteRange { start, end: start + self.geometry.size });
        }
        self.content.released();
    }

    /// What names the block on its stream's return list: its address, or an odd number that holds its slot, because
    /// memory can be adopted twice.
    pub(super) fn link(&self) -> usize {
        match self.geometry.kind {
            BlockKind::Adopted => (self.geometry.slot as usize) << 1 | 1,
            BlockKind::Small | BlockKind::Large => self.geometry.address,
        }
    }

    pub(super) fn slot(&self) -> u32 {
        self.geometry.slot
    }

    /// True from when the block is handed out until it is freed.
    pub fn is_live(&self) -> bool {
        self.owners.load(Ordering::Acquire) > 0
    }
}
