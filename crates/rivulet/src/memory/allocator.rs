use super::block::{Block, BlockKind};
use super::cache::{Cache, Drops, Shard};
use super::segments::{Pool, Released};
use super::size_class::SizeClass;
use super::stats::{Books, Gauge, MemoryStats};
use super::{DropFn, MemoryError};
use crate::ids::{Point, Progress, StreamId};
use rivulet_hal::sync::atomic::{AtomicU64, Ordering};
use rivulet_hal::sync::{self, Arc, CachePadded, Mutex, MutexGuard, Rank};
use rivulet_hal::{Device, HalError, Memory, MemoryUsage};
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::sync::OnceLock;

const MIB: u64 = 1 << 20;
/// Segments for small blocks: at first, and at most.
const SMALL_SEGMENT: u64 = 2 * MIB;
const SMALL_SEGMENT_MAX: u64 = 32 * MIB;
/// Segments for large blocks below [`LARGE_OWN`]; from there a segment is as large as the block.
const LARGE_SEGMENT: u64 = 20 * MIB;
const LARGE_OWN: u64 = 10 * MIB;
const LARGE_ROUND: u64 = 2 * MIB;
/// Empty large segments that are kept when another one is made; also a quarter of what is reserved is.
const IDLE_KEPT: u64 = 64 * MIB;

/// Streams of one chunk of the table, and chunks. Streams beyond share a shard, which costs nothing but contention.
#[cfg(not(loom))]
const SHARDS: (usize, usize) = (64, 256);
#[cfg(loom)]
const SHARDS: (usize, usize) = (2, 2);

/// No limit of reserved bytes.
const UNLIMITED: u64 = u64::MAX;

type ShardChunk = Box<[CachePadded<Shard>]>;

sync::global! {
    static IDS: AtomicU64 = AtomicU64::new(0);
}

/// Who owns a segment.
#[derive(Clone, Copy, Debug)]
enum Owner {
    Stream(StreamId),
    Common,
}

/// The allocator of one device. All methods may be called from any thread; callers hold no engine lock of the
/// allocator's rank or above.
#[derive(Debug)]
pub struct Allocator {
    /// Tells the allocators of a process apart.
    id: u64,
    device: Arc<dyn Device>,
    shards: Box<[OnceLock<ShardChunk>]>,
    large: CachePadded<Mutex<Pool>>,
    /// Base address of every segment, to its size and owner.
    table: Mutex<BTreeMap<usize, (u64, Owner)>>,
    books: CachePadded<Books>,
    /// Most bytes of one block.
    largest: u64,
    limit: AtomicU64,
    ooms: AtomicU64,
    retries: AtomicU64,
}

/// Where nothing is known to be complete.
struct Unknown;

impl Progress for Unknown {
    fn completed(&self, _: StreamId) -> u64 {
        0
    }
}

/// Calls what was collected under a lock, at the end of a scope that has let go of it.
#[inline]
fn run(drops: Drops) {
    if !drops.is_empty() {
        drops.into_iter().for_each(|drop| drop());
    }
}

impl Allocator {
    /// An allocator without any memory. It may reserve all the device has, see [`Allocator::set_fraction`].
    pub fn new(device: Arc<dyn Device>) -> Self {
        let info = device.info();
        let limit = info.memory_bytes;
        // No block may be so large that an address inside it overflows.
        let largest = info.max_allocation.min(isize::MAX as u64);
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        Self {
            id,
            device,
            largest,
            shards: (0..SHARDS.1).map(|_| OnceLock::new()).collect(),
            large: CachePadded::new(Mutex::new(Rank::ALLOCATOR, Pool::new(BlockKind::Large, id))),
            table: Mutex::new(Rank::SEGMENT_TABLE, BTreeMap::new()),
            books: CachePadded::new(Books { allocated: Gauge::new(), reserved: Gauge::new() }),
            limit: AtomicU64::new(limit),
            ooms: AtomicU64::new(0),
            retries: AtomicU64::new(0),
        }
    }

