//! Places of values in sorted rows.

use crate::dtype::DType;
use crate::features::Features;
use crate::params::SearchParams;
use crate::shader::{Access, Shader};

/// Key of a search. Bindings: out, sorted rows, values, and the order of the rows where they are not sorted themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Search {
    /// Element type of rows and values.
    pub dtype: DType,
    /// Element type of the places: int64 or int32.
    pub output: DType,
    /// False for the place before equal elements, true for the one behind them.
    pub right: bool,
    /// True where there is an order, int64.
    pub order: bool,
}

impl Search {
    /// Workgroups for `count` values.
    pub fn groups(&self, count: u32) -> [u32; 3] {
        super::spread(count.div_ceil(256))
    }

    pub(super) fn label(&self) -> String {
        let side = if self.right { "right" } else { "left" };
        let order = if self.order { "_order" } else { "" };
        format!("search_{side}_{}_{}{order}", self.dtype.name(), self.output.name())
    }

    pub(super) fn bindings(&self) -> u32 {
        3 + u32::from(self.order)
    }

    pub(super) fn param_bytes(&self) -> u32 {
        size_of::<SearchParams>() as u32
    }

    pub(super) fn requires(&self) -> Features {
        let order = if self.order { Features::INT64 } else { Features::of(self.output) };
        Features::of(self.dtype) | Features::of(self.output) | order
    }

    pub(super) fn wgsl(&self) -> String {
        let mut shader = Shader::new(
            include_str!("../../wgsl/params/search.wgsl"),
            include_str!("../../wgsl/kernel/search.wgsl"),
        )
        .compute(self.dtype.native())
        .set("OUT", self.output.native().name())
        .set("IS_NAN", if self.dtype.is_float() { "is_nan(value) || is_nan(other)" } else { "false" })
        .set("BEFORE", if self.right { "other > value" } else { "other >= value" })
        .operand("out", self.output, Access::Store)
        .operand("rows", self.dtype, Access::Load)
        .operand("values", self.dtype, Access::Load);
        if self.order {
            shader = shader
                .operand("order", DType::I64, Access::Load)
                .set("PLACE", "u32(load_order(p.offsets.w + row + middle))");
        } else {
            shader = shader.set("PLACE", "middle");
        }
        shader.finish()
    }
}
