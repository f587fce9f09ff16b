//! What the drivers share that run on the CPU's memory: allocation, recorded commands, the clock.

mod command;
mod memory;
#[cfg(not(loom))]
mod mirror;
mod system;
mod transfer;

#[cfg(not(loom))]
pub(crate) use command::Op;
pub(crate) use command::{Command, Recording, Span, Timestamps};
pub(crate) use memory::{Allocation, Budget};
#[cfg(not(loom))]
pub(crate) use mirror::Mirror;
pub(crate) use system::{memory_limit, physical_memory};
pub use transfer::{copy_bytes, read_bytes, write_bytes};

use crate::sync::Arc;
use crate::{ByteRange, HalError, HostKernel, PipelineDesc, PipelineSource};
use std::time::Instant;

/// Nanoseconds of the monotonic clock since the first call in this process.
pub(crate) fn now_ns() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}

/// Refuses a range that does not lie inside `size` bytes.
pub(crate) fn check_range(range: ByteRange, size: u64, what: &str) -> Result<(), HalError> {
    if range.start <= range.end && range.end <= size {
        return Ok(());
    }
    let ByteRange { start, end } = range;
    Err(HalError::Usage(format!("{what}: bytes {start}..{end} of a memory of {size} bytes")))
}

/// Refuses a copy whose ranges differ in length, or that share bytes of one memory as `overlap` says.
pub(crate) fn check_copy(from: ByteRange, to: ByteRange, overlap: bool) -> Result<(), HalError> {
    if from.len() != to.len() {
        let text = format!("copy: source has {} bytes, destination {}; must be equal", from.len(), to.len());
        return Err(HalError::Usage(text));
    }
    if overlap {
        let text = format!(
            "copy: source {}..{} and destination {}..{} share bytes of one memory",
            from.start, from.end, to.start, to.end
        );
        return Err(HalError::Usage(text));
    }
    Ok(())
}

/// Refuses a fill of anything but whole words.
pub(crate) fn check_fill(ByteRange { start, end }: ByteRange) -> Result<(), HalError> {
    if start % 4 == 0 && end % 4 == 0 {
        return Ok(());
    }
    Err(HalError::Usage(format!("fill: bytes {start}..{end}; both ends must be multiples of 4")))
}

/// A Rust function as a pipeline, the only kind these drivers run.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    pub(crate) label: Arc<str>,
    function: HostKernel,
    bindings: u32,
    param_bytes: u32,
}

impl Kernel {
    pub(crate) fn new(desc: &PipelineDesc, driver: &str) -> Result<Self, HalError> {
        let found = match &desc.source {
            PipelineSource::Host(function) => {
                let (bindings, param_bytes) = (desc.bindings, desc.param_bytes);
                return Ok(Self {
                    label: desc.label.as_str().into(),
                    function: *function,
                    bindings,
                    param_bytes,
                });
            }
            PipelineSource::SpirV(_) => "SPIR-V",
            PipelineSource::Msl { .. } => "Metal Shading Language",
        };
        let reason =
            format!("the {driver} driver runs Rust functions (PipelineSource::Host) only, not {found}");
        Err(HalError::Compile { label: desc.label.clone(), reason })
    }
}
