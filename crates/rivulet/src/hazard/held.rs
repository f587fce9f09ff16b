//! The blocks that the calling thread holds, so that an op inside its own op knows them.

use rivulet_hal::sync;
use std::cell::RefCell;

#[cfg(not(loom))]
sync::thread_local! { static HELD: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) }; }
#[cfg(loom)]
sync::thread_local! { static HELD: RefCell<Vec<usize>> = RefCell::new(Vec::new()); }

/// Runs `body` on the list; `None` once the thread's locals are gone, where nothing can be nested any more. `body`
/// calls nothing that could come back here.
#[inline]
pub(super) fn with<R>(body: impl FnOnce(&mut Vec<usize>) -> R) -> Option<R> {
    HELD.try_with(|held| held.try_borrow_mut().ok().map(|mut held| body(&mut held))).ok().flatten()
}
