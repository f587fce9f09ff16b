//! Copies and fills as kernels, so that a command buffer needs no blit pass beside its compute pass.

use super::api::Api;
use super::pipeline::Compiled;
use crate::{HalError, HostKernel, PipelineDesc, PipelineSource};

/// Threads of a group.
pub(super) const THREADS: u32 = 256;
/// Bytes that one thread moves.
pub(super) const BYTES: u64 = 16;
/// Bytes of parameters: bytes to skip at the start of each binding, or the word and those; then the count.
pub(super) const PARAM_BYTES: u32 = 16;

/// Text of all of them. Bindings begin at multiples of 16 bytes; where the bytes meant do not, they are skipped.
pub(super) const MSL: &str = include_str!("builtin.metal");

#[derive(Debug)]
pub(super) struct Builtins<A: Api> {
    /// `p`: bytes to skip in the destination and in the source, bytes to copy (low and high word).
    pub(super) copy: A::Kernel,
    /// `p`: the word, bytes to skip, words to write (low and high word).
    pub(super) fill: A::Kernel,
}

impl<A: Api> Builtins<A> {
    pub(super) fn new(api: &A) -> Result<Self, HalError> {
        let compile = |label: &str, bindings, host: HostKernel| {
            let source = if A::RUNS_HOST_KERNELS {
                PipelineSource::Host(host)
            } else {
                let entry = format!("rivulet_{label}");
                PipelineSource::Msl { text: MSL.to_owned(), entry, threadgroup: Vec::new() }
            };
            let workgroup = [THREADS, 1, 1];
            let desc = PipelineDesc {
                label: label.to_owned(),
                source,
                bindings,
                param_bytes: PARAM_BYTES,
                workgroup,
            };
            Ok::<_, HalError>(Compiled::new(api, &desc)?.kernel)
        };
        Ok(Self { copy: compile("copy", 2, copy)?, fill: compile("fill", 1, fill)? })
    }
}

/// Groups that move `bytes`.
pub(super) fn groups(bytes: u64) -> Result<[u32; 3], HalError> {
    let groups = bytes.div_ceil(BYTES * u64::from(THREADS));
    // The position of a thread in the grid has 32 bits.
    match u32::try_from(groups) {
        Ok(groups) if groups <= u32::MAX / THREADS => Ok([groups, 1, 1]),
        _ => Err(HalError::Usage(format!("copy or fill of {bytes} bytes; up to 64 GiB are allowed"))),
    }
}

fn copy(operands: &mut [&mut [u8]], _params: &[u8], _groups: [u32; 3]) {
    if let [target, source] = operands {
        target.copy_from_slice(source);
    }
}

fn fill(operands: &mut [&mut [u8]], params: &[u8], _groups: [u32; 3]) {
    if let ([target], Some(word)) = (operands, params.get(..4)) {
        target.chunks_exact_mut(4).for_each(|chunk| chunk.copy_from_slice(word));
    }
}
