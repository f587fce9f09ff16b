//! The lock of a block: reader-writer, one word, parks; readers of many streams spread over cells.
//!
//! # Note: two ways to hold it shared
//!
//! ```text
//! central   word: SHARED += 1                       (one cache line for all readers)
//! cells     cell[stream]: count += 1, then look at  (one line a stream; the word is only read)
//!           the word: EXCLUSIVE clear?
//! ```
//!
//! A writer raises `EXCLUSIVE` (only while the central count is 0), then, where `CELLS` is set, waits until every
//! cell is 0. A reader that finds `EXCLUSIVE` after it raised its cell takes the cell back. Raise-then-look on
//! both sides is Dekker's pattern, hence `SeqCst`. `CELLS` is set by a reader while it holds the lock centrally,
//! so no writer can be inside, and the next writer's compare-exchange on the word must see it.
//!
//! # Waiting
//!
//! [`BlockLock::lock_for`] tries for at most a given time and leaves nothing behind when it gives up. A caller that
//! polls for signals between two tries therefore holds no claim while a signal handler runs, and one that stops
//! trying has nothing to undo.
//!
//! Newcomers do not pass a waiting writer, and after a few lost races a waiter is `STARVING`: then nobody passes it
//! but others that starve.

use crate::hazard::seeded;
use crate::hazard::stamps::Cell;
use crate::ids::StreamId;
use rivulet_hal::sync::CachePadded;
use rivulet_hal::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(loom))]
use rivulet_hal::sync::hint;
use rivulet_hal::sync::parking::{self, ParkResult};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Held by one writer, or claimed by one that waits for cells to empty.
const EXCLUSIVE: u64 = 1;
/// Readers use cells. Set and, on reuse of the block, cleared.
const CELLS: u64 = 1 << 1;
/// Somebody may be parked: whoever releases has to wake.
const PARKED: u64 = 1 << 2;
/// One writer that waits; 16 bits.
const PENDING: u64 = 1 << 8;
const PENDING_MASK: u64 = 0xFFFF << 8;
/// One waiter that lost too often; 16 bits.
const STARVING: u64 = 1 << 24;
const STARVING_MASK: u64 = 0xFFFF << 24;
/// One central reader; 24 bits.
const SHARED: u64 = 1 << 40;
const SHARED_MASK: u64 = !0 << 40;

/// Cells of a block; a power of two. Streams beyond it share.
#[cfg(not(loom))]
pub const CELL_COUNT: usize = 32;
/// Cells of a block; few, so that every interleaving can be tried.
#[cfg(loom)]
pub const CELL_COUNT: usize = 2;

/// Changes of reading stream after which a block gets cells.
#[cfg(not(loom))]
const SPREAD_AFTER: u32 = 8;
#[cfg(loom)]
const SPREAD_AFTER: u32 = 2;

/// Lost races after which a waiter starves.
#[cfg(not(loom))]
const PATIENCE: u32 = 4;
#[cfg(loom)]
const PATIENCE: u32 = 1;
/// Looks at the word before a wait parks; about a microsecond.
#[cfg(not(loom))]
const SPINS: u32 = 30;

/// How a lock is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Beside other readers.
    Shared,
    /// Alone.
    Exclusive,
}

/// A lock that was taken, and how; goes back by [`BlockLock::unlock`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the lock stays taken until it is given to unlock"]
pub enum Hold {
    /// In the central count.
    Shared,
    /// In the cell of this index.
    Cell(u8),
    /// Alone.
    Exclusive,
}

/// How often one request has lost; carried from one [`BlockLock::lock_for`] to the next.
#[derive(Debug, Default)]
pub struct Patience {
    lost: u32,
}

impl Patience {
    fn starving(&self) -> bool {
        self.lost >= PATIENCE
    }
}

/// See the module's head. All methods may be called from any thread.
#[derive(Debug)]
pub struct BlockLock {
    word: AtomicU64,
    /// Stream of the last central reader; with `changes` decides when cells pay off. Both are statistics: a lost
    /// update only moves that moment.
    last_reader: AtomicU32,
    changes: AtomicU32,
    cells: OnceLock<Box<[CachePadded<Cell>]>>,
}

