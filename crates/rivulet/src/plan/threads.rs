//! Into how many threads the CPU kernels of a plan's calls split themselves.
//!
//! A kernel that splits itself pays for it: waking a thread and waiting for it takes longer than many an op, and a core
//! that it takes is no longer another caller's. So a call gets the machine's cores over the calls that run at the same
//! time ([`Callers`]), and a tape that is not faster with them gets one thread ([`Pace`]).

use rivulet_hal::sync::CachePadded;
use rivulet_hal::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Calls over which [`Callers`] looks back.
const LOOK_BACK: usize = 16;

/// The calls of plans that run now, and how many there were when the last ones began.
///
/// A moment alone says too little: a call may begin just when the others are between two of theirs. Threads that take
/// turns count as one, whatever their number.
#[derive(Debug)]
pub struct Callers {
    inside: CachePadded<AtomicUsize>,
    next: AtomicUsize,
    seen: [AtomicU8; LOOK_BACK],
}

impl Callers {
    /// None so far.
    #[must_use]
    pub fn new() -> Self {
        Self {
            inside: CachePadded::new(AtomicUsize::new(0)),
            next: AtomicUsize::new(0),
            seen: std::array::from_fn(|_| AtomicU8::new(0)),
        }
    }

    /// A call begins.
    pub fn enter(&self) {
        // All numbers here are hints: nothing is ordered by them.
        let inside = self.inside.fetch_add(1, Ordering::Relaxed) + 1;
        let place = self.next.fetch_add(1, Ordering::Relaxed) % LOOK_BACK;
        self.seen[place].store(u8::try_from(inside).unwrap_or(u8::MAX), Ordering::Relaxed);
    }

    /// A call that [entered](Self::enter) ends.
    pub fn leave(&self) {
        self.inside.fetch_sub(1, Ordering::Relaxed);
    }

    /// The most calls at once when any of the last 16 began, at least 1.
    pub fn most(&self) -> usize {
        let seen = self.seen.iter().map(|seen| seen.load(Ordering::Relaxed)).max();
        usize::from(seen.unwrap_or(1)).max(1)
    }
}

impl Default for Callers {
    fn default() -> Self {
        Self::new()
    }
}

/// Runs before the first that is measured: it reads weights from far away and makes buffers.
const WARM: u64 = 1;
/// Runs that are measured, one thread and several in turn.
///
/// What counts is what they take on average, but for the slowest of each. Not the best: where others want the cores too,
/// a kernel's threads wait for the one that has none, and a lucky run tells nothing of the next.
const MEASURED: u64 = 16;
/// Runs after which all is measured anew: it may have been a bad moment.
const AGAIN: u64 = 4096;
/// A tape that takes less on one thread gets one, whatever was measured: it has little to gain, and where others want the
/// cores a run on several waits for one that is not there, a hundred times as long as it takes.
const SHORT: u64 = 200_000;
/// Where a run on several threads takes this many times what one thread usually takes, it was in vain.
const IN_VAIN: u64 = 2;
/// Runs in vain, less the others, after which a tape goes back to one thread.
const ENOUGH: u32 = 3;

/// How a run is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As said; nobody wants to know how long it takes.
    Settled,
    /// On one thread, and [`Pace::took`] is told how long it took.
    TryOne,
    /// On as many as there are, and [`Pace::took`] is told how long it took.
    TryMany,
    /// The same, after it was found to be faster.
    Many,
}

/// Runs of one kind, in nanoseconds.
#[derive(Debug, Default)]
struct Runs {
    count: AtomicU64,
    sum: AtomicU64,
    slowest: AtomicU64,
}

