use super::order::Point;
use super::state::{Shared, State};
use crate::sync::assert_no_lock_held;
use crate::{HalError, Timeline};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A counter kept by the device.
#[derive(Debug)]
pub(super) struct SimTimeline {
    pub(super) shared: Arc<Shared>,
    pub(super) id: usize,
}

impl SimTimeline {
    /// An error where the value `reached` cannot be told.
    fn check(&self, state: &State, reached: u64) -> Result<(), HalError> {
        state.check_lost()?;
        match &state.timelines[self.id].failed {
            Some((from, error)) if reached >= *from => Err(error.clone()),
            _ => Ok(()),
        }
    }

    fn point(&self, value: u64) -> Point {
        Point { timeline: self.id, value }
    }
}

impl Timeline for SimTimeline {
    fn completed(&self) -> Result<u64, HalError> {
        let mut state = self.shared.state.lock();
        let value = state.timelines[self.id].completed;
        self.check(&state, value)?;
        state.order.host_learns(self.point(value));
        Ok(value)
    }

    fn wait(&self, value: u64, timeout: Duration) -> Result<bool, HalError> {
        assert_no_lock_held("waits for a timeline");
        let deadline = Instant::now().checked_add(timeout);
        let mut state = self.shared.state.lock();
        loop {
            self.check(&state, value)?;
            if state.timelines[self.id].completed >= value {
                state.order.host_learns(self.point(value));
                return Ok(true);
            }
            let Some(deadline) = deadline else {
                state = self.shared.done.wait(state);
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            (state, _) = self.shared.done.wait_timeout(state, left);
        }
    }

    fn signal(&self, value: u64) -> Result<(), HalError> {
        let mut state = self.shared.state.lock();
        state.check_lost()?;
        let timeline = &mut state.timelines[self.id];
        let current = timeline.completed;
        if value <= current {
            return Err(HalError::Usage(format!(
                "timeline: signalled {value}, but it is at {current}; must rise"
            )));
        }
        timeline.completed = value;
        timeline.submitted = timeline.submitted.max(value);
        let refused = state.order.host_signal(self.point(value));
        state.refuse_late(refused);
        drop(state);
        self.shared.wake_all();
        Ok(())
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
