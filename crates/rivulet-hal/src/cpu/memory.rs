//! Pages of the CPU's memory, counted against a limit.

use crate::HalError;
use crate::sync::Arc;
use crate::sync::atomic::{AtomicU64, Ordering};
use std::ptr::NonNull;

/// Bytes handed out by one device, and how many it may hand out.
#[derive(Debug)]
pub(crate) struct Budget {
    held: AtomicU64,
    limit: u64,
    /// Whose the limit is, for errors: "the machine", "the simulated device".
    owner: &'static str,
}

impl Budget {
    pub(crate) fn new(owner: &'static str, limit: u64) -> Self {
        Self { held: AtomicU64::new(0), limit, owner }
    }

    fn take(&self, bytes: u64) -> Result<(), HalError> {
        let grow = |held: u64| held.checked_add(bytes).filter(|&sum| sum <= self.limit);
        match self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grow) {
            Ok(_) => Ok(()),
            Err(held) => Err(self.refusal(bytes, &format!("{held} are in use"))),
        }
    }

    fn refusal(&self, requested: u64, why: &str) -> HalError {
        let detail = format!("{} has {} bytes, {why}", self.owner, self.limit);
        HalError::OutOfMemory { requested, detail }
    }
}

/// Zeroed pages, given back to the system at once when dropped.
///
/// Mapped rather than taken from the heap: pages cost nothing until touched, and a request that the system cannot
/// serve is an error, never an abort.
#[derive(Debug)]
pub(crate) struct Allocation {
    start: NonNull<u8>,
    bytes: usize,
    budget: Arc<Budget>,
}

// SAFETY: the pages belong to this value alone; nothing about a mapping is bound to a thread. Access to the bytes
// goes through raw pointers, whose users are bound by `Device::submit` and `Memory::begin_host_access`.
unsafe impl Send for Allocation {}
// SAFETY: as above; `&Allocation` only hands out the address.
unsafe impl Sync for Allocation {}

impl Allocation {
    /// Maps `bytes` (> 0), aligned to a page.
    pub(crate) fn new(bytes: u64, budget: &Arc<Budget>) -> Result<Self, HalError> {
        if bytes == 0 {
            return Err(HalError::Usage("allocate: 0 bytes requested; at least 1 is allowed".to_owned()));
        }
        let length = usize::try_from(bytes)
            .ok()
            .filter(|&length| length <= isize::MAX as usize)
            .ok_or_else(|| budget.refusal(bytes, "and no address space for more"))?;
        budget.take(bytes)?;
        // SAFETY: a fresh private mapping at an address of the kernel's choice touches no existing memory.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        match NonNull::new(start.cast::<u8>()) {
            Some(start) if start.as_ptr().cast() != libc::MAP_FAILED => {
                Ok(Self { start, bytes: length, budget: Arc::clone(budget) })
            }
            _ => {
                let error = std::io::Error::last_os_error();
                budget.held.fetch_sub(bytes, Ordering::Relaxed);
                Err(budget.refusal(bytes, &format!("but the system refused: {error}")))
            }
        }
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(crate) fn len(&self) -> u64 {
        self.bytes as u64
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made by `new`; whoever holds its pointer also holds this value.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
        self.budget.held.fetch_sub(self.bytes as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::{Allocation, Budget};
    use crate::HalError;
    use crate::sync::Arc;

    #[test]
    fn pages_are_aligned_zeroed_and_writable() {
        let budget = Arc::new(Budget::new("the machine", 1 << 20));
        let memory = Allocation::new(10_000, &budget).unwrap();
        assert_eq!(memory.start().addr().get() % 4096, 0);
        // SAFETY: the mapping has 10,000 bytes and nobody else knows of it.
        let bytes = unsafe { std::slice::from_raw_parts_mut(memory.start().as_ptr(), 10_000) };
        assert!(bytes.iter().all(|&byte| byte == 0));
        bytes.fill(7);
        assert_eq!(bytes[9_999], 7);
    }

    #[test]
    fn the_limit_counts_what_is_held() {
        let budget = Arc::new(Budget::new("the machine", 8192));
        let first = Allocation::new(8000, &budget).unwrap();
        let error = Allocation::new(200, &budget).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("200 bytes") && text.contains("8192") && text.contains("8000"), "{text}");
        drop(first);
        assert!(Allocation::new(8192, &budget).is_ok());
    }

    #[test]
    fn what_the_system_refuses_is_an_error_and_not_counted() {
        let budget = Arc::new(Budget::new("the machine", u64::MAX));
        for bytes in [1 << 62, u64::MAX] {
            let error = Allocation::new(bytes, &budget).unwrap_err();
            assert!(
                matches!(error, HalError::OutOfMemory { requested, .. } if requested == bytes),
                "{error}"
            );
        }
        assert_eq!(budget.held.load(crate::sync::atomic::Ordering::Relaxed), 0);
    }
}
