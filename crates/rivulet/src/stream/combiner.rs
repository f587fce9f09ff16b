//! One combiner a hardware queue: whoever submits, submits for everybody.
//!
//! Drivers want few calls with much in them, and one caller at a time for a queue. A thread puts its submission on
//! the list and, where nobody is submitting, becomes the submitter and takes what all threads have put there.
//!
//! Streams take turns, those of priority -1 first; one call carries at most about [`CALL_COST`] of estimated work,
//! so that what arrives meanwhile does not stand behind all of it. For the same reason the queue does not get everything
//! at once, see [`pump`](super::pump).

use super::pump::{Flights, Scale};
use super::shared::{InFlight, StreamShared};
use crate::engine::Engine;
use crate::ids::StreamId;
use rivulet_hal::sync::{Arc, Mutex, Rank};
use rivulet_hal::{CommandBuffer, HalError, Memory, QueueIndex, Submission, Timeline, TimelinePoint};
use std::collections::VecDeque;
use std::time::Duration;

/// Estimated work of one driver call.
pub const CALL_COST: Duration = Duration::from_millis(1);

/// A closed command buffer on its way to the driver.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) commands: Arc<dyn CommandBuffer>,
    pub(super) waits: Vec<TimelinePoint>,
    pub(super) timeline: Arc<dyn Timeline>,
    pub(super) label: &'static str,
    pub(super) keep: Vec<Arc<dyn Memory>>,
    pub(super) cost: Duration,
}

impl Ready {
    fn submission(&self) -> Submission {
        Submission {
            commands: vec![Arc::clone(&self.commands)],
            waits: self.waits.clone(),
            signal: TimelinePoint { timeline: Arc::clone(&self.timeline), value: self.last },
            label: self.label.to_owned(),
        }
    }
}

#[derive(Debug)]
struct Lane {
    stream: StreamId,
    urgent: bool,
    /// Values up to this one are needed by work that cannot be submitted before them.
    needed: u64,
    ready: VecDeque<Ready>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// Somebody is submitting and will look again before it stops.
    busy: bool,
    lanes: Vec<Lane>,
    /// Lane whose turn it is.
    next: usize,
    /// Streams with an open recorder whose thread is gone.
    left: Vec<StreamId>,
    /// What the driver has.
    pub(super) flights: Flights,
    /// A thread refills the queue.
    pub(super) pumped: bool,
    pub(super) thread: Option<std::thread::JoinHandle<()>>,
    /// Nothing is held back any more.
    pub(super) unbounded: bool,
}

impl State {
    /// Takes one call's worth, one submission of each stream at a time; no more than `room` where that is not needed by
    /// others.
    fn take(&mut self, room: Option<Duration>, scale: &Scale) -> Vec<(StreamId, Ready)> {
        let mut batch = Vec::new();
        for lane in &mut self.lanes {
            while lane.ready.front().is_some_and(|ready| ready.first <= lane.needed) {
                batch.extend(lane.ready.pop_front().map(|ready| (lane.stream, ready)));
            }
        }
        let Some(room) = room.map(|room| room.min(CALL_COST)).filter(|_| batch.is_empty()) else {
            return batch;
        };
        let mut cost = Duration::ZERO;
        for urgent in [true, false] {
            let mut idle = 0;
            while idle < self.lanes.len() && (batch.is_empty() || cost < room) {
                let place = self.next % self.lanes.len();
                self.next = place + 1;
                let lane = &mut self.lanes[place];
                match lane.ready.pop_front() {
                    Some(ready) if lane.urgent == urgent => {
                        cost += scale.apply(ready.cost);
                        batch.push((lane.stream, ready));
                        idle = 0;
                    }
                    Some(ready) => {
                        lane.ready.push_front(ready);
                        idle += 1;
                    }
                    None => idle += 1,
                }
            }
        }
        batch
    }

    fn lane(&mut self, stream: StreamId, priority: i32) -> &mut Lane {
        let found = self.lanes.iter().position(|lane| lane.stream == stream);
        let place = found.unwrap_or_else(|| {
            self.lanes.push(Lane { stream, urgent: priority < 0, needed: 0, ready: VecDeque::new() });
            self.lanes.len() - 1
        });
        &mut self.lanes[place]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lanes.iter().all(|lane| lane.ready.is_empty())
    }
}

#[derive(Debug)]
pub(crate) struct Combiner {
    pub(super) queue: QueueIndex,
    pub(super) state: Mutex<State>,
    pub(super) scale: Scale,
}

