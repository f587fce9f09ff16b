//! One stream: its counters, its open recorder, and what it keeps alive.
//!
//! # Note: the values of a stream
//!
//! ```text
//! reserved ≥ recorded ≥ pushed ≥ submitted ≥ completed
//!    │           │         │         └ the driver has the submission that signals it
//!    │           │         └ on the combiner's list
//!    │           └ in the open recorder
//!    └ stamped on operands; its commands come as soon as the work it waits for is submitted
//! ```
//!
//! The open recorder and the step from `reserved` to `recorded` belong to the holder of the recorder's lock;
//! `submitted` and `completed` are read by anybody.

use super::counter::Counter;
use super::tickets::Tickets;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::event::Moment;
use crate::ids::{Cursor, Point, StreamId};
use rivulet_hal::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use rivulet_hal::sync::{Arc, CachePadded, Condvar, Mutex, MutexGuard, Rank};
use rivulet_hal::{CommandBuffer, HalError, Memory, QueueIndex, Recorder, Timeline, TimestampSlot};
use std::collections::VecDeque;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// References among which one to a memory is looked for.
const RECENT: usize = 8;

/// A recorder that is being filled.
pub(super) struct Open {
    pub(super) recorder: Box<dyn Recorder>,
    /// First and last value recorded into it.
    pub(super) first: u64,
    pub(super) last: u64,
    /// Values up to this one are before the last barrier, which reaches back into earlier submissions of the queue.
    pub(super) ordered: u64,
    /// What the submission waits for, the highest value of each other stream.
    pub(super) waits: Vec<Point>,
    pub(super) keep: Vec<Arc<dyn Memory>>,
    pub(super) moments: Vec<(TimestampSlot, Arc<Moment>)>,
    pub(super) cost: Duration,
    pub(super) since: Instant,
    pub(super) label: &'static str,
}

impl Open {
    /// Keeps memory until the commands are done. Blocks share memory, ops share blocks, and threads share the count of
    /// its references: it is left alone where a recent op has one.
    #[inline]
    pub(super) fn keep_alive(&mut self, memory: &Arc<dyn Memory>) {
        if !self.keep.iter().rev().take(RECENT).any(|recent| Arc::ptr_eq(recent, memory)) {
            self.keep.push(Arc::clone(memory));
        }
    }

    pub(super) fn add_wait(&mut self, point: Point) {
        match self.waits.iter_mut().find(|wait| wait.stream == point.stream) {
            Some(wait) => wait.value = wait.value.max(point.value),
            None => self.waits.push(point),
        }
    }
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Open").field("first", &self.first).field("last", &self.last).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
pub(super) struct Recording {
    pub(super) open: Option<Open>,
    /// When the stream submitted last.
    pub(super) pushed: Option<Instant>,
    /// Last values of the submissions that were not complete when the newest of them was pushed.
    pub(super) unfinished: VecDeque<u64>,
    /// An op has reserved a value and let go of the lock to flush another stream; nobody else may record.
    pub(super) taken: bool,
}

/// Submitted work: what has to live until it is complete.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) last: u64,
    #[allow(dead_code, reason = "held until complete, never read")]
    pub(super) commands: Arc<dyn CommandBuffer>,
    #[allow(dead_code, reason = "held until complete, never read")]
    pub(super) keep: Vec<Arc<dyn Memory>>,
}

/// Why a stream takes no more work.
#[derive(Clone, Debug)]
struct Poison {
    /// First value that never completes.
    from: u64,
    op: String,
    error: HalError,
}

