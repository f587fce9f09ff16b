//! One stream's share of the allocator: freed blocks by size, its small segments, its adopted memory.
//!
//! Everything is behind one lock that only threads of that stream take often, and that nobody holds across a call
//! into the driver, PyTorch or a wait. A free that finds the lock taken puts the block on the return list, which
//! is lock-free; the next one to hold the lock empties it.

use super::DropFn;
use super::block::{Block, BlockKind, Geometry};
use super::segments::{Headers, Pool};
use super::size_class::{self, CLASSES, SizeClass};
use super::stats::{Books, Counts};
use crate::hazard::lock::Mode;
use crate::hazard::seeded;
use crate::ids::{Access, Point, Progress, StreamId};
use rivulet_hal::Memory;
use rivulet_hal::sync::atomic::{AtomicUsize, Ordering};
use rivulet_hal::sync::{Arc, Mutex, MutexGuard, Rank};
use smallvec::SmallVec;
use std::collections::BTreeMap;

/// Large blocks that are kept for their exact size when a request finds none that fits.
const FRONT_KEPT: usize = 16;

/// What to call to give adopted memory back; collected under the lock, called without it.
pub(super) type Drops = SmallVec<[DropFn; 1]>;

#[derive(Debug)]
pub(super) struct Shard {
    cache: Mutex<Cache>,
    /// [`Block::link`] of the block freed last while the lock was taken; 0 is none.
    returns: AtomicUsize,
}

pub(super) struct Cache {
    /// Number of the allocator.
    owner: u64,
    bins: [Vec<Arc<Block>>; CLASSES],
    small: Pool,
    /// Freed large blocks, the last freed at the end.
    front: Vec<Arc<Block>>,
    /// Every large block that this stream has taken from the common pool, by address.
    large: BTreeMap<usize, Arc<Block>>,
    /// Live adopted blocks. A block keeps its slot.
    adopted: Vec<Option<Adopted>>,
    free_slots: Vec<u32>,
    /// What to call when the block at this address, of our own memory, is free.
    lent: BTreeMap<usize, Drops>,
    /// Freed blocks whose memory somebody else waits for, but that are still in use.
    deferred: Vec<(Arc<Block>, Drops)>,
    headers: Headers,
    pub(super) counts: Counts,
}

/// A live adopted block, with its range beside it: looking for an address reads this table from end to end.
struct Adopted {
    address: usize,
    bytes: usize,
    block: Arc<Block>,
    drops: Drops,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("counts", &self.counts).finish_non_exhaustive()
    }
}

impl Shard {
    pub(super) fn new(owner: u64) -> Self {
        let cache = Cache {
            owner,
            bins: std::array::from_fn(|_| Vec::new()),
            small: Pool::new(BlockKind::Small, owner),
            front: Vec::new(),
            large: BTreeMap::new(),
            adopted: Vec::new(),
            free_slots: Vec::new(),
            lent: BTreeMap::new(),
            deferred: Vec::new(),
            headers: Headers::default(),
            counts: Counts::default(),
        };
        Self { cache: Mutex::new(Rank::ALLOCATOR, cache), returns: AtomicUsize::new(0) }
    }

    /// The cache, with all returned blocks in it. `drops` are to be called without the lock.
    #[inline]
    pub(super) fn lock(&self, books: &Books, drops: &mut Drops) -> MutexGuard<'_, Cache> {
        let mut cache = self.cache.lock();
        if self.returns.load(Ordering::Relaxed) != 0 {
            self.take_returns(&mut cache, books, drops);
        }
        cache
    }

    /// As it is, without emptying the return list.
    pub(super) fn lock_as_is(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock()
    }

    /// The cache, where nobody holds it.
    #[inline]
    pub(super) fn try_lock(&self) -> Option<MutexGuard<'_, Cache>> {
        self.cache.try_lock()
    }

    /// Puts a freed block on the return list. Never waits.
    pub(super) fn push_return(&self, block: &Block) {
        // A block freed by a second owner is on the list already and carries the number.
        if block.returned.fetch_add(1, Ordering::AcqRel) > 0 {
            return;
        }
        let mut head = self.returns.load(Ordering::Relaxed);
        loop {
            block.next.store(head, Ordering::Relaxed);
            // Release: pairs with the Acquire of the swap, which then sees `next` and what the freeing thread did.
            match self.returns.compare_exchange_weak(head, block.link(), Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(other) => head = other,
            }
        }
    }

    #[cold]
    fn take_returns(&self, cache: &mut Cache, books: &Books, drops: &mut Drops) {
        let mut link = if seeded::is("memory_returns_not_swapped") {
            let link = self.returns.load(Ordering::Acquire);
            self.returns.store(0, Ordering::Release);
            link
        } else {
            self.returns.swap(0, Ordering::Acquire)
        };
        while link != 0 {
            let Some(block) = cache.by_link(link) else { return };
            // Before the count goes to 0: from then on the block may be pushed again.
            link = block.next.load(Ordering::Relaxed);
            for _ in 0..block.returned.swap(0, Ordering::AcqRel) {
                cache.take_back(Arc::clone(&block), books, drops);
            }
        }
    }
}

