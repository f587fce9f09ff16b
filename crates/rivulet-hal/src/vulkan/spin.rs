use crate::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Longest and shortest time that a wait polls before it sleeps. Waking from a blocking wait costs about 30
/// microseconds on a desktop kernel, so polling beyond that gains nothing.
const LONGEST_SPIN: Duration = Duration::from_micros(50);
const SHORTEST_SPIN: Duration = Duration::from_micros(2);
/// How long waits poll: as long as that has been worth it lately.
#[derive(Debug)]
pub(crate) struct SpinTime(AtomicU32);

impl SpinTime {
    pub(crate) fn new() -> Self {
        Self(AtomicU32::new(LONGEST_SPIN.as_nanos() as u32))
    }

    pub(crate) fn now(&self) -> Duration {
        Duration::from_nanos(u64::from(self.0.load(Ordering::Relaxed)))
    }

    /// Halves after a wait that slept all the same, doubles after one that polling ended.
    pub(crate) fn learn(&self, ended: bool) {
        let now = self.now();
        let next = if ended { now * 2 } else { now / 2 }.clamp(SHORTEST_SPIN, LONGEST_SPIN);
        self.0.store(next.as_nanos() as u32, Ordering::Relaxed);
    }
}
