use super::api::Api;
use super::capture::Recording;
use super::command::MetalRecorder;
use super::memory::MetalMemory;
use super::pipeline::MetalPipeline;
use super::queue::MetalQueue;
use super::shared::Shared;
use super::timeline::MetalTimeline;
use crate::sync::Arc;
use crate::{
    AdapterInfo, Capture, Device, HalError, Memory, MemoryUsage, Pipeline, PipelineDesc, QueueIndex,
    Recorder, Submission, SubmitFailure, Timeline,
};
use std::time::Duration;

/// Longest wait for unfinished work when a device is closed. What runs longer keeps what it needs alive by itself.
const CLOSING: Duration = Duration::from_secs(10);

/// An opened adapter.
#[derive(Debug)]
pub(super) struct MetalDevice<A: Api> {
    info: AdapterInfo,
    queues: Vec<Arc<MetalQueue<A>>>,
    pub(super) shared: Arc<Shared<A>>,
    pub(super) recording: Recording,
}

impl<A: Api> MetalDevice<A> {
    pub(super) fn open(api: A, info: AdapterInfo, encoders: usize) -> Result<Arc<Self>, HalError> {
        let shared = Shared::new(api, info.queues, encoders, info.max_allocation, info.max_binding)?;
        let shared = Arc::new(shared);
        let queues = (0..info.queues).map(|index| MetalQueue::new(&shared, index));
        let queues = queues.collect::<Result<_, _>>()?;
        Ok(Arc::new(Self { info, queues, shared, recording: Recording::new() }))
    }

    fn queue(&self, queue: QueueIndex) -> Result<&Arc<MetalQueue<A>>, HalError> {
        self.queues.get(queue.0).ok_or_else(|| {
            HalError::Usage(format!("queue {}: the device has queues 0..{}", queue.0, self.queues.len()))
        })
    }
}

impl<A: Api> Drop for MetalDevice<A> {
    fn drop(&mut self) {
        for queue in &self.queues {
            queue.wait_idle(&self.shared, CLOSING);
        }
        // Otherwise the document would never be written.
        self.stop();
    }
}

impl<A: Api> Device for MetalDevice<A> {
    fn info(&self) -> &AdapterInfo {
        &self.info
    }

    fn allocate(&self, bytes: u64, _usage: MemoryUsage) -> Result<Arc<dyn Memory>, HalError> {
        self.shared.check()?;
        Ok(Arc::new(MetalMemory::new(&self.shared, bytes)?))
    }

    fn timeline(&self) -> Result<Arc<dyn Timeline>, HalError> {
        self.shared.check()?;
        Ok(Arc::new(MetalTimeline::new(&self.shared)?))
    }

    fn pipeline(&self, desc: &PipelineDesc) -> Result<Arc<dyn Pipeline>, HalError> {
        self.shared.check()?;
        Ok(Arc::new(MetalPipeline::new(&self.shared, desc)?))
    }

    fn recorder(&self, queue: QueueIndex) -> Result<Box<dyn Recorder>, HalError> {
        self.shared.check()?;
        self.queue(queue)?;
        Ok(Box::new(MetalRecorder::new(&self.shared)))
    }

    fn capture(&self) -> Option<&dyn Capture> {
        Some(self)
    }

    fn submit(&self, queue: QueueIndex, work: Vec<Submission>) -> Result<(), SubmitFailure> {
        self.queue(queue).map_err(|error| SubmitFailure { accepted: 0, error })?.submit(&self.shared, work)
    }
}
