//! Kernels that go over a row as a whole: softmax and its like, and normalisations.
//!
//! A tensor is `[outer, size, inner]`, dense, and a row is one `(outer, inner)`. Normalisations have `inner` = 1.

use crate::dtype::{DType, Native};
use crate::features::Features;
use crate::params::RowParams;
use crate::shader::{Access, Shader, Store};

/// What is done with a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowOp {
    /// Bindings: out, x.
    Softmax,
    /// Bindings: out, x.
    LogSoftmax,
    /// Bindings: out, gradient, output.
    SoftmaxBackward,
    /// Bindings: out, gradient, output.
    LogSoftmaxBackward,
    /// Bindings: out, x, weight and bias where there are such, mean and rstd where they are kept.
    LayerNorm(Norm),
    /// Bindings: out, x, weight where there is one, rstd where it is kept.
    RmsNorm(Norm),
    /// A layer norm over the channels of a group: `inner` is 1, `size` the channels of a group times `places`, and
    /// weight and bias have one element a channel. Bindings as [`RowOp::LayerNorm`].
    GroupNorm(Norm),
    /// Bindings: gradient of x, gradient of the output, x, weight where there is one, mean, rstd.
    LayerNormBackward(NormBackward),
    /// Bindings: gradient of x, gradient of the output, x, weight where there is one, rstd.
    RmsNormBackward(NormBackward),
}

/// The operands of a normalisation's gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NormBackward {
    /// A factor for each element of a row, in the type of the input.
    pub weight: bool,
    /// Element type of the statistics that the forward kept.
    pub stats: DType,
}

/// The optional operands of a normalisation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Norm {
    /// A factor for each element of a row, in the type of the input.
    pub weight: bool,
    /// A summand for each element of a row, in the type of the input; layer norm only.
    pub bias: bool,
    /// Element type of the kept statistics, one of each a row.
    pub stats: Option<DType>,
}

/// How rows of elements narrower than a word are stored; without meaning for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowStore {
    /// Every row begins and ends with a word.
    Whole,
    /// Rows begin and end inside words; `inner` is 1.
    Ragged,
    /// Elements of a row are apart.
    Scattered,
}

/// Invocations for a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowThreads {
    /// 32: short rows, 8 of them in a workgroup.
    Few,
    /// 256.
    Many,
}

/// Key of a row kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Row {
    /// What is done.
    pub op: RowOp,
    /// Element type of the inputs.
    pub input: DType,
    /// Element type of the output.
    pub output: DType,
    /// How the output is stored.
    pub store: RowStore,
    /// Invocations for a row.
    pub threads: RowThreads,
}

impl RowOp {
    pub(super) fn label(self) -> String {
        let norm = |name: &str, norm: Norm| {
            let weight = if norm.weight { "_weight" } else { "" };
            let bias = if norm.bias { "_bias" } else { "" };
            let stats = norm.stats.map_or(String::new(), |stats| format!("_stats_{}", stats.name()));
            format!("{name}{weight}{bias}{stats}")
        };
        match self {
            Self::Softmax => "softmax".to_owned(),
            Self::LogSoftmax => "log_softmax".to_owned(),
            Self::SoftmaxBackward => "softmax_backward".to_owned(),
            Self::LogSoftmaxBackward => "log_softmax_backward".to_owned(),
            Self::LayerNorm(key) => norm("layer_norm", key),
            Self::RmsNorm(key) => norm("rms_norm", key),
            Self::GroupNorm(key) => norm("group_norm", key),
            Self::LayerNormBackward(key) => norm("layer_norm_backward", key.operands()),
            Self::RmsNormBackward(key) => norm("rms_norm_backward", key.operands()),
        }
    }

