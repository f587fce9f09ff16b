//! Native ops: kernels of [`rivulet_kernels`], recorded on the calling thread's stream.
//!
//! An operand is a [`View`] of a block. Waits, barriers and order follow from the blocks, as for everything that is
//! recorded; a kernel is compiled at its first use, by one thread. Shapes, types and aliasing are the caller's to get
//! right as PyTorch defines them; what a kernel cannot do is an error that names the op, and nothing is recorded.

mod conv;
mod group_norm;
mod launch;
mod loss;
mod norm_backward;
mod pointwise;
mod sort;
mod view;

pub use conv::{ConvGeometry, conv2d, conv2d_transposed, conv2d_weight_gradient};
pub use group_norm::{Spread, batch_norm, group_norm};
pub use loss::{LossReduction, NllOperands, embedding_backward, nll_loss, nll_loss_backward};
pub use norm_backward::{NormGradient, norm_backward};
pub use pointwise::pointwise;
pub use rivulet_kernels::params::Scalar;
pub use rivulet_kernels::{DType, Op};
pub use sort::sort;
pub use view::View;

use crate::Device;
use crate::error::{Error, Result};
use rivulet_hal::sync::Arc;
use rivulet_hal::{Backend, HalError, Pipeline, PipelineDesc, PipelineSource};
use rivulet_kernels::{Features, FloatControls, Kernel, Target, Translated, translate};

fn refuse<T>(op: &'static str, reason: String) -> Result<T> {
    Err(Error::BadOperand { op, reason })
}

/// The compiled kernel.
fn pipeline(device: &Device, op: &'static str, kernel: &Kernel) -> Result<Arc<dyn Pipeline>> {
    let info = device.info();
    if info.backend != Backend::Vulkan {
        return refuse(op, format!("{} has no native kernels", info.name));
    }
    let shader = info.shader;
    let needs = kernel.requires();
    for (feature, offered, name) in [
        (Features::INT64, shader.int64, "64-bit integers"),
        (Features::HALF, shader.half, "16-bit arithmetic"),
    ] {
        if needs.contains(feature) && !offered {
            return refuse(op, format!("{} has no {name}", info.name));
        }
    }
    let controls = FloatControls {
        preserve_nan_f32: shader.preserve_nan_f32,
        preserve_subnormals_f32: shader.preserve_subnormals_f32,
        round_even_f16: shader.round_even_f16,
    };
    let compiled = device.pipelines().get(kernel, || {
        let label = kernel.label();
        let translated = translate(kernel, Target::SpirV(controls));
        let source = match translated.map_err(|error| error.to_string()) {
            Ok(Translated::SpirV(words)) => PipelineSource::SpirV(words),
            Ok(Translated::Msl { text, entry }) => PipelineSource::Msl { text, entry },
            Err(reason) => return Err(HalError::Compile { label, reason }),
        };
        let (bindings, param_bytes, workgroup) =
            (kernel.bindings(), kernel.param_bytes(), kernel.workgroup());
        device.hal().pipeline(&PipelineDesc { label, source, bindings, param_bytes, workgroup })
    })?;
    compiled.map_err(|error| device.failed(op, error))
}
