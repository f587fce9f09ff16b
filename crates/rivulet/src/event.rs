//! Events: points of a stream that others can wait for and measure between.
//!
//! [`Event::record`] fixes the point where its stream is at that moment and submits what the stream has recorded:
//! without that, two streams of one hardware queue could wait for each other. Waiting for an event waits for that
//! point and for nothing else, whatever the stream does later.
//!
//! ```
//! use rivulet::{Device, Event};
//!
//! let device = Device::host();
//! let event = Event::new(true);
//! assert!(!event.recorded() && event.query()?);
//! event.record(&device.current_stream()?)?;
//! event.synchronize()?;
//! let end = Event::new(true);
//! end.record(&device.current_stream()?)?;
//! assert!(event.elapsed_time(&end)? >= 0.0);
//! # Ok::<(), rivulet::Error>(())
//! ```

use crate::error::{Error, Result};
use crate::hazard::seeded;
use crate::ids::{Cursor, Point};
use crate::stream::Stream;
use crate::stream::record::{DeviceOp, Extra};
use rivulet_hal::sync::{Arc, Mutex, Rank};
use rivulet_hal::{CommandBuffer, TimestampSlot};
use std::sync::OnceLock;
use std::time::Instant;

#[derive(Debug)]
enum At {
    Host(Instant),
    Device(Arc<dyn CommandBuffer>, TimestampSlot),
}

/// When the work before an event was done; set once.
#[derive(Debug, Default)]
pub(crate) struct Moment {
    at: OnceLock<At>,
}

impl Moment {
    /// The later of two answers for one moment is dropped.
    pub(crate) fn set_host(&self, at: Instant) {
        let _ = self.at.set(At::Host(at));
    }

    pub(crate) fn set_device(&self, commands: Arc<dyn CommandBuffer>, slot: TimestampSlot) {
        let _ = self.at.set(At::Device(commands, slot));
    }

    fn is_set(&self) -> bool {
        self.at.get().is_some()
    }

    /// Milliseconds from this moment to `end`; `None` where the two were taken by different clocks.
    fn until(&self, end: &Self) -> Option<f64> {
        match (self.at.get()?, end.at.get()?) {
            (At::Host(start), At::Host(end)) => Some(match end.checked_duration_since(*start) {
                Some(later) => later.as_secs_f64() * 1e3,
                None => start.duration_since(*end).as_secs_f64() * -1e3,
            }),
            (At::Device(first, first_slot), At::Device(second, second_slot)) => {
                let (start, end) = (first.timestamp(*first_slot)?, second.timestamp(*second_slot)?);
                let nanoseconds = i128::from(end) - i128::from(start);
                #[allow(clippy::cast_precision_loss, reason = "no run lasts 2^53 nanoseconds")]
                let milliseconds = nanoseconds as f64 / 1e6;
                Some(milliseconds)
            }
            _ => None,
        }
    }
}

#[derive(Clone, Debug)]
struct Recorded {
    stream: Stream,
    cursor: Cursor,
    moment: Option<Arc<Moment>>,
}

impl Recorded {
    /// True where the work is done.
    fn is_done(&self) -> Result<bool> {
        let (engine, stream) = (self.stream.engine(), self.stream.shared());
        engine.check()?;
        stream.check_value(self.cursor.device)?;
        let done = stream.reached(self.cursor);
        if done {
            self.note_time();
        }
        Ok(done)
    }

    fn wait(&self) -> Result<()> {
        let late = seeded::is("event: waits for the latest");
        self.stream.wait_cursor(if late { self.stream.cursor() } else { self.cursor })?;
        self.note_time();
        Ok(())
    }

    /// Where no device clock and no ticket's end gave the time, the first look at the completion does.
    fn note_time(&self) {
        if let Some(moment) = &self.moment
            && !moment.is_set()
        {
            moment.set_host(Instant::now());
        }
    }
}

/// A point of a stream. Any thread may use any event at any time; recording again replaces the point, and who waits
/// for the old one goes on doing that.
#[derive(Debug)]
pub struct Event {
    timing: bool,
    recorded: Mutex<Option<Recorded>>,
}

impl Event {
    /// An event that was never recorded; `timing` allows [`Event::elapsed_time`].
    pub fn new(timing: bool) -> Self {
        Self { timing, recorded: Mutex::new(Rank::EVENT, None) }
    }

