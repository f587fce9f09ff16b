//! The negative log likelihood and its gradient, and the gradient of an embedding's table.

use super::row::RowStore;
use crate::dtype::{DType, Native};
use crate::features::Features;
use crate::params::{EmbeddingGradientParams, NllParams};
use crate::shader::{Access, Shader};

/// How the losses of rows become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LossReduction {
    /// They do not.
    None,
    /// Their sum over the sum of their weights.
    Mean,
    /// Their sum.
    Sum,
}

impl LossReduction {
    const fn label(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Mean => "mean",
            Self::Sum => "sum",
        }
    }
}

/// What a [`Nll`] kernel computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NllPass {
    /// Bindings: out, the sum of the weights unless nothing is reduced, x, target, weight where there is one.
    Forward,
    /// Bindings: gradient of x, gradient of the loss, target, the sum of the weights for a mean, weight where there is
    /// one. Says how the gradient of x is stored; never scattered.
    Backward(RowStore),
}

/// Key of a negative log likelihood of dense `[samples, classes, inner]` with targets `[samples, inner]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Nll {
    /// Which direction.
    pub pass: NllPass,
    /// How losses are reduced.
    pub reduction: LossReduction,
    /// Element type of everything but the target; sums are in float32.
    pub dtype: DType,
    /// Element type of the target.
    pub target: DType,
    /// True where classes have weights.
    pub weight: bool,
}

impl Nll {
    /// Workgroups for `rows` targets of `classes` classes whose output begins at element `offset`.
    pub fn groups(&self, offset: u32, rows: u32, classes: u32) -> [u32; 3] {
        match (self.pass, self.reduction) {
            (NllPass::Forward, LossReduction::None) => super::spread(rows.div_ceil(256)),
            (NllPass::Forward, _) => [1, 1, 1],
            (NllPass::Backward(_), _) => {
                let lanes = self.dtype.lanes();
                super::spread((offset % lanes + rows * classes).div_ceil(lanes).div_ceil(256))
            }
        }
    }

    fn has_total(&self) -> bool {
        match self.pass {
            NllPass::Forward => self.reduction != LossReduction::None,
            NllPass::Backward(_) => self.reduction == LossReduction::Mean,
        }
    }

    pub(super) fn label(&self) -> String {
        let pass = match self.pass {
            NllPass::Forward => "forward",
            NllPass::Backward(RowStore::Ragged) => "backward_ragged",
            NllPass::Backward(_) => "backward",
        };
        let weight = if self.weight { "_weight" } else { "" };
        let (dtype, target) = (self.dtype.name(), self.target.name());
        format!("nll_{pass}_{}_{dtype}_{target}{weight}", self.reduction.label())
    }

    pub(super) fn bindings(&self) -> u32 {
        3 + u32::from(self.has_total()) + u32::from(self.weight)
    }

    pub(super) fn param_bytes(&self) -> u32 {
        size_of::<NllParams>() as u32
    }

    pub(super) fn requires(&self) -> Features {
        Features::of(self.dtype) | Features::of(self.target)
    }

    pub(super) fn wgsl(&self) -> String {
        let body = match (self.pass, self.reduction) {
            (NllPass::Forward, LossReduction::None) => concat!(
                include_str!("../../wgsl/kernel/nll.wgsl"),
                include_str!("../../wgsl/kernel/nll_forward.wgsl"),
                include_str!("../../wgsl/kernel/nll_each.wgsl")
            ),
            (NllPass::Forward, _) => concat!(
                include_str!("../../wgsl/kernel/nll.wgsl"),
                include_str!("../../wgsl/kernel/nll_forward.wgsl"),
                include_str!("../../wgsl/kernel/nll_all.wgsl")
            ),
            (NllPass::Backward(_), _) => concat!(
                include_str!("../../wgsl/kernel/nll.wgsl"),
                include_str!("../../wgsl/kernel/nll_backward.wgsl")
            ),
        };
        let mut shader = Shader::new(include_str!("../../wgsl/params/nll.wgsl"), body).compute(Native::F32);
        if let NllPass::Backward(store) = self.pass {
            shader = shader.operand("out", self.dtype, Access::Put(store.store(self.dtype)));
        } else {
            shader = shader.operand("out", self.dtype, Access::Store);
            if self.has_total() {
                shader = shader.operand("total", self.dtype, Access::Store);
            }
        }
        shader = shader.operand("x", self.dtype, Access::Load).operand("goal", self.target, Access::Load);
        if self.pass != NllPass::Forward && self.has_total() {
            shader = shader.operand("total", self.dtype, Access::Load);
        }
        let mut weight = "1.0";
        if self.weight {
            shader = shader.operand("weight", self.dtype, Access::Load);
            weight = "load_weight(p.offsets.w + u32(target_class))";
        }
        let gradient = match self.reduction {
            LossReduction::None => "load_x(p.offsets.y + row)",
            LossReduction::Sum => "load_x(p.offsets.y)",
            LossReduction::Mean => "load_x(p.offsets.y) / load_total(p.total)",
        };
        let loss = if self.reduction == LossReduction::Mean { "total.x / total.y" } else { "total.x" };
        shader.set("WEIGHT", weight).set("GRADIENT", gradient).set("LOSS", loss).finish()
    }
}

/// Key of the gradient of an embedding's table. Bindings: out (`[rows, size]`, zero before), sorted indices, their
/// order (int64), gradient (`[count, size]`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EmbeddingGradient {
    /// Element type; sums are in float32.
    pub dtype: DType,
    /// Element type of the sorted indices.
    pub index: DType,
    /// True where a row's sum is divided by how often it was used.
    pub by_frequency: bool,
}

impl EmbeddingGradient {
    /// Workgroups for `count` indices of rows of `size` elements.
    pub fn groups(&self, count: u32, size: u32) -> [u32; 3] {
        super::spread((count * size).div_ceil(256))
    }

    pub(super) fn label(&self) -> String {
        let frequency = if self.by_frequency { "_by_frequency" } else { "" };
        format!("embedding_gradient_{}_{}{frequency}", self.dtype.name(), self.index.name())
    }

    pub(super) fn bindings(&self) -> u32 {
        4
    }

    pub(super) fn param_bytes(&self) -> u32 {
        size_of::<EmbeddingGradientParams>() as u32
    }

    pub(super) fn requires(&self) -> Features {
        Features::of(self.dtype) | Features::INT64
    }

    pub(super) fn wgsl(&self) -> String {
        Shader::new(
            include_str!("../../wgsl/params/embedding_gradient.wgsl"),
            include_str!("../../wgsl/kernel/embedding_gradient.wgsl"),
        )
        .compute(Native::F32)
        .set("SCALE", if self.by_frequency { " / f32(next - first)" } else { "" })
        .operand("out", self.dtype, Access::Store)
        .operand("sorted", self.index, Access::Load)
        .operand("order", DType::I64, Access::Load)
        .operand("gradient", self.dtype, Access::Load)
        .finish()
    }
}
