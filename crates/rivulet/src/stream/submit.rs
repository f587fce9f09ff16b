//! From an open recorder to the driver, and waiting for what came of it.

use super::combiner::Ready;
use super::shared::{Open, Recording, StreamShared};
use crate::blocking;
use crate::engine::Engine;
use crate::error::Result;
use crate::ids::Cursor;
use rivulet_hal::sync::Arc;
use rivulet_hal::sync::atomic::Ordering;
use rivulet_hal::{HalError, TimelinePoint};
use std::time::Instant;

impl StreamShared {
    /// Closes the open recorder and puts it on the combiner's list; the caller then drives the combiner.
    pub(super) fn push_open(&self, engine: &Engine, recording: &mut Recording) {
        let Some(open) = recording.open.take() else { return };
        if open.last == 0 || self.failed_from().is_some() {
            return;
        }
        let (first, label) = (open.first, open.label);
        match self.close(engine, open) {
            // Under the recorder's lock, so that a stream's submissions are listed in order.
            Ok(ready) => {
                recording.pushed = Some(Instant::now());
                self.note_unfinished(engine, recording, ready.last);
                engine.combiner(self.queue).push(self.id, self.priority, ready);
            }
            Err(error) => {
                engine.note_failure(label, &error);
                self.poison(first, label, error);
            }
        }
    }

    /// Counts a submission, and notes what the next op waits for where there are too many.
    fn note_unfinished(&self, engine: &Engine, recording: &mut Recording, last: u64) {
        let unfinished = &mut recording.unfinished;
        if unfinished.len() >= engine.flush_policy.unfinished {
            let completed = self.completed();
            while unfinished.front().is_some_and(|&value| value <= completed) {
                unfinished.pop_front();
            }
        }
        unfinished.push_back(last);
        if unfinished.len() >= engine.flush_policy.unfinished
            && let Some(oldest) = unfinished.pop_front()
        {
            self.behind.store(oldest, Ordering::Relaxed);
        }
    }

    fn close(&self, engine: &Engine, open: Open) -> Result<Ready, HalError> {
        let timeline =
            self.timeline_if_made().ok_or_else(|| HalError::Usage("stream without a timeline".to_owned()))?;
        let mut waits = Vec::with_capacity(open.waits.len());
        for point in &open.waits {
            let Some(other) = engine.stream_if_made(point.stream) else { continue };
            if other.completed() < point.value
                && let Some(timeline) = other.timeline_if_made()
            {
                waits.push(TimelinePoint { timeline: Arc::clone(timeline), value: point.value });
            }
        }
        let commands = open.recorder.finish()?;
        for (slot, moment) in open.moments {
            moment.set_device(Arc::clone(&commands), slot);
        }
        Ok(Ready {
            first: open.first,
            last: open.last,
            commands,
            waits,
            timeline: Arc::clone(timeline),
            label: open.label,
            keep: open.keep,
            cost: open.cost,
        })
    }

    /// Puts what is recorded on the combiner's list.
    pub(super) fn push_recorded(&self, engine: &Engine) {
        let mut recording = self.recording.lock();
        self.push_open(engine, &mut recording);
    }

    /// Submits what is recorded, or leaves it to the thread that is submitting now.
    pub(crate) fn flush(&self, engine: &Engine) {
        self.push_recorded(engine);
        engine.combiner(self.queue).drive(engine);
    }

    /// Waits until the driver has `value`. Flushes the stream; where the value is reserved and its commands are
    /// still to come, its owner submits them.
    ///
    /// # Errors
    /// The stream's or the device's failure, or a signal.
    pub(crate) fn ensure_submitted(&self, engine: &Engine, value: u64) -> Result<()> {
        if self.submitted.get() >= value {
            return Ok(());
        }
        // Before the recorder's lock, under which the owner looks for it.
        self.flush_request.fetch_max(value, Ordering::Relaxed);
        self.flush(engine);
        if self.submitted.get() >= value {
            return Ok(());
        }
        let mut failure = Ok(());
        blocking::wait_loop(|longest| {
            failure = self.check_value(value).and_then(|()| engine.check());
            failure.is_err() || self.submitted.wait_step(value, longest)
        })?;
        failure
    }

    /// As [`StreamShared::ensure_submitted`], for work that cannot be submitted before `value` is: it is not held back.
    ///
    /// # Errors
    /// As [`StreamShared::ensure_submitted`].
    pub(crate) fn force_submitted(&self, engine: &Engine, value: u64) -> Result<()> {
        if self.submitted.get() < value {
            engine.combiner(self.queue).need(self.id, self.priority, value);
        }
        self.ensure_submitted(engine, value)
    }

    /// Waits until `value` is complete.
    ///
    /// # Errors
    /// The stream's or the device's failure, or a signal.
    pub(crate) fn wait_device(&self, engine: &Engine, value: u64) -> Result<()> {
        // A hint for the flush policy.
        self.waited.fetch_max(value, Ordering::Relaxed);
        if self.completed() >= value {
            return self.check_value(value);
        }
        self.ensure_submitted(engine, value)?;
        if self.completed() < value {
            // The driver's side polls before it sleeps, and meanwhile other Python threads have the GIL.
            let timeline = self.timeline(engine)?;
            let mut failure = Ok(());
            blocking::wait_loop(|longest| {
                match timeline.wait(value, longest) {
                    Ok(true) => return true,
                    Ok(false) => failure = engine.check(),
                    Err(error) => {
                        // The driver noticed after it had accepted the work; its text names the submission.
                        self.poison(self.completed() + 1, "work on the device", error.clone());
                        failure = Err(engine.failed("wait for the device", error));
                    }
                }
                failure.is_err()
            })?;
            failure?;
            self.completed();
        }
        self.retire();
        Ok(())
    }

    /// Waits for a point of the stream. `own_ticket` is the calling thread's on this stream, 0 where none: an op
    /// cannot wait for itself.
    ///
    /// # Errors
    /// The stream's or the device's failure, or a signal.
    pub(crate) fn wait_cursor(&self, engine: &Engine, cursor: Cursor) -> Result<()> {
        if self.tickets.ended() < cursor.host {
            let mut failure = Ok(());
            blocking::wait_loop(|longest| {
                failure = engine.check();
                failure.is_err() || self.tickets.wait_step(cursor.host, longest)
            })?;
            failure?;
        }
        if cursor.device > 0 {
            self.wait_device(engine, cursor.device)?;
        }
        Ok(())
    }

    /// Takes the stream's error away and makes it usable again. Work that was submitted before the failure is
    /// waited for; what failed counts as complete, its results are undefined.
    pub(super) fn clear_error(&self, engine: &Engine) -> Result<()> {
        let Some(from) = self.failed_from() else { return Ok(()) };
        let mut recording = self.lock_turn()?;
        drop(recording.open.take());
        drop(recording);
        engine.combiner(self.queue).purge(self.id);
        self.wait_device(engine, from - 1)?;
        let reserved = self.reserved.load(Ordering::Acquire);
        if let Some(timeline) = self.timeline_if_made()
            && timeline.completed().is_ok_and(|completed| completed < reserved)
        {
            timeline.signal(reserved).map_err(|error| engine.failed("clear a stream's error", error))?;
        }
        self.heal();
        Ok(())
    }
}
