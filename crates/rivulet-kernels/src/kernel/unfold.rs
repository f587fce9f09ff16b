//! The columns of an image and the image of columns: PyTorch's `unfold` and `fold`.

use super::row::RowStore;
use crate::dtype::DType;
use crate::features::Features;
use crate::params::UnfoldParams;
use crate::shader::{Access, Shader};

/// Key of dense `[samples, channels * kernel, blocks]` from `[samples, channels, height, width]`, or back. Bindings:
/// out, x.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Unfold {
    /// True for the way back, on which overlapping elements are added.
    pub fold: bool,
    /// Element type.
    pub dtype: DType,
    /// How the output is stored; never scattered.
    pub store: RowStore,
}

impl Unfold {
    /// The key; `offset` is the first element of the output, `count` their number.
    pub fn new(fold: bool, dtype: DType, offset: u32, count: u32) -> Self {
        let dtype = if fold { dtype } else { dtype.bits() };
        Self { fold, dtype, store: RowStore::choose(dtype, offset, count, 1) }
    }

    /// Workgroups for `count` elements of the output, which begins at element `offset`.
    pub fn groups(&self, offset: u32, count: u32) -> [u32; 3] {
        let lanes = self.dtype.lanes();
        super::spread((offset % lanes + count).div_ceil(lanes).div_ceil(256))
    }

    pub(super) fn label(&self) -> String {
        let way = if self.fold { "fold" } else { "unfold" };
        format!("{way}_{}_{}", self.dtype.name(), self.store.label())
    }

    pub(super) fn bindings(&self) -> u32 {
        2
    }

    pub(super) fn param_bytes(&self) -> u32 {
        size_of::<UnfoldParams>() as u32
    }

    pub(super) fn requires(&self) -> Features {
        Features::of(self.dtype)
    }

    pub(super) fn wgsl(&self) -> String {
        let body = if self.fold {
            concat!(include_str!("../../wgsl/kernel/fold.wgsl"), include_str!("../../wgsl/kernel/units.wgsl"))
        } else {
            concat!(
                include_str!("../../wgsl/kernel/unfold.wgsl"),
                include_str!("../../wgsl/kernel/units.wgsl")
            )
        };
        Shader::new(include_str!("../../wgsl/params/unfold.wgsl"), body)
            .compute(self.dtype.native())
            .operand("out", self.dtype, Access::Put(self.store.store(self.dtype)))
            .operand("x", self.dtype, Access::Load)
            .finish()
    }
}
