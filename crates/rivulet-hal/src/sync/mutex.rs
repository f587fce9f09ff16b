#![allow(clippy::disallowed_types, reason = "this is the shim the rest of the workspace uses")]

use super::Rank;
#[cfg(debug_assertions)]
use super::held;
use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;
use std::time::Duration;

#[cfg(loom)]
use loom::sync as raw;
#[cfg(not(loom))]
use std::sync as raw;

/// A mutual-exclusion lock with a [`Rank`].
///
/// A panic while it is held does not poison it: the next holder gets the value as it was left, so code under a
/// lock keeps its value consistent at every step that can panic.
#[derive(Debug)]
pub struct Mutex<T> {
    #[cfg(any(debug_assertions, all(feature = "lock-counts", not(loom))))]
    rank: Rank,
    inner: raw::Mutex<T>,
}

impl<T> Mutex<T> {
    /// Makes an unlocked mutex. `const`, except under loom.
    #[cfg(not(loom))]
    #[cfg_attr(not(any(debug_assertions, all(feature = "lock-counts", not(loom)))), allow(unused_variables))]
    pub const fn new(rank: Rank, value: T) -> Self {
        Self {
            #[cfg(any(debug_assertions, all(feature = "lock-counts", not(loom))))]
            rank,
            inner: raw::Mutex::new(value),
        }
    }

    /// Makes an unlocked mutex.
    #[cfg(loom)]
    #[cfg_attr(not(any(debug_assertions, all(feature = "lock-counts", not(loom)))), allow(unused_variables))]
    pub fn new(rank: Rank, value: T) -> Self {
        Self {
            #[cfg(any(debug_assertions, all(feature = "lock-counts", not(loom))))]
            rank,
            inner: raw::Mutex::new(value),
        }
    }

    /// Waits for the lock.
    ///
    /// # Panics
    /// In debug builds, where the calling thread holds a lock of the same or a higher rank.
    #[track_caller]
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        #[cfg(debug_assertions)]
        held::check(self.rank);
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        self.guard(inner)
    }

    /// Takes the lock where nobody holds it.
    ///
    /// # Panics
    /// As [`Mutex::lock`].
    #[track_caller]
    #[inline]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        #[cfg(debug_assertions)]
        held::check(self.rank);
        match self.inner.try_lock() {
            Ok(inner) => Some(self.guard(inner)),
            Err(std::sync::TryLockError::Poisoned(poisoned)) => Some(self.guard(poisoned.into_inner())),
            Err(std::sync::TryLockError::WouldBlock) => None,
        }
    }

    /// The value, through unique access.
    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// The value, when the lock is no longer needed.
    pub fn into_inner(self) -> T {
        self.inner.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    fn guard<'a>(&'a self, inner: raw::MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        #[cfg(debug_assertions)]
        held::add(self.rank);
        #[cfg(all(feature = "lock-counts", not(loom)))]
        super::lock_counts::count(self.rank);
        MutexGuard {
            inner,
            _held: Held::of(self),
            #[cfg(loom)]
            mutex: self,
        }
    }
}

/// Takes the rank off the thread's held set when the guard goes, also where a condition variable swaps the
/// inner guard.
#[derive(Debug)]
struct Held {
    #[cfg(debug_assertions)]
    rank: Rank,
}

impl Held {
    #[cfg_attr(not(debug_assertions), allow(unused_variables))]
    #[inline]
    fn of<T>(mutex: &Mutex<T>) -> Self {
        Self {
            #[cfg(debug_assertions)]
            rank: mutex.rank,
        }
    }
}

#[cfg(debug_assertions)]
impl Drop for Held {
    fn drop(&mut self) {
        held::remove(self.rank);
    }
}

/// Access to the value of a [`Mutex`] until dropped. Not `Send`.
#[derive(Debug)]
#[must_use = "the lock is released when the guard is dropped"]
pub struct MutexGuard<'a, T> {
    inner: raw::MutexGuard<'a, T>,
    _held: Held,
    #[cfg(loom)]
    mutex: &'a Mutex<T>,
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

