//! Running totals along a dimension. A tensor is `[outer, size, inner]`, dense, and a row one `(outer, inner)`.

use crate::dtype::{DType, convert};
use crate::features::Features;
use crate::params::RowParams;
use crate::shader::{Access, Shader};

/// What is kept running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScanOp {
    /// Sum.
    Sum,
    /// Product.
    Prod,
    /// Largest so far.
    Max,
    /// Smallest so far.
    Min,
}

/// Key of a scan. Bindings: out, x.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scan {
    /// What is kept running.
    pub op: ScanOp,
    /// Element type of the input.
    pub input: DType,
    /// Element type of the output, which is computed in.
    pub output: DType,
}

impl Scan {
    /// Workgroups for `rows` rows.
    pub fn groups(&self, rows: u32) -> [u32; 3] {
        super::spread(rows)
    }

    pub(super) fn label(&self) -> String {
        let op = match self.op {
            ScanOp::Sum => "cumsum",
            ScanOp::Prod => "cumprod",
            ScanOp::Max => "cummax",
            ScanOp::Min => "cummin",
        };
        format!("{op}_{}_{}", self.input.name(), self.output.name())
    }

    pub(super) fn bindings(&self) -> u32 {
        2
    }

    pub(super) fn param_bytes(&self) -> u32 {
        size_of::<RowParams>() as u32
    }

    pub(super) fn requires(&self) -> Features {
        Features::of(self.input) | Features::of(self.output)
    }

    pub(super) fn wgsl(&self) -> String {
        let native = self.output.native();
        let name = native.name();
        let (join, identity) = match self.op {
            ScanOp::Sum => ("join_sum".to_owned(), format!("{name}(0)")),
            ScanOp::Prod => ("join_prod".to_owned(), format!("{name}(1)")),
            ScanOp::Max => (format!("join_max_{name}"), format!("lowest_{name}()")),
            ScanOp::Min => (format!("join_min_{name}"), format!("highest_{name}()")),
        };
        Shader::new(include_str!("../../wgsl/params/row.wgsl"), include_str!("../../wgsl/kernel/scan.wgsl"))
            .compute(native)
            .set("A", name)
            .set("JOIN", join)
            .set("IDENTITY", identity)
            .set("MAP", convert("x".to_owned(), self.input.native(), native.dtype()))
            .set("RESULT", convert("total".to_owned(), native, self.output))
            .operand("out", self.output, Access::Store)
            .operand("x", self.input, Access::Load)
            .finish()
    }
}
