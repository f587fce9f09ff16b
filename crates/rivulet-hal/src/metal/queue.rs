use super::api::{Api, Commands, Outcome};
use super::command::MetalCommands;
use super::encode::{self, Plan};
use super::error;
use super::shared::Shared;
use super::timeline::{MetalTimeline, refused};
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{Arc, Condvar, Mutex, Rank};
use crate::{CommandBuffer, HalError, Submission, SubmitFailure, TimelinePoint};
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Command buffers that a queue may hold before Metal's own call for another one blocks.
pub(super) const MOST: usize = 512;
/// Command buffers that the driver gives a queue, which is less, so that the call never blocks.
pub(super) const BOUND: usize = MOST - 32;
/// A wait for room returns this often, to see whether the device was lost meanwhile.
const SLICE: Duration = Duration::from_millis(250);

/// An `MTLCommandQueue`.
#[derive(Debug)]
pub(super) struct MetalQueue<A: Api> {
    index: usize,
    flight: Mutex<Flight<A>>,
    /// Something has completed.
    landed: Condvar,
    handle: A::Queue,
}

/// What is committed and not completed.
#[derive(Debug)]
struct Flight<A: Api> {
    jobs: VecDeque<Arc<Job<A>>>,
    buffers: usize,
}

/// A committed submission with all that its command buffers name.
#[derive(Debug)]
struct Job<A: Api> {
    queue: Arc<MetalQueue<A>>,
    label: String,
    signal: TimelinePoint,
    waits: Vec<TimelinePoint>,
    commands: Vec<Arc<dyn CommandBuffer>>,
    _fence: Arc<A::Fence>,
    /// Its command buffers, and how many of them have not ended.
    buffers: usize,
    left: AtomicUsize,
    done: AtomicBool,
    fault: OnceLock<HalError>,
    /// Last: a buffer released with it may be the device's last object.
    shared: Arc<Shared<A>>,
}

impl<A: Api> MetalQueue<A> {
    pub(super) fn new(shared: &Shared<A>, index: usize) -> Result<Arc<Self>, HalError> {
        let label = format!("rivulet {index}");
        let handle = A::pool(|| shared.api.queue(&label, MOST)).ok_or_else(|| refused("a command queue"))?;
        Ok(Arc::new(Self {
            index,
            flight: Mutex::new(Rank::DRIVER, Flight { jobs: VecDeque::new(), buffers: 0 }),
            landed: Condvar::new(),
            handle,
        }))
    }

    /// Commits the submissions one by one.
    pub(super) fn submit(
        self: &Arc<Self>,
        shared: &Arc<Shared<A>>,
        work: Vec<Submission>,
    ) -> Result<(), SubmitFailure> {
        for (accepted, submission) in work.into_iter().enumerate() {
            self.submit_one(shared, submission).map_err(|error| SubmitFailure { accepted, error })?;
        }
        Ok(())
    }

    fn submit_one(self: &Arc<Self>, shared: &Arc<Shared<A>>, submission: Submission) -> Result<(), HalError> {
        shared.check()?;
        let Submission { commands, waits, signal, label } = submission;
        let owned: Result<SmallVec<[_; 4]>, HalError> =
            waits.iter().map(|point| Ok((MetalTimeline::of(point, shared)?, point.value))).collect();
        let owned = owned?;
        let timeline = MetalTimeline::of(&signal, shared)?;
        let claim = timeline.claim(self.index, signal.value)?;
        let taken = encode::take(&commands, shared)?;
        let outcome = (|| {
            let parts = encode::parts(&taken);
            self.make_room(shared, parts.len(), &label)?;
            let _slot = shared.slots.take();
            A::pool(|| {
                let plan = Plan { shared, waits: &owned, timeline, claim: &claim, value: signal.value };
                let mut updated = claim.updated;
                let mut made = SmallVec::<[A::Commands; 2]>::new();
                for (index, part) in parts.iter().enumerate() {
                    let commands = shared.api.commands(&self.handle, &label);
                    let mut commands = commands.ok_or_else(|| refused("a command buffer"))?;
                    plan.encode(&mut commands, part, &mut updated, index + 1 == parts.len())?;
                    made.push(commands);
                }
                let stamps: SmallVec<[_; 2]> = parts.iter().map(|part| part.timestamp).collect();
                let passes = parts.iter().any(encode::Part::dispatches);
                timeline.keep(&claim, self.index, signal.value, passes);
                let job = Arc::new(Job {
                    queue: Arc::clone(self),
                    label: label.clone(),
                    signal: signal.clone(),
                    waits: waits.clone(),
                    commands: commands.clone(),
                    _fence: Arc::clone(&claim.fence),
                    buffers: made.len(),
                    left: AtomicUsize::new(made.len()),
                    done: AtomicBool::new(false),
                    fault: OnceLock::new(),
                    shared: Arc::clone(shared),
                });
                // Before the first commit: a handler may run at once.
                shared.committed(self.index);
                let mut flight = self.flight.lock();
                flight.buffers += made.len();
                flight.jobs.push_back(Arc::clone(&job));
                drop(flight);
                for (mut commands, stamp) in made.into_iter().zip(stamps) {
                    let job = Arc::clone(&job);
                    commands.on_completed(Box::new(move |outcome| job.ended(outcome, stamp)));
                    commands.commit();
                }
                Ok(())
            })
        })();
        if outcome.is_err() {
            taken.iter().for_each(|own| own.untake());
        }
        outcome
    }

