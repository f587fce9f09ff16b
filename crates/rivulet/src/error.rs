//! What can go wrong, one enum for the whole runtime.
//!
//! Every variant leaves the device usable except [`Error::DeviceLost`], and nothing of a failed call happened
//! unless the variant says otherwise.

use crate::blocking::Interrupted;
use crate::config::SettingError;
use crate::hazard::HazardError;
use crate::ids::StreamId;
use crate::memory::MemoryError;
use rivulet_hal::HalError;
use std::time::Duration;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of the runtime.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A setting has a value that it cannot have. Permanent until the variable changes.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The size of the pool was changed after it had been fixed.
    #[error(
        "MPS_STREAM_POOL_SIZE is {wanted} now, but the mps stream pool was made with {size} slots when the first \
         one was taken; set it before the first use of the device, or leave it unchanged"
    )]
    PoolSizeFixed {
        /// Value of the variable now.
        wanted: usize,
        /// Slots of the pool.
        size: usize,
    },
    /// No slot is free and the settings say not to wait. Transient.
    #[error(
        "mps stream pool exhausted: all {workers} worker streams of the pool (MPS_STREAM_POOL_SIZE={size}, one \
         is the main thread's) are in use by live threads, {threads}. Ways out: MPS_POOL_SHARE=1 lets further \
         threads share streams; MPS_POOL_BACKPRESSURE=1 (or MPS_POOL_TIMEOUT_MS=<ms>) waits for a thread to \
         finish; a larger MPS_STREAM_POOL_SIZE (up to 1024), or fewer threads at a time"
    )]
    PoolExhausted {
        /// Slots of the pool, the main thread's included.
        size: usize,
        /// Slots for other threads.
        workers: usize,
        /// Who holds them.
        threads: String,
    },
    /// No slot came free in time. Transient.
    #[error(
        "mps stream pool exhausted: timed out after {} ms waiting for a stream (timeout set by {variable}); all \
         {workers} worker streams of the pool (MPS_STREAM_POOL_SIZE={size}) are in use by live threads, \
         {threads}. Ways out: MPS_POOL_SHARE=1 lets further threads share streams; MPS_POOL_BACKPRESSURE=1 \
         waits without a limit; a larger MPS_STREAM_POOL_SIZE (up to 1024), or fewer threads at a time",
        timeout.as_millis()
    )]
    PoolTimeout {
        /// How long the thread waited.
        timeout: Duration,
        /// The setting that said so.
        variable: &'static str,
        /// Slots of the pool, the main thread's included.
        size: usize,
        /// Slots for other threads.
        workers: usize,
        /// Who holds them.
        threads: String,
    },
    /// A wait was ended by a signal; see [`Interrupted`].
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// The process was forked after the device was opened. Permanent in this process.
    #[error(
        "Cannot use mps in a forked child process: the device was opened before the fork and does not survive \
         it. Start workers with the 'spawn' method (multiprocessing.set_start_method('spawn')), or fork before \
         the first use of mps"
    )]
    Forked,
    /// The process is shutting down. Permanent.
    #[error("the mps device is shut down: the process is exiting")]
    ShutDown,
    /// An operand that a native op cannot take. Nothing was recorded.
    #[error("{op}: {reason}")]
    BadOperand {
        /// The op.
        op: &'static str,
        /// What is wrong and what is allowed.
        reason: String,
    },
    /// No kernel of ours does this op for these types, on this device or at this size; another way to compute it may.
    /// Nothing was recorded.
    #[error("{op}: {reason}")]
    NoKernel {
        /// The op.
        op: &'static str,
        /// What there is no kernel for.
        reason: String,
    },
    /// No stream has this number.
    #[error("invalid mps stream id {id}: ids run from 0 to {last}, and {id} was never made")]
    NoSuchStream {
        /// The number given.
        id: u32,
        /// Highest number that a stream can have.
        last: u32,
    },
    /// No such priority.
    #[error("invalid mps stream priority {given}: allowed are 0 and -1 (runs first)")]
    NoSuchPriority {
        /// The number given.
        given: i32,
    },
    /// An event without timing was asked for a time.
    #[error("Events were not created with argument 'enable_timing=True' ({which} event)")]
    TimingDisabled {
        /// "start", "end" or "both".
        which: &'static str,
    },
    /// An event was asked for a time before it was recorded.
    #[error("{which} event must be recorded before calculating elapsed time.")]
    NotRecorded {
        /// "Start" or "End".
        which: &'static str,
    },
    /// Two events were timed by different clocks.
    #[error("the two events were timed by different clocks, one of the device and one of the CPU")]
    MixedClocks,
    /// Work on this stream failed before it reached the device. Raised by every wait and every new op until
    /// [`crate::stream::Stream::clear_error`]; other streams go on.
    #[error(
        "{stream} failed in {op}: {error}; later work on this stream is refused until its error is cleared"
    )]
    Poisoned {
        /// The stream.
        stream: StreamId,
        /// Name of the op that failed.
        op: String,
        /// Why.
        error: HalError,
    },
    /// The device no longer answers. Permanent until [`crate::Device::reset_global`].
    #[error(
        "the mps device was lost while it ran {op} ({reason}); tensors on it cannot be used any more. \
         rivulet.reset() opens the device anew"
    )]
    DeviceLost {
        /// The suspected op.
        op: String,
        /// The driver's words.
        reason: String,
    },
    /// Memory ran out although every cache was emptied. Transient.
    #[error("{text}")]
    OutOfMemory {
        /// Sizes and limits in words.
        text: String,
    },
    /// No adapter can be opened.
    #[error("no adapter for mps: {0}")]
    NoAdapter(String),
    /// A driver failure that concerns only this call.
    #[error("{op}: {error}")]
    Driver {
        /// What was being done.
        op: String,
        /// Why it failed.
        error: HalError,
    },
    /// No capture was begun.
    #[error(transparent)]
    Capture(#[from] rivulet_hal::CaptureError),
    /// A memory range cannot be used as asked, or a wait inside an op met another such wait.
    #[error("{0}")]
    Memory(String),
}

impl From<HazardError> for Error {
    fn from(error: HazardError) -> Self {
        match error {
            HazardError::Interrupted(interrupted) => Self::Interrupted(interrupted),
            other => Self::Memory(other.to_string()),
        }
    }
}

impl From<MemoryError> for Error {
    fn from(error: MemoryError) -> Self {
        let text = error.to_string();
        if error.is_out_of_memory() { Self::OutOfMemory { text } } else { Self::Memory(text) }
    }
}

impl Error {
    /// True where nothing on the device, or on this thread, can go on; false for the failure of one stream or call.
    pub(crate) const fn concerns_all(&self) -> bool {
        matches!(self, Self::Interrupted(_) | Self::Forked | Self::ShutDown | Self::DeviceLost { .. })
    }

    /// Wraps a driver failure; a lost device becomes [`Error::DeviceLost`].
    pub(crate) fn driver(op: &str, error: HalError) -> Self {
        match error {
            HalError::DeviceLost { reason } => Self::DeviceLost { op: op.to_owned(), reason },
            HalError::OutOfMemory { .. } => Self::OutOfMemory { text: format!("{op}: {error}") },
            error => Self::Driver { op: op.to_owned(), error },
        }
    }
}
