//! The slots themselves: who owns which, and who waits for one. Knows nothing of streams or thread-locals, so
//! that models can drive it.
//!
//! # Note: the word of a slot
//!
//! Each slot is one atomic word `token | count | state`. `token` names the owning thread, `count` rises with each
//! op, so that a thread that looks at an idle slot, finds its work complete, and then exchanges the word cannot
//! be fooled by an op that ran in between.
//!
//! ```text
//!            acquire                enter
//!   FREE ──────────────▶ IN_OP ◀────────────── IDLE ──────▶ FREE (release, under the lock)
//!                          │        exit        ▲ │ └─────▶ IN_OP of another thread (taken while idle)
//!                          └────────────────────┘ │
//!                                                 └─▶ HELD (explicit stream set: never taken)
//! ```
//!
//! The owner moves between IDLE, IN_OP and HELD without a lock. Everything that changes the owner happens under
//! the lock, and takes the slot from FREE or IDLE only.

use super::Owner;
use crate::hazard::seeded;
use rivulet_hal::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use rivulet_hal::sync::{Arc, CachePadded, Condvar, Mutex, Rank};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

const FREE: u64 = 0;
const IDLE: u64 = 1;
const IN_OP: u64 = 2;
const HELD: u64 = 3;
const STATE: u64 = 0b11;
const COUNT: u64 = 0xFFFF_FFFC;
const ONE_OP: u64 = 0b100;

const fn word(token: u32, state: u64) -> u64 {
    (token as u64) << 32 | state
}

const fn token_of(word: u64) -> u64 {
    word >> 32
}

/// How long the first waiter waits before a busy owner, at the end of an op, gives its slot away. Shorter would
/// make threads that run op after op change places all the time; longer would let them keep others out.
const TURN: Duration = Duration::from_millis(2);

/// How often the first waiter looks for idle slots by itself: completion of device work wakes nobody.
const LOOK: Duration = Duration::from_millis(1);

/// A thread's hold on a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) slot: usize,
    token: u32,
}

/// One thread in the queue for a slot.
#[derive(Debug)]
pub(crate) struct Waiter {
    wake: Condvar,
    since: Instant,
    owner: Owner,
}

#[derive(Debug)]
struct State {
    /// First come, first served.
    waiters: VecDeque<Arc<Waiter>>,
    /// Slots that were given to a waiter that has not fetched them yet.
    granted: Vec<(Arc<Waiter>, Lease)>,
    owners: Vec<Option<Owner>>,
    /// Threads that use a slot's stream without owning it.
    sharers: Vec<u32>,
    last_token: u32,
}

/// The slots of a pool. All methods may be called from any thread.
#[derive(Debug)]
pub(crate) struct Slots {
    words: Box<[CachePadded<AtomicU64>]>,
    /// Length of the queue, for the end of an op to look at without the lock.
    waiting: AtomicUsize,
    state: Mutex<State>,
}

impl Slots {
    /// `size` counts slot 0, which is nobody's to take.
    pub(crate) fn new(size: usize) -> Self {
        Self {
            words: (0..size).map(|_| CachePadded::new(AtomicU64::new(FREE))).collect(),
            waiting: AtomicUsize::new(0),
            state: Mutex::new(
                Rank::POOL,
                State {
                    waiters: VecDeque::new(),
                    granted: Vec::new(),
                    owners: vec![None; size],
                    sharers: vec![0; size],
                    last_token: 0,
                },
            ),
        }
    }

    pub(crate) fn size(&self) -> usize {
        self.words.len()
    }