/// Lets others submit also where the driver panics.
struct Busy<'a>(&'a Combiner);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.state.lock().busy = false;
    }
}

impl Combiner {
    pub(crate) fn new(queue: QueueIndex) -> Self {
        Self { queue, state: Mutex::new(Rank::COMBINER, State::default()), scale: Scale::new() }
    }

    /// Puts a submission on the list, behind those of its stream.
    pub(super) fn push(&self, stream: StreamId, priority: i32, ready: Ready) {
        self.state.lock().lane(stream, priority).ready.push_back(ready);
    }

    /// A stream's values up to this one may not be held back.
    pub(super) fn need(&self, stream: StreamId, priority: i32, value: u64) {
        let mut state = self.state.lock();
        let lane = state.lane(stream, priority);
        lane.needed = lane.needed.max(value);
    }

    /// What an estimate comes to on this queue.
    pub(super) fn scaled(&self, estimate: Duration) -> Duration {
        self.scale.apply(estimate)
    }

    /// Leaves a stream's open recorder to the next submitter. Calls no driver and does not wait.
    pub(crate) fn leave(&self, stream: StreamId) {
        let mut state = self.state.lock();
        if !state.left.contains(&stream) {
            state.left.push(stream);
        }
    }

    /// Takes all of a stream's submissions off the list.
    pub(super) fn purge(&self, stream: StreamId) {
        let mut state = self.state.lock();
        let lane = state.lanes.iter_mut().find(|lane| lane.stream == stream);
        let purged = lane.map(|lane| std::mem::take(&mut lane.ready));
        drop(state);
        drop(purged);
    }

    /// Submits what is on the list, unless another thread is at it. No engine lock may be held.
    pub(crate) fn drive(&self, engine: &Engine) {
        let left = std::mem::take(&mut self.state.lock().left);
        for stream in left {
            if let Some(stream) = engine.stream_if_made(stream) {
                stream.push_recorded(engine);
            }
        }
        loop {
            let mut state = self.state.lock();
            if state.busy || state.is_empty() {
                return;
            }
            let room = self.room(engine, &mut state);
            let batch = state.take(room, &self.scale);
            if batch.is_empty() {
                drop(state);
                return self.refill_later(engine);
            }
            state.busy = true;
            drop(state);
            let busy = Busy(self);
            self.submit(engine, batch);
            drop(busy);
        }
    }

    /// Estimated work that the queue may get now.
    fn room(&self, engine: &Engine, state: &mut State) -> Option<Duration> {
        let ahead = engine.flush_policy.ahead;
        if state.unbounded || ahead == Duration::MAX || engine.info.inline_completion {
            return Some(CALL_COST);
        }
        state.flights.land();
        state.flights.room(ahead, &self.scale)
    }

    fn submit(&self, engine: &Engine, mut batch: Vec<(StreamId, Ready)>) {
        // Pushed beside the failure of its stream: it would wait for a value that never comes.
        batch.retain(|(stream, _)| {
            engine.stream_if_made(*stream).is_some_and(|stream| stream.failed_from().is_none())
        });
        let work = batch.iter().map(|(_, ready)| ready.submission()).collect();
        let failure = engine.hal.submit(self.queue, work).err();
        let accepted = failure.as_ref().map_or(batch.len(), |failure| failure.accepted.min(batch.len()));
        let lost =
            matches!(failure, Some(ref failure) if matches!(failure.error, HalError::DeviceLost { .. }));
        let mut rest = Vec::new();
        for (place, (stream, ready)) in batch.into_iter().enumerate() {
            let Some(stream) = engine.stream_if_made(stream) else { continue };
            if place < accepted {
                self.submitted(engine, stream, ready);
            } else {
                rest.push((stream, ready));
            }
        }
        let Some(failure) = failure else { return };
        if lost {
            let label = rest.first().map_or("submit", |(_, ready)| ready.label);
            engine.note_failure(label, &failure.error);
            return;
        }
        self.retry(engine, rest, failure.error);
    }

