//! How much a hardware queue holds at a time, and the thread that refills it.
//!
//! A queue runs what it was given in order, so whoever comes next waits for all of it. Therefore it gets only a little
//! more than it needs to be busy ([`FlushPolicy::ahead`](super::FlushPolicy)); the rest stays on the combiner's list,
//! where streams take turns. Only when something was held back does a thread wait for the queue and refill it; it ends
//! when the list is empty.
//!
//! How long work takes is an estimate that says little in itself. What was seen to take how long scales it.

use super::combiner::Combiner;
use crate::engine::Engine;
use rivulet_hal::sync::atomic::{AtomicU32, Ordering};
use rivulet_hal::sync::{Arc, Weak};
use rivulet_hal::{HalError, Timeline};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A queue holds so many submissions whatever they cost: while one ends, the next is there.
const LEAST: usize = 2;
/// The thread looks so often whether the device is still wanted.
const SLICE: Duration = Duration::from_millis(10);
/// How far an estimate can be off.
const SCALES: (f32, f32) = (1.0 / 64.0, 1024.0);
/// How much more or less than expected counts.
const MOST: f32 = 4.0;
/// Weight of what was seen last.
const LEARN: f32 = 0.25;

/// How many times longer work takes than it was estimated to.
#[derive(Debug)]
pub(super) struct Scale(AtomicU32);

impl Scale {
    pub(super) fn new() -> Self {
        Self(AtomicU32::new(1.0_f32.to_bits()))
    }

    pub(super) fn apply(&self, estimate: Duration) -> Duration {
        // An estimate of hours is a policy's "never".
        if estimate > Duration::from_secs(3600) { estimate } else { estimate.mul_f32(self.get()) }
    }

    fn get(&self) -> f32 {
        f32::from_bits(self.0.load(Ordering::Relaxed))
    }

    fn learn(&self, estimate: Duration, actual: Duration) {
        if estimate.is_zero() {
            return;
        }
        let now = self.get();
        // Work that waited for another queue says little; one such does not count for much.
        let seen = (actual.as_secs_f32() / estimate.as_secs_f32()).clamp(now / MOST, now * MOST);
        let next = now * (1.0 - LEARN) + seen * LEARN;
        self.0.store(next.clamp(SCALES.0, SCALES.1).to_bits(), Ordering::Relaxed);
    }
}

/// A submission that the driver has.
#[derive(Debug)]
struct Flight {
    timeline: Arc<dyn Timeline>,
    value: u64,
    /// As it was estimated, not scaled.
    cost: Duration,
}

/// What a queue holds, as far as is known.
#[derive(Debug, Default)]
pub(super) struct Flights {
    flights: VecDeque<Flight>,
    cost: Duration,
    /// The queue has been busy with the first of them since then, or earlier.
    since: Option<Instant>,
}

impl Flights {
    pub(super) fn add(&mut self, timeline: Arc<dyn Timeline>, value: u64, cost: Duration) {
        self.since.get_or_insert_with(Instant::now);
        self.cost += cost;
        self.flights.push_back(Flight { timeline, value, cost });
    }

    /// Takes out what has landed; what it was estimated to cost.
    pub(super) fn land(&mut self) -> Duration {
        let (mut landed, before) = (Duration::ZERO, self.flights.len());
        while let Some(first) = self.flights.front() {
            // A lost device lands everything: nothing waits for it any more.
            if first.timeline.completed().is_ok_and(|reached| reached < first.value) {
                break;
            }
            landed += first.cost;
            self.cost = self.cost.saturating_sub(first.cost);
            self.flights.pop_front();
        }
        if self.flights.len() < before {
            self.since = (!self.flights.is_empty()).then(Instant::now);
        }
        landed
    }

    /// Estimated work that still fits, unscaled `ahead` at most; `None` where nothing does.
    pub(super) fn room(&self, ahead: Duration, scale: &Scale) -> Option<Duration> {
        if self.flights.len() < LEAST {
            return Some(ahead);
        }
        ahead.checked_sub(scale.apply(self.cost)).filter(|room| !room.is_zero())
    }

    fn first(&self) -> Option<(Arc<dyn Timeline>, u64)> {
        self.flights.front().map(|flight| (Arc::clone(&flight.timeline), flight.value))
    }
}

