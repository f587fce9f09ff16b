//! The CPU's copy of memory that it cannot see.

use crate::{ByteRange, HalError};
use std::ptr::NonNull;

/// Zeroed pages that take room only once they are touched, and can be given back. Not counted against a limit: the
/// address space is all that is taken.
#[derive(Debug)]
pub(crate) struct Mirror {
    start: NonNull<u8>,
    bytes: usize,
}

impl Mirror {
    /// Takes address space for `bytes` (> 0), aligned to a page.
    pub(crate) fn new(bytes: u64) -> Result<Self, HalError> {
        let length =
            usize::try_from(bytes).map_err(|_| HalError::Usage(format!("{bytes} bytes have no address")))?;
        // SAFETY: a fresh private mapping at an address of the kernel's choice touches no existing memory.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        match NonNull::new(start.cast::<u8>()) {
            Some(start) if start.as_ptr().cast() != libc::MAP_FAILED => Ok(Self { start, bytes: length }),
            _ => {
                let detail = format!("no address space for it: {}", std::io::Error::last_os_error());
                Err(HalError::OutOfMemory { requested: bytes, detail })
            }
        }
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Gives back the pages wholly inside `range`, which then read as zero.
    pub(crate) fn release(&self, range: ByteRange) {
        // SAFETY: only asks for the size of a page.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let page = usize::try_from(page).ok().filter(|&page| page > 0).unwrap_or(1 << 16);
        let clamp = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(self.bytes);
        let (start, end) = (clamp(range.start).next_multiple_of(page), clamp(range.end) / page * page);
        if start >= end {
            return;
        }
        // Linux drops the pages at once. Elsewhere the advice may be taken late or not at all, so that a fresh mapping
        // takes their place.
        #[cfg(target_os = "linux")]
        // SAFETY: whole pages of this value's own private mapping, which nobody touches now by the caller's contract.
        unsafe {
            libc::madvise(self.start.as_ptr().add(start).cast(), end - start, libc::MADV_DONTNEED)
        };
        #[cfg(not(target_os = "linux"))]
        // SAFETY: as above; the new mapping covers exactly the old pages.
        unsafe {
            libc::mmap(
                self.start.as_ptr().add(start).cast(),
                end - start,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED,
                -1,
                0,
            )
        };
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made by `new`; whoever holds its address also holds this value.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::Mirror;
    use crate::ByteRange;

    #[test]
    fn whole_pages_inside_a_range_are_given_back_and_no_others() {
        let bytes = 5 << 16;
        let mirror = Mirror::new(bytes).unwrap();
        // SAFETY: the mapping has so many bytes and nobody else knows of it.
        let all = || unsafe { std::slice::from_raw_parts_mut(mirror.start().as_ptr(), bytes as usize) };
        all().fill(7);
        mirror.release(ByteRange { start: 1, end: (2 << 16) + 5 });
        let zero = all().iter().filter(|&&byte| byte == 0).count();
        assert!((1 << 16..=2 << 16).contains(&zero), "{zero}");
        assert_eq!((all()[0], all()[1 << 16], all()[(2 << 16) + 4], all()[bytes as usize - 1]), (7, 0, 7, 7));
        mirror.release(ByteRange { start: 10, end: 20 });
        mirror.release(ByteRange { start: 0, end: u64::MAX });
        assert!(all().iter().all(|&byte| byte == 0));
    }
}
