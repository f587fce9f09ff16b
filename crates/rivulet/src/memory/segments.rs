//! Segments: allocations of the driver, cut into blocks and free ranges.
//!
//! A pool knows every byte of its segments: it is in a block or in a free range, no two free ranges are neighbours,
//! and a free range carries the stamps of the blocks it was. The smallest range that fits is taken, the lower
//! address of equal ones.

use super::block::{Block, BlockKind, Geometry};
use crate::hazard::{StampSet, seeded};
use crate::ids::{Point, Progress, StreamId};
use rivulet_hal::Memory;
use rivulet_hal::sync::Arc;
use std::collections::{BTreeMap, BTreeSet};

/// Free ranges looked at for one that may be used, from the best fit upwards.
const CANDIDATES: usize = 64;
/// Unused block headers that are kept.
const SPARE_HEADERS: usize = 1024;

#[derive(Debug)]
enum Chunk {
    Free {
        size: u64,
        /// Stream whose blocks it was; `None` where there were several.
        home: Option<StreamId>,
        stamps: StampSet,
    },
    Used(Arc<Block>),
}

#[derive(Debug)]
struct Segment {
    memory: Arc<dyn Memory>,
    size: u64,
    /// By address.
    chunks: BTreeMap<usize, Chunk>,
    blocks: usize,
}

/// Segments with one lock around them.
#[derive(Debug)]
pub(super) struct Pool {
    kind: BlockKind,
    /// Number of the allocator.
    owner: u64,
    /// By address.
    segments: BTreeMap<usize, Segment>,
    /// Size and address of every free range.
    free: BTreeSet<(u64, usize)>,
    headers: Headers,
    reserved: u64,
}

/// Headers of blocks that are no more, to be used again.
#[derive(Debug, Default)]
pub(super) struct Headers(Vec<Arc<Block>>);

impl Headers {
    pub(super) fn make(&mut self, geometry: Geometry) -> Arc<Block> {
        while let Some(mut header) = self.0.pop() {
            if let Some(block) = Arc::get_mut(&mut header)
                && block.renew(geometry.clone())
            {
                return header;
            }
        }
        Arc::new(Block::new(geometry))
    }

    /// Keeps the header of a block that is no more; its memory. A header that somebody still refers to goes with the
    /// last reference, and its memory with it.
    pub(super) fn keep(&mut self, mut header: Arc<Block>) -> Option<Arc<dyn Memory>> {
        let memory = Arc::get_mut(&mut header)?.vacate();
        if self.0.len() < SPARE_HEADERS {
            self.0.push(header);
        }
        memory
    }
}

impl Pool {
    pub(super) fn new(kind: BlockKind, owner: u64) -> Self {
        Self {
            kind,
            owner,
            segments: BTreeMap::new(),
            free: BTreeSet::new(),
            headers: Headers::default(),
            reserved: 0,
        }
    }

    /// Bytes of all segments.
    pub(super) fn reserved(&self) -> u64 {
        self.reserved
    }

    pub(super) fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Takes in a segment of `size` bytes, all free.
    pub(super) fn insert(&mut self, memory: Arc<dyn Memory>, size: u64) {
        let base = memory.address();
        self.free.insert((size, base));
        let all = Chunk::Free { size, home: None, stamps: StampSet::default() };
        let chunks = BTreeMap::from([(base, all)]);
        self.segments.insert(base, Segment { memory, size, chunks, blocks: 0 });
        self.reserved += size;
    }

    /// Takes in a segment and gives a block of its first `block` bytes. Not by way of [`Segments::take`], which looks at
    /// a few ranges only, and all of those may be in use by the device.
    pub(super) fn insert_and_take(
        &mut self,
        memory: Arc<dyn Memory>,
        size: u64,
        block: u64,
        stream: StreamId,
    ) -> Option<Arc<Block>> {
        let base = memory.address();
        self.insert(memory, size);
        self.free.remove(&(size, base));
        self.carve(base, block, stream)
    }

