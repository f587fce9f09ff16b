//! The way from a kernel's key and its operands to the calling thread's stream.

use super::no_kernel;
use super::view::View;
use crate::error::Result;
use crate::ids::Access;
use crate::memory::Block;
use crate::{Device, DeviceOp};
use rivulet_hal::sync::Arc;
use rivulet_hal::{Backend, HalError, Operand, Pipeline, PipelineDesc, PipelineSource, Recorder};
use rivulet_kernels::{Features, FloatControls, Kernel, Target, Translated, translate};
use smallvec::SmallVec;

/// Operands of a kernel that are held without allocating.
const INLINE: usize = 6;

/// Workgroups that keep any device busy; more parts than that only cost memory.
pub(super) const FILL: u32 = 512;

/// Processors that workgroups are shared out to; those of a large device where it does not tell.
pub(crate) fn processors(device: &Device) -> u32 {
    device.info().shader.processors.unwrap_or(128)
}

/// Operands of one dispatch, in binding order.
pub(super) type Operands<'v, 'b> = SmallVec<[(&'v View<'b>, Access); 8]>;

/// A number of elements as kernels count; a checked view holds no more.
pub(super) fn word(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// A kernel with its operands, in an open recorder.
pub(super) struct Dispatcher<'r> {
    recorder: &'r mut dyn Recorder,
    pipeline: &'r Arc<dyn Pipeline>,
    operands: &'r [Operand<'r>],
}

impl Dispatcher<'_> {
    /// Records one dispatch.
    pub(super) fn run(&mut self, params: &[u8], groups: [u32; 3]) -> Result<(), HalError> {
        self.recorder.dispatch_on(self.pipeline, self.operands, params, groups)
    }
}

/// Records the dispatches of one op: all of one kernel, with the same operands, in no order among each other.
/// `operands` in the order of the bindings, not empty and checked.
///
/// # Errors
/// [`crate::Error::NoKernel`], or what [`Device::record`] says.
pub(super) fn launch(
    device: &Device,
    op: &'static str,
    kernel: &Kernel,
    operands: &[(&View<'_>, Access)],
    dispatches: impl FnOnce(&mut Dispatcher<'_>) -> Result<(), HalError>,
) -> Result<()> {
    let pipeline = pipeline(device, op, kernel)?;
    let most = device.info().max_binding;
    let mut bound: SmallVec<[Operand<'_>; INLINE]> = SmallVec::new();
    let mut blocks: SmallVec<[(&Block, Access); INLINE]> = SmallVec::new();
    for &(view, access) in operands {
        bound.push(view.operand(op, access == Access::Write, most)?);
        blocks.push((view.block, access));
    }
    device.record_kernel(&DeviceOp::new(op, &blocks), kernel, operands, |recorder| {
        dispatches(&mut Dispatcher { recorder, pipeline, operands: &bound })
    })?;
    Ok(())
}

/// Records an op of one dispatch; see [`launch`].
pub(super) fn launch_once(
    device: &Device,
    op: &'static str,
    kernel: &Kernel,
    operands: &[(&View<'_>, Access)],
    params: &[u8],
    groups: [u32; 3],
) -> Result<()> {
    launch(device, op, kernel, operands, |dispatcher| dispatcher.run(params, groups))
}

/// Fails where the device cannot run kernels that need these features.
pub(super) fn require(device: &Device, op: &'static str, needs: Features) -> Result<()> {
    let info = device.info();
    if !super::has_kernels(device) {
        return no_kernel(op, format!("{} has no native kernels", info.name));
    }
    for (feature, offered, name) in [
        (Features::INT64, info.shader.int64, "64-bit integers"),
        (Features::HALF, info.shader.half, "16-bit arithmetic"),
        (Features::COOPERATIVE, info.shader.cooperative_f16, "products of cooperative matrices"),
        (Features::SIMD_MATRIX, info.shader.simd_matrix, "simdgroup matrices"),
        (Features::COOPERATIVE_BF16, info.shader.cooperative_bf16, "cooperative matrices of bfloat16"),
    ] {
        if needs.contains(feature) && !offered {
            return no_kernel(op, format!("{} has no {name}", info.name));
        }
    }
    Ok(())
}

/// The compiled kernel.
#[inline]
pub(crate) fn pipeline<'d>(
    device: &'d Device,
    op: &'static str,
    kernel: &Kernel,
) -> Result<&'d Arc<dyn Pipeline>> {
    match device.pipelines().find(kernel) {
        Some(compiled) => Ok(compiled),
        None => compile(device, op, kernel),
    }
}

#[cold]
fn compile<'d>(device: &'d Device, op: &'static str, kernel: &Kernel) -> Result<&'d Arc<dyn Pipeline>> {
    require(device, op, kernel.requires())?;
    let shader = device.info().shader;
    let controls = FloatControls {
        preserve_nan_f32: shader.preserve_nan_f32,
        preserve_subnormals_f32: shader.preserve_subnormals_f32,
        round_even_f16: shader.round_even_f16,
    };
    let compiled = device.pipelines().get(kernel, || {
        let label = kernel.label();
        let metal = device.info().backend == Backend::Metal;
        let translated = translate(kernel, if metal { Target::Msl } else { Target::SpirV(controls) });
        let source = match translated.map_err(|error| error.to_string()) {
            Ok(Translated::SpirV(words)) => PipelineSource::SpirV(words),
            Ok(Translated::Msl { text, entry, threadgroup }) => {
                PipelineSource::Msl { text, entry, threadgroup }
            }
            Err(reason) => return Err(HalError::Compile { label, reason }),
        };
        let (bindings, param_bytes, workgroup) =
            (kernel.bindings(), kernel.param_bytes(), kernel.workgroup());
        device.hal().pipeline(&PipelineDesc { label, source, bindings, param_bytes, workgroup })
    })?;
    match compiled {
        Ok(pipeline) => Ok(pipeline),
        Err(error @ HalError::Compile { .. }) => no_kernel(op, error.to_string()),
        Err(error) => Err(device.failed(op, error)),
    }
}
