//! What can go wrong with memory.

use super::stats::Size;
use crate::ids::Point;
use rivulet_hal::HalError;
use smallvec::SmallVec;

/// A failure of the allocator. Nothing was allocated, adopted or changed, except that caches may be empty.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum MemoryError {
    /// A block has at least one byte.
    #[error("cannot allocate 0 bytes of device memory: a block has at least 1 byte")]
    ZeroSize,
    /// More than the device gives in one piece. Permanent.
    #[error(
        "mps out of memory: tried to allocate {}, but the largest single allocation of this device is {}",
        Size(*requested), Size(*largest)
    )]
    TooLarge {
        /// Bytes asked for.
        requested: u64,
        /// Most bytes of one allocation.
        largest: u64,
    },
    /// Memory ran out although every cache was emptied. Transient.
    #[error(
        "mps out of memory: tried to allocate {}; {} is in use by tensors and {} is reserved, of {}{}{}",
        Size(*requested), Size(*allocated), Size(*reserved),
        limit.map_or_else(|| "unlimited".to_owned(), |limit| format!("{} allowed", Size(limit))),
        format_args!(" (the device has {})", Size(*device_total)),
        detail.as_deref().map_or_else(String::new, |detail| format!("; driver: {detail}")),
    )]
    OutOfMemory {
        /// Bytes asked for.
        requested: u64,
        /// Bytes of live blocks.
        allocated: u64,
        /// Bytes taken from the driver or adopted.
        reserved: u64,
        /// Most bytes that may be reserved; `None` where there is no limit.
        limit: Option<u64>,
        /// Bytes of the device.
        device_total: u64,
        /// The driver's words, where it was the driver that refused.
        detail: Option<String>,
    },
    /// Memory would be there once these points are reached: it was freed while the device still worked on it. Wait
    /// for them without any lock, then ask again. Transient.
    #[error("device memory is exhausted until pending work on {} streams is complete", .points.len())]
    NeedsIdle {
        /// What to wait for; the highest point of each stream.
        points: SmallVec<[Point; 4]>,
    },
    /// Memory of others can only be used where CPU and device read the same bytes. Permanent.
    #[error(
        "cannot use host memory at {address:#x} ({}) in place on {device}: only the host adapter can; copy it",
        Size(*bytes)
    )]
    CannotAdopt {
        /// Start of the range.
        address: usize,
        /// Its length.
        bytes: u64,
        /// Name of the adapter.
        device: String,
    },
    /// No such range of memory. Permanent.
    #[error(
        "cannot adopt {bytes} bytes at {address:#x}: the address must not be null and the range must end below \
         2^64"
    )]
    BadRange {
        /// Start of the range.
        address: usize,
        /// Its length.
        bytes: u64,
    },
    /// Not a memory fraction.
    #[error("invalid memory fraction {given}: allowed are numbers from 0 (no limit) to 2")]
    BadFraction {
        /// The number given, as text.
        given: String,
    },
    /// The driver failed for another reason than memory.
    #[error("device memory: {0}")]
    Driver(#[from] HalError),
}

impl MemoryError {
    /// True where a smaller request, or the same one later, may succeed.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self, Self::TooLarge { .. } | Self::OutOfMemory { .. } | Self::NeedsIdle { .. })
    }
}
