//! What the CPU reads and writes of a device's memory.

use rivulet_hal::{ByteRange, Memory};
use std::sync::Arc;

/// The first bytes of memory that the CPU reads.
pub fn bytes(memory: &Arc<dyn Memory>, len: usize) -> Vec<u8> {
    let range = ByteRange { start: 0, end: len as u64 };
    memory.begin_host_access(range, false).unwrap();
    // SAFETY: the range was accepted as lying inside the memory, and the access is announced.
    let copy = unsafe { std::slice::from_raw_parts(memory.host_ptr().unwrap().as_ptr(), len) }.to_vec();
    memory.end_host_access(range, false).unwrap();
    copy
}

/// Writes to the start of memory that the CPU writes.
pub fn set_bytes(memory: &Arc<dyn Memory>, values: &[u8]) {
    let range = ByteRange { start: 0, end: values.len() as u64 };
    memory.begin_host_access(range, true).unwrap();
    // SAFETY: as in `bytes`; the source is a slice of our own.
    unsafe { std::ptr::copy(values.as_ptr(), memory.host_ptr().unwrap().as_ptr(), values.len()) };
    memory.end_host_access(range, true).unwrap();
}