    #[inline]
    fn shard(&self, stream: StreamId) -> &Shard {
        let index = stream.index() % (SHARDS.0 * SHARDS.1);
        let chunk = self.shards[index / SHARDS.0]
            .get_or_init(|| (0..SHARDS.0).map(|_| CachePadded::new(Shard::new(self.id))).collect());
        &chunk[index % SHARDS.0]
    }

    fn made_shards(&self) -> impl Iterator<Item = &Shard> {
        self.shards.iter().filter_map(OnceLock::get).flatten().map(|shard| &**shard)
    }

    /// A block of at least `bytes` for `stream`, aligned to 256 bytes. Its stamps may name work that is still going
    /// on; the next access waits for it like for any other.
    ///
    /// # Errors
    /// [`MemoryError::ZeroSize`], [`MemoryError::TooLarge`], [`MemoryError::OutOfMemory`], [`MemoryError::Driver`];
    /// [`MemoryError::NeedsIdle`] where the caller should wait for the points it names and ask again.
    pub fn allocate(
        &self,
        stream: StreamId,
        bytes: u64,
        progress: &dyn Progress,
    ) -> Result<Arc<Block>, MemoryError> {
        if bytes == 0 {
            return Err(MemoryError::ZeroSize);
        }
        let class = SizeClass::of(bytes).filter(|_| bytes <= self.largest).ok_or_else(|| {
            self.ooms.fetch_add(1, Ordering::Relaxed);
            MemoryError::TooLarge { requested: bytes, largest: self.largest }
        })?;
        let mut drops = Drops::new();
        let mut cache = self.shard(stream).lock(&self.books, &mut drops);
        cache.retry_deferred(progress, &mut drops);
        let mut found = cache.pop(class);
        if let (None, SizeClass::Small { size, .. }) = (&found, class) {
            found = cache.take_small(size, stream, progress);
        }
        if let Some(block) = &found {
            self.count(&mut cache, block, bytes);
        }
        drop(cache);
        run(drops);
        match found {
            Some(block) => Ok(block),
            None => self.allocate_slow(stream, bytes, class, progress),
        }
    }

    #[inline]
    fn count(&self, cache: &mut Cache, block: &Block, bytes: u64) {
        cache.hand_out(block, bytes);
        self.books.allocated.add(bytes);
    }

    #[cold]
    fn allocate_slow(
        &self,
        stream: StreamId,
        bytes: u64,
        class: SizeClass,
        progress: &dyn Progress,
    ) -> Result<Arc<Block>, MemoryError> {
        let mut detail = None;
        for round in 0..2 {
            if round == 1 {
                self.retries.fetch_add(1, Ordering::Relaxed);
                self.empty_cache(progress);
            }
            if let Some(block) = self.take_pooled(stream, bytes, class, progress) {
                return Ok(block);
            }
            match self.grow(stream, bytes, class, progress)? {
                Ok(block) => return Ok(block),
                Err(text) => detail = text,
            }
        }
        let points = self.pending(progress);
        if !points.is_empty() {
            return Err(MemoryError::NeedsIdle { points });
        }
        Err(self.out_of_memory(bytes, detail))
    }

    /// From memory that is there already.
    fn take_pooled(
        &self,
        stream: StreamId,
        bytes: u64,
        class: SizeClass,
        progress: &dyn Progress,
    ) -> Option<Arc<Block>> {
        match class {
            SizeClass::Small { size, .. } => {
                let mut drops = Drops::new();
                let mut cache = self.shard(stream).lock(&self.books, &mut drops);
                let block = cache.take_small(size, stream, progress);
                if let Some(block) = &block {
                    self.count(&mut cache, block, bytes);
                }
                drop(cache);
                run(drops);
                block
            }
            SizeClass::Large { size } => {
                let spilled = self.shard(stream).lock_as_is().trim_front();
                self.to_common_pool(spilled, progress);
                let mut block = self.large.lock().take(size, stream, progress);
                if block.is_none() {
                    self.collect_fronts(progress);
                    block = self.large.lock().take(size, stream, progress);
                }
                block.inspect(|block| self.count_large(stream, block, bytes))
            }
        }
    }

