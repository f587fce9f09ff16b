//! Recording device work: the automatic waits and barriers.

use super::mirror;
use super::shared::{Open, Recording, StreamShared};
use crate::engine::Engine;
use crate::error::Result;
use crate::event::Moment;
use crate::hazard::OperandSet;
use crate::ids::{Access, Point};
use crate::memory::Block;
use crate::memory::content::Side;
use rivulet_hal::sync::Arc;
use rivulet_hal::sync::atomic::Ordering;
use rivulet_hal::{HalError, Memory, Recorder};
use std::time::{Duration, Instant};

/// When a stream submits by itself what it has recorded. It always does so when somebody waits for the work, when an
/// event is recorded, and when another stream needs a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushPolicy {
    /// Commands in the open recorder.
    pub commands: usize,
    /// Age of its first command, looked at with each further one.
    pub age: Duration,
    /// Estimated device time of its commands.
    pub cost: Duration,
    /// Time since its last submission after which a stream whose work is complete submits at once: the device would do
    /// nothing meanwhile.
    pub idle: Duration,
    /// Ops after a wait for the stream that do not have to be `idle` for: a thread that waits every few ops wants each
    /// result soon, and has no use for fewer submissions.
    pub prompt: u64,
    /// Device time of the work that a hardware queue holds at most, for all streams together; `MAX`: all there is. What is
    /// more waits for its stream's turn in the runtime, so that a small op of another stream is done after about this
    /// time.
    pub ahead: Duration,
    /// Submissions of a stream that may be unfinished: whoever records more waits first for the oldest of them. What
    /// is recorded takes memory, and a thread that never waits would take all there is.
    pub unfinished: usize,
}

impl Default for FlushPolicy {
    /// A driver call costs tens of microseconds: 64 commands make that small beside the recording of each, and
    /// neither the age nor the cost lets the device wait long for its first work.
    fn default() -> Self {
        let (age, cost) = (Duration::from_micros(500), Duration::from_millis(1));
        // A model has neither a clock nor threads of its own.
        let (idle, ahead) = match cfg!(loom) {
            true => (Duration::MAX, Duration::MAX),
            false => (Duration::from_micros(50), Duration::from_millis(2)),
        };
        Self { commands: 64, age, cost, idle, prompt: 16, ahead, unfinished: 256 }
    }
}

/// Device time of a command of which nothing is known, beside that of its operands' bytes.
pub const COMMAND_COST: Duration = Duration::from_micros(5);
/// Bytes of operands that a device is estimated to touch in a nanosecond.
const BANDWIDTH: u64 = 1000;

/// One op for the device.
#[derive(Clone, Copy, Debug)]
pub struct DeviceOp<'a> {
    /// Name for errors and reports.
    pub label: &'static str,
    /// What the commands touch, and how. A block may be named twice.
    pub operands: &'a [(&'a Block, Access)],
    /// Estimated device time, in proportion to that of other ops; how long a queue's work really took scales it. Where
    /// `None`, [`COMMAND_COST`] a command and what the operands' bytes take.
    pub cost: Option<Duration>,
}

