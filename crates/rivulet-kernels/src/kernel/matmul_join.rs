//! The end of a matrix product: parts along k put together, bias and activation, storing.

use super::ops::Op;
use crate::dtype::{DType, Native};
use crate::features::Features;
use crate::params::MatmulParams;
use crate::shader::{Access, Shader};

/// Key of what puts the parts of a [split](super::Matmul::split) product together: `activation(alpha (sum of parts) + beta
/// bias)`, the parts in their order. Bindings: out, the parts as float32, and bias where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MatmulJoin {
    /// Element type of the output and the bias.
    pub output: DType,
    /// As [`Matmul::bias`](super::Matmul::bias).
    pub bias: bool,
    /// As [`Matmul::activation`](super::Matmul::activation).
    pub activation: Option<Op>,
    /// As [`Matmul::pairs`](super::Matmul::pairs).
    pub pairs: bool,
}

impl MatmulJoin {
    /// Rows of a workgroup, and vectors of four columns.
    const ROWS: u32 = 8;
    const QUADS: u32 = 32;

    /// Workgroups for `batches` products of `m` x `n`: at most 65535 in each dimension, which the caller sees to.
    pub fn groups(&self, m: u32, n: u32, batches: u32) -> [u32; 3] {
        [n.div_ceil(4 * Self::QUADS), m.div_ceil(Self::ROWS), batches]
    }

    pub(super) fn label(&self) -> String {
        let mut label = format!("matmul_join_{}", self.output.name());
        if self.bias {
            label += "_bias";
        }
        if let Some(op) = self.activation {
            label = label + "_" + op.label();
        }
        if self.pairs() {
            label += "_pairs";
        }
        label
    }

    pub(super) fn bindings(&self) -> u32 {
        2 + u32::from(self.bias)
    }

    pub(super) fn param_bytes(&self) -> u32 {
        size_of::<MatmulParams>() as u32
    }

    pub(super) fn requires(&self) -> Features {
        Features::of(self.output)
    }

    fn pairs(&self) -> bool {
        self.pairs && !self.output.is_wide()
    }

    pub(super) fn wgsl(&self) -> String {
        let body = concat!(
            include_str!("../../wgsl/kernel/matmul_finish.wgsl"),
            include_str!("../../wgsl/kernel/matmul_store.wgsl"),
            include_str!("../../wgsl/kernel/matmul_join.wgsl")
        );
        let store = if self.pairs() { Access::Words } else { Access::Store };
        let shader = Shader::new(include_str!("../../wgsl/params/matmul.wgsl"), body)
            .compute(Native::F32)
            .operand("out", self.output, store)
            .operand("parts", DType::F32, Access::Load)
            .set("ROWS", Self::ROWS.to_string())
            .set("QUADS", Self::QUADS.to_string());
        stored(finished(shader, self.output, self.bias, self.activation), self.output, self.pairs()).finish()
    }
}

/// What becomes of a sum before it is stored.
pub(super) fn finished(shader: Shader, output: DType, bias: bool, activation: Option<Op>) -> Shader {
    let activation =
        activation.map_or("value".to_owned(), |op| format!("{}(value)", op.function(DType::F32)));
    let shader = if bias {
        let bias = "load_bias(base.w + row * p.edges.y + column * p.edges.z)";
        shader.operand("bias", output, Access::Load).set("SUM", format!("fma(p.alpha, sum, p.beta * {bias})"))
    } else {
        shader.set("SUM", "p.alpha * sum")
    };
    shader.set("ACTIVATION", activation)
}

/// Stores what is `sums[j]`, at element `to`.
pub(super) fn stored(shader: Shader, output: DType, pairs: bool) -> Shader {
    let store = if pairs {
        format!(
            "out[to / 2u] = encode_{0}(finished(base, row, column + j, sums[j])) \
             | (encode_{0}(finished(base, row, column + j + 1u, sums[j + 1u])) << 16u);",
            output.name()
        )
    } else {
        "store_out(to, finished(base, row, column + j, sums[j]));".to_owned()
    };
    shader.set("PAIR", if pairs { "2" } else { "1" }).set("STORE", store)
}
