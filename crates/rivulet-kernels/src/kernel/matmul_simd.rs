//! Matrix products on Metal's simdgroup matrices.

use super::matmul_join::finished;
use super::ops::Op;
use crate::dtype::{DType, Native};
use crate::features::Features;
use crate::params::MatmulParams;
use crate::shader::{Access, Shader};
use std::fmt::Write;

/// Key of a product on 8 x 8 matrices that a subgroup of 32 holds together: for Metal alone. Sums are float32. Bindings: out,
/// a, b, and bias where there is one. Never run on Apple hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MatmulSimd {
    /// Element type of both factors: float32, or float16.
    pub input: DType,
    /// Element type of the output and the bias.
    pub output: DType,
    /// As [`Matmul::a_along_k`](super::Matmul::a_along_k).
    pub a_along_k: bool,
    /// As [`Matmul::b_along_k`](super::Matmul::b_along_k).
    pub b_along_k: bool,
    /// As [`Matmul::bias`](super::Matmul::bias).
    pub bias: bool,
    /// As [`Matmul::activation`](super::Matmul::activation).
    pub activation: Option<Op>,
}

impl MatmulSimd {
    /// Matrices of a subgroup: down, and across.
    const ROWS: u32 = 2;
    const COLUMNS: u32 = 4;

    /// Workgroups for `batches` products of `m` x `n`: at most 65535 in each dimension, which the caller sees to.
    pub fn groups(&self, m: u32, n: u32, batches: u32) -> [u32; 3] {
        [n.div_ceil(64), m.div_ceil(64), batches]
    }

    /// Whether a product of this size gains by it: half a tile at least in each direction, and steps of 16. By the shape of
    /// the kernel alone; nothing has been measured.
    pub fn suits(&self, m: u32, n: u32, k: u32) -> bool {
        matches!(self.input, DType::F32 | DType::F16) && m >= 32 && n >= 32 && k >= 16
    }

    pub(super) fn label(&self) -> String {
        let along = |along_k, yes: &'static str, no| if along_k { yes } else { no };
        let mut label = format!("matmul_simd_{}_{}_", self.input.name(), self.output.name());
        label += along(self.a_along_k, "n", "t");
        label += along(self.b_along_k, "t", "n");
        if self.bias {
            label += "_bias";
        }
        if let Some(op) = self.activation {
            label = label + "_" + op.label();
        }
        label
    }

    pub(super) fn bindings(&self) -> u32 {
        3 + u32::from(self.bias)
    }

    pub(super) fn param_bytes(&self) -> u32 {
        size_of::<MatmulParams>() as u32
    }

    pub(super) fn requires(&self) -> Features {
        Features::of(self.input) | Features::of(self.output) | Features::SIMD_MATRIX
    }

    pub(super) fn wgsl(&self) -> String {
        let element = if self.input == DType::F32 { "f32" } else { "f16" };
        let (mut declare, mut multiply, mut write) = (String::new(), String::new(), String::new());
        // Writing to a String cannot fail, here and below. Rows follow one another where `coopLoadT` loads.
        for r in 0..Self::ROWS {
            let at = format!("(own_row + {}u) * 20u + kk", r * 8);
            let _ =
                writeln!(multiply, "let a{r} = coopLoadT<coop_mat8x8<{element}, A>>(&tile_a[{at}], 20u);");
        }
        for c in 0..Self::COLUMNS {
            let at = format!("kk * 68u + own_column + {}u", c * 8);
            let _ =
                writeln!(multiply, "let b{c} = coopLoadT<coop_mat8x8<{element}, B>>(&tile_b[{at}], 68u);");
            for r in 0..Self::ROWS {
                let _ = writeln!(declare, "var c{r}_{c} = coop_mat8x8<f32, C>();");
                let _ = writeln!(multiply, "c{r}_{c} = coopMultiplyAdd(a{r}, b{c}, c{r}_{c});");
                let _ = writeln!(
                    write,
                    "coopStoreT(c{r}_{c}, &parts[subgroup * 64u], 8u);\nworkgroupBarrier();\n\
                     store_parts(base, first_row + own_row + {}u, first_column + own_column + {}u, subgroup, lane);\n\
                     workgroupBarrier();",
                    r * 8,
                    c * 8
                );
            }
        }
        // Neighbouring invocations read neighbouring elements.
        let place = |along_k| {
            if along_k { "vec2<u32>(i / 16u, i % 16u)" } else { "vec2<u32>(i % 64u, i / 64u)" }
        };
        let body = concat!(
            include_str!("../../wgsl/kernel/matmul_finish.wgsl"),
            include_str!("../../wgsl/kernel/matmul_simd.wgsl")
        );
        let shader = Shader::new(include_str!("../../wgsl/params/matmul.wgsl"), body)
            .compute(Native::F32)
            .operand("out", self.output, Access::Store)
            .operand("a", self.input, Access::Load)
            .operand("b", self.input, Access::Load)
            .set("E", element)
            .set("A_AT", place(self.a_along_k))
            .set("B_AT", place(self.b_along_k))
            .set("DECLARE", declare)
            .set("MULTIPLY", multiply)
            .set("WRITE", write);
        finished(shader, self.output, self.bias, self.activation).cooperative().finish()
    }
}