    pub(super) fn bindings(self) -> u32 {
        match self {
            Self::Softmax | Self::LogSoftmax => 2,
            Self::SoftmaxBackward | Self::LogSoftmaxBackward => 3,
            Self::LayerNorm(key) | Self::GroupNorm(key) => {
                2 + u32::from(key.weight) + u32::from(key.bias) + 2 * u32::from(key.stats.is_some())
            }
            Self::RmsNorm(key) => 2 + u32::from(key.weight) + u32::from(key.stats.is_some()),
            Self::LayerNormBackward(key) => 5 + u32::from(key.weight),
            Self::RmsNormBackward(key) => 4 + u32::from(key.weight),
        }
    }

    /// What the kept statistics need.
    pub(super) fn requires(self) -> Features {
        let stats = match self {
            Self::LayerNorm(key) | Self::RmsNorm(key) | Self::GroupNorm(key) => key.stats,
            Self::LayerNormBackward(key) | Self::RmsNormBackward(key) => Some(key.stats),
            _ => None,
        };
        stats.map_or(Features::NONE, Features::of)
    }
}

impl RowStore {
    /// The cheapest that is right for dense rows of `size` that begin at element `offset` of the output.
    pub fn choose(output: DType, offset: u32, size: u32, inner: u32) -> Self {
        let lanes = output.lanes();
        if lanes == 1 || (inner == 1 && offset.is_multiple_of(lanes) && size.is_multiple_of(lanes)) {
            Self::Whole
        } else if inner == 1 {
            Self::Ragged
        } else {
            Self::Scattered
        }
    }

    pub(super) fn store(self, output: DType) -> Store {
        match self {
            _ if output.is_wide() => Store::Wide,
            Self::Whole => Store::Whole,
            Self::Ragged => Store::Ragged,
            Self::Scattered => Store::Scattered,
        }
    }

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Ragged => "ragged",
            Self::Scattered => "scattered",
        }
    }
}

impl RowThreads {
    /// What suits rows of `size` elements.
    pub fn choose(size: u32) -> Self {
        if size <= 256 { Self::Few } else { Self::Many }
    }

    pub(super) const fn count(self) -> u32 {
        match self {
            Self::Few => 32,
            Self::Many => 256,
        }
    }
}

impl Row {
    /// The key for dense rows; `offset` is the first element of the output.
    pub fn new(op: RowOp, input: DType, output: DType, offset: u32, size: u32, inner: u32) -> Self {
        let store = RowStore::choose(output, offset, size, inner);
        Self { op, input, output, store, threads: RowThreads::choose(size) }
    }

    /// Workgroups for `rows` rows.
    pub fn groups(&self, rows: u32) -> [u32; 3] {
        super::spread(rows.div_ceil(256 / self.threads.count()))
    }

    pub(super) fn label(&self) -> String {
        let (op, input, output) = (self.op.label(), self.input.name(), self.output.name());
        format!("{op}_{input}_{output}_{}_{}", self.store.label(), self.threads.count())
    }

    pub(super) fn bindings(&self) -> u32 {
        self.op.bindings()
    }

    pub(super) fn param_bytes(&self) -> u32 {
        size_of::<RowParams>() as u32
    }

    pub(super) fn requires(&self) -> Features {
        Features::of(self.input) | Features::of(self.output) | self.op.requires()
    }

