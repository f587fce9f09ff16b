use super::api::Api;
use super::builtin::Builtins;
use super::retire::Retired;
use super::slot::Slots;
use crate::HalError;
use crate::spin::SpinTime;
use crate::sync::atomic::{AtomicBool, Ordering};
use std::sync::OnceLock;
use std::time::Duration;

/// Longest wait for buffers put aside, when there is no memory for another.
const RETIRING: Duration = Duration::from_secs(1);

/// What every object of a device needs.
#[derive(Debug)]
pub(super) struct Shared<A: Api> {
    pub(super) builtins: Builtins<A>,
    pub(super) max_allocation: u64,
    pub(super) max_binding: u64,
    pub(super) spin: SpinTime,
    /// Who may encode now.
    pub(super) slots: Slots,
    retired: Retired<A>,
    /// Set for good by the first submission that fails.
    failures: AtomicBool,
    /// Why the device is lost, once it is.
    lost: OnceLock<String>,
    /// The last field: what was made from it goes first.
    pub(super) api: A,
}

impl<A: Api> Shared<A> {
    pub(super) fn new(
        api: A,
        queues: usize,
        encoders: usize,
        max_allocation: u64,
        max_binding: u64,
    ) -> Result<Self, HalError> {
        Ok(Self {
            builtins: Builtins::new(&api)?,
            max_allocation,
            max_binding,
            spin: SpinTime::new(),
            slots: Slots::new(encoders),
            retired: Retired::new(queues),
            failures: AtomicBool::new(false),
            lost: OnceLock::new(),
            api,
        })
    }

    /// The error of a lost device once it is lost.
    pub(super) fn check(&self) -> Result<(), HalError> {
        match self.lost.get() {
            Some(reason) => Err(HalError::DeviceLost { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.get().is_some()
    }

    /// A submission failed. Before anything that waits for it can go on.
    pub(super) fn note(&self, error: &HalError) {
        // Release: who sees the value that is signalled next sees that it has to look.
        self.failures.store(true, Ordering::Release);
        if let HalError::DeviceLost { reason } = error {
            self.lost.get_or_init(|| reason.clone());
        }
    }

    pub(super) fn has_failures(&self) -> bool {
        self.failures.load(Ordering::Acquire)
    }

    pub(super) fn committed(&self, queue: usize) {
        self.retired.committed(queue);
    }

    pub(super) fn completed(&self, queue: usize, count: u64) {
        self.retired.completed(queue, count);
    }

    pub(super) fn retire(&self, buffer: A::Buffer) {
        self.retired.retire(buffer);
    }

    pub(super) fn wait_for_retired(&self) {
        self.retired.wait(RETIRING);
    }
}