impl Default for BlockLock {
    fn default() -> Self {
        Self::new()
    }
}

/// Loom treats `SeqCst` accesses as `AcqRel` and needs a fence for store-then-load; elsewhere the accesses
/// themselves are `SeqCst` and enough.
#[inline(always)]
fn store_load_fence() {
    if cfg!(loom) && !seeded::is("lock_no_store_load_order") {
        fence(Ordering::SeqCst);
    }
}

fn make_cells() -> Box<[CachePadded<Cell>]> {
    (0..CELL_COUNT).map(|_| CachePadded::new(Cell::new())).collect()
}

#[cfg(not(loom))]
fn time_left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// Without a clock: under loom a park with a timeout may end at any time.
#[cfg(loom)]
fn time_left(_: Instant) -> Duration {
    Duration::from_secs(1)
}

impl BlockLock {
    /// An unlocked lock in central mode.
    pub fn new() -> Self {
        Self {
            word: AtomicU64::new(0),
            last_reader: AtomicU32::new(u32::MAX),
            changes: AtomicU32::new(0),
            // Loom does not know the order that a OnceLock gives; its models have the cells from the start.
            cells: if cfg!(loom) { OnceLock::from(make_cells()) } else { OnceLock::new() },
        }
    }

    /// Takes the lock where that needs no waiting. Two atomic operations with [`BlockLock::unlock`].
    #[inline]
    pub fn try_lock(&self, mode: Mode, stream: StreamId) -> Option<Hold> {
        match mode {
            Mode::Shared => self.try_shared(stream, EXCLUSIVE | PENDING_MASK | STARVING_MASK),
            Mode::Exclusive => self.try_exclusive(),
        }
    }

    /// Takes the lock, waiting for at most `limit` (`None`: without end). `None` where the time passed; the lock is
    /// then as if it had never been asked for. Engine locks must not be held.
    #[cold]
    pub fn lock_for(
        &self,
        mode: Mode,
        stream: StreamId,
        limit: Option<Duration>,
        patience: &mut Patience,
    ) -> Option<Hold> {
        #[cfg(not(loom))]
        for _ in 0..SPINS {
            if let Some(hold) = self.try_lock(mode, stream) {
                return Some(hold);
            }
            hint::spin_loop();
        }
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        match mode {
            Mode::Shared => self.shared_until(stream, deadline, patience),
            Mode::Exclusive => self.exclusive_until(deadline, patience),
        }
    }

    /// Gives the lock back and wakes who waits for it.
    #[inline]
    pub fn unlock(&self, hold: Hold) {
        match hold {
            Hold::Shared => {
                // Release: pairs with the Acquire of the writer's compare-exchange in `claim`.
                let before = self.word.fetch_sub(SHARED, Ordering::Release);
                if before & PARKED != 0 && before & SHARED_MASK == SHARED {
                    self.wake();
                }
            }
            Hold::Cell(index) => self.leave_cell(index),
            Hold::Exclusive => {
                // Release: pairs with the Acquire of every later compare-exchange and of `enter_cell`'s look.
                let before = self.word.fetch_sub(EXCLUSIVE, Ordering::Release);
                if before & PARKED != 0 {
                    self.wake();
                }
            }
        }
    }

    /// True where nobody holds or claims the lock at this moment; what earlier holders did is then visible.
    #[inline]
    pub fn is_idle(&self) -> bool {
        // Acquire: pairs with the Release of `unlock`.
        let word = self.word.load(Ordering::SeqCst);
        if word & (EXCLUSIVE | SHARED_MASK) != 0 {
            return false;
        }
        word & CELLS == 0 || self.cells_empty()
    }

    /// True where somebody holds the lock alone.
    pub(crate) fn is_exclusive(&self) -> bool {
        self.word.load(Ordering::Relaxed) & EXCLUSIVE != 0
    }

    /// True where readers use cells.
    #[inline]
    pub fn has_cells(&self) -> bool {
        self.word.load(Ordering::Relaxed) & CELLS != 0
    }

