//! Which ranks the calling thread holds; debug builds only.

#[cfg(debug_assertions)]
mod imp {
    use crate::sync::Rank;
    use std::cell::Cell;

    // A mask, not a list: ranks strictly rise, so a thread holds at most one lock of each, and a value without
    // a destructor still answers while the thread's other locals are being torn down.
    #[cfg(not(loom))]
    thread_local! { static HELD: Cell<u32> = const { Cell::new(0) }; }
    #[cfg(loom)]
    loom::thread_local! { static HELD: Cell<u32> = Cell::new(0); }

    fn held() -> u32 {
        HELD.try_with(Cell::get).unwrap_or(0)
    }

    pub(super) fn highest() -> Option<Rank> {
        Rank::highest(held())
    }

    #[track_caller]
    pub(in crate::sync) fn check(rank: Rank) {
        // A second panic while unwinding would abort and hide the first.
        if std::thread::panicking() {
            return;
        }
        if let Some(highest) = highest() {
            assert!(
                highest.order() < rank.order(),
                "lock order violated: takes {rank} while it holds {highest}; ranks must rise"
            );
        }
    }

    #[track_caller]
    pub(in crate::sync) fn check_is_highest(rank: Rank) {
        if std::thread::panicking() {
            return;
        }
        if let Some(highest) = highest() {
            assert!(
                highest == rank,
                "lock order violated: waits with {rank} while it holds {highest}, which it would keep"
            );
        }
    }

    pub(in crate::sync) fn add(rank: Rank) {
        let _ = HELD.try_with(|held| held.set(held.get() | rank.bit()));
    }

    pub(in crate::sync) fn remove(rank: Rank) {
        // A model that failed unwinds with no thread active, where loom's thread-locals panic again.
        #[cfg(loom)]
        if std::thread::panicking() {
            return;
        }
        let _ = HELD.try_with(|held| held.set(held.get() & !rank.bit()));
    }
}

#[cfg(debug_assertions)]
pub(super) use imp::{add, check, check_is_highest, remove};

/// Panics in debug builds where the calling thread holds any ranked lock; `what` says what it is about to do.
/// Release builds check nothing. For calls that may wait long: driver waits, the interpreter.
#[track_caller]
#[inline]
pub fn assert_no_lock_held(what: &str) {
    #[cfg(debug_assertions)]
    if !std::thread::panicking()
        && let Some(rank) = imp::highest()
    {
        panic!("lock order violated: {what} while it holds {rank}");
    }
    #[cfg(not(debug_assertions))]
    let _ = what;
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::super::{Mutex, Rank};
    use super::assert_no_lock_held;

    #[cfg(debug_assertions)]
    fn panic_text(body: impl FnOnce() + std::panic::UnwindSafe) -> String {
        let payload = std::panic::catch_unwind(body).unwrap_err();
        payload.downcast_ref::<String>().unwrap().clone()
    }

    #[test]
    #[cfg(debug_assertions)]
    fn falling_rank_names_both_locks() {
        let text = panic_text(|| {
            let event = Mutex::new(Rank::EVENT, ());
            let pool = Mutex::new(Rank::POOL, ());
            let _event = event.lock();
            let _pool = pool.lock();
        });
        assert!(text.contains("`pool` (rank 10)") && text.contains("`event` (rank 60)"), "{text}");
    }

    #[test]
    #[cfg(debug_assertions)]
    fn equal_rank_is_refused_and_the_set_recovers() {
        let text = panic_text(|| {
            let first = Mutex::new(Rank::ALLOCATOR, ());
            let second = Mutex::new(Rank::ALLOCATOR, ());
            let _first = first.lock();
            let _second = second.try_lock();
        });
        assert!(text.contains("takes `allocator`") && text.contains("holds `allocator`"), "{text}");
        assert_no_lock_held("runs after the guards were dropped");
    }

    #[test]
    #[cfg(debug_assertions)]
    fn waiting_calls_refuse_held_locks() {
        let text = panic_text(|| {
            let combiner = Mutex::new(Rank::COMBINER, ());
            let _guard = combiner.lock();
            assert_no_lock_held("waits for a timeline");
        });
        assert!(text.contains("waits for a timeline") && text.contains("`combiner`"), "{text}");
    }

    #[test]
    fn rising_ranks_pass_and_release_in_any_order() {
        let pool = Mutex::new(Rank::POOL, 1);
        let event = Mutex::new(Rank::EVENT, 2);
        let driver = Mutex::new(Rank::DRIVER, 3);
        let first = pool.lock();
        let second = event.lock();
        let third = driver.lock();
        assert_eq!(*first + *second + *third, 6);
        drop(first);
        drop(third);
        drop(second);
        assert_no_lock_held("ends");
    }
}
