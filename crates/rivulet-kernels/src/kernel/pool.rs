//! Pooling of up to three dimensions: averages, places of maxima, and the gradient of averages.

use super::row::RowStore;
use crate::dtype::DType;
use crate::features::Features;
use crate::params::PoolParams;
use crate::shader::{Access, Shader};

/// What is made of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PoolOp {
    /// The place of its largest element in the plane of x, int64; of two the first, of NaNs the last.
    MaxPlace,
    /// The average.
    Average,
    /// The gradient of the average's input; floats only.
    AverageBackward,
}

/// Key of a pooling of dense `[outer, depth, height, width]`. Bindings: out, x (of a gradient: the gradients of x and
/// of the output).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pool {
    /// What is made of a window.
    pub op: PoolOp,
    /// True where windows cut x into as many parts as the output has places.
    pub adaptive: bool,
    /// Element type of x.
    pub dtype: DType,
    /// How the output is stored; never scattered.
    pub store: RowStore,
}

impl Pool {
    /// The key; `offset` is the first element of the output, `count` their number.
    pub fn new(op: PoolOp, adaptive: bool, dtype: DType, offset: u32, count: u32) -> Self {
        let output = if op == PoolOp::MaxPlace { DType::I64 } else { dtype };
        Self { op, adaptive, dtype, store: RowStore::choose(output, offset, count, 1) }
    }

    fn output(&self) -> DType {
        if self.op == PoolOp::MaxPlace { DType::I64 } else { self.dtype }
    }

    /// Workgroups for `count` elements of the output, which begins at element `offset`.
    pub fn groups(&self, offset: u32, count: u32) -> [u32; 3] {
        let lanes = self.output().lanes();
        super::spread((offset % lanes + count).div_ceil(lanes).div_ceil(256))
    }

    pub(super) fn label(&self) -> String {
        let op = match self.op {
            PoolOp::MaxPlace => "max_place",
            PoolOp::Average => "average",
            PoolOp::AverageBackward => "average_backward",
        };
        let adaptive = if self.adaptive { "_adaptive" } else { "" };
        format!("pool_{op}{adaptive}_{}_{}", self.dtype.name(), self.store.label())
    }

    pub(super) fn bindings(&self) -> u32 {
        2
    }

    pub(super) fn param_bytes(&self) -> u32 {
        size_of::<PoolParams>() as u32
    }

    pub(super) fn requires(&self) -> Features {
        Features::of(self.dtype) | Features::of(self.output())
    }

    pub(super) fn wgsl(&self) -> String {
        macro_rules! body {
            ($windows:literal, $($part:literal),*) => {
                concat!(
                    include_str!(concat!("../../wgsl/kernel/", $windows, ".wgsl")),
                    $(include_str!(concat!("../../wgsl/kernel/", $part, ".wgsl")),)*
                    include_str!("../../wgsl/kernel/units.wgsl")
                )
            };
        }
        let body = match (self.op, self.adaptive) {
            (PoolOp::MaxPlace, false) => body!("pool_windows", "pool_max_place"),
            (PoolOp::MaxPlace, true) => body!("pool_adaptive_windows", "pool_max_place"),
            (PoolOp::Average, false) => body!("pool_windows", "pool_average", "pool_average_forward"),
            (PoolOp::Average, true) => body!("pool_adaptive_windows", "pool_average", "pool_average_forward"),
            (PoolOp::AverageBackward, false) => {
                body!("pool_windows", "pool_average", "pool_average_backward")
            }
            (PoolOp::AverageBackward, true) => {
                body!("pool_adaptive_windows", "pool_average", "pool_average_backward")
            }
        };
        Shader::new(include_str!("../../wgsl/params/pool.wgsl"), body)
            .compute(self.dtype.native())
            .set("IS_NAN", if self.dtype.is_float() { "is_nan(value)" } else { "false" })
            .operand("out", self.output(), Access::Put(self.store.store(self.output())))
            .operand("x", self.dtype, Access::Load)
            .finish()
    }
}
