//! What a driver can report.

/// A failure of the driver or of its use. Every variant leaves the device as it was before the call, except
/// [`HalError::DeviceLost`], after which every call fails the same way.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum HalError {
    /// Transient: may succeed after memory was freed.
    #[error("out of device memory: {requested} bytes requested ({detail})")]
    OutOfMemory {
        /// Bytes asked for.
        requested: u64,
        /// The driver's words, limits included.
        detail: String,
    },
    /// Permanent: the device no longer answers.
    #[error("device lost: {reason}")]
    DeviceLost {
        /// The driver's words and the label of the suspected submission.
        reason: String,
    },
    /// The kernel did not compile.
    #[error("kernel {label} did not compile: {reason}")]
    Compile {
        /// Pipeline label.
        label: String,
        /// Compiler output.
        reason: String,
    },
    /// Two accesses to the same bytes were not ordered (reported by the sim).
    #[error("unsynchronised access to device memory: {0}")]
    Race(String),
    /// The caller broke the contract of this crate.
    #[error("driver interface misused: {0}")]
    Usage(String),
}

/// A failed [`crate::Device::submit`].
#[derive(Clone, Debug, thiserror::Error)]
#[error("submission {accepted} failed: {error}")]
pub struct SubmitFailure {
    /// Submissions accepted before the failing one.
    pub accepted: usize,
    /// Why the next one failed.
    pub error: HalError,
}
