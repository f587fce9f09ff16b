//! Captures: all that a device does for a while, in a document for the debugger of its vendor.

use crate::blocking;
use crate::device::Device;
use crate::error::Result;
use rivulet_hal::sync::atomic::{AtomicU32, Ordering};
use rivulet_hal::{Capture, CaptureError, sync};
use std::path::{Path, PathBuf};

const EXTENSION: &str = "gputrace";

sync::global! {
    // Numbers the documents of the process, as PyTorch does.
    static BEGUN: AtomicU32 = AtomicU32::new(0);
}

/// `NNNN-name.gputrace`, in the folder that `name` is in.
fn document(name: &str, number: u32) -> PathBuf {
    let name = Path::new(name);
    let name = if name.extension().is_some_and(|end| end == EXTENSION) {
        name.with_extension("")
    } else {
        name.to_owned()
    };
    let last = name.file_name().unwrap_or_default().to_string_lossy();
    let document = name.with_file_name(format!("{number:04}-{last}.{EXTENSION}"));
    // Fails for an empty path alone, which this is not.
    std::path::absolute(&document).unwrap_or(document)
}

impl Device {
    fn captures(&self) -> Result<&dyn Capture, CaptureError> {
        let adapter = || self.info().name.clone();
        self.hal().capture().ok_or_else(|| CaptureError::Unsupported { adapter: adapter() })
    }

    /// Whether [`Device::start_capture`] can begin one: on Metal, in a process that was started with
    /// `MTL_CAPTURE_ENABLED=1`.
    pub fn can_capture(&self) -> bool {
        self.captures().is_ok_and(Capture::is_enabled)
    }

    /// Whether a capture is being recorded, by anybody in this process.
    pub fn is_capturing(&self) -> bool {
        self.captures().is_ok_and(Capture::is_capturing)
    }

    /// Records what all streams do from now on, into a document whose path is the answer: `NNNN-name.gputrace`, in the
    /// working directory or the folder that `name` says, numbered by the captures that this process has begun. First
    /// waits for what was recorded before. Any thread; others may go on working, and are captured too.
    ///
    /// # Errors
    /// [`Error::Capture`](crate::Error::Capture): nothing was begun. The device's failure, or a signal.
    pub fn start_capture(&self, name: &str) -> Result<PathBuf> {
        self.check()?;
        let captures = self.captures()?;
        self.settle()?;
        let document = document(name, BEGUN.load(Ordering::Relaxed));
        let mut outcome = Ok(());
        blocking::wait_loop(|_| {
            outcome = captures.start(&document);
            true
        })?;
        outcome?;
        BEGUN.fetch_add(1, Ordering::Relaxed);
        Ok(document)
    }

    /// Ends the capture of this device and writes its document, with everything that was recorded before this call. The
    /// document; `None` where no capture of this device's is recorded. May take seconds. Any thread.
    ///
    /// # Errors
    /// The device's failure, or a signal: the capture is ended all the same.
    pub fn stop_capture(&self) -> Result<Option<PathBuf>> {
        let Ok(captures) = self.captures() else { return Ok(None) };
        let settled = self.settle();
        let mut document = None;
        blocking::wait_loop(|_| {
            document = captures.stop();
            true
        })?;
        settled.map(|()| document)
    }

    /// Waits for what every stream was given. A stream that failed says so to who waits for it.
    fn settle(&self) -> Result<()> {
        match self.synchronize() {
            Err(error) if error.concerns_all() => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::document;

    #[test]
    fn a_document_is_numbered_and_lies_where_its_name_says() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(document("bert", 0), here.join("0000-bert.gputrace"));
        assert_eq!(document("x.gputrace", 12), here.join("0012-x.gputrace"));
        assert_eq!(document("v1.5", 3), here.join("0003-v1.5.gputrace"));
        assert_eq!(document("/tmp/runs/one", 1), std::path::Path::new("/tmp/runs/0001-one.gputrace"));
    }
}
