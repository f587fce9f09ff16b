//! Padding by what is there: reflection and replication, of up to three dimensions, and their gradients.

use super::row::RowStore;
use crate::dtype::DType;
use crate::features::Features;
use crate::params::PadParams;
use crate::shader::{Access, Shader};

/// What stands beyond the edges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PadMode {
    /// The mirror image, without the edge: at most size - 1 places.
    Reflect,
    /// The edge.
    Replicate,
}

/// Key of a padding, of dense `[outer, depth, height, width]`; negative paddings cut off. Bindings: out, x.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pad {
    /// What stands beyond the edges.
    pub mode: PadMode,
    /// True for the gradient: `out` has the size of the input, `x` is the gradient of the output; floats only.
    pub backward: bool,
    /// Element type.
    pub dtype: DType,
    /// How the output is stored; never scattered.
    pub store: RowStore,
}

impl Pad {
    /// The key; a copy keeps every bit. `offset` is the first element of the output, `count` their number.
    pub fn new(mode: PadMode, backward: bool, dtype: DType, offset: u32, count: u32) -> Self {
        let dtype = if backward { dtype } else { dtype.bits() };
        Self { mode, backward, dtype, store: RowStore::choose(dtype, offset, count, 1) }
    }

    /// Workgroups for `count` elements of the output, which begins at element `offset`.
    pub fn groups(&self, offset: u32, count: u32) -> [u32; 3] {
        let lanes = self.dtype.lanes();
        super::spread((offset % lanes + count).div_ceil(lanes).div_ceil(256))
    }

    pub(super) fn label(&self) -> String {
        let mode = match self.mode {
            PadMode::Reflect => "reflect",
            PadMode::Replicate => "replicate",
        };
        let backward = if self.backward { "_backward" } else { "" };
        format!("pad_{mode}{backward}_{}_{}", self.dtype.name(), self.store.label())
    }

    pub(super) fn bindings(&self) -> u32 {
        2
    }

    pub(super) fn param_bytes(&self) -> u32 {
        size_of::<PadParams>() as u32
    }

    pub(super) fn requires(&self) -> Features {
        Features::of(self.dtype)
    }

    pub(super) fn wgsl(&self) -> String {
        let body = if self.backward {
            concat!(
                include_str!("../../wgsl/kernel/pad_backward.wgsl"),
                include_str!("../../wgsl/kernel/units.wgsl")
            )
        } else {
            concat!(include_str!("../../wgsl/kernel/pad.wgsl"), include_str!("../../wgsl/kernel/units.wgsl"))
        };
        let (source, copies) = match self.mode {
            // An image outside the input, of a padding that PyTorch refuses, becomes the edge.
            PadMode::Reflect => (
                "clamp(last - abs(last - abs(i)), 0, last)",
                include_str!("../../wgsl/kernel/pad_reflect_copies.wgsl"),
            ),
            PadMode::Replicate => {
                ("clamp(i, 0, last)", include_str!("../../wgsl/kernel/pad_replicate_copies.wgsl"))
            }
        };
        Shader::new(include_str!("../../wgsl/params/pad.wgsl"), body)
            .compute(self.dtype.native())
            .set("SOURCE", source)
            .set("COPIES", copies)
            .operand("out", self.dtype, Access::Put(self.store.store(self.dtype)))
            .operand("x", self.dtype, Access::Load)
            .finish()
    }
}
