//! A device that hands out addresses and nothing else, for tests of the allocator's books.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::disallowed_types, reason = "counts beside the model, which are none of loom's business")]

use rivulet::ids::{Progress, StreamId};
use rivulet_hal::{
    AdapterClass, AdapterInfo, Backend, ByteRange, Device, HalError, Memory, MemoryUsage, Pipeline,
    PipelineDesc, QueueIndex, Recorder, Submission, SubmitFailure, Timeline,
};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Every range starts on a multiple of this, far from the others.
const STRIDE: u64 = 1 << 40;

#[derive(Debug)]
pub(crate) struct AddressDevice {
    info: AdapterInfo,
    next: AtomicU64,
    /// Bytes handed out and not yet dropped.
    pub(crate) held: Arc<AtomicU64>,
    /// Allocations beyond this many bytes in total fail like a driver's.
    pub(crate) capacity: u64,
}

#[derive(Debug)]
struct Range {
    address: usize,
    size: u64,
    held: Arc<AtomicU64>,
}

impl AddressDevice {
    pub(crate) fn new(memory_bytes: u64, capacity: u64) -> Arc<Self> {
        let info = AdapterInfo {
            name: "addresses".to_owned(),
            backend: Backend::Host,
            class: AdapterClass::Cpu,
            driver: "none".to_owned(),
            queues: 1,
            unified_memory: true,
            inline_completion: true,
            memory_bytes,
            max_allocation: 1 << 38,
            max_binding: 1 << 38,
            float64: true,
            shader: rivulet_hal::ShaderFeatures::default(),
        };
        Arc::new(Self { info, next: AtomicU64::new(1), held: Arc::new(AtomicU64::new(0)), capacity })
    }

    pub(crate) fn held(&self) -> u64 {
        self.held.load(Ordering::SeqCst)
    }
}

impl Memory for Range {
    fn size(&self) -> u64 {
        self.size
    }

    fn address(&self) -> usize {
        self.address
    }

    fn host_ptr(&self) -> Option<NonNull<u8>> {
        None
    }

    fn begin_host_access(&self, _: ByteRange, _: bool) -> Result<(), HalError> {
        Ok(())
    }

    fn end_host_access(&self, _: ByteRange, _: bool) -> Result<(), HalError> {
        Ok(())
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        self.held.fetch_sub(self.size, Ordering::SeqCst);
    }
}

fn none<T>() -> Result<T, HalError> {
    Err(HalError::Usage("this device only has addresses".to_owned()))
}

impl Device for AddressDevice {
    fn info(&self) -> &AdapterInfo {
        &self.info
    }

    fn allocate(&self, bytes: u64, _: MemoryUsage) -> Result<Arc<dyn Memory>, HalError> {
        let before = self.held.fetch_add(bytes, Ordering::SeqCst);
        if before + bytes > self.capacity {
            self.held.fetch_sub(bytes, Ordering::SeqCst);
            let detail = format!("capacity {}", self.capacity);
            return Err(HalError::OutOfMemory { requested: bytes, detail });
        }
        let address = (self.next.fetch_add(1, Ordering::SeqCst) * STRIDE) as usize;
        Ok(Arc::new(Range { address, size: bytes, held: Arc::clone(&self.held) }))
    }

    fn timeline(&self) -> Result<Arc<dyn Timeline>, HalError> {
        none()
    }

    fn pipeline(&self, _: &PipelineDesc) -> Result<Arc<dyn Pipeline>, HalError> {
        none()
    }

    fn recorder(&self, _: QueueIndex) -> Result<Box<dyn Recorder>, HalError> {
        none()
    }

    fn submit(&self, _: QueueIndex, _: Vec<Submission>) -> Result<(), SubmitFailure> {
        none().map_err(|error| SubmitFailure { accepted: 0, error })
    }
}

/// The same value for every stream.
pub(crate) struct CompletedTo(rivulet_hal::sync::atomic::AtomicU64);

impl CompletedTo {
    pub(crate) fn new(value: u64) -> Self {
        Self(rivulet_hal::sync::atomic::AtomicU64::new(value))
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Release);
    }
}

impl Progress for CompletedTo {
    fn completed(&self, _: StreamId) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}