#[derive(Debug)]
pub(crate) struct StreamShared {
    pub(crate) id: StreamId,
    pub(crate) priority: i32,
    pub(crate) queue: QueueIndex,
    /// On lines of their own: each CPU access writes them.
    pub(crate) tickets: CachePadded<Tickets>,
    pub(super) reserved: AtomicU64,
    /// A CPU access waits for the device up to here, whatever its operands (an event was waited for).
    pub(super) host_floor: AtomicU64,
    /// Somebody needs values up to this one on the device.
    pub(super) flush_request: AtomicU64,
    /// The last value that somebody waited for.
    pub(super) waited: AtomicU64,
    /// What has to be complete before more is recorded.
    pub(super) behind: AtomicU64,
    pub(crate) submitted: Counter,
    completed: AtomicU64,
    timeline: OnceLock<Arc<dyn Timeline>>,
    pub(super) recording: Mutex<Recording>,
    pub(super) turn: Condvar,
    in_flight: Mutex<VecDeque<InFlight>>,
    poisoned: AtomicBool,
    poison: Mutex<Option<Poison>>,
    /// Events that note the time at which a host ticket ends.
    timed: Mutex<Vec<(u64, Arc<Moment>)>>,
}

impl StreamShared {
    pub(crate) fn new(id: StreamId, priority: i32, queue: QueueIndex) -> Self {
        Self {
            id,
            priority,
            queue,
            tickets: CachePadded::new(Tickets::new()),
            reserved: AtomicU64::new(0),
            host_floor: AtomicU64::new(0),
            flush_request: AtomicU64::new(0),
            waited: AtomicU64::new(0),
            behind: AtomicU64::new(0),
            submitted: Counter::new(),
            completed: AtomicU64::new(0),
            timeline: OnceLock::new(),
            recording: Mutex::new(Rank::RECORDER, Recording::default()),
            turn: Condvar::new(),
            in_flight: Mutex::new(Rank::PENDING, VecDeque::new()),
            poisoned: AtomicBool::new(false),
            poison: Mutex::new(Rank::REGISTRY, None),
            timed: Mutex::new(Rank::REGISTRY, Vec::new()),
        }
    }

    /// The timeline; made at the first device op.
    pub(super) fn timeline(&self, engine: &Engine) -> Result<&Arc<dyn Timeline>> {
        if let Some(timeline) = self.timeline.get() {
            return Ok(timeline);
        }
        let made = engine.hal.timeline().map_err(|error| engine.failed("stream timeline", error))?;
        Ok(self.timeline.get_or_init(|| made))
    }

    pub(super) fn timeline_if_made(&self) -> Option<&Arc<dyn Timeline>> {
        self.timeline.get()
    }

    /// Everything the stream was given so far.
    pub(crate) fn cursor(&self) -> Cursor {
        // Acquire pairs with the Release of the reservation.
        Cursor { device: self.reserved.load(Ordering::Acquire), host: self.tickets.taken() }
    }

    /// Highest device value that is complete. Never waits.
    #[inline]
    pub(crate) fn completed(&self) -> u64 {
        let known = self.completed.load(Ordering::Acquire);
        if known >= self.reserved.load(Ordering::Relaxed) { known } else { self.look() }
    }

    /// True where `value` is complete. Never waits, and asks the driver only of what was submitted: an op that follows
    /// another, which is still being recorded, costs no call.
    #[inline]
    pub(crate) fn has_completed(&self, value: u64) -> bool {
        self.completed.load(Ordering::Acquire) >= value
            || (self.submitted.get() >= value && self.look() >= value)
    }

    fn look(&self) -> u64 {
        // A lost device answers with an error, which whoever waits reports.
        let reached = self.timeline.get().and_then(|timeline| timeline.completed().ok()).unwrap_or(0);
        // Release: who reads `completed` sees what the device wrote, as this thread's Acquire in the driver does.
        self.completed.fetch_max(reached, Ordering::AcqRel).max(reached)
    }

    /// True where all that the stream was given up to `cursor` is done.
    pub(crate) fn reached(&self, cursor: Cursor) -> bool {
        self.tickets.ended() >= cursor.host && self.completed() >= cursor.device
    }

    /// True where the stream has nothing left to do.
    pub(crate) fn is_complete(&self) -> bool {
        self.reached(self.cursor())
    }