    /// Waits until the queue has room for so many command buffers more. What it waits for depends on nothing that is not
    /// submitted yet.
    fn make_room(&self, shared: &Shared<A>, buffers: usize, label: &str) -> Result<(), HalError> {
        if buffers > BOUND {
            return Err(HalError::Usage(format!(
                "submit: `{label}` has {} timestamps; up to {BOUND} are allowed in a submission",
                buffers - 1
            )));
        }
        let mut flight = self.flight.lock();
        while flight.buffers + buffers > BOUND {
            shared.check()?;
            (flight, _) = self.landed.wait_timeout(flight, SLICE);
        }
        Ok(())
    }

    /// Waits until everything has completed, at most `longest`; true where it has.
    pub(super) fn wait_idle(&self, shared: &Shared<A>, longest: Duration) -> bool {
        let start = Instant::now();
        let mut flight = self.flight.lock();
        while !flight.jobs.is_empty() {
            let left = longest.saturating_sub(start.elapsed());
            if left.is_zero() || shared.is_lost() {
                return false;
            }
            (flight, _) = self.landed.wait_timeout(flight, left.min(SLICE));
        }
        true
    }

    /// Lets go of what has completed, oldest first.
    fn land(&self, buffers: usize) -> Vec<Arc<Job<A>>> {
        let mut landed = Vec::new();
        let mut flight = self.flight.lock();
        flight.buffers -= buffers;
        while let Some(first) = flight.jobs.front() {
            if !first.done.load(Ordering::Acquire) {
                break;
            }
            landed.extend(flight.jobs.pop_front());
        }
        drop(flight);
        self.landed.notify_all();
        landed
    }
}

impl<A: Api> Job<A> {
    /// One of its command buffers has ended. On a thread of Metal's, with no lock held.
    fn ended(&self, outcome: Outcome, stamp: Option<(usize, u32)>) {
        if let Some((index, slot)) = stamp
            && let Some(commands) = self.commands.get(index)
            && let Ok(commands) = MetalCommands::of(commands, &self.shared)
        {
            commands.note_time(slot, outcome.ended_ns);
        }
        if let Some(fault) = outcome.fault {
            // The first one says why; what follows in the same submission fails because of it.
            let _ = self.fault.set(error::of(&self.label, &fault));
        }
        // Each sees what those before it noted.
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.finish();
        }
    }

    fn finish(&self) {
        let timeline = MetalTimeline::of(&self.signal, &self.shared).ok();
        if let Some(timeline) = timeline {
            let value = self.signal.value;
            let error = self.fault.get().cloned().or_else(|| self.inherited());
            if let Some(error) = &error {
                self.shared.note(error);
                timeline.fail(value, error.clone());
            }
            timeline.settle(value);
            if error.is_some() {
                timeline.unblock(value);
            }
        }
        self.done.store(true, Ordering::Release);
        let landed = self.queue.land(self.buffers);
        if !landed.is_empty() {
            self.shared.completed(self.queue.index, landed.len() as u64);
        }
    }

    /// The error of a submission that this one waited for, or that came before it on its timeline.
    fn inherited(&self) -> Option<HalError> {
        if !self.shared.has_failures() {
            return None;
        }
        self.waits.iter().chain([&self.signal]).find_map(|point| {
            MetalTimeline::of(point, &self.shared).ok().and_then(|timeline| timeline.failure_at(point.value))
        })
    }
}
