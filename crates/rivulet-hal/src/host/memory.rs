use crate::cpu::{Allocation, check_range};
use crate::{ByteRange, HalError, Memory};
use std::ptr::NonNull;
use std::sync::Arc;

/// Memory of the process.
pub(super) struct HostMemory {
    start: NonNull<u8>,
    bytes: u64,
    owner: Owner,
}

/// What keeps the bytes alive.
enum Owner {
    Mapping(#[allow(dead_code, reason = "held for its drop")] Allocation),
    Foreign(Option<Release>),
}

type Release = Box<dyn FnOnce() + Send + Sync>;

// SAFETY: the bytes stay mapped for the life of the value (`Allocation`, or the contract of `adopt`), an address is
// good on any thread, and nothing here reads or writes through it.
unsafe impl Send for HostMemory {}
// SAFETY: as above.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    pub(super) fn new(mapping: Allocation) -> Self {
        Self { start: mapping.start(), bytes: mapping.len(), owner: Owner::Mapping(mapping) }
    }
}

/// Makes device memory of bytes that somebody else allocated. `release` runs once, on whichever thread drops the
/// last reference.
///
/// # Safety
/// - `start` points to `bytes` initialised bytes that stay valid for reads and writes until `release` is called.
/// - Until then they are accessed only as [`Device::submit`](crate::Device::submit) and
///   [`Memory::begin_host_access`] allow.
pub unsafe fn adopt(
    start: NonNull<u8>,
    bytes: u64,
    release: Box<dyn FnOnce() + Send + Sync>,
) -> Arc<dyn Memory> {
    Arc::new(HostMemory { start, bytes, owner: Owner::Foreign(Some(release)) })
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        if let Owner::Foreign(release) = &mut self.owner
            && let Some(release) = release.take()
        {
            release();
        }
    }
}

impl std::fmt::Debug for HostMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let adopted = matches!(self.owner, Owner::Foreign(_));
        let mut text = f.debug_struct("HostMemory");
        text.field("start", &self.start).field("bytes", &self.bytes).field("adopted", &adopted).finish()
    }
}

impl Memory for HostMemory {
    fn size(&self) -> u64 {
        self.bytes
    }

    fn address(&self) -> usize {
        self.start.addr().get()
    }

    fn host_ptr(&self) -> Option<NonNull<u8>> {
        Some(self.start)
    }

    fn begin_host_access(&self, range: ByteRange, _write: bool) -> Result<(), HalError> {
        check_range(range, self.bytes, "begin_host_access")
    }

    fn end_host_access(&self, range: ByteRange, _write: bool) -> Result<(), HalError> {
        check_range(range, self.bytes, "end_host_access")
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
