use super::state::World;
use crate::sync::Arc;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A command buffer that is to fail: the next one with this label.
#[derive(Clone, Debug)]
pub struct FailingCommands {
    /// Label of the submission.
    pub label: String,
    /// A number of `MTLCommandBufferError`, for example 8, OutOfMemory.
    pub code: usize,
    /// The driver's words.
    pub text: String,
}

/// A document that a capture was written into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureDocument {
    /// Where.
    pub path: PathBuf,
    /// Labels of the command buffers that were made and committed meanwhile, in the order of their commits.
    pub commands: Vec<String>,
}

/// The test's hand on a model. May be used from any thread, and after the device was dropped.
#[derive(Clone, Debug)]
pub struct ModelControl {
    world: Arc<World>,
}

impl ModelControl {
    pub(super) fn new(world: Arc<World>) -> Self {
        Self { world }
    }

    /// Every breach of a rule so far. Empty where the driver and its caller did all right.
    pub fn faults(&self) -> Vec<String> {
        self.world.state.lock().faults.clone()
    }

    /// As [`ModelControl::faults`], and forgets them.
    pub fn take_faults(&self) -> Vec<String> {
        self.world.change(|state| std::mem::take(&mut state.faults))
    }

    /// Makes a command buffer fail without running, once.
    pub fn fail(&self, which: FailingCommands) {
        self.world.change(|state| state.failing.push(which));
    }

    /// Lets no queue start another command buffer.
    pub fn hold(&self) {
        self.world.change(|state| state.held = true);
    }

    /// Undoes [`ModelControl::hold`].
    pub fn release(&self) {
        self.world.change(|state| state.held = false);
    }

    /// Waits until no queue has work left and all handlers have returned; false where that takes longer than `timeout`.
    pub fn wait_idle(&self, timeout: Duration) -> bool {
        let start = Instant::now();
        let mut state = self.world.state.lock();
        loop {
            if state.running == 0 && state.queues.values().all(|queue| queue.buffers == 0) {
                return true;
            }
            let left = timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                return false;
            }
            (state, _) = self.world.changed.wait_timeout(state, left);
        }
    }

    /// Labels of the command buffers committed so far, in order.
    pub fn committed(&self) -> Vec<String> {
        self.world.state.lock().committed.iter().map(|label| label.to_string()).collect()
    }

    /// The captures that were ended so far.
    pub fn captures(&self) -> Vec<CaptureDocument> {
        self.world.state.lock().documents.clone()
    }

    /// Begins or ends a capture as another user of Metal in the process does, Xcode for one.
    pub fn capture_by_another(&self, path: Option<PathBuf>) {
        self.world
            .change(|state| state.capture = path.map(|path| CaptureDocument { path, commands: Vec::new() }));
    }

    /// The most command buffers that a queue held at a time.
    pub fn most_in_flight(&self) -> usize {
        self.world.state.lock().most_in_flight
    }

    /// The most threads that had command buffers open at a time.
    pub fn most_encoding(&self) -> usize {
        self.world.state.lock().most_encoding
    }

    /// Bytes of the buffers that are not released.
    pub fn held_bytes(&self) -> u64 {
        self.world.state.lock().buffers.values().map(|storage| storage.0.len()).sum()
    }
}