    pub(super) fn wgsl(&self) -> String {
        let threads = self.threads.count();
        let mut shader = Shader::new(
            include_str!("../../wgsl/params/row.wgsl"),
            include_str!("../../wgsl/kernel/row.wgsl"),
        )
        .compute(Native::F32)
        .set("THREADS", threads.to_string())
        .set("ROWS", (256 / threads).to_string())
        .set("A", "f32")
        .operand("out", self.output, Access::Put(self.store.store(self.output)))
        .operand("x", self.input, Access::Load);
        const FOLD: &str = include_str!("../../wgsl/kernel/row_fold.wgsl");
        let operation = match self.op {
            RowOp::Softmax | RowOp::LogSoftmax => {
                let (normalised, divisor) = if self.op == RowOp::Softmax {
                    ("exp_f32(load_x(at.y) - stat.x) / stat.y", "sum_of_all")
                } else {
                    ("(load_x(at.y) - stat.x) - stat.y", "log_f32(sum_of_all)")
                };
                shader = shader.set("NORMALISED", normalised).set("DIVISOR", divisor);
                include_str!("../../wgsl/kernel/row_softmax.wgsl")
            }
            RowOp::SoftmaxBackward | RowOp::LogSoftmaxBackward => {
                let (term, gradient) = if self.op == RowOp::SoftmaxBackward {
                    ("load_x(base.y + i) * load_y(base.z + i)", "load_y(at.z) * (load_x(at.y) - stat.x)")
                } else {
                    ("load_x(base.y + i)", "load_x(at.y) - exp_f32(load_y(at.z)) * stat.x")
                };
                shader = shader.operand("y", self.input, Access::Load);
                shader = shader.set("TERM", term).set("GRADIENT", gradient);
                include_str!("../../wgsl/kernel/row_softmax_backward.wgsl")
            }
            RowOp::LayerNorm(key) => {
                shader = self.norm(shader, key, true);
                include_str!("../../wgsl/kernel/row_norm.wgsl")
            }
            RowOp::RmsNorm(key) => {
                shader = self.norm(shader, Norm { bias: false, ..key }, false);
                include_str!("../../wgsl/kernel/row_norm.wgsl")
            }
            RowOp::GroupNorm(key) => {
                shader = self.norm(shader, key, true);
                include_str!("../../wgsl/kernel/row_norm.wgsl")
            }
            RowOp::LayerNormBackward(key) => {
                shader = self.norm_backward(shader, key, true);
                include_str!("../../wgsl/kernel/row_norm_backward.wgsl")
            }
            RowOp::RmsNormBackward(key) => {
                shader = self.norm_backward(shader, key, false);
                include_str!("../../wgsl/kernel/row_norm_backward.wgsl")
            }
        };
        shader.set("OPERATION", format!("{operation}{FOLD}")).finish()
    }

    fn norm(&self, mut shader: Shader, key: Norm, centered: bool) -> Shader {
        let mut value =
            if centered { "((load_x(at.y) - stat.x) - left_over) * stat.y" } else { "load_x(at.y) * stat.y" }
                .to_owned();
        let channel = if matches!(self.op, RowOp::GroupNorm(_)) {
            "row % p.groups * (p.size / p.places) + e / p.places"
        } else {
            "e"
        };
        if key.weight {
            shader = shader.operand("weight", self.input, Access::Load);
            value += &format!(" * load_weight(p.offsets.z + {channel})");
        }
        if key.bias {
            shader = shader.operand("bias", self.input, Access::Load);
            value += &format!(" + load_bias(p.offsets.w + {channel})");
        }
        let mut keep = String::new();
        if let Some(stats) = key.stats {
            if centered {
                shader = shader.operand("mean", stats, Access::Store);
                keep += "store_mean(p.stats.x + row, stat.x + left_over);\n    ";
            }
            shader = shader.operand("rstd", stats, Access::Store);
            keep += "store_rstd(p.stats.y + row, stat.y);";
        }
        shader.set("CENTERED", centered.to_string()).set("SCALED", value).set("KEEP", keep)
    }

    fn norm_backward(&self, mut shader: Shader, key: NormBackward, centered: bool) -> Shader {
        shader = shader.operand("y", self.input, Access::Load);
        let mut gradient = "load_x(base.y + e)".to_owned();
        if key.weight {
            shader = shader.operand("weight", self.input, Access::Load);
            gradient += " * load_weight(p.offsets.w + e)";
        }
        let mut mean = "0.0";
        if centered {
            shader = shader.operand("mean", key.stats, Access::Load);
            mean = "load_mean(p.stats.x + row)";
        }
        shader = shader.operand("rstd", key.stats, Access::Load);
        shader.set("CENTERED", centered.to_string()).set("SCALED_GRADIENT", gradient).set("MEAN", mean)
    }
}

impl NormBackward {
    const fn operands(self) -> Norm {
        Norm { weight: self.weight, bias: false, stats: Some(self.stats) }
    }
}
