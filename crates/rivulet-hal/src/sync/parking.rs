//! A table in which threads sleep, keyed by address: what a lock or a counter of one word needs to be waited for.
//!
//! The waiter says how to see that it still has to sleep ([`park`]'s `validate`); the waker first changes that
//! state, then calls [`unpark_all`] or [`unpark_one`]. No wake-up is lost: either `validate` sees the change, or
//! the waker sees the waiter. Each side's store-then-load is held together by a `SeqCst` fence in here, so the
//! caller's own accesses may be as weak as `Relaxed` as far as sleeping is concerned.
//!
//! An unpark with nobody parked in its shard is one fence and one load.

use super::atomic::{AtomicBool, AtomicUsize, Ordering};
use super::{Arc, CachePadded, Condvar, Mutex, Rank};
use std::time::{Duration, Instant};

#[cfg(not(loom))]
const SHARD_BITS: u32 = 6;
// One bit: enough for two addresses to fall apart or together, little enough to be tried exhaustively.
#[cfg(loom)]
const SHARD_BITS: u32 = 1;

/// How a [`park`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParkResult {
    /// An unpark picked this thread.
    Unparked,
    /// The timeout passed first.
    TimedOut,
    /// `validate` said that there is nothing to wait for.
    Invalid,
}

struct Waiter {
    address: usize,
    wake: Condvar,
    /// Written and read under the shard's lock.
    picked: AtomicBool,
}

struct Shard {
    /// Threads that are parked or about to look at their condition. Raised before `validate`, so that a waker
    /// that finds 0 changed the state before `validate` looks.
    waiting: AtomicUsize,
    /// In order of arrival.
    waiters: Mutex<Vec<Arc<Waiter>>>,
}

struct Table {
    shards: Vec<CachePadded<Shard>>,
}

crate::sync::global! {
    static TABLE: Table = Table::new();
}

impl Table {
    fn new() -> Self {
        let shard = || Shard { waiting: AtomicUsize::new(0), waiters: Mutex::new(Rank::PARKING, Vec::new()) };
        Self { shards: (0..1 << SHARD_BITS).map(|_| CachePadded::new(shard())).collect() }
    }

    fn shard(&self, address: usize) -> &Shard {
        // Fibonacci hashing: the low bits of addresses are mostly equal, the product's high bits are not.
        let hash = (address as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        &self.shards[(hash >> (64 - SHARD_BITS)) as usize]
    }
}

/// Sleeps until an unpark of `address`, as long as `validate` answers true. `validate` is called once, under the
/// shard's lock (rank [`Rank::PARKING`]): it should only look at atomics, and must not park or unpark.
///
/// `timeout` of `None` waits without end. Under loom a timeout passes after any step of other threads.
///
/// Callable from any thread. Engine locks must not be held.
pub fn park(address: usize, validate: impl FnOnce() -> bool, timeout: Option<Duration>) -> ParkResult {
    // A timeout that no clock can express is as good as none.
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let shard = TABLE.shard(address);
    // Where `validate` panics the count stays raised, which only costs later unparks of this shard a lock.
    shard.waiting.fetch_add(1, Ordering::Relaxed);
    order_store_before_load();
    let result = shard.park(address, validate, deadline);
    shard.waiting.fetch_sub(1, Ordering::Release);
    result
}

/// The full fence that both sides need between their store and their load.
#[inline]
fn order_store_before_load() {
    #[cfg(not(all(loom, seeded_bug = "parking_no_fence")))]
    super::atomic::fence(Ordering::SeqCst);
}

impl Shard {
    fn park(&self, address: usize, validate: impl FnOnce() -> bool, deadline: Option<Instant>) -> ParkResult {
        #[cfg(all(loom, seeded_bug = "parking_validate_unlocked"))]
        if !validate() {
            return ParkResult::Invalid;
        }
        let mut waiters = self.waiters.lock();
        #[cfg(not(all(loom, seeded_bug = "parking_validate_unlocked")))]
        if !validate() {
            return ParkResult::Invalid;
        }
        let waiter = Arc::new(Waiter { address, wake: Condvar::new(), picked: AtomicBool::new(false) });
        waiters.push(Arc::clone(&waiter));
        let mut expired = false;
        loop {
            if waiter.picked.load(Ordering::Relaxed) {
                return ParkResult::Unparked;
            }
            if expired {
                waiters.retain(|other| !Arc::ptr_eq(other, &waiter));
                return ParkResult::TimedOut;
            }
            match deadline {
                None => waiters = waiter.wake.wait(waiters),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    let timed_out;
                    (waiters, timed_out) = waiter.wake.wait_timeout(waiters, left);
                    expired = timed_out;
                }
            }
        }
    }
}

/// Wakes every thread parked on `address`; the number woken. The caller has already changed the state that their
/// `validate` looks at.
///
/// Callable from any thread, also while holding locks of ranks below [`Rank::PARKING`].
pub fn unpark_all(address: usize) -> usize {
    unpark(address, usize::MAX)
}

