use super::api::Api;
use super::shared::Shared;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, Rank, assert_no_lock_held, thread};
use crate::{HalError, Timeline, TimelinePoint};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A blocking wait returns this often, to see whether the device was lost meanwhile.
const SLICE: Duration = Duration::from_millis(250);
/// How long a waiter sleeps for the handler of a command buffer that has signalled, where an earlier one failed.
const SETTLING: Duration = Duration::from_micros(20);
const NEVER: u64 = u64::MAX;

/// An `MTLSharedEvent`, and what orders the passes that signal it.
#[derive(Debug)]
pub(super) struct MetalTimeline<A: Api> {
    shared: Arc<Shared<A>>,
    pub(super) event: A::Event,
    order: Mutex<Order<A>>,
    /// Highest value whose command buffer's handler has run, or that the CPU signalled.
    settled: AtomicU64,
    /// From this value on the timeline answers with `failure`; [`NEVER`] where there is none.
    failed_from: AtomicU64,
    failure: OnceLock<HalError>,
}

/// Where the newest submission that signals the timeline stands.
#[derive(Debug)]
struct Order<A: Api> {
    /// Highest value that a queue or the CPU was asked to signal.
    promised: u64,
    /// Queue of that submission, and the fence of its passes. A fence orders passes of one queue only.
    at: Option<(usize, Arc<A::Fence>)>,
    /// False until a pass has updated the fence.
    updated: bool,
}

/// What the next submission has to do to come after the one before.
#[derive(Debug)]
pub(super) struct Claim<A: Api> {
    pub(super) fence: Arc<A::Fence>,
    /// Whether a pass has updated the fence.
    pub(super) updated: bool,
    /// Value signalled before; 0 for none.
    pub(super) previous: u64,
    /// True where a pass has to wait for `previous`, because the fence says nothing about it.
    pub(super) moved: bool,
}

impl<A: Api> MetalTimeline<A> {
    pub(super) fn new(shared: &Arc<Shared<A>>) -> Result<Self, HalError> {
        let event = A::pool(|| shared.api.event()).ok_or_else(|| refused("an MTLSharedEvent"))?;
        Ok(Self {
            shared: Arc::clone(shared),
            event,
            order: Mutex::new(Rank::DRIVER, Order { promised: 0, at: None, updated: false }),
            settled: AtomicU64::new(0),
            failed_from: AtomicU64::new(NEVER),
            failure: OnceLock::new(),
        })
    }

    /// The timeline behind a point.
    pub(super) fn of<'p>(point: &'p TimelinePoint, shared: &Arc<Shared<A>>) -> Result<&'p Self, HalError> {
        let own = point.timeline.as_any().downcast_ref::<Self>();
        own.filter(|own| Arc::ptr_eq(&own.shared, shared))
            .ok_or_else(|| HalError::Usage("submit: a timeline of another driver".to_owned()))
    }

    /// Takes the next place of the timeline for a submission to `queue` that signals `value`.
    pub(super) fn claim(&self, queue: usize, value: u64) -> Result<Claim<A>, HalError> {
        // Made without the lock: nothing of Metal's is called while one is held.
        let stays = self.order.lock().at.as_ref().is_some_and(|(last, _)| *last == queue);
        let make = || A::pool(|| self.shared.api.fence()).ok_or_else(|| refused("an MTLFence"));
        let spare = if stays { None } else { Some(make()?) };
        let order = self.order.lock();
        if value <= order.promised {
            let text =
                format!("submit: value {value}, but {} was asked for before; must rise", order.promised);
            return Err(HalError::Usage(text));
        }
        let stays = order.at.as_ref().filter(|(last, _)| *last == queue).map(|(_, fence)| Arc::clone(fence));
        let (fence, updated, moved) = match (stays, spare) {
            (Some(fence), _) => (fence, order.updated, false),
            (None, Some(fence)) => (Arc::new(fence), false, order.at.is_some()),
            (None, None) => {
                return Err(HalError::Usage(
                    "submit: one timeline signalled by two queues at once".to_owned(),
                ));
            }
        };
        Ok(Claim { fence, updated, previous: order.promised, moved })
    }

    /// The claimed submission goes to the queue; `passes` says whether it has a pass.
    pub(super) fn keep(&self, claim: &Claim<A>, queue: usize, value: u64, passes: bool) {
        let mut order = self.order.lock();
        order.promised = value;
        order.at = Some((queue, Arc::clone(&claim.fence)));
        order.updated = claim.updated || passes;
    }

    /// The error of a submission that needs `value`, where it is not to be had any more.
    pub(super) fn failure_at(&self, value: u64) -> Option<HalError> {
        // Pairs with the store in `fail`.
        (value >= self.failed_from.load(Ordering::Acquire)).then(|| self.failure.get().cloned()).flatten()
    }

    pub(super) fn fail(&self, value: u64, error: HalError) {
        let _ = self.failure.set(error);
        // Release: who reads the value finds the error.
        self.failed_from.fetch_min(value, Ordering::Release);
    }

    /// The handler of the submission that signals `value` knows how it ended.
    pub(super) fn settle(&self, value: u64) {
        // Release: pairs with `reached`, which must find the failure that was noted before.
        self.settled.fetch_max(value, Ordering::Release);
    }

    /// Where a submission failed that would have signalled `value`: lets go who waits for it on the GPU.
    pub(super) fn unblock(&self, value: u64) {
        if self.shared.api.signaled(&self.event) < value {
            self.shared.api.set_signaled(&self.event, value);
        }
    }

    /// The value reached. Once anything has failed, only as far as handlers have told how it ended: work that waited for
    /// failed work signals, though what it read is not what it should have been.
    fn reached(&self) -> u64 {
        let signaled = self.shared.api.signaled(&self.event);
        if !self.shared.has_failures() {
            return signaled;
        }
        signaled.min(self.settled.load(Ordering::Acquire))
    }
}

pub(super) fn refused(what: &str) -> HalError {
    HalError::OutOfMemory {
        requested: 0,
        detail: format!("Metal made no {}", what.trim_start_matches("an ")),
    }
}

impl<A: Api> Timeline for MetalTimeline<A> {
    fn completed(&self) -> Result<u64, HalError> {
        self.shared.check()?;
        let value = self.reached();
        match self.failure_at(value) {
            Some(error) => Err(error),
            None => Ok(value),
        }
    }

    fn wait(&self, value: u64, timeout: Duration) -> Result<bool, HalError> {
        if self.completed()? >= value {
            return Ok(true);
        }
        if timeout.is_zero() {
            return Ok(false);
        }
        assert_no_lock_held("waits for a timeline");
        let start = Instant::now();
        if self.shared.spin.poll(timeout, || Ok::<_, HalError>(self.completed()? >= value))? {
            return Ok(true);
        }
        loop {
            let left = timeout.saturating_sub(start.elapsed());
            let signaled = self.shared.api.wait_signaled(&self.event, value, left.min(SLICE));
            if self.completed()? >= value {
                return Ok(true);
            }
            if start.elapsed() >= timeout {
                return Ok(false);
            }
            if signaled {
                thread::sleep(SETTLING);
            }
        }
    }

    fn signal(&self, value: u64) -> Result<(), HalError> {
        self.shared.check()?;
        let current = self.shared.api.signaled(&self.event);
        if value <= current {
            return Err(HalError::Usage(format!(
                "timeline: signalled {value}, but it is at {current}; must rise"
            )));
        }
        let mut order = self.order.lock();
        order.promised = order.promised.max(value);
        drop(order);
        self.settle(value);
        self.shared.api.set_signaled(&self.event, value);
        Ok(())
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
