//! Bytes moved by the calling thread.

use super::check_range;
use crate::{BufferRange, HalError};
use std::ptr::NonNull;

/// The CPU's view of a range: the bytes themselves, or those of the mirror.
fn start(range: &BufferRange, call: &str) -> Result<NonNull<u8>, HalError> {
    check_range(range.range, range.memory.size(), call)?;
    let base = range.memory.host_ptr().or_else(|| range.memory.mirror());
    let base = base.ok_or_else(|| HalError::Usage(format!("{call}: the CPU cannot see this memory")))?;
    let offset = usize::try_from(range.range.start)
        .map_err(|_| HalError::Usage(format!("{call}: offset {} has no address", range.range.start)))?;
    // SAFETY: the offset was checked against the size of the memory, which is mapped for as long as it lives.
    Ok(unsafe { base.add(offset) })
}

fn equal(from: u64, to: u64, call: &str) -> Result<usize, HalError> {
    match usize::try_from(from) {
        Ok(bytes) if from == to => Ok(bytes),
        _ => {
            Err(HalError::Usage(format!("{call}: source has {from} bytes, destination {to}; must be equal")))
        }
    }
}

/// Copies what the CPU sees of `src` to what it sees of `dst` (its [mirror](crate::Memory::mirror), where it has one), on
/// the calling thread. The two may overlap. For both ranges the caller has what [`crate::Memory::begin_host_access`]
/// asks for, and nobody else writes to them meanwhile.
///
/// # Errors
/// [`HalError::Usage`] for a range outside its memory, unequal lengths, or memory that the CPU cannot see.
pub fn copy_bytes(src: &BufferRange, dst: &BufferRange) -> Result<(), HalError> {
    let (from, to) = (start(src, "copy_bytes")?, start(dst, "copy_bytes")?);
    let bytes = equal(src.range.len(), dst.range.len(), "copy_bytes")?;
    // SAFETY: both ranges lie inside mapped memories that the arguments keep alive; that nobody else writes is the
    // caller's to see to.
    unsafe { std::ptr::copy(from.as_ptr(), to.as_ptr(), bytes) };
    Ok(())
}

/// As [`copy_bytes`], into a slice.
///
/// # Errors
/// As [`copy_bytes`].
pub fn read_bytes(src: &BufferRange, dst: &mut [u8]) -> Result<(), HalError> {
    let from = start(src, "read_bytes")?;
    let bytes = equal(src.range.len(), dst.len() as u64, "read_bytes")?;
    // SAFETY: as in `copy_bytes`; the destination is the caller's alone.
    unsafe { std::ptr::copy(from.as_ptr(), dst.as_mut_ptr(), bytes) };
    Ok(())
}

/// As [`copy_bytes`], from a slice.
///
/// # Errors
/// As [`copy_bytes`].
pub fn write_bytes(src: &[u8], dst: &BufferRange) -> Result<(), HalError> {
    let to = start(dst, "write_bytes")?;
    let bytes = equal(src.len() as u64, dst.range.len(), "write_bytes")?;
    // SAFETY: as in `copy_bytes`; the source is the caller's.
    unsafe { std::ptr::copy(src.as_ptr(), to.as_ptr(), bytes) };
    Ok(())
}
