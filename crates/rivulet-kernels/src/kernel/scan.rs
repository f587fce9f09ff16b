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
    /// Logarithm of the sum of exponentials; floats only.
    LogSumExp,
}

/// Key of a scan. Bindings: out, x, and int64 indices where they are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scan {
    /// What is kept running.
    pub op: ScanOp,
    /// Element type of the input.
    pub input: DType,
    /// Element type of the output, which is computed in.
    pub output: DType,
    /// True where the place of the largest or smallest is wanted too: the last of equal ones. Input and output are of
    /// one type then.
    pub indices: bool,
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
            ScanOp::LogSumExp => "logcumsumexp",
        };
        let indices = if self.indices { "_indices" } else { "" };
        format!("{op}{indices}_{}_{}", self.input.name(), self.output.name())
    }

    pub(super) fn bindings(&self) -> u32 {
        2 + u32::from(self.indices)
    }

    pub(super) fn param_bytes(&self) -> u32 {
        size_of::<RowParams>() as u32
    }

    pub(super) fn requires(&self) -> Features {
        let indices = if self.indices { Features::INT64 } else { Features::NONE };
        Features::of(self.input) | Features::of(self.output) | indices
    }

    pub(super) fn wgsl(&self) -> String {
        let native = self.output.native();
        let name = native.name();
        let (join, identity) = match self.op {
            ScanOp::Sum => ("join_sum".to_owned(), format!("{name}(0)")),
            ScanOp::Prod => ("join_prod".to_owned(), format!("{name}(1)")),
            ScanOp::Max => (format!("join_max_{name}"), format!("lowest_{name}()")),
            ScanOp::Min => (format!("join_min_{name}"), format!("highest_{name}()")),
            ScanOp::LogSumExp => ("join_log_sum_exp".to_owned(), "-inf_f32()".to_owned()),
        };
        let body = if self.indices {
            include_str!("../../wgsl/kernel/scan_arg.wgsl")
        } else {
            include_str!("../../wgsl/kernel/scan.wgsl")
        };
        let order = if self.op == ScanOp::Min { "<=" } else { ">=" };
        let stands = format!("b.value {order} a.value");
        let stands = if self.input.is_float() {
            format!("is_nan(b.value) || (!is_nan(a.value) && {stands})")
        } else {
            stands
        };
        let shader = Shader::new(include_str!("../../wgsl/params/row.wgsl"), body)
            .set("STANDS", stands)
            .compute(native)
            .set("A", name)
            .set("JOIN", join)
            .set("IDENTITY", identity)
            .set("MAP", convert("x".to_owned(), self.input.native(), native.dtype()))
            .set("RESULT", convert("total".to_owned(), native, self.output))
            .operand("out", self.output, Access::Store)
            .operand("x", self.input, Access::Load);
        if self.indices { shader.operand("indices", DType::I64, Access::Store) } else { shader }.finish()
    }
}
