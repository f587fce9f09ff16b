//! Turns at the GIL, for threads that come back from the runtime all at once.
//!
//! A batch of joined calls ends for many threads in one moment. Each then asks the interpreter for its lock, sleeps where
//! another has it, and is woken when that one lets go: a wake-up for each, one after the other, with nobody holding the
//! lock meanwhile. Here a few of them wait awake for the moment at which the one before lets go, and only that one asks
//! the interpreter; the rest sleep until there is a place among those.
//!
//! Turns are advice. Who has waited for too long asks the interpreter without one: the holder may keep the lock, or let go
//! of it in a way that nobody reports here.

use rivulet_hal::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use rivulet_hal::sync::{hint, parking};
use std::cell::Cell;
use std::time::{Duration, Instant};

thread_local! {
    /// The turn that this thread has, 0 for none.
    static MINE: Cell<u64> = const { Cell::new(0) };
}

/// Whose turn it is. Any thread.
pub(crate) struct Turns {
    /// Longest wait for one holder, awake. To be woken takes about as long in a virtual machine.
    patience: Duration,
    /// Odd while somebody has it; another number for each holder.
    turn: AtomicU64,
    /// Threads that wait awake.
    awake: AtomicU32,
    /// Threads that sleep for a place among those.
    asleep: AtomicU32,
    /// The process that these threads are of.
    forks: AtomicU32,
}

impl Turns {
    pub(crate) const fn new(patience: Duration) -> Self {
        let (turn, awake, asleep) = (AtomicU64::new(0), AtomicU32::new(0), AtomicU32::new(0));
        Self { patience, turn, awake, asleep, forks: AtomicU32::new(0) }
    }

    /// Waits for the calling thread's turn, no longer than it is worth. GIL not held. At most `most` threads wait awake.
    ///
    /// All orderings are relaxed: nothing is handed over with a turn, the interpreter's lock does that.
    pub(crate) fn wait(&self, most: u32) {
        if most == 0 {
            return;
        }
        self.forget_the_parent();
        // As long as all that are allowed before it may take.
        let (start, longest) = (Instant::now(), self.patience * (most + 1));
        while self.awake.fetch_add(1, Ordering::Relaxed) >= most {
            lower(&self.awake);
            let left = longest.saturating_sub(start.elapsed());
            if left.is_zero() {
                return;
            }
            self.asleep.fetch_add(1, Ordering::Relaxed);
            parking::park(self.address(), || self.awake.load(Ordering::Relaxed) >= most, Some(left));
            lower(&self.asleep);
        }
        let turn = self.next();
        lower(&self.awake);
        MINE.set(turn);
    }

    fn next(&self) -> u64 {
        let (mut last, mut since) = (0, Instant::now());
        loop {
            let seen = self.turn.load(Ordering::Relaxed);
            let free = seen.is_multiple_of(2);
            // Of one holder: where several wait, each may have to wait for all the others.
            if seen != last {
                (last, since) = (seen, Instant::now());
            }
            if free || since.elapsed() >= self.patience {
                let turn = seen + if free { 1 } else { 2 };
                if self.turn.compare_exchange(seen, turn, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                    return turn;
                }
            }
            hint::spin_loop();
        }
    }

    /// The calling thread has let go of the GIL: whoever is next may ask for it.
    pub(crate) fn pass(&self) {
        let mine = MINE.replace(0);
        if mine == 0 {
            return;
        }
        // Fails where somebody has lost patience meanwhile.
        let _ = self.turn.compare_exchange(mine, mine + 1, Ordering::Relaxed, Ordering::Relaxed);
        if self.asleep.load(Ordering::Relaxed) > 0 {
            parking::unpark_one(self.address());
        }
    }

    /// The pace at which turns are taken from now on, for threads of which `most` at most wait awake; none where nobody
    /// does.
    pub(crate) fn pace(&self, most: u32) -> Option<Pace<'_>> {
        (most > 0).then(|| Pace { turns: self, first: self.turn.load(Ordering::Relaxed), most: most.into() })
    }

    /// Threads that waited at a fork are not in the child.
    fn forget_the_parent(&self) {
        let now = rivulet_hal::thread::fork_generation();
        let before = self.forks.load(Ordering::Relaxed);
        let same =
            |before, now| self.forks.compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed);
        if before != now && same(before, now).is_ok() {
            self.awake.store(0, Ordering::Relaxed);
            self.asleep.store(0, Ordering::Relaxed);
        }
    }

    fn address(&self) -> usize {
        (&raw const self.turn).addr()
    }
}

/// Holds back who wakes threads for their turns, see [`Turns::pace`].
pub(crate) struct Pace<'t> {
    turns: &'t Turns,
    first: u64,
    most: u64,
}

impl Pace<'_> {
    /// Waits until fewer than so many of the `told` threads are without a turn, no longer than it is worth.
    pub(crate) fn admit(&mut self, told: usize) {
        let start = Instant::now();
        loop {
            let taken = self.turns.turn.load(Ordering::Relaxed).wrapping_sub(self.first).div_ceil(2);
            if (told as u64) < taken.saturating_add(self.most) {
                return;
            }
            if start.elapsed() >= self.turns.patience {
                // As if one had taken its turn: it may need none.
                self.first = self.first.wrapping_sub(2);
                return;
            }
            hint::spin_loop();
        }
    }
}

/// Less by one, and not below 0: the count may have been forgotten meanwhile.
fn lower(count: &AtomicU32) {
    let _ = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1));
}