    /// A block of `size` bytes, from a range that `stream` may use: one that was its own, or one on which the
    /// device has nothing left to do.
    pub(super) fn take(
        &mut self,
        size: u64,
        stream: StreamId,
        progress: &dyn Progress,
    ) -> Option<Arc<Block>> {
        let mut found = None;
        for &(room, address) in self.free.range((size, 0)..).take(CANDIDATES) {
            let chunk = segment_of(&mut self.segments, address).and_then(|s| s.chunks.get_mut(&address));
            let Some(Chunk::Free { home, stamps, .. }) = chunk else { continue };
            let usable = stamps.is_empty() || *home == Some(stream) || {
                stamps.prune(progress);
                stamps.is_empty() || seeded::is("memory_reuse_while_incomplete")
            };
            if usable {
                found = Some((room, address));
                break;
            }
        }
        let (room, address) = found?;
        self.free.remove(&(room, address));
        self.carve(address, size, stream)
    }

    fn carve(&mut self, address: usize, size: u64, stream: StreamId) -> Option<Arc<Block>> {
        let segment = segment_of(&mut self.segments, address)?;
        let Some(Chunk::Free { size: room, home, stamps }) = segment.chunks.remove(&address) else {
            return None;
        };
        if room > size {
            let rest = address + size as usize;
            self.free.insert((room - size, rest));
            segment.chunks.insert(rest, Chunk::Free { size: room - size, home, stamps: stamps.clone() });
        }
        let block = self.headers.make(Geometry {
            address,
            size,
            memory: Some(Arc::clone(&segment.memory)),
            base: segment.memory.address(),
            home: stream,
            kind: self.kind,
            slot: 0,
            owner: self.owner,
        });
        block.stamps().load(&stamps);
        segment.chunks.insert(address, Chunk::Used(Arc::clone(&block)));
        segment.blocks += 1;
        Some(block)
    }

    /// Takes a block apart. Nobody holds its lock, and it is in no cache.
    pub(super) fn give(&mut self, block: Arc<Block>, progress: &dyn Progress) {
        let (mut address, mut size) = (block.address(), block.size());
        let Some(segment) = segment_of(&mut self.segments, address) else { return };
        let mut stamps = block.stamps().copy(block.lock().cells(), progress);
        let mut home = Some(block.home());
        segment.chunks.remove(&address);
        segment.blocks -= 1;
        let before = segment.chunks.range(..address).next_back().map(|(&at, chunk)| (at, chunk.free_size()));
        if let Some((at, Some(room))) = before {
            merge(segment, at, &mut home, &mut stamps);
            self.free.remove(&(room, at));
            (address, size) = (at, size + room);
        }
        let end = address + size as usize;
        if let Some(room) = segment.chunks.get(&end).and_then(Chunk::free_size) {
            merge(segment, end, &mut home, &mut stamps);
            self.free.remove(&(room, end));
            size += room;
        }
        segment.chunks.insert(address, Chunk::Free { size, home, stamps });
        self.free.insert((size, address));
        self.headers.keep(block);
    }

    /// The block whose bytes include `address`, live or not.
    pub(super) fn find(&self, address: usize) -> Option<&Arc<Block>> {
        let (_, segment) = self.segments.range(..=address).next_back()?;
        match segment.chunks.range(..=address).next_back()? {
            (&start, Chunk::Used(block)) if address - start < block.size() as usize => Some(block),
            _ => None,
        }
    }

    /// Bytes of segments without a block.
    pub(super) fn idle_bytes(&self) -> u64 {
        self.segments.values().filter(|segment| segment.blocks == 0).map(|segment| segment.size).sum()
    }

