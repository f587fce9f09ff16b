use super::command::HostRecorder;
use super::memory::HostMemory;
use super::pipeline::HostPipeline;
use super::timeline::HostTimeline;
use super::{adapter, queue};
use crate::cpu::{Allocation, Budget, Kernel, memory_limit};
use crate::{
    AdapterInfo, Device, HalError, Memory, MemoryUsage, Pipeline, PipelineDesc, QueueIndex, Recorder,
    Submission, SubmitFailure, Timeline,
};
use std::sync::Arc;

/// The CPU.
#[derive(Debug)]
pub(super) struct HostDevice {
    info: AdapterInfo,
    budget: Arc<Budget>,
}

impl HostDevice {
    pub(super) fn new() -> Self {
        Self { info: adapter::info(), budget: Arc::new(Budget::new("the machine", memory_limit())) }
    }

    fn check_queue(&self, queue: QueueIndex) -> Result<(), HalError> {
        if queue.0 < self.info.queues {
            return Ok(());
        }
        Err(HalError::Usage(format!("queue {}: the device has queues 0..{}", queue.0, self.info.queues)))
    }
}

impl Device for HostDevice {
    fn info(&self) -> &AdapterInfo {
        &self.info
    }

    fn allocate(&self, bytes: u64, _usage: MemoryUsage) -> Result<Arc<dyn Memory>, HalError> {
        Ok(Arc::new(HostMemory::new(Allocation::new(bytes, &self.budget)?)))
    }

    fn timeline(&self) -> Result<Arc<dyn Timeline>, HalError> {
        Ok(Arc::new(HostTimeline::new()))
    }

    fn pipeline(&self, desc: &PipelineDesc) -> Result<Arc<dyn Pipeline>, HalError> {
        Ok(Arc::new(HostPipeline(Kernel::new(desc, "host")?)))
    }

    fn recorder(&self, queue: QueueIndex) -> Result<Box<dyn Recorder>, HalError> {
        self.check_queue(queue)?;
        Ok(Box::new(HostRecorder::new()))
    }

    fn submit(&self, queue: QueueIndex, work: Vec<Submission>) -> Result<(), SubmitFailure> {
        self.check_queue(queue).map_err(|error| SubmitFailure { accepted: 0, error })?;
        for (accepted, submission) in work.iter().enumerate() {
            queue::run(submission).map_err(|error| SubmitFailure { accepted, error })?;
        }
        Ok(())
    }
}
