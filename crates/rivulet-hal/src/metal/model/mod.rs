//! A model of Metal's rules that takes the driver's calls on any machine and runs kernels that are Rust functions.
//!
//! It is the other side of the traits that Metal itself is behind, so the code that makes the calls is the same. What
//! Metal would answer with an assertion, a crash or wrong bytes is a *fault* here, kept in [`ModelControl::faults`]:
//!
//! - a second encoder while one is open; anything encoded after an encoder's end or a command buffer's commit; a commit
//!   with an open encoder, or twice; a completion handler after the commit; an encoder let go without being ended,
//! - a command buffer or encoder used by another thread than the one that made it, or made outside an autorelease pool,
//! - more command buffers than the queue holds, where Metal's call would block,
//! - a buffer, kernel, event or fence released before a command buffer that names it has completed,
//! - an event that is signalled with a value not above the one before,
//! - a fence waited for that no pass has updated, in a pass that has begun to dispatch, or on another queue,
//! - a capture begun or ended while a command buffer is open, which would be missing in its document, or ended where none
//!   is recorded,
//! - a buffer index, offset or length beyond Metal's limits, a binding that is missing, lengths that are not the bindings',
//! - two accesses to the same bytes, one of them a write, that nothing orders: no barrier in the pass, no fence between
//!   passes, no event, and for the CPU no value that it has seen signalled. Judged by happens-before, whatever the timing.
//!
//! Command buffers of a queue run one after the other on a thread of its own, after a random delay; completion handlers
//! come later than the signals, again after a delay.

mod api;
mod capture;
mod control;
mod execute;
mod order;
mod record;
#[cfg(test)]
mod rules;
mod state;

pub use control::{CaptureDocument, FailingCommands, ModelControl};

use super::Options;
use super::device::MetalDevice;
use crate::{AdapterClass, AdapterInfo, Backend, Device, HalError, ShaderFeatures};
use std::sync::Arc;
use std::time::Duration;

/// What to model.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// How the device is opened. Default: one queue.
    pub options: Options,
    /// Seed of the random delays. Default 0.
    pub seed: u64,
    /// Longest delay before a command buffer, and before its handlers. Default 100 µs.
    pub delay: Duration,
    /// Bytes that can be allocated in total. Default 1 GiB.
    pub memory_bytes: u64,
    /// How long a command buffer may wait for an event before that is a fault. Default 10 s.
    pub deadlock_after: Duration,
    /// Whether `MTL_CAPTURE_ENABLED=1` was there when the process started. Default false.
    pub captures: bool,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            options: Options::default(),
            seed: 0,
            delay: Duration::from_micros(100),
            memory_bytes: 1 << 30,
            deadlock_after: Duration::from_secs(10),
            captures: false,
        }
    }
}

/// Opens the driver on a model of Metal.
///
/// # Errors
/// [`HalError::Usage`] for options that are not allowed.
pub fn open(config: &ModelConfig) -> Result<(Arc<dyn Device>, ModelControl), HalError> {
    let (queues, encoders) = config.options.checked()?;
    let info = AdapterInfo {
        name: "Metal model".to_owned(),
        backend: Backend::Metal,
        class: AdapterClass::Cpu,
        driver: format!("rivulet metal model {}", env!("CARGO_PKG_VERSION")),
        queues,
        unified_memory: true,
        inline_completion: false,
        memory_bytes: config.memory_bytes,
        max_allocation: config.memory_bytes,
        max_binding: config.memory_bytes.min(u64::from(u32::MAX)),
        float64: false,
        shader: ShaderFeatures { half: true, simd_matrix: true, ..ShaderFeatures::default() },
    };
    let model = api::Model::new(config);
    let control = ModelControl::new(Arc::clone(&model.world));
    Ok((MetalDevice::open(model, info, encoders)?, control))
}