    fn count_large(&self, stream: StreamId, block: &Arc<Block>, bytes: u64) {
        let mut cache = self.shard(stream).lock_as_is();
        cache.note_large(block);
        self.count(&mut cache, block, bytes);
    }

    fn to_common_pool(&self, blocks: Vec<Arc<Block>>, progress: &dyn Progress) {
        if !blocks.is_empty() {
            let mut large = self.large.lock();
            blocks.into_iter().for_each(|block| large.give(block, progress));
        }
    }

    /// Every stream hands in its freed large blocks.
    fn collect_fronts(&self, progress: &dyn Progress) {
        for shard in self.made_shards() {
            let mut drops = Drops::new();
            let spilled = shard.lock(&self.books, &mut drops).spill_front(0);
            run(drops);
            self.to_common_pool(spilled, progress);
        }
    }

    /// Makes a segment and takes the block from it. The inner error is the driver's text where there is no memory.
    fn grow(
        &self,
        stream: StreamId,
        bytes: u64,
        class: SizeClass,
        progress: &dyn Progress,
    ) -> Result<Result<Arc<Block>, Option<String>>, MemoryError> {
        let (least, preferred) = match class {
            SizeClass::Small { .. } => {
                let quarter = self.shard(stream).lock_as_is().small().reserved() / 4;
                let preferred = quarter.clamp(SMALL_SEGMENT, SMALL_SEGMENT_MAX).next_multiple_of(LARGE_ROUND);
                (SMALL_SEGMENT, preferred)
            }
            SizeClass::Large { size } => {
                let own = size.checked_next_multiple_of(LARGE_ROUND).unwrap_or(size);
                (size, if size < LARGE_OWN { LARGE_SEGMENT } else { own })
            }
        };
        if let SizeClass::Large { .. } = class {
            self.trim_idle_segments(preferred, progress);
        }
        let mut detail = None;
        for size in [preferred, least] {
            match self.segment(size)? {
                Ok(memory) => return Ok(Ok(self.insert(memory, size, stream, bytes, class)?)),
                Err(text) => detail = text,
            }
            if size == least {
                break;
            }
        }
        Ok(Err(detail))
    }

    /// Asks the driver for `size` bytes, within the limit. No lock is held.
    fn segment(&self, size: u64) -> Result<Result<Arc<dyn Memory>, Option<String>>, MemoryError> {
        if !self.books.reserved.try_add(size, self.limit.load(Ordering::Relaxed)) {
            return Ok(Err(None));
        }
        match self.device.allocate(size, MemoryUsage::Device) {
            Ok(memory) => Ok(Ok(memory)),
            Err(error) => {
                self.books.reserved.sub(size);
                match error {
                    HalError::OutOfMemory { detail, .. } => Ok(Err(Some(detail))),
                    error => Err(MemoryError::Driver(error)),
                }
            }
        }
    }

    fn insert(
        &self,
        memory: Arc<dyn Memory>,
        size: u64,
        stream: StreamId,
        bytes: u64,
        class: SizeClass,
    ) -> Result<Arc<Block>, MemoryError> {
        let base = memory.address();
        let block = match class {
            SizeClass::Small { size: block, .. } => {
                self.table.lock().insert(base, (size, Owner::Stream(stream)));
                let mut cache = self.shard(stream).lock_as_is();
                let block = cache.small().insert_and_take(memory, size, block, stream);
                if let Some(block) = &block {
                    self.count(&mut cache, block, bytes);
                }
                block
            }
            SizeClass::Large { size: block } => {
                self.table.lock().insert(base, (size, Owner::Common));
                let mut large = self.large.lock();
                let block = large.insert_and_take(memory, size, block, stream);
                drop(large);
                block.inspect(|block| self.count_large(stream, block, bytes))
            }
        };
        block.ok_or_else(|| {
            MemoryError::Driver(HalError::Usage(format!(
                "{size} bytes at {base:#x} hold no block of {bytes} bytes"
            )))
        })
    }

