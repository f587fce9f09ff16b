//! How long a wait for a device polls before it sleeps.

use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::hint;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Longest time that a wait polls before it sleeps. To sleep and be woken costs 30 µs on a desktop and up to 90 µs in a
/// virtual machine beyond the work itself, so to poll for about twice that is at worst a few times as dear as the better
/// of the two, whatever is waited for.
const LONGEST: Duration = Duration::from_micros(150);
/// The same where others poll already, or polling has been in vain.
const SHORTEST: Duration = Duration::from_micros(5);
/// Waits in a row that polling did not end, after which only every so many-th polls for long.
const IN_VAIN: u32 = 8;
const RETRY: u32 = 16;

/// How long the waits of a device poll. Any thread.
#[derive(Debug)]
pub(crate) struct SpinTime {
    /// Waits in a row that polling did not end.
    missed: AtomicU32,
    /// Threads that poll now. More than half of the machine's cores would take them from who has work to do.
    polling: AtomicU32,
    most: OnceLock<u32>,
}

/// A wait that polls, until it is dropped.
#[derive(Debug)]
struct Spin<'a> {
    time: &'a SpinTime,
    /// How long.
    longest: Duration,
}

impl SpinTime {
    pub(crate) fn new() -> Self {
        Self { missed: AtomicU32::new(0), polling: AtomicU32::new(0), most: OnceLock::new() }
    }

    #[cfg(test)]
    fn with_most(most: u32) -> Self {
        Self { most: OnceLock::from(most), ..Self::new() }
    }

    /// Asks `done` again and again for at most `timeout`, and no longer than it is worth it; whether it came true.
    pub(crate) fn poll<E>(
        &self,
        timeout: Duration,
        mut done: impl FnMut() -> Result<bool, E>,
    ) -> Result<bool, E> {
        let spin = self.begin();
        let (start, longest) = (Instant::now(), spin.longest.min(timeout));
        while start.elapsed() < longest {
            if done()? {
                spin.end(true);
                return Ok(true);
            }
            hint::spin_loop();
        }
        spin.end(false);
        Ok(false)
    }

    fn begin(&self) -> Spin<'_> {
        let most = *self.most.get_or_init(|| {
            let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
            u32::try_from(cores / 2).unwrap_or(u32::MAX)
        });
        // Relaxed, here and below: the counts only say how long to poll.
        let others = self.polling.fetch_add(1, Ordering::Relaxed);
        let missed = self.missed.load(Ordering::Relaxed);
        let in_vain = missed >= IN_VAIN && !missed.is_multiple_of(RETRY);
        Spin { time: self, longest: if others < most && !in_vain { LONGEST } else { SHORTEST } }
    }
}

impl Spin<'_> {
    /// Whether polling ended the wait.
    fn end(self, ended: bool) {
        if !ended {
            self.time.missed.fetch_add(1, Ordering::Relaxed);
        } else if self.time.missed.load(Ordering::Relaxed) != 0 {
            self.time.missed.store(0, Ordering::Relaxed);
        }
    }
}

impl Drop for Spin<'_> {
    fn drop(&mut self) {
        self.time.polling.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_that_outlast_polling_poll_now_and_then() {
        let time = SpinTime::with_most(4);
        for _ in 0..IN_VAIN {
            let spin = time.begin();
            assert_eq!(spin.longest, LONGEST);
            spin.end(false);
        }
        let lengths: Vec<_> = (0..2 * RETRY)
            .map(|_| {
                let spin = time.begin();
                let longest = spin.longest;
                spin.end(false);
                longest
            })
            .collect();
        assert_eq!(lengths.iter().filter(|&&longest| longest == LONGEST).count(), 2, "{lengths:?}");
        time.begin().end(true);
        assert_eq!(time.begin().longest, LONGEST);
    }

    #[test]
    fn no_more_threads_poll_than_half_the_cores() {
        let time = SpinTime::with_most(2);
        let polling: Vec<_> = (0..3).map(|_| time.begin()).collect();
        assert_eq!(polling.iter().map(|spin| spin.longest).collect::<Vec<_>>(), [LONGEST, LONGEST, SHORTEST]);
        drop(polling);
        assert_eq!(time.begin().longest, LONGEST);
    }
}