impl<'a> DeviceOp<'a> {
    /// An op of unknown cost.
    pub const fn new(label: &'static str, operands: &'a [(&'a Block, Access)]) -> Self {
        Self { label, operands, cost: None }
    }
}

/// What an op brings beside its operands.
#[derive(Default)]
pub(crate) struct Extra<'a> {
    /// Further points to wait for; all submitted.
    pub(crate) waits: &'a [Point],
    /// Gets the device's clock when the commands are done.
    pub(crate) moment: Option<&'a Arc<Moment>>,
    /// Memory that the commands use beside the operands'.
    pub(crate) keep: Option<&'a Arc<dyn Memory>>,
}

#[cfg(not(loom))]
impl Engine {
    /// As [`StreamShared::record`], on a thread that notes what it records.
    ///
    /// # Errors
    /// As [`StreamShared::record`].
    #[cold]
    pub(crate) fn record_noted(
        &self,
        stream: &StreamShared,
        op: &DeviceOp<'_>,
        kernel: Option<&rivulet_kernels::Kernel>,
        operands: &[(&crate::ops::View<'_>, Access)],
        commands: impl FnOnce(&mut dyn Recorder) -> Result<(), HalError>,
    ) -> Result<Point> {
        use crate::plan::{noting, tap};
        let mut log = tap::Log::default();
        let recorded = stream
            .record(self, op, &Extra::default(), |recorder| commands(&mut tap::Tap::new(recorder, &mut log)));
        noting::note(self, op, kernel, operands, recorded.as_ref().map(|_| log));
        recorded
    }
}

impl StreamShared {
    /// Records an op as `docs/concurrency.md` describes; its place on the timeline.
    ///
    /// # Errors
    /// The stream's or the device's failure, a signal, or what `commands` answered. Where an error comes after
    /// commands were recorded, the stream is poisoned; otherwise nothing was recorded.
    pub(crate) fn record(
        &self,
        engine: &Engine,
        op: &DeviceOp<'_>,
        extra: &Extra<'_>,
        commands: impl FnOnce(&mut dyn Recorder) -> Result<(), HalError>,
    ) -> Result<Point> {
        engine.check()?;
        engine.check_blocks(op.label, op.operands)?;
        self.check()?;
        // Before anything is recorded or locked.
        let behind = self.behind.load(Ordering::Relaxed);
        if !self.has_completed(behind) {
            self.wait_device(engine, behind)?;
        }
        if engine.mirrored {
            let set = mirror::acquire(engine, self, op.operands, Side::Device)?;
            return self.record_held(engine, op, extra, set, commands);
        }
        self.record_as_is(engine, op, extra, commands)
    }

    /// As [`StreamShared::record`], with the operands' bytes as they are on the device.
    ///
    /// # Errors
    /// As [`StreamShared::record`].
    pub(super) fn record_as_is(
        &self,
        engine: &Engine,
        op: &DeviceOp<'_>,
        extra: &Extra<'_>,
        commands: impl FnOnce(&mut dyn Recorder) -> Result<(), HalError>,
    ) -> Result<Point> {
        // The operands first: waiting for one may take as long as another thread's CPU access, and that access
        // may need this stream's recorder to flush it.
        let set = OperandSet::acquire(op.operands, self.id, engine.tracking)?;
        self.record_held(engine, op, extra, set, commands)
    }

    fn record_held(
        &self,
        engine: &Engine,
        op: &DeviceOp<'_>,
        extra: &Extra<'_>,
        set: OperandSet<'_>,
        commands: impl FnOnce(&mut dyn Recorder) -> Result<(), HalError>,
    ) -> Result<Point> {
        self.timeline(engine)?;
        let mut recording = self.lock_turn()?;
        self.open(engine, &mut recording)?;
        let value = self.reserved.load(Ordering::Relaxed) + 1;
        engine.note_device_use();
        let mut waits = set.waits(engine);
        set.stamp_device(self.id, value);
        let bytes: u64 = set.blocks().map(|(block, _)| block.requested()).sum();
        // Release pairs with the Acquire of `cursor`.
        self.reserved.store(value, Ordering::Release);
        drop(set);

        waits.extend_from_slice(extra.waits);
        let own = waits.iter().filter(|point| point.stream == self.id).map(|point| point.value).max();
        waits.retain(|point| point.stream != self.id);
        let late = |point: &Point| {
            engine.stream_if_made(point.stream).is_some_and(|other| other.submitted.get() < point.value)
        };
        if waits.iter().any(late) {
            recording.taken = true;
            self.push_open(engine, &mut recording);
            drop(recording);
            engine.combiner(self.queue).drive(engine);
            let mut submitted = Ok(());
            for point in &waits {
                if let Some(other) = engine.stream_if_made(point.stream) {
                    submitted = other.force_submitted(engine, point.value);
                }
                if submitted.is_err() {
                    break;
                }
            }
            recording = self.recording.lock();
            recording.taken = false;
            self.turn.notify_all();
            if let Err(error) = submitted.and_then(|()| self.open(engine, &mut recording)) {
                self.skip(engine, &mut recording, value, op.label);
                drop(recording);
                engine.combiner(self.queue).drive(engine);
                return Err(error);
            }
        }

        let result = self.fill(engine, &mut recording, value, op, own, commands, extra.moment);
        if let (Some(open), None) = (&mut recording.open, op.cost) {
            open.cost += Duration::from_nanos(bytes / BANDWIDTH);
        }
        if let Some(open) = &mut recording.open {
            waits.into_iter().for_each(|point| open.add_wait(point));
            // The caller's references to its blocks keep their memory until here.
            let used = op.operands.iter().filter_map(|(block, _)| block.memory());
            used.chain(extra.keep).for_each(|memory| open.keep_alive(memory));
        }
        let flush = self.is_due(engine, &recording, value);
        if flush {
            self.push_open(engine, &mut recording);
        }
        drop(recording);
        if flush {
            engine.combiner(self.queue).drive(engine);
        }
        result.map(|()| Point { stream: self.id, value })
    }

    /// Makes everything that the stream gets from now on, CPU accesses included, come after a submitted point.
    pub(crate) fn wait_for(&self, engine: &Engine, point: Point) -> Result<()> {
        let extra = Extra { waits: &[point], ..Extra::default() };
        // A value of its own, so that an event recorded next on this stream is after `point` too.
        let own = self.record(engine, &DeviceOp::new("event wait", &[]), &extra, |_| Ok(()))?;
        self.host_floor.fetch_max(own.value, Ordering::AcqRel);
        Ok(())
    }

    /// Opens a recorder where none is.
    fn open(&self, engine: &Engine, recording: &mut Recording) -> Result<()> {
        if recording.open.is_none() {
            let recorder =
                engine.hal.recorder(self.queue).map_err(|error| engine.failed("open a recorder", error))?;
            recording.open = Some(Open {
                recorder,
                first: 0,
                last: 0,
                ordered: 0,
                waits: Vec::new(),
                keep: Vec::new(),
                moments: Vec::new(),
                cost: Duration::ZERO,
                since: Instant::now(),
                label: "",
            });
        }
        Ok(())
    }

    /// Puts the commands of `value` into the open recorder.
    #[allow(clippy::too_many_arguments, reason = "one caller; the arguments are its local state")]
    fn fill(
        &self,
        engine: &Engine,
        recording: &mut Recording,
        value: u64,
        op: &DeviceOp<'_>,
        own: Option<u64>,
        commands: impl FnOnce(&mut dyn Recorder) -> Result<(), HalError>,
        moment: Option<&Arc<Moment>>,
    ) -> Result<()> {
        let Some(open) = &mut recording.open else { return Ok(()) };
        open.begin(value, op.label);
        let before = open.recorder.len();
        let mut result = Ok(());
        if own.is_some_and(|own| own > open.ordered) {
            result = open.recorder.barrier();
            open.ordered = value - 1;
        }
        result = result.and_then(|()| commands(&mut *open.recorder));
        if let (Ok(()), Some(moment)) = (&result, moment) {
            match open.recorder.timestamp() {
                Ok(slot) => open.moments.push((slot, Arc::clone(moment))),
                // A device without a clock: the event takes the CPU's when it sees the completion.
                Err(HalError::Usage(_)) => {}
                Err(error) => result = Err(error),
            }
        }
        let recorded = open.recorder.len() - before;
        let recorded = u32::try_from(recorded).unwrap_or(u32::MAX);
        open.cost += op.cost.unwrap_or(COMMAND_COST * recorded);
        match result {
            Ok(()) => Ok(()),
            Err(error) => {
                // Half an op: what its outputs hold is nobody's guess.
                if recorded > 0 {
                    self.poison(value, op.label, error.clone());
                }
                Err(engine.failed(op.label, error))
            }
        }
    }

    /// Makes a reserved value one without commands, so that who waits for it does not wait for ever.
    fn skip(&self, engine: &Engine, recording: &mut Recording, value: u64, label: &'static str) {
        match self.open(engine, recording) {
            Ok(()) => {
                if let Some(open) = &mut recording.open {
                    open.begin(value, label);
                }
                if self.is_due(engine, recording, value) {
                    self.push_open(engine, recording);
                }
            }
            Err(error) => self.poison(value, label, HalError::Usage(error.to_string())),
        }
    }

    /// True where the device has done everything that the stream gave it, some time ago.
    fn is_idle(&self, policy: &FlushPolicy, recording: &Recording, open: &Open, now: Instant) -> bool {
        policy.idle != Duration::MAX
            && !open.recorder.is_empty()
            && (open.last.saturating_sub(self.waited.load(Ordering::Relaxed)) <= policy.prompt
                || recording.pushed.is_none_or(|pushed| now.saturating_duration_since(pushed) >= policy.idle))
            && self.completed() + 1 >= open.first
    }

    fn is_due(&self, engine: &Engine, recording: &Recording, value: u64) -> bool {
        let policy = &engine.flush_policy;
        self.flush_request.load(Ordering::Relaxed) >= value
            || recording.open.as_ref().is_some_and(|open| {
                if open.recorder.len() >= policy.commands
                    || engine.combiner(self.queue).scaled(open.cost) >= policy.cost
                {
                    return true;
                }
                // One look at the clock, which costs as much as a small op's hazards.
                let now = Instant::now();
                now.saturating_duration_since(open.since) >= policy.age
                    || self.is_idle(policy, recording, open, now)
            })
    }
}

impl Open {
    fn begin(&mut self, value: u64, label: &'static str) {
        if self.last == 0 {
            self.first = value;
            self.label = label;
            self.since = Instant::now();
        }
        self.last = value;
    }
}