impl Combiner {
    /// Sees to it that what was held back is submitted in time.
    pub(super) fn refill_later(&self, engine: &Engine) {
        let mut state = self.state.lock();
        if state.pumped {
            return;
        }
        state.pumped = true;
        drop(state);
        let (weak, queue) = (engine.weak(), self.queue);
        let name = format!("rivulet queue {}", queue.0);
        let spawned = std::thread::Builder::new().name(name).spawn(move || pump(&weak, queue));
        match spawned {
            Ok(thread) => {
                let before = self.state.lock().thread.replace(thread);
                // It has left its loop, or is about to.
                drop(before);
            }
            Err(_) => {
                // Without a thread nothing can be held back.
                let mut state = self.state.lock();
                (state.pumped, state.unbounded) = (false, true);
                drop(state);
                self.drive(engine);
            }
        }
    }

    /// Holds nothing back from now on, and waits for the thread that refills the queue. The device is not used by it
    /// when this returns.
    pub(crate) fn stop_pump(&self) {
        let mut state = self.state.lock();
        state.unbounded = true;
        let thread = state.thread.take();
        drop(state);
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }

    /// What the thread waits for next; `None`, and the thread counts as gone, where nothing is held back.
    fn next_flight(&self) -> Option<Option<(Arc<dyn Timeline>, u64)>> {
        let mut state = self.state.lock();
        if state.unbounded || state.is_empty() {
            state.pumped = false;
            return None;
        }
        Some(state.flights.first())
    }

    /// A wait for the first flight has ended at this moment.
    fn note_landing(&self) {
        let mut state = self.state.lock();
        let since = state.flights.since;
        let landed = state.flights.land();
        drop(state);
        if let Some(since) = since {
            self.scale.learn(landed, since.elapsed());
        }
    }
}

/// Refills one queue until nothing is held back any more.
fn pump(engine: &Weak<Engine>, queue: rivulet_hal::QueueIndex) {
    loop {
        let Some(alive) = engine.upgrade() else { return };
        let combiner = alive.combiner(queue);
        if alive.check().is_err() {
            combiner.state.lock().unbounded = true;
        }
        let Some(first) = combiner.next_flight() else { return };
        let Some((timeline, value)) = first else {
            // Somebody is submitting, or nothing is under way.
            combiner.drive(&alive);
            drop(alive);
            std::thread::yield_now();
            continue;
        };
        drop(alive);
        let landed = timeline.wait(value, SLICE);
        drop(timeline);
        let Some(alive) = engine.upgrade() else { return };
        match landed {
            Ok(true) => alive.combiner(queue).note_landing(),
            Ok(false) => continue,
            Err(error @ HalError::DeviceLost { .. }) => alive.note_failure("work on the device", &error),
            Err(_) => alive.combiner(queue).state.lock().unbounded = true,
        }
        alive.combiner(queue).drive(&alive);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{Flights, LEAST, SCALES, Scale};
    use rivulet_hal::host;
    use std::time::Duration;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_queue_takes_what_keeps_it_busy_and_no_more() {
        let timeline = host::open().timeline().unwrap();
        let (mut flights, scale) = (Flights::default(), Scale::new());
        for value in 1..=LEAST as u64 {
            assert_eq!(flights.room(MS, &scale), Some(MS), "however much they cost");
            flights.add(timeline.clone(), value, 4 * MS);
        }
        assert_eq!(flights.room(MS, &scale), None);
        assert_eq!(flights.room(10 * MS, &scale), Some(2 * MS));
        assert_eq!(flights.land(), Duration::ZERO);
        timeline.signal(1).unwrap();
        assert_eq!((flights.land(), flights.room(MS, &scale)), (4 * MS, Some(MS)));
        timeline.signal(2).unwrap();
        assert_eq!((flights.land(), flights.since), (4 * MS, None));
    }

    #[test]
    fn what_work_took_scales_later_estimates() {
        let scale = Scale::new();
        (0..40).for_each(|_| scale.learn(MS, 8 * MS));
        assert!((scale.apply(MS).as_secs_f32() / 8e-3 - 1.0).abs() < 0.01, "{:?}", scale.apply(MS));
        (0..100).for_each(|_| scale.learn(MS, Duration::ZERO));
        assert_eq!(scale.get(), SCALES.0);
        scale.learn(Duration::ZERO, MS);
        assert_eq!(scale.apply(Duration::MAX), Duration::MAX);
    }
}
