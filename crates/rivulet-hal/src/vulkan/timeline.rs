use super::shared::Shared;
use crate::sync::{Arc, assert_no_lock_held};
use crate::{HalError, Timeline};
use ash::vk;
use std::time::{Duration, Instant};

/// A blocking wait returns this often, to see whether the device was lost meanwhile.
const SLICE: Duration = Duration::from_millis(250);

/// A timeline semaphore.
#[derive(Debug)]
pub(super) struct VulkanTimeline {
    shared: Arc<Shared>,
    pub(super) semaphore: vk::Semaphore,
}

impl VulkanTimeline {
    pub(super) fn new(shared: &Arc<Shared>) -> Result<Self, HalError> {
        let mut kind = vk::SemaphoreTypeCreateInfo::default().semaphore_type(vk::SemaphoreType::TIMELINE);
        let info = vk::SemaphoreCreateInfo::default().push_next(&mut kind);
        // SAFETY: the device is alive and has timeline semaphores enabled.
        let semaphore = unsafe { shared.device.create_semaphore(&info, None) };
        let semaphore = semaphore.map_err(|error| shared.error("vkCreateSemaphore", error))?;
        Ok(Self { shared: Arc::clone(shared), semaphore })
    }

    pub(super) fn is_of(&self, shared: &Arc<Shared>) -> bool {
        Arc::ptr_eq(&self.shared, shared)
    }

    fn reached(&self, value: u64) -> Result<bool, HalError> {
        Ok(self.completed()? >= value)
    }

    fn sleep(&self, value: u64, timeout: Duration) -> Result<bool, HalError> {
        let (semaphores, values) = ([self.semaphore], [value]);
        let info = vk::SemaphoreWaitInfo::default().semaphores(&semaphores).values(&values);
        let nanoseconds = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        // SAFETY: the semaphore is a timeline of this device and outlives the call.
        match unsafe { self.shared.device.wait_semaphores(&info, nanoseconds) } {
            Ok(()) => Ok(true),
            Err(vk::Result::TIMEOUT) => Ok(false),
            Err(error) => Err(self.shared.error("vkWaitSemaphores", error)),
        }
    }
}

impl Drop for VulkanTimeline {
    fn drop(&mut self) {
        // SAFETY: the queues keep the timelines of unfinished submissions alive, and no wait outlives its borrow.
        unsafe { self.shared.device.destroy_semaphore(self.semaphore, None) };
    }
}

impl Timeline for VulkanTimeline {
    fn completed(&self) -> Result<u64, HalError> {
        self.shared.check()?;
        // SAFETY: the semaphore is a timeline of this device.
        let value = unsafe { self.shared.device.get_semaphore_counter_value(self.semaphore) };
        value.map_err(|error| self.shared.error("vkGetSemaphoreCounterValue", error))
    }

    fn wait(&self, value: u64, timeout: Duration) -> Result<bool, HalError> {
        if self.reached(value)? {
            return Ok(true);
        }
        if timeout.is_zero() {
            return Ok(false);
        }
        assert_no_lock_held("waits for a timeline");
        let start = Instant::now();
        if self.shared.spin.poll(timeout, || self.reached(value))? {
            return Ok(true);
        }
        loop {
            let left = timeout.saturating_sub(start.elapsed());
            if self.sleep(value, left.min(SLICE))? {
                return Ok(true);
            }
            self.shared.check()?;
            if start.elapsed() >= timeout {
                return Ok(false);
            }
        }
    }

    fn signal(&self, value: u64) -> Result<(), HalError> {
        let current = self.completed()?;
        if value <= current {
            return Err(HalError::Usage(format!(
                "timeline: signalled {value}, but it is at {current}; must rise"
            )));
        }
        let info = vk::SemaphoreSignalInfo::default().semaphore(self.semaphore).value(value);
        // SAFETY: the semaphore is a timeline of this device, and the value was above the current one.
        let done = unsafe { self.shared.device.signal_semaphore(&info) };
        done.map_err(|error| self.shared.error("vkSignalSemaphore", error))
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