    /// True where something is recorded that the driver does not have.
    pub(crate) fn has_unsubmitted(&self) -> bool {
        self.reserved.load(Ordering::Relaxed) > self.submitted.get()
    }

    /// The recorder, when no other op is between its reservation and its commands. Short unless such an op waits
    /// for another stream's submission; then the wait goes through the hooks.
    pub(super) fn lock_turn(&self) -> Result<MutexGuard<'_, Recording>> {
        let recording = self.recording.lock();
        if !recording.taken {
            return Ok(recording);
        }
        drop(recording);
        loop {
            crate::blocking::wait_loop(|longest| {
                let recording = self.recording.lock();
                if !recording.taken {
                    return true;
                }
                !self.turn.wait_timeout(recording, longest).0.taken
            })?;
            let recording = self.recording.lock();
            if !recording.taken {
                return Ok(recording);
            }
        }
    }

    pub(super) fn keep_in_flight(&self, work: InFlight) {
        self.in_flight.lock().push_back(work);
    }

    /// Drops what completed work kept alive.
    pub(crate) fn retire(&self) {
        let completed = self.completed();
        let mut in_flight = self.in_flight.lock();
        let done = in_flight.iter().take_while(|work| work.last <= completed).count();
        let done: Vec<InFlight> = in_flight.drain(..done).collect();
        drop(in_flight);
        // Outside the lock: the driver frees memory here.
        drop(done);
    }

    /// Refuses all work from `from` on, which will never complete.
    pub(super) fn poison(&self, from: u64, op: &str, error: HalError) {
        let mut poison = self.poison.lock();
        if poison.is_none() {
            *poison = Some(Poison { from, op: op.to_owned(), error });
            // Release pairs with the Acquire of `check_value`.
            self.poisoned.store(true, Ordering::Release);
        }
        drop(poison);
        self.submitted.disturb();
    }

    /// # Errors
    /// The stream's failure, where it has one.
    #[inline]
    pub(crate) fn check(&self) -> Result<()> {
        self.check_value(u64::MAX)
    }

    /// # Errors
    /// The stream's failure, where `value` will never complete because of it.
    #[inline]
    pub(crate) fn check_value(&self, value: u64) -> Result<()> {
        if self.poisoned.load(Ordering::Acquire) { self.failure(value) } else { Ok(()) }
    }

    #[cold]
    fn failure(&self, value: u64) -> Result<()> {
        match &*self.poison.lock() {
            Some(poison) if poison.from <= value => {
                Err(Error::Poisoned { stream: self.id, op: poison.op.clone(), error: poison.error.clone() })
            }
            _ => Ok(()),
        }
    }

    /// First value that never completes, where the stream failed.
    pub(super) fn failed_from(&self) -> Option<u64> {
        self.poison.lock().as_ref().map(|poison| poison.from)
    }

    /// Makes the stream usable again; all that it was given counts as complete.
    pub(super) fn heal(&self) {
        let reserved = self.reserved.load(Ordering::Acquire);
        self.completed.fetch_max(reserved, Ordering::AcqRel);
        self.submitted.advance(reserved);
        let mut poison = self.poison.lock();
        *poison = None;
        self.poisoned.store(false, Ordering::Release);
    }

    /// Notes the time in `moment` when the host ticket ends; now, where it has ended.
    pub(crate) fn time_ticket(&self, ticket: u64, moment: &Arc<Moment>) {
        self.timed.lock().push((ticket, Arc::clone(moment)));
        self.tickets.counter().watch();
        self.note_times();
    }

    /// Gives ended tickets' moments their time.
    #[cold]
    pub(super) fn note_times(&self) {
        let ended = self.tickets.ended();
        let mut timed = self.timed.lock();
        let mut noted = 0;
        timed.retain(|(ticket, moment)| {
            let due = *ticket <= ended;
            if due {
                moment.set_host(Instant::now());
                noted += 1;
            }
            !due
        });
        drop(timed);
        for _ in 0..noted {
            self.tickets.counter().unwatch();
        }
    }
}
