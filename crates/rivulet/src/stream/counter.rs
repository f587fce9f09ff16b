//! A counter that only rises and that threads can wait for.

use crate::hazard::seeded;
use rivulet_hal::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use rivulet_hal::sync::parking;
use std::time::Duration;

/// Loom takes `SeqCst` accesses for `AcqRel` and needs a fence for store-then-load; elsewhere the accesses themselves
/// are `SeqCst` and cost less than a fence.
#[inline(always)]
fn store_load_fence() {
    if cfg!(loom) && !seeded::is("counter: no fence") {
        fence(Ordering::SeqCst);
    }
}

/// Any number of threads wait, any number advance.
#[derive(Debug)]
pub(crate) struct Counter {
    value: AtomicU64,
    /// Who has to be told of an advance: threads that wait, and others by [`Counter::watch`].
    watchers: AtomicUsize,
}

impl Counter {
    pub(crate) fn new() -> Self {
        Self { value: AtomicU64::new(0), watchers: AtomicUsize::new(0) }
    }

    /// The value now. Acquire: what was done before it was reached is visible.
    #[inline]
    pub(crate) fn get(&self) -> u64 {
        self.value.load(Ordering::Acquire)
    }

    /// Sets the value, for counters with one writer at a time; true where somebody watches, whom the caller then
    /// tells with [`Counter::wake`].
    #[inline]
    pub(crate) fn set(&self, value: u64) -> bool {
        // SeqCst, as the load in `is_watched`: it may not pass this store. The Release in it pairs with `get`.
        self.value.store(value, Ordering::SeqCst);
        store_load_fence();
        self.is_watched()
    }

    /// Raises the value to at least `value` and wakes who waits.
    pub(crate) fn advance(&self, value: u64) {
        // As in `set`.
        self.value.fetch_max(value, Ordering::SeqCst);
        store_load_fence();
        if self.is_watched() {
            self.wake();
        }
    }

    #[inline]
    fn is_watched(&self) -> bool {
        self.watchers.load(Ordering::SeqCst) > 0
    }

    #[cold]
    pub(crate) fn wake(&self) {
        parking::unpark_all(self.address());
    }

    /// Asks to be told of every advance, until [`Counter::unwatch`]. After this call, look at the value once more:
    /// either it is the new one, or its writer sees the watcher.
    pub(crate) fn watch(&self) {
        self.watchers.fetch_add(1, Ordering::SeqCst);
        if !seeded::is("counter: no fence") {
            fence(Ordering::SeqCst);
        }
    }

    pub(crate) fn unwatch(&self) {
        self.watchers.fetch_sub(1, Ordering::Relaxed);
    }

    /// Waits for at most `longest`; true where `value` is reached.
    pub(crate) fn wait_step(&self, value: u64, longest: Duration) -> bool {
        if self.get() >= value {
            return true;
        }
        self.watch();
        // A model waits without end: a timeout would hide a wake-up that was lost.
        let longest = if cfg!(loom) { None } else { Some(longest) };
        parking::park(self.address(), || self.get() < value, longest);
        self.unwatch();
        self.get() >= value
    }

    /// Ends the current [`Counter::wait_step`] of every waiter, for conditions that the value does not show.
    pub(crate) fn disturb(&self) {
        parking::unpark_all(self.address());
    }

    fn address(&self) -> usize {
        (&raw const self.value).addr()
    }
}