/// A condition to wait for under a [`Mutex`]. Wake-ups may be spurious: check the condition in a loop.
#[derive(Debug)]
pub struct Condvar {
    inner: raw::Condvar,
}

impl Condvar {
    /// Makes a condition with no waiters. `const`, except under loom.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self { inner: raw::Condvar::new() }
    }

    /// Makes a condition with no waiters.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self { inner: raw::Condvar::new() }
    }

    /// Releases the lock, sleeps until notified, takes the lock again.
    ///
    /// # Panics
    /// In debug builds, where the thread holds a lock of a higher rank than the guard's.
    #[track_caller]
    pub fn wait<'a, T>(&self, mut guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        #[cfg(debug_assertions)]
        held::check_is_highest(guard._held.rank);
        guard.inner = self.inner.wait(guard.inner).unwrap_or_else(PoisonError::into_inner);
        guard
    }

    /// As [`Condvar::wait`], but sleeps at most `timeout`; true where that passed without a notification.
    ///
    /// Under loom the lock is released, any other thread may run, and the answer is always true: a caller that
    /// looks at its condition before it gives up is thereby tried both ways.
    ///
    /// # Panics
    /// As [`Condvar::wait`].
    #[track_caller]
    pub fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
    ) -> (MutexGuard<'a, T>, bool) {
        #[cfg(debug_assertions)]
        held::check_is_highest(guard._held.rank);
        #[cfg(not(loom))]
        {
            let mut guard = guard;
            let (inner, result) =
                self.inner.wait_timeout(guard.inner, timeout).unwrap_or_else(PoisonError::into_inner);
            guard.inner = inner;
            (guard, result.timed_out())
        }
        #[cfg(loom)]
        {
            let (mutex, _) = (guard.mutex, timeout);
            drop(guard);
            loom::thread::yield_now();
            (mutex.lock(), true)
        }
    }

    /// Wakes one waiter, if there is one.
    pub fn notify_one(&self) {
        self.inner.notify_one();
    }

    /// Wakes every waiter.
    pub fn notify_all(&self) {
        self.inner.notify_all();
    }
}

impl Default for Condvar {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::{Condvar, Mutex};
    use crate::sync::{Arc, Rank, thread};
    use std::time::Duration;

    #[test]
    fn a_panic_under_the_lock_leaves_it_usable() {
        let mutex = Arc::new(Mutex::new(Rank::POOL, 1));
        let other = Arc::clone(&mutex);
        let outcome = thread::spawn(move || {
            let mut value = other.lock();
            *value = 2;
            panic!("while held");
        })
        .join();
        assert!(outcome.is_err());
        assert_eq!(*mutex.lock(), 2);
        assert_eq!(mutex.try_lock().map(|value| *value), Some(2));
    }

    #[test]
    fn try_lock_gives_up_where_held() {
        let mutex = Mutex::new(Rank::POOL, ());
        let guard = mutex.lock();
        thread::scope(|scope| {
            assert!(scope.spawn(|| mutex.try_lock().is_none()).join().unwrap());
        });
        drop(guard);
        assert!(mutex.try_lock().is_some());
    }

    #[test]
    fn condvar_wakes_and_times_out() {
        let pair = Arc::new((Mutex::new(Rank::EVENT, false), Condvar::new()));
        let (guard, timed_out) = pair.1.wait_timeout(pair.0.lock(), Duration::from_millis(5));
        assert!(timed_out && !*guard);
        drop(guard);
        let other = Arc::clone(&pair);
        let waiter = thread::spawn(move || {
            let mut done = other.0.lock();
            while !*done {
                done = other.1.wait(done);
            }
        });
        *pair.0.lock() = true;
        pair.1.notify_all();
        waiter.join().unwrap();
    }

    #[test]
    #[cfg(debug_assertions)]
    fn waiting_while_holding_a_higher_lock_is_refused() {
        let outcome = std::panic::catch_unwind(|| {
            let low = Mutex::new(Rank::POOL, ());
            let high = Mutex::new(Rank::EVENT, ());
            let guard = low.lock();
            let _high = high.lock();
            let _ = Condvar::new().wait_timeout(guard, Duration::from_millis(1));
        });
        assert!(outcome.is_err());
    }
}
