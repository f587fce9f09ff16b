use super::adapter::Delay;
use super::queue::{Executed, Gate};
use super::state::{Shared, State};
use crate::{HalError, QueueIndex};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Which submission [`SimControl::fail_submission`] means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FailingSubmission {
    /// The next one with exactly this label.
    Label(String),
    /// The n-th from now, over all queues; 1 is the next one.
    Nth(u64),
}

/// The test's hand on a simulated device. May be used from any thread, and after the device was dropped.
#[derive(Clone, Debug)]
pub struct SimControl {
    shared: Arc<Shared>,
}

impl SimControl {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let result = change(&mut self.shared.state.lock());
        self.shared.wake_all();
        result
    }

    fn set_gate(&self, queue: QueueIndex, gate: Gate) {
        self.change(|state| {
            if let Some(queue) = state.queues.get_mut(queue.0) {
                queue.gate = gate;
            }
        });
    }

    /// Lets the queue start nothing more. A submission that has started goes on. Unknown queues are ignored.
    pub fn hold(&self, queue: QueueIndex) {
        self.set_gate(queue, Gate::Held { permits: 0 });
    }

    /// Undoes [`SimControl::hold`].
    pub fn release(&self, queue: QueueIndex) {
        self.set_gate(queue, Gate::Open);
    }

    /// Lets a held queue run one submission and waits until it has; false where none ran within 2 s, because there
    /// is none or its waits are not reached. The queue is held afterwards.
    pub fn step(&self, queue: QueueIndex) -> bool {
        let Some(before) = self.shared.state.lock().queues.get(queue.0).map(|queue| queue.finished) else {
            return false;
        };
        self.set_gate(queue, Gate::Held { permits: 1 });
        let ran = self.wait_until(Duration::from_secs(2), |state| state.queues[queue.0].finished > before);
        self.hold(queue);
        ran
    }

    /// Waits until no queue has work left; false where that takes longer than `timeout`. Tells the host nothing: the
    /// order still asks for a wait.
    pub fn wait_idle(&self, timeout: Duration) -> bool {
        self.wait_until(timeout, |state| state.queues.iter().all(|queue| queue.unfinished() == 0))
    }

    fn wait_until(&self, timeout: Duration, mut condition: impl FnMut(&State) -> bool) -> bool {
        let start = Instant::now();
        let mut state = self.shared.state.lock();
        loop {
            if condition(&state) {
                return true;
            }
            let left = timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                return false;
            }
            (state, _) = self.shared.done.wait_timeout(state, left);
        }
    }

    /// Submissions of the queue that are accepted and not finished.
    pub fn unfinished(&self, queue: QueueIndex) -> usize {
        self.shared.state.lock().queues.get(queue.0).map_or(0, super::queue::QueueState::unfinished)
    }

    /// Changes the delay of submissions that have not become ready yet.
    pub fn set_delay(&self, delay: Delay) {
        self.change(|state| state.delay = delay);
    }

    /// Loses the device: unfinished work is gone, and every call and every wait fails with
    /// [`HalError::DeviceLost`], which holds `reason` and the label of the oldest unfinished submission.
    pub fn lose_device(&self, reason: &str) {
        self.change(|state| state.lose(reason));
    }

    /// The next `count` allocations fail with [`HalError::OutOfMemory`].
    pub fn fail_next_allocations(&self, count: u64) {
        self.change(|state| state.failing_allocations = count);
    }

    /// Makes one submission fail with `error`, once. Where several rules hit the same submission, the oldest goes
    /// first and the others stay.
    pub fn fail_submission(&self, which: FailingSubmission, error: HalError) {
        self.change(|state| state.failing_submissions.push((which, error)));
    }

    /// Every fault so far: races, early frees, deadlocks, overlapping submits. Empty where the caller did all right.
    pub fn faults(&self) -> Vec<String> {
        self.shared.state.lock().faults.clone()
    }

    /// As [`SimControl::faults`], and forgets them.
    pub fn take_faults(&self) -> Vec<String> {
        self.change(|state| std::mem::take(&mut state.faults))
    }

    /// Submissions that have run, in the order in which they ended.
    pub fn executed(&self) -> Vec<Executed> {
        self.shared.state.lock().executed.clone()
    }
}