    /// Before the common pool grows by `size`: empty segments beyond what is worth keeping go first, so that
    /// requests of ever changing sizes do not pile them up.
    fn trim_idle_segments(&self, size: u64, progress: &dyn Progress) {
        let mut large = self.large.lock();
        let kept = IDLE_KEPT.max(large.reserved() / 4);
        let released = if large.idle_bytes() > kept { large.release(size, progress) } else { Vec::new() };
        drop(large);
        self.give_to_driver(released);
    }

    fn give_to_driver(&self, released: Vec<Released>) {
        for Released { memory, size } in released {
            self.table.lock().remove(&memory.address());
            self.books.reserved.sub(size);
            drop(memory);
        }
    }

    /// Joins all freed memory and gives segments without a block back to the driver, but for those that the device
    /// still works on. Blocks the driver for as long as it takes to free them.
    pub fn empty_cache(&self, progress: &dyn Progress) {
        self.collect_fronts(progress);
        for shard in self.made_shards() {
            let mut drops = Drops::new();
            let mut cache = shard.lock(&self.books, &mut drops);
            cache.retry_deferred(progress, &mut drops);
            cache.flush_bins(progress);
            let released = cache.small().release(u64::MAX, progress);
            drop(cache);
            run(drops);
            self.give_to_driver(released);
        }
        let released = self.large.lock().release(u64::MAX, progress);
        self.give_to_driver(released);
    }

    /// The highest point of each stream that freed memory waits for.
    fn pending(&self, progress: &dyn Progress) -> SmallVec<[Point; 4]> {
        let mut points: SmallVec<[Point; 4]> = SmallVec::new();
        let mut add = |point: Point| match points.iter_mut().find(|other| other.stream == point.stream) {
            Some(other) => other.value = other.value.max(point.value),
            None => points.push(point),
        };
        for shard in self.made_shards() {
            shard.lock_as_is().pending(progress, &mut add);
        }
        self.large.lock().pending(progress, &mut add);
        points
    }

    /// Gives a block of this allocator back. Any thread, inside an op or a deleter: waits for nothing and calls no driver. Work that
    /// still uses the block goes on undisturbed. For adopted memory calls what was given to
    /// [`Allocator::adopt`], at once or, where the memory is still in use, by a later call of this allocator.
    ///
    /// Freeing a block twice is a bug of the caller; the second time does nothing.
    #[inline]
    pub fn free(&self, block: Arc<Block>) {
        let shard = self.shard(block.home());
        match shard.try_lock() {
            Some(mut cache) => {
                let mut drops = Drops::new();
                cache.take_back(block, &self.books, &mut drops);
                drop(cache);
                run(drops);
            }
            None => shard.push_return(&block),
        }
    }

    /// True where the block came from this allocator.
    pub fn owns(&self, block: &Block) -> bool {
        block.owner() == self.id
    }