    /// True where [`Event::elapsed_time`] is allowed.
    pub fn has_timing(&self) -> bool {
        self.timing
    }

    /// True where the event was recorded at least once.
    pub fn recorded(&self) -> bool {
        self.recorded.lock().is_some()
    }

    fn get(&self) -> Option<Recorded> {
        self.recorded.lock().clone()
    }

    /// Fixes the event to everything that `stream` was given so far, and submits it.
    ///
    /// # Errors
    /// The stream's or the device's failure. The event keeps its earlier point then.
    pub fn record(&self, stream: &Stream) -> Result<()> {
        let (engine, shared) = (stream.engine(), stream.shared());
        engine.check()?;
        shared.check()?;
        let moment = self.timing.then(|| Arc::new(Moment::default()));
        if let Some(moment) = &moment
            && !engine.info.inline_completion
        {
            let extra = Extra { moment: Some(moment), ..Extra::default() };
            shared.record(engine, &DeviceOp::new("event", &[]), &extra, |_| Ok(()))?;
        }
        let cursor = stream.cursor_from_here();
        if shared.has_unsubmitted() {
            shared.flush(engine);
        }
        if let Some(moment) = &moment
            && engine.info.inline_completion
        {
            if shared.reached(cursor) {
                moment.set_host(Instant::now());
            } else if shared.tickets.ended() < cursor.host {
                shared.time_ticket(cursor.host, moment);
            }
        }
        let recorded = Recorded { stream: stream.clone(), cursor, moment };
        let before = self.recorded.lock().replace(recorded);
        // Outside the lock: it may be the last handle of a device.
        drop(before);
        Ok(())
    }

    /// Makes work that `stream` gets from now on start after this event. The device waits, not the caller, but for
    /// CPU accesses of the event's stream that are still running. Nothing where the event was never recorded.
    ///
    /// # Errors
    /// The failure of either stream or of the device, or a signal.
    pub fn wait(&self, stream: &Stream) -> Result<()> {
        stream.engine().check()?;
        let Some(recorded) = self.get() else { return Ok(()) };
        let source = recorded.stream.shared();
        source.check_value(recorded.cursor.device)?;
        if recorded.stream == *stream || source.reached(recorded.cursor) {
            return Ok(());
        }
        if !recorded.stream.same_device(stream) {
            return recorded.wait();
        }
        recorded.stream.wait_cursor(Cursor { device: 0, ..recorded.cursor })?;
        let engine = stream.engine();
        let point = Point { stream: source.id, value: recorded.cursor.device };
        if source.completed() < point.value {
            source.force_submitted(engine, point.value)?;
            stream.shared().wait_for(engine, point)?;
        }
        Ok(())
    }

    /// True where the recorded work is complete, and for an event that was never recorded.
    ///
    /// # Errors
    /// The stream's or the device's failure.
    pub fn query(&self) -> Result<bool> {
        self.get().map_or(Ok(true), |recorded| recorded.is_done())
    }

    /// Waits until the recorded work is complete. Nothing where the event was never recorded.
    ///
    /// # Errors
    /// The stream's or the device's failure, or a signal.
    pub fn synchronize(&self) -> Result<()> {
        self.get().map_or(Ok(()), |recorded| recorded.wait())
    }

    /// Milliseconds from this event to `end`; waits for both. By the device's clock, or the CPU's where the device has
    /// none or completes its work inline.
    ///
    /// # Errors
    /// [`Error::TimingDisabled`], [`Error::NotRecorded`], the streams' or the device's failure, or a signal.
    pub fn elapsed_time(&self, end: &Self) -> Result<f64> {
        match (self.timing, end.timing) {
            (true, true) => {}
            (false, true) => return Err(Error::TimingDisabled { which: "start" }),
            (true, false) => return Err(Error::TimingDisabled { which: "end" }),
            (false, false) => return Err(Error::TimingDisabled { which: "both" }),
        }
        let first = self.get().ok_or(Error::NotRecorded { which: "Start" })?;
        let last = end.get().ok_or(Error::NotRecorded { which: "End" })?;
        first.wait()?;
        last.wait()?;
        let (Some(start), Some(end)) = (&first.moment, &last.moment) else {
            return Err(Error::TimingDisabled { which: "both" });
        };
        start.until(end).ok_or(Error::MixedClocks)
    }
}