    /// Begins an op; false where the slot was taken while it was idle.
    #[inline]
    pub(crate) fn enter(&self, lease: Lease) -> bool {
        let word = &self.words[lease.slot];
        let seen = word.load(Ordering::Relaxed);
        if token_of(seen) != u64::from(lease.token) || seen & STATE != IDLE {
            return false;
        }
        let counted = if seeded::is("pool: ops not counted") { seen } else { seen + ONE_OP };
        let next = (seen & !(COUNT | STATE)) | (counted & COUNT) | IN_OP;
        // Acquire pairs with the Release of `exit` and of the exchange that made this thread the owner.
        word.compare_exchange(seen, next, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Ends an op (or the acquisition); `held` where the thread has set an explicit stream. The caller then asks
    /// [`Slots::anyone_waits`].
    #[inline]
    pub(crate) fn exit(&self, lease: Lease, held: bool) {
        let word = &self.words[lease.slot];
        // Between enter and exit nobody else writes this word.
        let seen = word.load(Ordering::Relaxed);
        let state = if held { HELD } else { IDLE };
        // Release pairs with the Acquire of whoever takes the slot: it sees this thread's counters.
        word.store((seen & !STATE) | state, Ordering::Release);
    }

    /// Keeps the slot from being taken while the thread uses an explicit stream; false where it was taken before.
    pub(crate) fn hold(&self, lease: Lease) -> bool {
        self.change(lease, IDLE, HELD)
    }

    /// Undoes [`Slots::hold`].
    pub(crate) fn unhold(&self, lease: Lease) {
        self.change(lease, HELD, IDLE);
    }

    fn change(&self, lease: Lease, from: u64, to: u64) -> bool {
        let word = &self.words[lease.slot];
        let seen = word.load(Ordering::Relaxed);
        token_of(seen) == u64::from(lease.token)
            && seen & STATE == from
            && word.compare_exchange(seen, (seen & !STATE) | to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// True while the lease is the owner's still.
    pub(crate) fn owns(&self, lease: Lease) -> bool {
        token_of(self.words[lease.slot].load(Ordering::Relaxed)) == u64::from(lease.token)
    }

    /// True where a thread waits for a slot. May miss one that has just come: it looks for idle slots by itself, every
    /// [`LOOK`], so nothing hangs on this answer but a millisecond.
    #[inline]
    pub(crate) fn anyone_waits(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Takes the lowest free slot; with `idle` also an idle one for which it answers true (work complete). The
    /// slot comes in the state of an op: the owner calls [`Slots::exit`] when it may be taken again.
    pub(crate) fn try_acquire(&self, owner: &Owner, idle: Option<&dyn Fn(usize) -> bool>) -> Option<Lease> {
        let mut state = self.state.lock();
        // Those who wait came first.
        if !state.waiters.is_empty() {
            return None;
        }
        self.take(&mut state, owner, idle)
    }

    fn take(&self, state: &mut State, owner: &Owner, idle: Option<&dyn Fn(usize) -> bool>) -> Option<Lease> {
        let free =
            (1..self.words.len()).find(|&slot| self.words[slot].load(Ordering::Relaxed) & STATE == FREE);
        if let Some(slot) = free {
            // Nobody but the lock's holder takes a free slot.
            return Some(self.assign(state, slot, owner.clone()));
        }
        let complete = idle?;
        (1..self.words.len()).find_map(|slot| self.take_idle(state, slot, owner, complete))
    }

    fn take_idle(
        &self,
        state: &mut State,
        slot: usize,
        owner: &Owner,
        complete: &dyn Fn(usize) -> bool,
    ) -> Option<Lease> {
        // Acquire pairs with the Release of `exit`: what the owner reserved is visible to `complete`.
        let seen = self.words[slot].load(Ordering::Acquire);
        if seen & STATE != IDLE || !complete(slot) {
            return None;
        }
        if !seeded::is("pool: taken without an exchange") {
            self.words[slot].compare_exchange(seen, FREE, Ordering::AcqRel, Ordering::Relaxed).ok()?;
        }
        Some(self.assign(state, slot, owner.clone()))
    }

    fn assign(&self, state: &mut State, slot: usize, owner: Owner) -> Lease {
        state.last_token = state.last_token.wrapping_add(1).max(1);
        let token = state.last_token;
        state.owners[slot] = Some(owner);
        self.words[slot].store(word(token, IN_OP), Ordering::Release);
        Lease { slot, token }
    }

    /// Gives a slot back; the first waiter gets it. False where it was taken before.
    pub(crate) fn release(&self, lease: Lease) -> bool {
        let mut state = self.state.lock();
        let word = &self.words[lease.slot];
        let seen = word.load(Ordering::Relaxed);
        if token_of(seen) != u64::from(lease.token) {
            return false;
        }
        // Only this thread moves the word out of any state but IDLE, and takers hold the lock that we hold.
        word.store(FREE, Ordering::Release);
        state.owners[lease.slot] = None;
        self.grant(&mut state, lease.slot);
        true
    }

    /// Gives a free slot to the first waiter, if there is one.
    fn grant(&self, state: &mut State, slot: usize) {
        if seeded::is("pool: a release wakes nobody") {
            return;
        }
        let Some(first) = state.waiters.pop_front() else { return };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        let lease = self.assign(state, slot, first.owner.clone());
        first.wake.notify_one();
        state.granted.push((first, lease));
        // The next in line looks for idle slots from now on.
        if let Some(next) = state.waiters.front() {
            next.wake.notify_one();
        }
    }

    /// At the end of an op: gives the slot, now idle, to a waiter whose turn it is. True where the caller lost it.
    #[cold]
    pub(crate) fn hand_over(&self, lease: Lease, complete: &dyn Fn(usize) -> bool) -> bool {
        let mut state = self.state.lock();
        let due = state.waiters.front().is_some_and(|first| cfg!(loom) || first.since.elapsed() >= TURN);
        if !due || !complete(lease.slot) || !self.change(lease, IDLE, FREE) {
            return false;
        }
        self.grant(&mut state, lease.slot);
        true
    }

    /// Joins the queue.
    pub(crate) fn enqueue(&self, owner: &Owner) -> Arc<Waiter> {
        let waiter = Arc::new(Waiter { wake: Condvar::new(), since: Instant::now(), owner: owner.clone() });
        let mut state = self.state.lock();
        state.waiters.push_back(Arc::clone(&waiter));
        self.waiting.fetch_add(1, Ordering::Relaxed);
        waiter
    }

    /// One step of waiting: the slot where it came, after at most `longest`.
    pub(crate) fn poll(
        &self,
        waiter: &Arc<Waiter>,
        longest: Duration,
        complete: &dyn Fn(usize) -> bool,
    ) -> Option<Lease> {
        let mut state = self.state.lock();
        if let Some(lease) = self.fetch(&mut state, waiter, complete) {
            return Some(lease);
        }
        let first = state.waiters.front().is_some_and(|first| Arc::ptr_eq(first, waiter));
        let longest = if first { longest.min(LOOK) } else { longest };
        // A model waits without end: a timeout would hide a wake-up that was lost.
        #[cfg(loom)]
        let mut state = (waiter.wake.wait(state), longest).0;
        #[cfg(not(loom))]
        let (mut state, _) = waiter.wake.wait_timeout(state, longest);
        self.fetch(&mut state, waiter, complete)
    }

    fn fetch(
        &self,
        state: &mut State,
        waiter: &Arc<Waiter>,
        complete: &dyn Fn(usize) -> bool,
    ) -> Option<Lease> {
        if let Some(place) = state.granted.iter().position(|(to, _)| Arc::ptr_eq(to, waiter)) {
            return Some(state.granted.swap_remove(place).1);
        }
        if !state.waiters.front().is_some_and(|first| Arc::ptr_eq(first, waiter)) {
            return None;
        }
        let lease = self.take(state, &waiter.owner, Some(complete))?;
        state.waiters.pop_front();
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        if let Some(next) = state.waiters.front() {
            next.wake.notify_one();
        }
        Some(lease)
    }

    /// Leaves the queue. `Some` where a slot came just before: it is the caller's.
    pub(crate) fn cancel(&self, waiter: &Arc<Waiter>) -> Option<Lease> {
        let mut state = self.state.lock();
        let granted = state.granted.iter().position(|(to, _)| Arc::ptr_eq(to, waiter));
        if let Some(place) = granted.filter(|_| !seeded::is("pool: a timeout drops its grant")) {
            return Some(state.granted.swap_remove(place).1);
        }
        let before = state.waiters.len();
        state.waiters.retain(|other| !Arc::ptr_eq(other, waiter));
        if state.waiters.len() < before {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(next) = state.waiters.front() {
            next.wake.notify_one();
        }
        None
    }

    /// The worker slot with the fewest sharers, for a thread that will not own it.
    pub(crate) fn share(&self) -> usize {
        let mut state = self.state.lock();
        let slot = (1..state.sharers.len()).min_by_key(|&slot| state.sharers[slot]).unwrap_or(0);
        state.sharers[slot] += 1;
        slot
    }

    /// Ends what [`Slots::share`] began.
    pub(crate) fn unshare(&self, slot: usize) {
        let mut state = self.state.lock();
        state.sharers[slot] = state.sharers[slot].saturating_sub(1);
    }

    /// Owners by slot, sharers by slot, and the length of the queue.
    pub(crate) fn census(&self) -> (Vec<Option<Owner>>, Vec<u32>, usize) {
        let state = self.state.lock();
        (state.owners.clone(), state.sharers.clone(), state.waiters.len())
    }

    /// Worker slots whose thread is inside an op, or has set an explicit stream and may be.
    pub(crate) fn busy(&self) -> usize {
        let state = |word: &CachePadded<AtomicU64>| word.load(Ordering::Relaxed) & STATE;
        self.words.iter().filter(|word| matches!(state(word), IN_OP | HELD)).count()
    }

    /// True where every worker slot is free and nobody waits or was promised one.
    #[cfg(loom)]
    pub(crate) fn is_untouched(&self) -> bool {
        let state = self.state.lock();
        state.waiters.is_empty()
            && state.granted.is_empty()
            && state.owners.iter().all(Option::is_none)
            && self.words.iter().all(|word| word.load(Ordering::Relaxed) & STATE == FREE)
    }
}
