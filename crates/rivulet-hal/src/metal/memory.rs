use super::api::Api;
use super::shared::Shared;
use crate::cpu::check_range;
use crate::sync::Arc;
use crate::{ByteRange, HalError, Memory};
use std::ptr::NonNull;

/// A buffer in memory that CPU and GPU share, mapped for as long as it lives.
#[derive(Debug)]
pub(super) struct MetalMemory<A: Api> {
    shared: Arc<Shared<A>>,
    /// Taken out when the memory is dropped.
    buffer: Option<A::Buffer>,
    pub(super) refer: A::BufferRef,
    start: NonNull<u8>,
    size: u64,
}

// SAFETY: the pointer is an address of bytes that stay mapped while the value lives; who may touch them when is the
// contract of `Device::submit` and `Memory::begin_host_access`. The rest is `Send` by `Api`.
unsafe impl<A: Api> Send for MetalMemory<A> {}
// SAFETY: as above; nothing is changed through a shared reference.
unsafe impl<A: Api> Sync for MetalMemory<A> {}

impl<A: Api> MetalMemory<A> {
    pub(super) fn new(shared: &Arc<Shared<A>>, bytes: u64) -> Result<Self, HalError> {
        if bytes == 0 {
            return Err(HalError::Usage("allocate: 0 bytes requested; at least 1 is allowed".to_owned()));
        }
        let refusal = |detail: String| HalError::OutOfMemory { requested: bytes, detail };
        if bytes > shared.max_allocation {
            return Err(refusal(format!("one buffer may have {} bytes", shared.max_allocation)));
        }
        // Whole vectors: a kernel may read the last one as such.
        let length = bytes.next_multiple_of(16);
        let make = || A::pool(|| shared.api.buffer(length));
        let buffer = match make() {
            Some(buffer) => buffer,
            // What was put aside may be all that is missing.
            None => {
                shared.wait_for_retired();
                make().ok_or_else(|| refusal("Metal made no buffer".to_owned()))?
            }
        };
        let start = shared.api.contents(&buffer);
        let refer = A::refer(&buffer);
        Ok(Self { shared: Arc::clone(shared), buffer: Some(buffer), refer, start, size: bytes })
    }

    pub(super) fn is_of(&self, shared: &Arc<Shared<A>>) -> bool {
        Arc::ptr_eq(&self.shared, shared)
    }

    fn buffer(&self) -> Result<&A::Buffer, HalError> {
        self.buffer.as_ref().ok_or_else(|| HalError::Usage("memory: used while it is dropped".to_owned()))
    }
}

impl<A: Api> Drop for MetalMemory<A> {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.shared.retire(buffer);
        }
    }
}

impl<A: Api> Memory for MetalMemory<A> {
    fn size(&self) -> u64 {
        self.size
    }

    fn address(&self) -> usize {
        self.start.addr().get()
    }

    fn host_ptr(&self) -> Option<NonNull<u8>> {
        Some(self.start)
    }

    fn begin_host_access(&self, range: ByteRange, write: bool) -> Result<(), HalError> {
        check_range(range, self.size, "begin_host_access")?;
        self.shared.api.begin_host_access(self.buffer()?, range, write)
    }

    fn end_host_access(&self, range: ByteRange, write: bool) -> Result<(), HalError> {
        check_range(range, self.size, "end_host_access")?;
        self.shared.api.end_host_access(self.buffer()?, range, write)
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
