//! `MTLCaptureManager`. A document is a folder, as Metal's are, and holds the labels of what was captured.

use super::control::CaptureDocument;
use super::record::check_pool;
use super::state::{State, World};
use crate::metal::api::Fault;
use crate::metal::capture::{ALREADY_CAPTURING, INVALID_DESCRIPTOR, NOT_SUPPORTED};
use std::path::Path;

impl World {
    pub(super) fn start_capture(&self, document: &Path) -> Result<(), Fault> {
        let refused = |code, text: &str| Err(Fault { code, text: text.to_owned() });
        self.change(|state| {
            check_pool(state, "a capture's descriptor");
            if !self.captures {
                return refused(NOT_SUPPORTED, "captures are not supported");
            }
            if state.capture.is_some() {
                return refused(ALREADY_CAPTURING, "a capture is in progress");
            }
            let has_place = document.is_absolute() && document.parent().is_some_and(Path::is_dir);
            if !has_place || document.exists() || document.extension().is_none_or(|end| end != "gputrace") {
                return refused(INVALID_DESCRIPTOR, "the output URL is not that of a new document");
            }
            state.check_no_open_commands("startCapture");
            state.capture = Some(CaptureDocument { path: document.to_owned(), commands: Vec::new() });
            Ok(())
        })
    }

    pub(super) fn stop_capture(&self) {
        let ended = self.change(|state| {
            state.check_no_open_commands("stopCapture");
            let ended = state.capture.take();
            match &ended {
                Some(document) => state.documents.push(document.clone()),
                None => state.fault("stopCapture: no capture is recorded".to_owned()),
            }
            ended
        });
        let Some(CaptureDocument { path, commands }) = ended else { return };
        let written =
            std::fs::create_dir(&path).and_then(|()| std::fs::write(path.join("index"), commands.join("\n")));
        if let Err(error) = written {
            self.change(|state| state.fault(format!("stopCapture: {}: {error}", path.display())));
        }
    }
}

impl State {
    fn check_no_open_commands(&mut self, call: &str) {
        if let Some(recording) = self.recordings.values().next() {
            let text = format!("{call}: command buffer `{}` is open and will be missing", recording.label);
            self.fault(text);
        }
    }
}
