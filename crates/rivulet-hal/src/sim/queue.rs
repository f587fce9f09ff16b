//! The thread behind each queue.

use super::adapter::Delay;
use super::command::SimCommands;
use super::order::Point;
use super::state::{Shared, State};
use crate::cpu::Command;
use crate::sync::MutexGuard;
use crate::{HalError, QueueIndex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A submission that has run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed {
    /// Where.
    pub queue: QueueIndex,
    /// [`Submission::label`](crate::Submission::label).
    pub label: Arc<str>,
    /// Value signalled at its end.
    pub signal: u64,
}

/// Whether a queue may start work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    Open,
    /// Only so many more submissions.
    Held {
        permits: u64,
    },
}

/// A submission that was accepted.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) ticket: u64,
    pub(super) label: Arc<str>,
    pub(super) waits: Vec<Point>,
    pub(super) commands: Vec<Arc<SimCommands>>,
    pub(super) signal: Point,
}

#[derive(Debug)]
pub(super) struct QueueState {
    pub(super) gate: Gate,
    jobs: VecDeque<Job>,
    /// Label of the submission being run.
    running: Option<Arc<str>>,
    /// Submissions run since the start.
    pub(super) finished: u64,
    /// Tickets of submissions whose commands must not run.
    skipped: Vec<u64>,
    /// When the front submission may start; set when its waits are reached.
    start_at: Option<Instant>,
    /// Since when the front submission has waited for its waits.
    blocked_since: Option<Instant>,
    deadlock_reported: bool,
    random: u64,
}

/// What a queue's thread does next.
enum Next {
    Run(Job),
    Sleep,
    SleepUntil(Instant),
}

impl QueueState {
    pub(super) fn new(gate: Gate, seed: u64, queue: u64) -> Self {
        Self {
            gate,
            jobs: VecDeque::new(),
            running: None,
            finished: 0,
            skipped: Vec::new(),
            start_at: None,
            blocked_since: None,
            deadlock_reported: false,
            // Far apart, so that neighbouring queues do not draw each other's delays a step later.
            random: seed ^ (queue + 1).wrapping_mul(0xD1B5_4A32_D192_ED03),
        }
    }

    pub(super) fn push(&mut self, job: Job) {
        self.jobs.push_back(job);
    }

    /// Leaves out the commands of a submission, if it is in this queue and has not started.
    pub(super) fn skip(&mut self, ticket: u64) {
        if self.jobs.iter().any(|job| job.ticket == ticket) {
            self.skipped.push(ticket);
        }
    }

    pub(super) fn clear(&mut self) {
        self.jobs.clear();
    }

    /// Submissions not yet finished.
    pub(super) fn unfinished(&self) -> usize {
        self.jobs.len() + usize::from(self.running.is_some())
    }

    pub(super) fn front_label(&self) -> Option<Arc<str>> {
        self.running.clone().or_else(|| Some(Arc::clone(&self.jobs.front()?.label)))
    }

    /// SplitMix64.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.random;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    fn draw_delay(&mut self, delay: Delay) -> Duration {
        match delay {
            Delay::None => Duration::ZERO,
            Delay::Fixed(time) => time,
            Delay::Random { min, max } => {
                let spread = u64::try_from(max.saturating_sub(min).as_nanos()).unwrap_or(u64::MAX);
                min + Duration::from_nanos(self.draw() % spread.saturating_add(1).max(1))
            }
        }
    }
}

/// Body of the thread of `queue`; returns when the device is lost or dropped.
pub(super) fn run(shared: &Shared, queue: usize) {
    let mut state = shared.state.lock();
    while !state.shutdown && state.lost.is_none() {
        match next(shared, &mut state, queue, Instant::now()) {
            Next::Run(job) => {
                state = run_job(shared, state, queue, &job);
                state.queues[queue].running = None;
                shared.wake_all();
            }
            Next::Sleep => state = shared.work.wait(state),
            Next::SleepUntil(then) => {
                let left = then.saturating_duration_since(Instant::now());
                (state, _) = shared.work.wait_timeout(state, left);
            }
        }
    }
}

