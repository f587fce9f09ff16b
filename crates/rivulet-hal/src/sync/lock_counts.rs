//! How often locks of each rank were taken, for tests that show that a path takes none of a kind. Only with the
//! feature `lock-counts`.

use super::Rank;
use super::atomic::{AtomicU64, Ordering};
use std::cell::Cell;

const RANKS: usize = Rank::ALL.len();

static PROCESS: [AtomicU64; RANKS] = [const { AtomicU64::new(0) }; RANKS];

thread_local! {
    static THREAD: [Cell<u64>; RANKS] = const { [const { Cell::new(0) }; RANKS] };
}

pub(super) fn count(rank: Rank) {
    PROCESS[rank.index()].fetch_add(1, Ordering::Relaxed);
    let _ = THREAD.try_with(|counts| {
        let count = &counts[rank.index()];
        count.set(count.get() + 1);
    });
}

/// Acquisitions by all threads since the process began, rank by rank, lowest first.
pub fn process() -> Vec<(Rank, u64)> {
    Rank::ALL.iter().map(|&rank| (rank, PROCESS[rank.index()].load(Ordering::Relaxed))).collect()
}

/// Acquisitions of locks of `rank` by the calling thread since it began.
pub fn of_this_thread(rank: Rank) -> u64 {
    THREAD.try_with(|counts| counts[rank.index()].get()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::{Mutex, Rank, thread};
    use super::{of_this_thread, process};

    #[test]
    fn each_acquisition_counts_once_on_its_own_thread() {
        let mutex = Mutex::new(Rank::SEGMENT_TABLE, ());
        let before = of_this_thread(Rank::SEGMENT_TABLE);
        drop(mutex.lock());
        drop(mutex.try_lock());
        thread::scope(|scope| {
            scope.spawn(|| drop(mutex.lock()));
        });
        assert_eq!(of_this_thread(Rank::SEGMENT_TABLE) - before, 2);
        assert_eq!(of_this_thread(Rank::COMBINER), 0);
        let total = process().into_iter().find(|(rank, _)| *rank == Rank::SEGMENT_TABLE);
        assert!(total.is_some_and(|(_, count)| count >= 3));
    }
}