impl Runs {
    fn add(&self, nanoseconds: u64) {
        self.sum.fetch_add(nanoseconds, Ordering::Relaxed);
        self.slowest.fetch_max(nanoseconds, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    fn forget(&self) {
        for number in [&self.count, &self.sum, &self.slowest] {
            number.store(0, Ordering::Relaxed);
        }
    }

    /// The average without the slowest; `None` of fewer than two runs.
    fn usual(&self) -> Option<u64> {
        let others = self.count.load(Ordering::Relaxed).checked_sub(1).filter(|&others| others > 0)?;
        let sum = self.sum.load(Ordering::Relaxed).saturating_sub(self.slowest.load(Ordering::Relaxed));
        Some(sum / others)
    }
}

/// Whether one tape is faster on several threads, found out by its own first runs.
#[derive(Debug, Default)]
pub struct Pace {
    runs: AtomicU64,
    one: Runs,
    many: Runs,
    /// The answer of the last measurement; 0 none yet, 1 one thread, 2 several.
    settled: AtomicU8,
    /// Runs on several threads in vain since then, less the others.
    in_vain: AtomicU32,
}

impl Pace {
    /// Nothing known.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Threads for a run that may have `share` of them, and how it is done.
    pub fn choose(&self, share: usize) -> (usize, Way) {
        if share <= 1 {
            return (1, Way::Settled);
        }
        let run = self.runs.fetch_add(1, Ordering::Relaxed);
        if run < WARM {
            return (share, Way::Settled);
        }
        if run < WARM + MEASURED {
            return if run.is_multiple_of(2) { (1, Way::TryOne) } else { (share, Way::TryMany) };
        }
        if run == WARM + MEASURED {
            self.settle();
        } else if run >= AGAIN {
            self.one.forget();
            self.many.forget();
            self.runs.store(WARM, Ordering::Relaxed);
        }
        match self.settled.load(Ordering::Relaxed) {
            1 => (1, Way::Settled),
            _ => (share, Way::Many),
        }
    }

    /// A run that was to be measured took so long.
    pub fn took(&self, way: Way, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        match way {
            Way::Settled => {}
            Way::TryOne => self.one.add(nanoseconds),
            Way::TryMany => self.many.add(nanoseconds),
            Way::Many => self.watch(nanoseconds),
        }
    }

    /// A decision made in a calm moment is taken back where there is no calm any more.
    fn watch(&self, nanoseconds: u64) {
        let Some(one) = self.one.usual() else { return };
        if nanoseconds > IN_VAIN * one {
            if self.in_vain.fetch_add(1, Ordering::Relaxed) + 1 >= ENOUGH {
                self.settled.store(1, Ordering::Relaxed);
            }
        } else if self.in_vain.load(Ordering::Relaxed) > 0 {
            let less = |runs: u32| runs.checked_sub(1);
            let _ = self.in_vain.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }

    fn settle(&self) {
        let (Some(one), Some(many)) = (self.one.usual(), self.many.usual()) else { return };
        // A gain of less is not worth the other cores.
        let is_one = one < SHORT || one - one / 32 <= many;
        self.in_vain.store(0, Ordering::Relaxed);
        self.settled.store(if is_one { 1 } else { 2 }, Ordering::Relaxed);
    }

    /// What a run usually takes on one thread and on several, where both were measured.
    pub fn times(&self) -> Option<(Duration, Duration)> {
        (self.settled.load(Ordering::Relaxed) != 0).then_some(())?;
        let times = self.one.usual().zip(self.many.usual());
        times.map(|(one, many)| (Duration::from_nanos(one), Duration::from_nanos(many)))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Runs a tape with these times so often, with a share of four threads; the threads of the last run.
    fn run(pace: &Pace, runs: u64, one: u64, many: u64) -> usize {
        let mut last = 0;
        for _ in 0..runs {
            let (threads, way) = pace.choose(4);
            pace.took(way, Duration::from_micros(if threads == 1 { one } else { many }));
            last = threads;
        }
        last
    }

    #[test]
    fn calls_at_once_are_counted_for_sixteen_calls() {
        let callers = Callers::new();
        assert_eq!(callers.most(), 1);
        for _ in 0..5 {
            callers.enter();
        }
        for _ in 0..5 {
            callers.leave();
        }
        for _ in 0..LOOK_BACK - 1 {
            callers.enter();
            assert_eq!(callers.most(), 5);
            callers.leave();
        }
        callers.enter();
        assert_eq!(callers.most(), 1);
    }

    #[test]
    fn threads_that_take_turns_count_as_one() {
        let callers = Callers::new();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                let turn = scope.spawn(|| {
                    callers.enter();
                    callers.leave();
                });
                turn.join().unwrap();
            }
        });
        assert_eq!(callers.most(), 1);
    }

    #[test]
    fn a_tape_that_gains_nothing_gets_one_thread() {
        assert_eq!(run(&Pace::new(), 100, 20, 30), 1);
        assert_eq!(run(&Pace::new(), 100, 100, 99), 1);
    }

    #[test]
    fn a_tape_that_gains_gets_its_share() {
        let pace = Pace::new();
        assert_eq!(run(&pace, 100, 3000, 1000), 4);
        assert_eq!(pace.choose(2).0, 2);
        assert_eq!(pace.times(), Some((Duration::from_micros(3000), Duration::from_micros(1000))));
    }

    #[test]
    fn a_share_of_one_is_one_thread_and_measures_nothing() {
        let pace = Pace::new();
        for _ in 0..100 {
            assert_eq!(pace.choose(1), (1, Way::Settled));
        }
        assert_eq!(pace.times(), None);
        assert_eq!(run(&pace, 100, 3000, 1000), 4);
    }

    #[test]
    fn one_slow_run_among_the_first_decides_nothing() {
        let pace = Pace::new();
        for run in 0..100 {
            let (threads, way) = pace.choose(4);
            let slow = if run == 1 || run == 4 { 10_000 } else { 0 };
            pace.took(way, Duration::from_micros(slow + if threads == 1 { 3000 } else { 1000 }));
        }
        assert_eq!(pace.choose(4).0, 4);
    }

    #[test]
    fn lucky_runs_on_several_threads_do_not_outweigh_the_others() {
        let pace = Pace::new();
        for run in 0_u64..100 {
            let (threads, way) = pace.choose(4);
            let many = if run % 4 == 1 { 150 } else { 3000 };
            pace.took(way, Duration::from_micros(if threads == 1 { 300 } else { many }));
        }
        assert_eq!(pace.choose(4).0, 1);
    }

    #[test]
    fn a_short_tape_gets_one_thread_even_where_it_would_gain() {
        assert_eq!(run(&Pace::new(), 100, 150, 80), 1);
    }

    #[test]
    fn where_the_cores_are_wanted_elsewhere_a_tape_goes_back_to_one_thread() {
        let pace = Pace::new();
        assert_eq!(run(&pace, 100, 3000, 1000), 4);
        assert_eq!(run(&pace, 1, 3000, 17_000), 4);
        assert_eq!(run(&pace, 10, 3000, 1000), 4);
        assert_eq!(run(&pace, 10, 3000, 17_000), 1);
        assert_eq!(run(&pace, AGAIN + 100, 3000, 1000), 4, "until it is measured again");
    }

    #[test]
    fn measured_anew_the_runs_in_vain_count_no_more() {
        let pace = Pace::new();
        run(&pace, 100, 3000, 1000);
        assert_eq!(run(&pace, 10, 3000, 17_000), 1);
        loop {
            let (threads, way) = pace.choose(4);
            if way == Way::Many {
                break;
            }
            pace.took(way, Duration::from_micros(if threads == 1 { 3000 } else { 1000 }));
        }
        pace.took(Way::Many, Duration::from_micros(17_000));
        assert_eq!(pace.choose(4), (4, Way::Many));
    }

    #[test]
    fn runs_in_vain_are_forgiven_after_as_many_others() {
        let pace = Pace::new();
        run(&pace, 100, 3000, 1000);
        for _ in 0..5 {
            run(&pace, 2, 3000, 17_000);
            assert_eq!(run(&pace, 2, 3000, 1000), 4);
        }
        run(&pace, 2, 3000, 17_000);
        run(&pace, 1, 3000, 1000);
        run(&pace, 2, 3000, 17_000);
        assert_eq!(run(&pace, 1, 3000, 1000), 1, "not after fewer");
    }

    #[test]
    fn measured_anew_the_old_times_count_no_more() {
        let pace = Pace::new();
        assert_eq!(run(&pace, 100, 3000, 1000), 4);
        assert_eq!(run(&pace, AGAIN + 100, 800, 900), 1);
        assert_eq!(pace.times(), Some((Duration::from_micros(800), Duration::from_micros(900))));
    }

    #[test]
    fn a_wrong_decision_is_taken_back() {
        let pace = Pace::new();
        assert_eq!(run(&pace, 100, 1000, 3000), 1);
        assert_eq!(run(&pace, AGAIN + 100, 3000, 1000), 4);
    }

    #[test]
    fn while_all_is_measured_anew_the_old_answer_holds() {
        let pace = Pace::new();
        run(&pace, AGAIN, 1000, 3000);
        assert_eq!(pace.choose(4).0, 1);
    }
}
