//! Captures through `MTLCaptureManager`, which a process has one of.

use super::api::Api;
use super::device::MetalDevice;
use crate::sync::{Mutex, Rank};
use crate::{Capture, CaptureError};
use std::path::{Path, PathBuf};

/// Numbers of `MTLCaptureError`.
pub(super) const NOT_SUPPORTED: usize = 1;
pub(super) const ALREADY_CAPTURING: usize = 2;
pub(super) const INVALID_DESCRIPTOR: usize = 3;

/// The capture that this device records.
#[derive(Debug)]
pub(super) struct Recording(Mutex<State>);

#[derive(Clone, Debug)]
enum State {
    None,
    /// A thread is inside Metal's calls, which are made without the lock.
    Changing(PathBuf),
    Into(PathBuf),
}

impl Recording {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Rank::DRIVER, State::None))
    }

    /// Goes from no capture to the beginning of one; otherwise the document of the other.
    fn begin(&self, document: &Path) -> Result<(), PathBuf> {
        let mut state = self.0.lock();
        match &*state {
            State::None => {
                *state = State::Changing(document.to_owned());
                Ok(())
            }
            State::Changing(other) | State::Into(other) => Err(other.clone()),
        }
    }

    /// Goes from a capture to its end.
    fn end(&self) -> Option<PathBuf> {
        let mut state = self.0.lock();
        let State::Into(document) = state.clone() else { return None };
        *state = State::Changing(document.clone());
        Some(document)
    }

    fn set(&self, state: State) {
        *self.0.lock() = state;
    }
}

impl<A: Api> Capture for MetalDevice<A> {
    fn is_enabled(&self) -> bool {
        A::pool(|| self.shared.api.can_capture())
    }

    fn is_capturing(&self) -> bool {
        A::pool(|| self.shared.api.is_capturing())
    }

    fn start(&self, document: &Path) -> Result<(), CaptureError> {
        let own = || document.to_owned();
        if !self.is_enabled() {
            return Err(CaptureError::NotEnabled);
        }
        self.recording
            .begin(document)
            .map_err(|running| CaptureError::Running { document: own(), running: Some(running) })?;
        let outcome = if document.exists() {
            Err(CaptureError::Exists { document: own() })
        } else {
            // A command buffer that is open now would not be in the document, and its work not explained.
            let _alone = self.shared.slots.take_all();
            A::pool(|| self.shared.api.start_capture(document)).map_err(|fault| match fault.code {
                NOT_SUPPORTED => CaptureError::NotEnabled,
                // Begun by somebody else: Xcode, or another user of Metal in this process.
                ALREADY_CAPTURING => CaptureError::Running { document: own(), running: None },
                _ => CaptureError::Refused { document: own(), reason: fault.text },
            })
        };
        self.recording.set(if outcome.is_ok() { State::Into(own()) } else { State::None });
        outcome
    }

    fn stop(&self) -> Option<PathBuf> {
        let document = self.recording.end()?;
        {
            // Metal leaves out what is encoded and not committed.
            let _alone = self.shared.slots.take_all();
            A::pool(|| {
                // Xcode's user may have ended it.
                if self.shared.api.is_capturing() {
                    self.shared.api.stop_capture();
                }
            });
        }
        self.recording.set(State::None);
        Some(document)
    }
}
