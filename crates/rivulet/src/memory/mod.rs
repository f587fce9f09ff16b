//! Device memory: a stream-ordered caching allocator over any [`rivulet_hal::Device`].
//!
//! # Where a block comes from
//!
//! ```text
//! up to 1 MiB   bin of its size class in the stream's cache
//!               -> smallest free range of the stream's small segments
//!               -> the same after joining all freed blocks with their neighbours
//!               -> a new segment (2 MiB, growing with the stream's use to 32 MiB)
//! above         the stream's freed blocks of exactly that size
//!               -> smallest free range of the large segments that all streams share
//!               -> the same after every stream has handed in its freed large blocks
//!               -> a new segment (20 MiB, or the size itself from 10 MiB)
//! ```
//!
//! Before memory is refused, all caches are emptied and segments without a block go back to the driver. What then
//! still is missing, but is only waiting for the device, is reported as [`MemoryError::NeedsIdle`]: the caller waits,
//! without any lock, and asks again.
//!
//! # Who may reuse a block
//!
//! The stamps of a block survive its free, so whoever gets the memory next waits for what the device still does
//! with it. That makes every reuse correct; to make it free of waits, a stream takes back its own blocks at once and
//! memory of another stream only where nothing is left to do on it. A block whose lock is held is not handed out at
//! all: a CPU access leaves no stamp.

mod allocator;
mod block;
mod cache;
pub(crate) mod content;
mod error;
mod segments;
mod size_class;
pub(crate) mod staging;
mod stats;

pub use allocator::Allocator;
pub use block::{Block, BlockKind};
pub use error::MemoryError;
pub use staging::{CHUNK, CHUNKS};
pub use stats::MemoryStats;

/// Gives adopted memory back to whom it belongs. Called once, on any thread, with no lock of this crate held.
pub type DropFn = Box<dyn FnOnce() + Send>;