    /// Runs `body` under the lock of a cache whose return list is empty.
    fn with_cache<R>(&self, shard: &Shard, body: impl FnOnce(MutexGuard<'_, Cache>) -> R) -> R {
        let mut drops = Drops::new();
        let result = body(shard.lock(&self.books, &mut drops));
        run(drops);
        result
    }

    /// Makes a block of host memory that somebody else allocated: `bytes` at `address`, which stay valid until `drop`
    /// is called. Two blocks over the same bytes do not know of each other; where memory may be known already (an
    /// import), [`Allocator::find`] and [`Allocator::share`] come first.
    ///
    /// The driver cannot reach the block ([`Block::buffer`] is `None`); [`Allocator::adopt_memory`] is for memory that
    /// it can.
    ///
    /// # Errors
    /// [`MemoryError::CannotAdopt`], [`MemoryError::ZeroSize`], [`MemoryError::BadRange`];
    /// [`MemoryError::OutOfMemory`] beyond the limit. `drop` is not called then; it is dropped.
    pub fn adopt(
        &self,
        address: usize,
        bytes: u64,
        stream: StreamId,
        drop: DropFn,
    ) -> Result<Arc<Block>, MemoryError> {
        self.adopt_range(address, bytes, None, stream, Some(drop))
    }

    /// Makes a block of a whole memory that did not come from this allocator. The reference goes when the block is
    /// freed and idle.
    ///
    /// # Errors
    /// As [`Allocator::adopt`].
    pub fn adopt_memory(&self, memory: Arc<dyn Memory>, stream: StreamId) -> Result<Arc<Block>, MemoryError> {
        self.adopt_range(memory.address(), memory.size(), Some(memory), stream, None)
    }

    fn adopt_range(
        &self,
        address: usize,
        bytes: u64,
        memory: Option<Arc<dyn Memory>>,
        stream: StreamId,
        drop: Option<DropFn>,
    ) -> Result<Arc<Block>, MemoryError> {
        let info = self.device.info();
        if !(info.unified_memory && info.inline_completion) {
            return Err(MemoryError::CannotAdopt { address, bytes, device: info.name.clone() });
        }
        if bytes == 0 {
            return Err(MemoryError::ZeroSize);
        }
        let fits = |&bytes: &usize| address != 0 && address.checked_add(bytes).is_some();
        let length = usize::try_from(bytes).ok().filter(fits);
        let length = length.ok_or(MemoryError::BadRange { address, bytes })?;
        self.reserve_adopted(bytes)?;
        let mut drops = Drops::new();
        let mut cache = self.shard(stream).lock(&self.books, &mut drops);
        cache.retry_deferred(&Unknown, &mut drops);
        let block = cache.adopt(address, length, memory, stream, drop);
        self.books.allocated.add(bytes);
        std::mem::drop(cache);
        run(drops);
        Ok(block)
    }

    /// Adopted memory counts against the limit like any other.
    fn reserve_adopted(&self, bytes: u64) -> Result<(), MemoryError> {
        let limit = self.limit.load(Ordering::Relaxed);
        if self.books.reserved.try_add(bytes, limit) {
            return Ok(());
        }
        self.retries.fetch_add(1, Ordering::Relaxed);
        // Only adapters that complete their work inline adopt, so nothing that was freed is still being written.
        self.empty_cache(&Unknown);
        if self.books.reserved.try_add(bytes, limit) { Ok(()) } else { Err(self.out_of_memory(bytes, None)) }
    }

    #[cold]
    fn out_of_memory(&self, requested: u64, detail: Option<String>) -> MemoryError {
        self.ooms.fetch_add(1, Ordering::Relaxed);
        let limit = self.limit.load(Ordering::Relaxed);
        MemoryError::OutOfMemory {
            requested,
            allocated: self.books.allocated.get(),
            reserved: self.books.reserved.get(),
            limit: (limit != UNLIMITED).then_some(limit),
            device_total: self.device.info().memory_bytes,
            detail,
        }
    }

    /// Gives a live block one more owner: it is free after one more [`Allocator::free`], and `drop` is called then.
    /// For a second storage over memory that [`Allocator::find`] knows. False, and `drop` not called, where the block
    /// is no longer live.
    #[must_use = "the block was not live and has no further owner where this is false"]
    pub fn share(&self, block: &Arc<Block>, drop: DropFn) -> bool {
        self.with_cache(self.shard(block.home()), |mut cache| {
            let live = block.is_live();
            if live {
                cache.add_owner(block, drop);
            }
            live
        })
    }

    /// Whether `address` is in memory that this allocator got from the driver, live or not. `forked` says that this
    /// process is a child of the one that allocated: a thread of the parent may have been at the books when it forked,
    /// and the answer is `None` then.
    pub fn holds(&self, address: usize, forked: bool) -> Option<bool> {
        let table = if forked { self.table.try_lock()? } else { self.table.lock() };
        let below = table.range(..=address).next_back();
        Some(below.is_some_and(|(&base, &(size, _))| address - base < size as usize))
    }

    /// The live block whose bytes include `address`.
    pub fn find(&self, address: usize) -> Option<Arc<Block>> {
        let below = self.table.lock().range(..=address).next_back().map(|(&base, &entry)| (base, entry));
        let block = match below {
            Some((base, (size, owner))) if address - base < size as usize => match owner {
                Owner::Common => self.large.lock().find(address).cloned(),
                Owner::Stream(stream) => self.shard(stream).lock_as_is().find_small(address).cloned(),
            },
            _ => self.made_shards().find_map(|shard| shard.lock_as_is().find_adopted(address).cloned()),
        };
        block.filter(|block| block.is_live())
    }

    /// The books now.
    pub fn stats(&self) -> MemoryStats {
        let mut stats = MemoryStats::default();
        for shard in self.made_shards() {
            self.with_cache(shard, |mut cache| {
                let counts = cache.counts;
                stats.alloc_count += counts.allocs;
                stats.free_count += counts.frees;
                stats.alloc_bytes += counts.alloc_bytes;
                stats.free_bytes += counts.free_bytes;
                stats.active_blocks += counts.live;
                stats.adopted += counts.adopted;
                stats.segments += cache.small().segments() as u64;
            });
        }
        stats.segments += self.large.lock().segments() as u64;
        let limit = self.limit.load(Ordering::Relaxed);
        stats.limit = if limit == UNLIMITED { 0 } else { limit };
        stats.device_total = self.device.info().memory_bytes;
        stats.allocated = self.books.allocated.get();
        stats.peak_allocated = self.books.allocated.peak();
        stats.reserved = self.books.reserved.get();
        stats.peak_reserved = self.books.reserved.peak();
        stats.ooms = self.ooms.load(Ordering::Relaxed);
        stats.retries = self.retries.load(Ordering::Relaxed);
        stats
    }

    /// Sets the peaks to what is there now, and, unless `peak_only`, the counters to 0.
    pub fn reset_stats(&self, peak_only: bool) {
        self.books.allocated.reset_peak();
        self.books.reserved.reset_peak();
        if peak_only {
            return;
        }
        for shard in self.made_shards() {
            self.with_cache(shard, |mut cache| {
                let counts = &mut cache.counts;
                (counts.allocs, counts.frees, counts.alloc_bytes, counts.free_bytes) = (0, 0, 0, 0);
            });
        }
        self.ooms.store(0, Ordering::Relaxed);
        self.retries.store(0, Ordering::Relaxed);
    }

    /// Limits what may be reserved to a fraction of the device's memory; 0 lifts the limit. What is reserved already
    /// stays.
    ///
    /// # Errors
    /// [`MemoryError::BadFraction`] outside 0 to 2.
    pub fn set_fraction(&self, fraction: f64) -> Result<(), MemoryError> {
        if !(0.0..=2.0).contains(&fraction) {
            return Err(MemoryError::BadFraction { given: fraction.to_string() });
        }
        let total = self.device.info().memory_bytes;
        let limit = if fraction == 0.0 { UNLIMITED } else { (total as f64 * fraction) as u64 };
        self.limit.store(limit, Ordering::Relaxed);
        Ok(())
    }

    /// Checks the allocator's books against each other, for tests.
    ///
    /// # Errors
    /// The first contradiction, in words.
    #[cfg(any(test, debug_assertions))]
    pub fn audit(&self) -> Result<(), String> {
        for shard in self.made_shards() {
            self.with_cache(shard, |mut cache| cache.small().audit())?;
        }
        self.large.lock().audit()
    }
}