impl Cache {
    fn by_link(&self, link: usize) -> Option<Arc<Block>> {
        if link & 1 == 1 {
            let adopted = self.adopted.get(link >> 1)?.as_ref()?;
            return Some(Arc::clone(&adopted.block));
        }
        let small = || self.small.find(link).filter(|block| block.address() == link);
        self.large.get(&link).or_else(small).cloned()
    }

    /// A block that is free, of exactly this size, and not held. The lock goes back to central mode.
    #[inline]
    pub(super) fn pop(&mut self, class: SizeClass) -> Option<Arc<Block>> {
        let (list, size) = match class {
            SizeClass::Small { class, size } => (&mut self.bins[class], size),
            SizeClass::Large { size } => (&mut self.front, size),
        };
        let at = list.iter().rposition(|block| block.size() == size && may_reuse(block))?;
        Some(list.swap_remove(at))
    }

    /// A small block from this stream's segments.
    pub(super) fn take_small(
        &mut self,
        size: u64,
        stream: StreamId,
        progress: &dyn Progress,
    ) -> Option<Arc<Block>> {
        self.small.take(size, stream, progress).or_else(|| {
            self.flush_bins(progress);
            self.small.take(size, stream, progress)
        })
    }

    /// Marks a block as handed out.
    #[inline]
    pub(super) fn hand_out(&mut self, block: &Block, bytes: u64) {
        block.set_requested(bytes);
        block.begin_life();
        block.content().reset();
        // Release: pairs with the Acquire of `Block::is_live`.
        block.owners.store(1, Ordering::Release);
        self.counts.allocs += 1;
        self.counts.alloc_bytes += bytes;
        self.counts.live += 1;
    }

    /// Notes a large block that came from the common pool.
    pub(super) fn note_large(&mut self, block: &Arc<Block>) {
        self.large.insert(block.address(), Arc::clone(block));
    }

    /// One owner fewer; the last one's free puts the block back.
    #[inline]
    pub(super) fn take_back(&mut self, block: Arc<Block>, books: &Books, drops: &mut Drops) {
        // All changes of `owners` are under this lock.
        let owners = block.owners.load(Ordering::Relaxed);
        block.owners.store(owners.saturating_sub(1), Ordering::Release);
        if owners != 1 {
            return;
        }
        let bytes = block.requested();
        self.counts.frees += 1;
        self.counts.free_bytes += bytes;
        self.counts.live -= 1;
        books.allocated.sub(bytes);
        if block.lent.load(Ordering::Relaxed) {
            self.give_back_lent(block, books, drops);
        } else {
            self.put(block, drops);
        }
    }

    #[inline]
    fn put(&mut self, block: Arc<Block>, drops: &mut Drops) {
        match block.kind() {
            BlockKind::Small => self.bins[size_class::class_of(block.size())].push(block),
            BlockKind::Large => {
                if block.content().has_pages() {
                    release_later(&block, drops);
                }
                self.front.push(block);
            }
            BlockKind::Adopted => {
                if let Some(memory) = self.headers.keep(block) {
                    drops.push(Box::new(move || drop(memory)));
                }
            }
        }
    }

    /// Gives back a block that others wait for.
    fn give_back_lent(&mut self, block: Arc<Block>, books: &Books, drops: &mut Drops) {
        block.lent.store(false, Ordering::Relaxed);
        let own = if block.kind() == BlockKind::Adopted {
            self.counts.adopted -= block.size();
            books.reserved.sub(block.size());
            self.free_slots.push(block.slot());
            let adopted = self.adopted.get_mut(block.slot() as usize).and_then(Option::take);
            adopted.map_or_else(Drops::new, |adopted| adopted.drops)
        } else {
            self.lent.remove(&block.address()).unwrap_or_default()
        };
        if block.lock().is_idle() && block.stamps().is_empty() {
            drops.extend(own);
            self.put(block, drops);
        } else {
            self.deferred.push((block, own));
        }
    }

    /// Lets go of adopted memory whose last use has ended since it was freed.
    #[inline]
    pub(super) fn retry_deferred(&mut self, progress: &dyn Progress, drops: &mut Drops) {
        if self.deferred.is_empty() {
            return;
        }
        let deferred = std::mem::take(&mut self.deferred);
        for (block, own) in deferred {
            if block.lock().is_idle() && block.stamps().all_complete(block.lock().cells(), progress) {
                drops.extend(own);
                self.put(block, drops);
            } else {
                self.deferred.push((block, own));
            }
        }
    }