    /// The cells, where the block ever had them; their stamps outlive the mode.
    #[inline]
    pub(crate) fn cells(&self) -> &[CachePadded<Cell>] {
        self.cells.get().map_or(&[], |cells| cells)
    }

    /// Goes back to central mode; `keep` takes over what the cells know. False where the lock is not idle.
    pub(crate) fn try_reset(&self, keep: impl FnOnce(&[CachePadded<Cell>])) -> bool {
        let Some(hold) = self.try_exclusive() else { return false };
        keep(self.cells());
        self.word.fetch_and(!CELLS, Ordering::Relaxed);
        self.forget_readers();
        self.unlock(hold);
        true
    }

    /// The same for a lock that nobody else can reach; the cells go.
    pub(crate) fn reset(&mut self) {
        self.word.store(0, Ordering::Relaxed);
        if !cfg!(loom) {
            self.cells.take();
        }
        self.forget_readers();
    }

    fn forget_readers(&self) {
        self.changes.store(0, Ordering::Relaxed);
        self.last_reader.store(u32::MAX, Ordering::Relaxed);
    }

    #[inline]
    fn try_shared(&self, stream: StreamId, blocked: u64) -> Option<Hold> {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            if word & blocked != 0 {
                return None;
            }
            if word & CELLS != 0 {
                if let Some(hold) = self.enter_cell(stream) {
                    return Some(hold);
                }
                word = self.word.load(Ordering::Relaxed);
                if word & CELLS != 0 {
                    return None;
                }
                continue;
            }
            // Acquire: pairs with the Release of the last exclusive `unlock`.
            match self.word.compare_exchange_weak(word, word + SHARED, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => {
                    if self.last_reader.load(Ordering::Relaxed) != stream.0 {
                        self.note_reader(stream);
                    }
                    return Some(Hold::Shared);
                }
                Err(now) => word = now,
            }
        }
    }

    /// The lock is held shared, centrally.
    fn note_reader(&self, stream: StreamId) {
        self.last_reader.store(stream.0, Ordering::Relaxed);
        let changes = self.changes.load(Ordering::Relaxed) + 1;
        self.changes.store(changes, Ordering::Relaxed);
        if changes >= SPREAD_AFTER {
            self.cells.get_or_init(make_cells);
            // Release: who sees the bit sees the cells' counts as this thread saw them.
            self.word.fetch_or(CELLS, Ordering::AcqRel);
        }
    }

    fn enter_cell(&self, stream: StreamId) -> Option<Hold> {
        let index = stream.index() % CELL_COUNT;
        let cell = self.cells().get(index)?;
        cell.holders.fetch_add(1, Ordering::SeqCst);
        store_load_fence();
        // Pairs with `claim`, then `cells_empty`: one of the two sees the other.
        let word = self.word.load(Ordering::SeqCst);
        if word & (EXCLUSIVE | CELLS) == CELLS {
            return Some(Hold::Cell(index as u8));
        }
        self.leave_cell(index as u8);
        None
    }

    fn leave_cell(&self, index: u8) {
        if let Some(cell) = self.cells().get(usize::from(index)) {
            // Release part: pairs with the writer's look in `cells_empty`.
            cell.holders.fetch_sub(1, Ordering::SeqCst);
            store_load_fence();
            // Pairs with `drain_until`: it sets PARKED, then looks at the cells.
            if self.word.load(Ordering::SeqCst) & PARKED != 0 {
                self.wake();
            }
        }
    }

    fn cells_empty(&self) -> bool {
        store_load_fence();
        self.cells().iter().all(|cell| cell.holders.load(Ordering::SeqCst) == 0)
    }

    #[inline]
    fn try_exclusive(&self) -> Option<Hold> {
        let word = self.word.load(Ordering::Relaxed);
        if word & (EXCLUSIVE | SHARED_MASK | STARVING_MASK) != 0 || !self.claim(word, 0) {
            return None;
        }
        if word & CELLS == 0 || self.cells_empty() {
            return Some(Hold::Exclusive);
        }
        self.unlock(Hold::Exclusive);
        None
    }

    /// Raises EXCLUSIVE and takes `request` off the word, where it still is `word`.
    #[inline]
    fn claim(&self, word: u64, request: u64) -> bool {
        // SeqCst: pairs with `enter_cell`. Its Acquire part pairs with the Release of `unlock`.
        let claimed = (word - request) | EXCLUSIVE;
        self.word.compare_exchange(word, claimed, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    }

    fn shared_until(
        &self,
        stream: StreamId,
        deadline: Option<Instant>,
        patience: &mut Patience,
    ) -> Option<Hold> {
        let mut request = 0;
        let hold = loop {
            let starving = patience.starving();
            if starving && request == 0 {
                request = STARVING;
                self.word.fetch_add(request, Ordering::Relaxed);
            }
            let blocked = if starving { EXCLUSIVE } else { EXCLUSIVE | PENDING_MASK | STARVING_MASK };
            if let Some(hold) = self.try_shared(stream, blocked) {
                break Some(hold);
            }
            if !self.park_while(|word| word & blocked != 0, deadline) {
                break None;
            }
            patience.lost += 1;
        };
        if request != 0 {
            self.withdraw(request);
        }
        hold
    }

    fn exclusive_until(&self, deadline: Option<Instant>, patience: &mut Patience) -> Option<Hold> {
        let mut request = PENDING;
        self.word.fetch_add(request, Ordering::Relaxed);
        loop {
            let starving = patience.starving();
            if starving && request == PENDING {
                request = PENDING + STARVING;
                self.word.fetch_add(STARVING, Ordering::Relaxed);
            }
            let blocked =
                if starving { EXCLUSIVE | SHARED_MASK } else { EXCLUSIVE | SHARED_MASK | STARVING_MASK };
            let word = self.word.load(Ordering::Relaxed);
            if word & blocked == 0 {
                if self.claim(word, request) {
                    if word & CELLS == 0 || self.drain_until(deadline) {
                        return Some(Hold::Exclusive);
                    }
                    self.unlock(Hold::Exclusive);
                    return None;
                }
                continue;
            }
            if !self.park_while(|word| word & blocked != 0, deadline) {
                self.withdraw(request);
                return None;
            }
            patience.lost += 1;
        }
    }

    /// Waits, with EXCLUSIVE raised, until the last reader has left its cell.
    fn drain_until(&self, deadline: Option<Instant>) -> bool {
        loop {
            if self.cells_empty() || seeded::is("lock_no_drain") {
                return true;
            }
            if !self.park_while(|_| !self.cells_empty(), deadline) {
                return false;
            }
        }
    }

    /// Takes a request back; those it blocked look again.
    fn withdraw(&self, request: u64) {
        let before = self.word.fetch_sub(request, Ordering::Relaxed);
        if before & PARKED != 0 {
            self.wake();
        }
    }

    /// Sleeps once where `blocked` holds; false where the deadline passed.
    fn park_while(&self, blocked: impl Fn(u64) -> bool, deadline: Option<Instant>) -> bool {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            if !blocked(word) {
                return true;
            }
            if word & PARKED != 0 {
                break;
            }
            // SeqCst: pairs with `leave_cell`, which lowers its cell and then looks for PARKED.
            match self.word.compare_exchange(word, word | PARKED, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => word = now,
            }
        }
        let left = deadline.map(time_left);
        if left.is_some_and(|left| left.is_zero()) {
            return false;
        }
        let validate = || {
            let word = self.word.load(Ordering::SeqCst);
            // Without the bit the one who cleared it may already have woken all that were asleep.
            word & PARKED != 0 && blocked(word)
        };
        parking::park(self.address(), validate, left) != ParkResult::TimedOut
    }

    #[cold]
    fn wake(&self) {
        self.word.fetch_and(!PARKED, Ordering::SeqCst);
        if !seeded::is("lock_wakes_nobody") {
            parking::unpark_all(self.address());
        }
    }

    #[cfg(not(loom))]
    fn address(&self) -> usize {
        (&raw const self.word).addr()
    }

    /// One for all: a model must run the same way each time, and addresses differ between runs. Who is woken for
    /// another lock looks and sleeps again.
    #[cfg(loom)]
    fn address(&self) -> usize {
        0x40
    }
}