fn next(shared: &Shared, state: &mut State, queue: usize, now: Instant) -> Next {
    let delay = state.delay;
    let mine = &mut state.queues[queue];
    let Some(job) = mine.jobs.front() else { return Next::Sleep };
    if mine.gate == (Gate::Held { permits: 0 }) {
        return Next::Sleep;
    }
    let unreached = job.waits.iter().find(|wait| state.timelines[wait.timeline].completed < wait.value);
    if let Some(&wait) = unreached {
        return watch_for_deadlock(shared, state, queue, wait, now);
    }
    let start_at = match mine.start_at {
        Some(time) => time,
        None => now + mine.draw_delay(delay),
    };
    if now < start_at {
        mine.start_at = Some(start_at);
        return Next::SleepUntil(start_at);
    }
    (mine.start_at, mine.blocked_since, mine.deadlock_reported) = (None, None, false);
    if let Gate::Held { permits } = &mut mine.gate {
        *permits -= 1;
    }
    match mine.jobs.pop_front() {
        Some(job) => {
            mine.running = Some(Arc::clone(&job.label));
            Next::Run(job)
        }
        None => Next::Sleep,
    }
}

/// The front submission waits for `wait`: nothing to say while its signal is on the way, or not for long.
fn watch_for_deadlock(shared: &Shared, state: &mut State, queue: usize, wait: Point, now: Instant) -> Next {
    let mine = &mut state.queues[queue];
    let since = *mine.blocked_since.get_or_insert(now);
    let submitted = state.timelines[wait.timeline].submitted;
    if mine.deadlock_reported || submitted >= wait.value {
        return Next::Sleep;
    }
    let report_at = since + shared.deadlock_after;
    if now < report_at {
        return Next::SleepUntil(report_at);
    }
    mine.deadlock_reported = true;
    let label = mine.front_label().unwrap_or_default();
    let Point { timeline, value } = wait;
    let seconds = shared.deadlock_after.as_secs_f32();
    state.faults.push(format!(
        "queue deadlock: submission `{label}` on queue {queue} has waited {seconds} s for value {value} of timeline \
         {timeline}, which nobody has submitted (highest submitted: {submitted})"
    ));
    Next::Sleep
}

/// Runs the commands, one at a time under the lock: commands of two queues interleave but never touch bytes at the
/// same time, so that a fault is a report and not a data race of the test process.
fn run_job<'a>(
    shared: &'a Shared,
    mut state: MutexGuard<'a, State>,
    queue: usize,
    job: &Job,
) -> MutexGuard<'a, State> {
    let skipped = state.queues[queue].skipped.iter().position(|&ticket| ticket == job.ticket);
    if let Some(index) = skipped {
        state.queues[queue].skipped.swap_remove(index);
    }
    for buffer in job.commands.iter().filter(|_| skipped.is_none()) {
        for command in buffer.commands() {
            match command {
                Command::Op(op) => {
                    if let Err(HalError::Usage(why)) = op.run() {
                        state.lose(&format!("{why}; in submission `{}` on queue {queue}", job.label));
                    }
                    drop(state);
                    crate::sync::thread::yield_now();
                    state = shared.state.lock();
                }
                Command::Barrier => {}
                Command::Timestamp(slot) => buffer.timestamps().write(*slot),
            }
            if state.lost.is_some() || state.shutdown {
                return state;
            }
        }
    }
    let Point { timeline, value } = job.signal;
    let reached = &mut state.timelines[timeline].completed;
    *reached = value.max(*reached);
    state.queues[queue].finished += 1;
    let entry = Executed { queue: QueueIndex(queue), label: Arc::clone(&job.label), signal: value };
    state.executed.push(entry);
    state
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::{Delay, Gate, QueueState};
    use std::time::Duration;

    #[test]
    fn delays_repeat_with_the_seed_and_differ_between_queues() {
        let (min, max) = (Duration::from_micros(50), Duration::from_micros(90));
        let draws = |seed, queue| {
            let mut state = QueueState::new(Gate::Open, seed, queue);
            (0..200).map(|_| state.draw_delay(Delay::Random { min, max })).collect::<Vec<_>>()
        };
        assert_eq!(draws(7, 0), draws(7, 0));
        assert_ne!(draws(7, 0), draws(8, 0));
        let (first, second) = (draws(7, 0), draws(7, 1));
        // Not even shifted against each other by a few draws.
        assert!((0..5).all(|shift| first[shift..shift + 50] != second[..50]));
        assert!(first.iter().all(|delay| (min..=max).contains(delay)));
        assert!(first.iter().max() > first.iter().min());
    }
}
