use crate::sync::assert_no_lock_held;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::parking::{self, ParkResult};
use crate::{HalError, Timeline};
use std::time::{Duration, Instant};

/// A counter in memory; its waiters sleep in the parking table.
#[derive(Debug)]
pub(super) struct HostTimeline {
    value: AtomicU64,
}

impl HostTimeline {
    pub(super) fn new() -> Self {
        Self { value: AtomicU64::new(0) }
    }

    fn key(&self) -> usize {
        (&raw const self.value).addr()
    }

    fn reached(&self, value: u64) -> bool {
        self.value.load(Ordering::Acquire) >= value
    }

    /// Waits without end; for submissions, whose waits are known to end.
    pub(super) fn wait_forever(&self, value: u64) {
        while !self.reached(value) {
            parking::park(self.key(), || !self.reached(value), None);
        }
    }
}

impl Timeline for HostTimeline {
    fn completed(&self) -> Result<u64, HalError> {
        Ok(self.value.load(Ordering::Acquire))
    }

    fn wait(&self, value: u64, timeout: Duration) -> Result<bool, HalError> {
        if self.reached(value) {
            return Ok(true);
        }
        assert_no_lock_held("waits for a timeline");
        let start = Instant::now();
        loop {
            let left = timeout.saturating_sub(start.elapsed());
            let ended = parking::park(self.key(), || !self.reached(value), Some(left));
            if self.reached(value) {
                return Ok(true);
            }
            if ended == ParkResult::TimedOut {
                return Ok(false);
            }
        }
    }

    fn signal(&self, value: u64) -> Result<(), HalError> {
        let raise = |current| (value > current).then_some(value);
        self.value.fetch_update(Ordering::Release, Ordering::Relaxed, raise).map_err(|current| {
            HalError::Usage(format!("timeline: signalled {value}, but it is at {current}; must rise"))
        })?;
        parking::unpark_all(self.key());
        Ok(())
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