    /// Submits one by one what a combined call did not take, so that a failure concerns only its stream.
    /// `first` is why the first of them was refused.
    fn retry(&self, engine: &Engine, rest: Vec<(&StreamShared, Ready)>, first: HalError) {
        let mut first = Some(first);
        for (stream, ready) in rest {
            let first = first.take();
            // What follows a failure on the same stream would signal values out of order.
            if stream.failed_from().is_some() {
                continue;
            }
            match engine.hal.submit(self.queue, vec![ready.submission()]) {
                Ok(()) => self.submitted(engine, stream, ready),
                Err(failure) => {
                    engine.note_failure(ready.label, &failure.error);
                    // The second answer may only say that it is the second.
                    stream.poison(ready.first, ready.label, first.unwrap_or(failure.error));
                    self.purge(stream.id);
                }
            }
        }
    }

    fn submitted(&self, engine: &Engine, stream: &StreamShared, ready: Ready) {
        let Ready { last, commands, keep, timeline, cost, .. } = ready;
        if engine.flush_policy.ahead != Duration::MAX && !engine.info.inline_completion {
            self.state.lock().flights.add(timeline, last, cost);
        }
        stream.keep_in_flight(InFlight { last, commands, keep });
        stream.submitted.advance(last);
        stream.retire();
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::{CALL_COST, Lane, Ready, Scale, State};
    use crate::ids::StreamId;
    use rivulet_hal::sync::Arc;
    use rivulet_hal::{CommandBuffer, HalError, Timeline, TimestampSlot};
    use std::collections::VecDeque;
    use std::time::Duration;

    #[derive(Debug)]
    struct Nothing;

    impl CommandBuffer for Nothing {
        fn timestamp(&self, _: TimestampSlot) -> Option<u64> {
            None
        }

        fn as_any(&self) -> &dyn std::any::Any {
            self
        }
    }

    impl Timeline for Nothing {
        fn completed(&self) -> Result<u64, HalError> {
            Ok(0)
        }

        fn wait(&self, _: u64, _: Duration) -> Result<bool, HalError> {
            Ok(false)
        }

        fn signal(&self, _: u64) -> Result<(), HalError> {
            Ok(())
        }

        fn as_any(&self) -> &dyn std::any::Any {
            self
        }
    }

    fn lane(stream: u32, urgent: bool, count: u64, cost: Duration) -> Lane {
        let ready = |value| Ready {
            first: value,
            last: value,
            commands: Arc::new(Nothing),
            waits: Vec::new(),
            timeline: Arc::new(Nothing),
            label: "op",
            keep: Vec::new(),
            cost,
        };
        Lane {
            stream: StreamId(stream),
            urgent,
            needed: 0,
            ready: (1..=count).map(ready).collect::<VecDeque<_>>(),
        }
    }

    fn taken(state: &mut State) -> Vec<(u32, u64)> {
        state
            .take(Some(CALL_COST), &Scale::new())
            .into_iter()
            .map(|(stream, ready)| (stream.0, ready.last))
            .collect()
    }

    #[test]
    fn streams_take_turns_and_urgent_ones_go_first() {
        let tiny = CALL_COST / 100;
        let lanes = vec![lane(1, false, 3, tiny), lane(2, false, 1, tiny), lane(3, true, 2, tiny)];
        let mut state = State { lanes, ..State::default() };
        assert_eq!(taken(&mut state), [(3, 1), (3, 2), (1, 1), (2, 1), (1, 2), (1, 3)]);
        assert!(state.is_empty());
    }

    #[test]
    fn a_call_carries_about_a_milliseconds_work() {
        let lanes = vec![lane(1, false, 3, CALL_COST * 2 / 3), lane(2, false, 1, CALL_COST * 5)];
        let mut state = State { lanes, ..State::default() };
        assert_eq!(taken(&mut state), [(1, 1), (2, 1)]);
        assert_eq!(taken(&mut state), [(1, 2), (1, 3)]);
        assert!(taken(&mut state).is_empty());
    }

    #[test]
    fn a_full_queue_gets_what_others_need_and_nothing_else() {
        let lanes = vec![lane(1, false, 3, CALL_COST), lane(2, true, 1, CALL_COST)];
        let mut state = State { lanes, ..State::default() };
        let mut take = |room| -> Vec<(u32, u64)> {
            let batch = state.take(room, &Scale::new());
            state.lanes[0].needed = 2;
            batch.into_iter().map(|(stream, ready)| (stream.0, ready.last)).collect()
        };
        assert_eq!(take(None), []);
        assert_eq!(take(None), [(1, 1), (1, 2)]);
        assert_eq!(take(None), []);
        assert_eq!(take(Some(CALL_COST / 2)), [(2, 1)]);
    }
}