    /// Takes out segments without a block whose work is complete, until `enough` bytes are reached. The caller
    /// drops them when it holds no lock.
    pub(super) fn release(&mut self, enough: u64, progress: &dyn Progress) -> Vec<Released> {
        let mut released = Vec::new();
        let mut bytes = 0;
        let empty: Vec<usize> = self.empty_segments().collect();
        for base in empty {
            if bytes >= enough {
                break;
            }
            let Some(segment) = self.segments.get_mut(&base) else { continue };
            if let Some(Chunk::Free { stamps, .. }) = segment.chunks.get_mut(&base) {
                stamps.prune(progress);
                if !stamps.is_empty() {
                    continue;
                }
            }
            if let Some(segment) = self.segments.remove(&base) {
                self.free.remove(&(segment.size, base));
                self.reserved -= segment.size;
                bytes += segment.size;
                released.push(Released { memory: segment.memory, size: segment.size });
            }
        }
        released
    }

    fn empty_segments(&self) -> impl Iterator<Item = usize> + '_ {
        self.segments.iter().filter(|(_, segment)| segment.blocks == 0).map(|(&base, _)| base)
    }

    /// What the device still has to do on free ranges.
    pub(super) fn pending(&self, progress: &dyn Progress, mut each: impl FnMut(Point)) {
        for chunk in self.segments.values().flat_map(|segment| segment.chunks.values()) {
            if let Chunk::Free { stamps, .. } = chunk {
                stamps
                    .points()
                    .filter(|point| progress.completed(point.stream) < point.value)
                    .for_each(&mut each);
            }
        }
    }

    /// Checks the invariants of the module's head; the first broken one.
    #[cfg(any(test, debug_assertions))]
    pub(super) fn audit(&self) -> Result<(), String> {
        let mut ranges = 0;
        for (&base, segment) in &self.segments {
            let (mut end, mut free_before, mut blocks) = (base, false, 0);
            for (&address, chunk) in &segment.chunks {
                if address != end {
                    return Err(format!("a gap or overlap at {address:#x}, expected {end:#x}"));
                }
                let free = chunk.free_size();
                if free.is_some() && free_before {
                    return Err(format!("free neighbours at {address:#x}"));
                }
                match (chunk, free) {
                    (_, Some(size)) if !self.free.contains(&(size, address)) => {
                        return Err(format!("free range at {address:#x} is not listed"));
                    }
                    (Chunk::Used(_), _) => blocks += 1,
                    _ => ranges += 1,
                }
                free_before = free.is_some();
                end = address + chunk.size() as usize;
            }
            if end != base + segment.size as usize || blocks != segment.blocks {
                return Err(format!("segment {base:#x} ends at {end:#x} with {blocks} blocks"));
            }
        }
        if ranges == self.free.len() { Ok(()) } else { Err(format!("{ranges} free ranges, not as listed")) }
    }
}

/// A segment on its way back to the driver.
#[derive(Debug)]
pub(super) struct Released {
    pub(super) memory: Arc<dyn Memory>,
    pub(super) size: u64,
}

impl Chunk {
    fn free_size(&self) -> Option<u64> {
        match self {
            Self::Free { size, .. } => Some(*size),
            Self::Used(_) => None,
        }
    }

    #[cfg(any(test, debug_assertions))]
    fn size(&self) -> u64 {
        match self {
            Self::Free { size, .. } => *size,
            Self::Used(block) => block.size(),
        }
    }
}

fn segment_of(segments: &mut BTreeMap<usize, Segment>, address: usize) -> Option<&mut Segment> {
    segments.range_mut(..=address).next_back().map(|(_, segment)| segment)
}

/// Takes a free neighbour out of the segment and joins its home and stamps.
fn merge(segment: &mut Segment, at: usize, home: &mut Option<StreamId>, stamps: &mut StampSet) {
    if let Some(Chunk::Free { home: other, stamps: others, .. }) = segment.chunks.remove(&at) {
        // Memory without stamps belongs to nobody in particular.
        if *home != other && !(others.is_empty() || stamps.is_empty()) {
            *home = None;
        } else if stamps.is_empty() && !others.is_empty() {
            *home = other;
        }
        stamps.join(&others);
    }
}
