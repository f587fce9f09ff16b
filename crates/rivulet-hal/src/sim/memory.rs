use super::command::Storage;
use super::state::Shared;
use crate::cpu::check_range;
use crate::{ByteRange, HalError, Memory};
use std::ptr::NonNull;
use std::sync::Arc;

/// The caller's handle on device memory. Commands keep only the bytes alive, so that dropping the handle too early
/// shows.
#[derive(Debug)]
pub(super) struct SimMemory {
    pub(super) shared: Arc<Shared>,
    pub(super) storage: Arc<Storage>,
    pub(super) host_visible: bool,
}

impl SimMemory {
    fn check_access(&self, range: ByteRange, call: &str) -> Result<(), HalError> {
        check_range(range, self.size(), call)?;
        if self.host_visible {
            return Ok(());
        }
        Err(HalError::Usage(format!("{call}: memory {} is not visible to the host", self.storage.id())))
    }
}

impl Memory for SimMemory {
    fn size(&self) -> u64 {
        self.storage.bytes()
    }

    fn address(&self) -> usize {
        self.storage.start().addr().get()
    }

    fn host_ptr(&self) -> Option<NonNull<u8>> {
        self.host_visible.then(|| self.storage.start())
    }

    fn begin_host_access(&self, range: ByteRange, write: bool) -> Result<(), HalError> {
        self.check_access(range, "begin_host_access")?;
        let mut state = self.shared.state.lock();
        state.check_lost()?;
        let outcome = state.order.begin_host_access(self.storage.id(), range, write);
        outcome.map_err(|text| state.fault(text))
    }

    fn end_host_access(&self, range: ByteRange, write: bool) -> Result<(), HalError> {
        self.check_access(range, "end_host_access")?;
        let mut state = self.shared.state.lock();
        if state.order.end_host_access(self.storage.id(), range, write) {
            return state.check_lost();
        }
        let ByteRange { start, end } = range;
        let access = if write { "write" } else { "read" };
        Err(HalError::Usage(format!("end_host_access: no {access} of bytes {start}..{end} was begun")))
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

impl Drop for SimMemory {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.memories.remove(&self.storage.start().addr().get());
        let used = state.order.remove_memory(self.storage.id());
        // Nothing completes any more on a device that is gone, so nothing can be known to.
        if state.lost.is_none() && !state.shutdown {
            state.faults.extend(used);
        }
    }
}
