//! The gradients of a normalisation's weight and bias: sums over rows, in chunks whose sums are added up by a
//! [`Reduce`](super::Reduce). The order of the additions is fixed.

use crate::dtype::{DType, Native};
use crate::features::Features;
use crate::params::NormColumnsParams;
use crate::shader::{Access, Shader};

/// Key of the sums over rows. Bindings: gradient of the weight and of the bias (either or both, each `[chunks, size]`),
/// gradient of the output, and for the weight x, mean where rows were centred, rstd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NormColumns {
    /// True where the gradient of the weight is wanted.
    pub weight: bool,
    /// True where the gradient of the bias is wanted.
    pub bias: bool,
    /// True for a layer norm, false for an RMS norm.
    pub centered: bool,
    /// Element type of x and the gradient of the output.
    pub input: DType,
    /// Element type of the statistics.
    pub stats: DType,
    /// Element type of the sums.
    pub output: DType,
}

impl NormColumns {
    /// Rows of a chunk, a multiple of 8, so that about `fill` workgroups have something to do.
    pub fn chunk(rows: u32, size: u32, fill: u32) -> u32 {
        let wanted = (fill / size.div_ceil(32).max(1)).clamp(1, super::MAX_GROUPS);
        rows.div_ceil(wanted).next_multiple_of(8).max(64)
    }

    /// Workgroups for rows of `size` elements in `chunks` chunks.
    pub fn groups(&self, size: u32, chunks: u32) -> [u32; 3] {
        [size.div_ceil(32), chunks, 1]
    }

    pub(super) fn label(&self) -> String {
        let norm = if self.centered { "layer_norm" } else { "rms_norm" };
        let weight = if self.weight { "_weight" } else { "" };
        let bias = if self.bias { "_bias" } else { "" };
        let (input, stats, output) = (self.input.name(), self.stats.name(), self.output.name());
        format!("{norm}_columns{weight}{bias}_{input}_{output}_stats_{stats}")
    }

    pub(super) fn bindings(&self) -> u32 {
        let statistics = if self.weight { 2 + u32::from(self.centered) } else { 0 };
        u32::from(self.weight) + u32::from(self.bias) + 1 + statistics
    }

    pub(super) fn param_bytes(&self) -> u32 {
        size_of::<NormColumnsParams>() as u32
    }

    pub(super) fn requires(&self) -> Features {
        let stats = if self.weight { Features::of(self.stats) } else { Features::NONE };
        Features::of(self.input) | Features::of(self.output) | stats
    }

    pub(super) fn wgsl(&self) -> String {
        let mut shader = Shader::new(
            include_str!("../../wgsl/params/norm_columns.wgsl"),
            include_str!("../../wgsl/kernel/norm_columns.wgsl"),
        )
        .compute(Native::F32);
        let mut stores = String::new();
        if self.weight {
            shader = shader.operand("weight", self.output, Access::Store);
            stores += "store_weight(p.offsets.x + to, total.x);\n";
        }
        if self.bias {
            shader = shader.operand("bias", self.output, Access::Store);
            stores += "store_bias(p.offsets.y + to, total.y);";
        }
        shader = shader.operand("gradient", self.input, Access::Load);
        let mut term = "0.0";
        if self.weight {
            shader = shader.operand("x", self.input, Access::Load);
            term = "gradient * (load_x(p.offsets.w + at) * load_rstd(p.stats.y + row))";
            if self.centered {
                shader = shader.operand("mean", self.stats, Access::Load);
                term = "gradient * ((load_x(p.offsets.w + at) - load_mean(p.stats.x + row)) \
                        * load_rstd(p.stats.y + row))";
            }
            shader = shader.operand("rstd", self.stats, Access::Load);
        }
        shader.set("WEIGHT_TERM", term).set("STORES", stores).finish()
    }
}