    /// A block over host memory; `address + bytes` fits into an address.
    #[inline]
    pub(super) fn adopt(
        &mut self,
        address: usize,
        bytes: usize,
        memory: Option<Arc<dyn Memory>>,
        home: StreamId,
        drop: Option<DropFn>,
    ) -> Arc<Block> {
        let slot = self.free_slots.pop().unwrap_or_else(|| {
            self.adopted.push(None);
            (self.adopted.len() - 1) as u32
        });
        let (size, kind) = (bytes as u64, BlockKind::Adopted);
        let (base, owner) = (address, self.owner);
        let block = self.headers.make(Geometry { address, size, memory, base, home, kind, slot, owner });
        let drops = drop.into_iter().collect();
        self.adopted[slot as usize] = Some(Adopted { address, bytes, block: Arc::clone(&block), drops });
        block.lent.store(true, Ordering::Relaxed);
        self.counts.adopted += size;
        self.hand_out(&block, size);
        block
    }

    /// One owner more; the caller has seen that the block is live, under this lock.
    pub(super) fn add_owner(&mut self, block: &Block, drop: DropFn) {
        let owners = block.owners.load(Ordering::Relaxed);
        block.owners.store(owners + 1, Ordering::Release);
        block.lent.store(true, Ordering::Relaxed);
        match self.adopted.get_mut(block.slot() as usize) {
            Some(Some(adopted)) if block.kind() == BlockKind::Adopted => adopted.drops.push(drop),
            _ => self.lent.entry(block.address()).or_default().push(drop),
        }
    }

    /// The live adopted block that holds `address`.
    pub(super) fn find_adopted(&self, address: usize) -> Option<&Arc<Block>> {
        let holds = |adopted: &&Adopted| address.wrapping_sub(adopted.address) < adopted.bytes;
        self.adopted.iter().flatten().find(holds).map(|adopted| &adopted.block)
    }

    /// The small block that holds `address`.
    pub(super) fn find_small(&self, address: usize) -> Option<&Arc<Block>> {
        self.small.find(address)
    }

    pub(super) fn small(&mut self) -> &mut Pool {
        &mut self.small
    }

    /// Joins the free small blocks with their neighbours.
    pub(super) fn flush_bins(&mut self, progress: &dyn Progress) {
        for bin in &mut self.bins {
            for block in take_reusable(bin, usize::MAX) {
                self.small.give(block, progress);
            }
        }
    }

    /// Takes out free large blocks beyond the `kept` freed last, for the common pool.
    pub(super) fn spill_front(&mut self, kept: usize) -> Vec<Arc<Block>> {
        let spill = self.front.len().saturating_sub(kept);
        let spilled = take_reusable(&mut self.front, spill);
        for block in &spilled {
            self.large.remove(&block.address());
        }
        spilled
    }

    /// As [`Cache::spill_front`], down to the usual number.
    pub(super) fn trim_front(&mut self) -> Vec<Arc<Block>> {
        self.spill_front(FRONT_KEPT)
    }

    /// What the device still has to do on freed memory.
    pub(super) fn pending(&self, progress: &dyn Progress, mut each: impl FnMut(Point)) {
        self.small.pending(progress, &mut each);
        for block in self.bins.iter().flatten().chain(&self.front) {
            let cells = block.lock().cells();
            block.stamps().conflicts(Access::Write, cells, |point| {
                if progress.completed(point.stream) < point.value {
                    each(point);
                }
            });
        }
    }
}

/// Has the pages of a freed block's mirror given back, without the cache's lock. Nobody gets the block meanwhile, since it
/// is held; where somebody still uses it the pages stay.
#[cold]
fn release_later(block: &Arc<Block>, drops: &mut Drops) {
    let Some(hold) = block.lock().try_lock(Mode::Exclusive, block.home()) else { return };
    let block = Arc::clone(block);
    drops.push(Box::new(move || {
        block.release_mirror();
        block.lock().unlock(hold);
    }));
}

/// Takes out what nobody holds, of the first `count` blocks. The rest stay in order.
fn take_reusable(list: &mut Vec<Arc<Block>>, count: usize) -> Vec<Arc<Block>> {
    let mut taken = Vec::new();
    let mut left = count;
    if left > 0 {
        list.retain(|block| {
            let take = left > 0 && may_reuse(block);
            left = left.saturating_sub(1);
            if take {
                taken.push(Arc::clone(block));
            }
            !take
        });
    }
    taken
}

/// True where nobody holds the block, which then is in central mode.
#[inline]
fn may_reuse(block: &Block) -> bool {
    let lock = block.lock();
    if lock.has_cells() {
        return lock.try_reset(|cells| block.stamps().merge_cells(cells));
    }
    lock.is_idle() || seeded::is("memory_reuse_while_held")
}
