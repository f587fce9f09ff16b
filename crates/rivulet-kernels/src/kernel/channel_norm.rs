//! Normalisation of channels by statistics that are given: batch_norm's inference.

use super::row::RowStore;
use crate::dtype::{DType, Native};
use crate::features::Features;
use crate::params::ChannelNormParams;
use crate::shader::{Access, Shader};

/// Key of `out = (x - mean) rstd weight + bias` for dense `[samples, channels, places]`; mean and the rest have one
/// element a channel. Bindings: out, x, mean, variance or rstd, weight and bias where there are such.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChannelNorm {
    /// Element type of input and output.
    pub dtype: DType,
    /// Element type of mean and variance.
    pub stats: DType,
    /// Element type of weight and bias.
    pub affine: DType,
    /// True where the fourth binding is the variance, false where it is 1 / sqrt(variance + eps).
    pub variance: bool,
    /// A factor for each channel.
    pub weight: bool,
    /// A summand for each channel.
    pub bias: bool,
    /// How the output is stored; never scattered.
    pub store: RowStore,
}

impl ChannelNorm {
    /// Workgroups for `count` elements whose output begins at element `offset`.
    pub fn groups(&self, offset: u32, count: u32) -> [u32; 3] {
        let lanes = self.dtype.lanes();
        super::spread((offset % lanes + count).div_ceil(lanes).div_ceil(256))
    }

    pub(super) fn label(&self) -> String {
        let (dtype, stats, affine) = (self.dtype.name(), self.stats.name(), self.affine.name());
        let variance = if self.variance { "variance" } else { "rstd" };
        let weight = if self.weight { "_weight" } else { "" };
        let bias = if self.bias { "_bias" } else { "" };
        format!("channel_norm_{dtype}_{variance}_{stats}{weight}{bias}_{affine}_{}", self.store.label())
    }

    pub(super) fn bindings(&self) -> u32 {
        4 + u32::from(self.weight) + u32::from(self.bias)
    }

    pub(super) fn param_bytes(&self) -> u32 {
        size_of::<ChannelNormParams>() as u32
    }

    pub(super) fn requires(&self) -> Features {
        let affine = if self.weight || self.bias { Features::of(self.affine) } else { Features::NONE };
        Features::of(self.dtype) | Features::of(self.stats) | affine
    }

    pub(super) fn wgsl(&self) -> String {
        let mut shader = Shader::new(
            include_str!("../../wgsl/params/channel_norm.wgsl"),
            concat!(
                include_str!("../../wgsl/kernel/channel_norm.wgsl"),
                include_str!("../../wgsl/kernel/units.wgsl")
            ),
        )
        .compute(Native::F32)
        .operand("out", self.dtype, Access::Put(self.store.store(self.dtype)))
        .operand("x", self.dtype, Access::Load)
        .operand("mean", self.stats, Access::Load)
        .operand("spread", self.stats, Access::Load);
        let spread = "load_spread(p.stats.y + c)";
        let rstd = if self.variance { format!("(1.0 / sqrt({spread} + p.eps))") } else { spread.to_owned() };
        let mut value = format!("(load_x(p.offsets.y + e) - load_mean(p.stats.x + c)) * {rstd}");
        if self.weight {
            shader = shader.operand("weight", self.affine, Access::Load);
            value += " * load_weight(p.offsets.z + c)";
        }
        if self.bias {
            shader = shader.operand("bias", self.affine, Access::Load);
            value += " + load_bias(p.offsets.w + c)";
        }
        shader.set("VALUE", value).finish()
    }
}