#[cfg(test)]
mod tests {
    use super::*;
    use rivulet_hal::sync::Arc;
    use std::sync::mpsc;
    use std::thread::{JoinHandle, sleep, spawn};

    const LONG: Duration = Duration::from_secs(30);
    const SOON: Duration = Duration::from_millis(50);

    /// A thread that waits for its turn, says so, and passes it on when told.
    fn caller(turns: &Arc<Turns>, most: u32) -> (mpsc::Receiver<()>, mpsc::Sender<()>, JoinHandle<()>) {
        let turns = Arc::clone(turns);
        let (said, hears) = mpsc::channel();
        let (tell, told) = mpsc::channel::<()>();
        let thread = spawn(move || {
            turns.wait(most);
            said.send(()).unwrap();
            let _ = told.recv();
            turns.pass();
        });
        (hears, tell, thread)
    }

    #[test]
    fn a_turn_that_is_passed_goes_to_the_one_that_waits_awake_and_then_to_the_one_asleep() {
        let turns = Arc::new(Turns::new(LONG));
        let first = caller(&turns, 1);
        first.0.recv_timeout(LONG).unwrap();
        let awake = caller(&turns, 1);
        while turns.awake.load(Ordering::Relaxed) == 0 {
            sleep(Duration::from_millis(1));
        }
        let asleep = caller(&turns, 1);
        while turns.asleep.load(Ordering::Relaxed) == 0 {
            sleep(Duration::from_millis(1));
        }
        assert!(awake.0.recv_timeout(SOON).is_err(), "the first has not passed it on");
        drop(first.1);
        awake.0.recv_timeout(LONG).unwrap();
        assert!(asleep.0.recv_timeout(SOON).is_err(), "the second has not passed it on");
        drop(awake.1);
        asleep.0.recv_timeout(LONG).unwrap();
        drop(asleep.1);
        for thread in [first.2, awake.2, asleep.2] {
            thread.join().unwrap();
        }
        assert_eq!((turns.awake.load(Ordering::Relaxed), turns.asleep.load(Ordering::Relaxed)), (0, 0));
        assert!(turns.turn.load(Ordering::Relaxed).is_multiple_of(2), "nobody has it");
    }

    #[test]
    fn who_loses_patience_goes_on_and_a_late_holder_takes_nothing_away() {
        let turns = Arc::new(Turns::new(SOON));
        let keeps = caller(&turns, 1);
        keeps.0.recv_timeout(LONG).unwrap();
        let hasty = caller(&turns, 1);
        hasty.0.recv_timeout(LONG).unwrap();
        drop(keeps.1);
        keeps.2.join().unwrap();
        assert!(!turns.turn.load(Ordering::Relaxed).is_multiple_of(2), "it is the second's now");
        drop(hasty.1);
        hasty.2.join().unwrap();
        assert!(turns.turn.load(Ordering::Relaxed).is_multiple_of(2));
    }

    #[test]
    fn who_waits_behind_several_holders_is_patient_with_each() {
        let turns = Arc::new(Turns::new(SOON * 4));
        turns.turn.store(1, Ordering::Relaxed);
        let patient = caller(&turns, 1);
        for other in [3, 5, 7] {
            assert!(
                patient.0.recv_timeout(SOON * 2).is_err(),
                "the holder had been there for no longer than the others"
            );
            turns.turn.store(other, Ordering::Relaxed);
        }
        turns.turn.store(8, Ordering::Relaxed);
        patient.0.recv_timeout(LONG).unwrap();
        drop(patient.1);
        patient.2.join().unwrap();
    }

    #[test]
    fn threads_are_woken_no_faster_than_turns_are_taken() {
        let turns = Arc::new(Turns::new(LONG));
        let mut pace = turns.pace(2).unwrap();
        pace.admit(0);
        pace.admit(1);
        let waits = {
            let turns = Arc::clone(&turns);
            spawn(move || turns.pace(2).unwrap().admit(2))
        };
        sleep(SOON);
        assert!(!waits.is_finished(), "two are without a turn");
        turns.wait(1);
        waits.join().unwrap();
        turns.pass();
    }

    #[test]
    fn who_needs_no_turn_holds_nobody_back_for_long() {
        let turns = Turns::new(SOON);
        let mut pace = turns.pace(1).unwrap();
        let begun = Instant::now();
        pace.admit(1);
        assert!(begun.elapsed() >= SOON);
        pace.admit(1);
        assert!(begun.elapsed() < SOON * 2, "it has been taken for gone");
    }

    #[test]
    fn nobody_waits_where_no_core_is_to_spare() {
        let turns = Arc::new(Turns::new(LONG));
        let keeps = caller(&turns, 1);
        keeps.0.recv_timeout(LONG).unwrap();
        let begun = Instant::now();
        turns.wait(0);
        assert!(begun.elapsed() < LONG / 2, "a waiter that may not wait waited");
        assert!(turns.pace(0).is_none(), "who wakes others waits for turns that nobody takes");
        drop(keeps.1);
        keeps.2.join().unwrap();
    }

    #[test]
    fn threads_that_waited_in_the_parent_are_forgotten() {
        let turns = Turns::new(LONG);
        turns.awake.store(7, Ordering::Relaxed);
        turns.forks.store(rivulet_hal::thread::fork_generation().wrapping_add(1), Ordering::Relaxed);
        turns.wait(1);
        turns.pass();
        assert_eq!(turns.awake.load(Ordering::Relaxed), 0);
    }
}