/// Wakes the thread that has been parked on `address` for longest; false where there is none. Otherwise as
/// [`unpark_all`].
pub fn unpark_one(address: usize) -> bool {
    unpark(address, 1) == 1
}

fn unpark(address: usize, limit: usize) -> usize {
    order_store_before_load();
    let shard = TABLE.shard(address);
    if shard.waiting.load(Ordering::Relaxed) == 0 {
        return 0;
    }
    let mut woken = Vec::new();
    let mut waiters = shard.waiters.lock();
    waiters.retain(|waiter| {
        let pick = waiter.address == address && woken.len() < limit;
        if pick {
            waiter.picked.store(true, Ordering::Relaxed);
            woken.push(Arc::clone(waiter));
        }
        !pick
    });
    drop(waiters);
    // After the unlock, so that the woken do not at once run into the lock.
    for waiter in &woken {
        waiter.wake.notify_one();
    }
    woken.len()
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::{ParkResult, TABLE, park, unpark_all, unpark_one};
    use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use crate::sync::thread;
    use std::time::{Duration, Instant};

    #[test]
    fn invalid_returns_at_once() {
        assert_eq!(park(1, || false, None), ParkResult::Invalid);
    }

    #[test]
    fn timeout_is_kept_and_leaves_nothing_behind() {
        let start = Instant::now();
        assert_eq!(park(2, || true, Some(Duration::from_millis(20))), ParkResult::TimedOut);
        assert!(start.elapsed() >= Duration::from_millis(20));
        assert_eq!(unpark_all(2), 0);
        // Whoever comes next gets the wake-up, not the one that has left.
        let parked = AtomicBool::new(false);
        let validate = || {
            parked.store(true, Ordering::Relaxed);
            true
        };
        thread::scope(|scope| {
            let next = scope.spawn(|| park(2, validate, Some(Duration::from_secs(10))));
            while !parked.load(Ordering::Relaxed) {
                thread::yield_now();
            }
            unpark_one(2);
            assert_eq!(next.join().unwrap(), ParkResult::Unparked);
        });
    }

    #[test]
    fn endless_timeouts_do_not_overflow() {
        let flag = AtomicBool::new(true);
        let address = (&raw const flag).addr();
        thread::scope(|scope| {
            let waiter = scope.spawn(|| park(address, || flag.load(Ordering::Relaxed), Some(Duration::MAX)));
            flag.store(false, Ordering::Relaxed);
            while !waiter.is_finished() {
                unpark_all(address);
                thread::yield_now();
            }
            assert!(matches!(waiter.join().unwrap(), ParkResult::Unparked | ParkResult::Invalid));
        });
    }

    #[test]
    fn one_wakes_in_order_of_arrival_and_only_its_address() {
        // Two addresses of one shard, or a mix-up would not show.
        let address = 0x1000;
        let same_shard = |other: &usize| std::ptr::eq(TABLE.shard(address), TABLE.shard(*other));
        let other = (address + 1..).find(same_shard).unwrap();
        let parked = AtomicUsize::new(0);
        let wait = |address, rank| {
            let validate = || {
                parked.fetch_add(1, Ordering::Relaxed);
                true
            };
            assert_eq!(park(address, validate, None), ParkResult::Unparked);
            rank
        };
        let until_parked = |count| {
            while parked.load(Ordering::Relaxed) < count {
                thread::yield_now();
            }
        };
        thread::scope(|scope| {
            let stranger = scope.spawn(|| wait(other, 0));
            let first = scope.spawn(|| wait(address, 1));
            until_parked(2);
            let second = scope.spawn(|| wait(address, 2));
            until_parked(3);
            assert!(unpark_one(address));
            assert_eq!(first.join().unwrap(), 1);
            assert!(!second.is_finished() && !stranger.is_finished());
            assert_eq!(unpark_all(address), 1);
            assert_eq!(second.join().unwrap(), 2);
            assert!(!unpark_one(address));
            assert!(unpark_one(other));
            stranger.join().unwrap();
        });
    }

    #[test]
    fn no_wake_up_is_lost_under_load() {
        // A baton that eight threads pass on; a lost wake-up hangs it, which the test runner's timeout shows.
        const ROUNDS: usize = 4000;
        let baton = AtomicUsize::new(0);
        let address = (&raw const baton).addr();
        thread::scope(|scope| {
            for me in 0..8 {
                let baton = &baton;
                scope.spawn(move || {
                    for round in (me..ROUNDS).step_by(8) {
                        while baton.load(Ordering::Acquire) != round {
                            park(address, || baton.load(Ordering::Acquire) != round, None);
                        }
                        baton.store(round + 1, Ordering::Release);
                        unpark_all(address);
                    }
                });
            }
        });
        assert_eq!(baton.into_inner(), ROUNDS);
    }
}
