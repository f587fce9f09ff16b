//! Captures: what a device does, recorded into a document for the debugger of its vendor.

use std::path::{Path, PathBuf};

/// Why no capture was begun. Nothing was recorded, and one that was going on goes on.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum CaptureError {
    /// The driver has no captures. Permanent.
    #[error("a capture needs Apple's Metal, and this mps device runs on {adapter}")]
    Unsupported {
        /// Name of the device's adapter.
        adapter: String,
    },
    /// Metal writes no documents in this process. Permanent: it reads the variable when the process starts.
    #[error(
        "no capture: Metal records captures only in a process that was started with MTL_CAPTURE_ENABLED=1"
    )]
    NotEnabled,
    /// One at a time in a process.
    #[error("no capture into {}: one is being recorded already{}", document.display(), words(running))]
    Running {
        /// What was asked for.
        document: PathBuf,
        /// Where the other goes; `None` where this device has not begun it.
        running: Option<PathBuf>,
    },
    /// A capture replaces nothing.
    #[error("no capture into {}: it exists already; remove it, or choose another name", document.display())]
    Exists {
        /// What was asked for.
        document: PathBuf,
    },
    /// The driver's refusal.
    #[error("no capture into {}: {reason}", document.display())]
    Refused {
        /// What was asked for.
        document: PathBuf,
        /// The driver's words.
        reason: String,
    },
}

fn words(running: &Option<PathBuf>) -> String {
    running.as_ref().map_or_else(String::new, |path| format!(", into {}", path.display()))
}

/// A device's captures, of which one at a time is recorded. All methods may be called from any thread; those that begin
/// and end one keep submissions out for as long as they take.
pub trait Capture: Send + Sync {
    /// Whether the driver writes captures in this process.
    fn is_enabled(&self) -> bool;
    /// Whether one is being recorded, by anybody in this process.
    fn is_capturing(&self) -> bool;
    /// Records every submission from now on. `document` is absolute, ends with `.gputrace`, and does not exist.
    ///
    /// # Errors
    /// Any [`CaptureError`] but the first.
    fn start(&self, document: &Path) -> Result<(), CaptureError>;
    /// Ends the capture that [`Capture::start`] began and writes the document, with what was submitted before: which may
    /// take seconds. Its path; `None` where this device records none.
    fn stop(&self) -> Option<PathBuf>;
}
