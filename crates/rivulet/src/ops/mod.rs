//! Native ops: kernels of [`rivulet_kernels`], recorded on the calling thread's stream.
//!
//! An operand is a [`View`] of a block, with any strides. Waits, barriers and order follow from the blocks, as for
//! everything that is recorded; a kernel is compiled at its first use, by one thread. Where a kernel wants dense
//! operands, an op makes dense copies on the device first. Shapes, types and aliasing are the caller's to get right as
//! PyTorch defines them.
//!
//! Every function here may be called from any thread, and answers in one of three ways where it cannot do its work:
//!
//! - [`Error::NoKernel`]: there is no kernel for these types, on this device or at this size. Nothing that the caller
//!   can see was changed, and another way to compute the op may do.
//! - [`Error::BadOperand`]: operands that do not fit together, or a view outside its block. Nothing was recorded.
//! - what [`Device::record`] says.
//!
//! Indices are read on the device, and cannot be errors: what lies outside is read as 0 and written nowhere.

pub(crate) mod attention;
mod conv;
mod copy;
mod group_norm;
mod index;
mod int_matmul;
mod join;
pub(crate) mod launch;
mod loss;
mod matmul;
mod norm_backward;
mod pad;
mod pointwise;
mod pool;
mod random;
mod reduce;
mod resample;
mod rows;
mod search;
mod sort;
mod temporary;
mod unfold;
mod view;
mod walk;

pub use attention::attention;
pub use conv::{ConvGeometry, conv2d, conv2d_transposed, conv2d_weight_gradient};
pub use copy::{copy, fill};
pub use group_norm::{Spread, batch_norm, group_norm};
pub use index::{ScatterSource, gather, index, index_put, index_select, scatter};
pub use int_matmul::int_matmul;
pub use join::join;
pub use loss::{LossReduction, NllOperands, embedding_backward, nll_loss, nll_loss_backward};
pub use matmul::matmul;
pub use norm_backward::{NormGradient, norm_backward};
pub use pad::{PadMode, pad, pad_backward};
pub use pointwise::pointwise;
pub use pool::{PoolDivisor, Windows, average_pool, average_pool_backward, max_pool};
pub use random::random;
pub use reduce::reduce;
pub use resample::{ResampleMode, resample, resample_backward};
pub use rivulet_kernels::params::Scalar;
pub use rivulet_kernels::{DType, Kernel, Op, ReduceOp, ScanOp, ScatterOp};
pub use rows::{layer_norm, rms_norm, scan, scan_with_places, softmax, softmax_backward};
pub use search::search;
pub use sort::sort;
pub use unfold::{Blocks, fold, unfold};
pub use view::View;

use crate::Device;
use crate::error::{Error, Result};

/// True where the device has kernels, false where PyTorch's CPU kernels do the work.
pub fn has_kernels(device: &Device) -> bool {
    matches!(device.info().backend, rivulet_hal::Backend::Vulkan | rivulet_hal::Backend::Metal)
}

#[cold]
fn refuse<T>(op: &'static str, reason: String) -> Result<T> {
    Err(Error::BadOperand { op, reason })
}

#[cold]
fn no_kernel<T>(op: &'static str, reason: String) -> Result<T> {
    Err(Error::NoKernel { op, reason })
}

/// Bytes of `count` elements.
fn dtype_bytes(dtype: DType, count: u64) -> u64 {
    count.saturating_mul(u64::from(dtype.size()))
}
