//! Rows short enough for the registers of the invocations that make them.

use super::row::{Norm, RowOp, RowThreads};
use crate::dtype::{DType, Native};
use crate::features::Features;
use crate::params::RowParams;
use crate::shader::{Access, Shader};
use std::fmt::Write;

/// What a normalisation does to its rows before it looks at them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RowSum {
    /// Nothing.
    #[default]
    None,
    /// Adds the rows of a second tensor, of the type of the input: one more binding after the op's.
    Added,
    /// The same, and writes the sums, in the type of the input: two more bindings.
    Kept,
}

/// Key of a row kernel for rows that are held in registers: contiguous ones of up to 8192 elements, whose number and all
/// offsets are multiples of four. Softmax, log_softmax, layer_norm and rms_norm, with the bindings that [`RowOp`] names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HeldRow {
    /// What is done.
    pub op: RowOp,
    /// Element type of the inputs.
    pub input: DType,
    /// Element type of the output.
    pub output: DType,
    /// Invocations for a row.
    pub threads: RowThreads,
    /// Vectors of four elements that each of them holds: 1, 2, 4 or 8.
    pub vectors: u32,
    /// What is added first; normalisations alone.
    pub sum: RowSum,
}

impl HeldRow {
    /// The key for contiguous rows of `size`; `offsets` are the first elements of the output and the inputs. None where
    /// the kernel does not serve them.
    pub fn choose(op: RowOp, input: DType, output: DType, size: u32, offsets: &[u32]) -> Option<Self> {
        let serves =
            matches!(op, RowOp::Softmax | RowOp::LogSoftmax | RowOp::LayerNorm(_) | RowOp::RmsNorm(_));
        let fourth = size.is_multiple_of(4) && offsets.iter().all(|offset| offset.is_multiple_of(4));
        if !serves || !fourth || size == 0 || size > 8192 {
            return None;
        }
        let threads = if size <= 1024 { RowThreads::Few } else { RowThreads::Many };
        let vectors = (size / 4).div_ceil(threads.count()).next_power_of_two();
        Some(Self { op, input, output, threads, vectors, sum: RowSum::None })
    }

    /// The key that normalises sums. The first elements of summand and kept sum are multiples of four, see [`RowParams`].
    /// None where the op is no normalisation.
    #[must_use]
    pub fn of_sum(self, sum: RowSum) -> Option<Self> {
        matches!(self.op, RowOp::LayerNorm(_) | RowOp::RmsNorm(_)).then_some(Self { sum, ..self })
    }

    /// Workgroups for `rows` rows.
    pub fn groups(&self, rows: u32) -> [u32; 3] {
        super::spread(rows.div_ceil(256 / self.threads.count()))
    }

    pub(super) fn label(&self) -> String {
        let (input, output) = (self.input.name(), self.output.name());
        let (threads, vectors) = (self.threads.count(), self.vectors);
        let sum = match self.sum {
            RowSum::None => "",
            RowSum::Added => "add_",
            RowSum::Kept => "add_keep_",
        };
        format!("{sum}{}_{input}_{output}_held_{threads}x{vectors}", self.op.label())
    }

    pub(super) fn bindings(&self) -> u32 {
        self.op.bindings()
            + match self.sum {
                RowSum::None => 0,
                RowSum::Added => 1,
                RowSum::Kept => 2,
            }
    }

    pub(super) fn param_bytes(&self) -> u32 {
        size_of::<RowParams>() as u32
    }

    pub(super) fn requires(&self) -> Features {
        Features::of(self.input) | Features::of(self.output) | self.op.requires()
    }

    /// A line for each vector: `V` is its number, `E` the place of its first element in the row, and `IN` the condition
    /// that the row reaches so far.
    fn each(&self, line: &str) -> String {
        let mut lines = String::new();
        for v in 0..self.vectors {
            let place = format!("(lane + {}u) * 4u", v * self.threads.count());
            let line = line.replace("$IN", &format!("{place} < p.size"));
            let line = line.replace("$E", &place).replace("$V", &v.to_string());
            // Writing to a String cannot fail, here and below.
            let _ = writeln!(lines, "{line}");
        }
        lines
    }

    pub(super) fn wgsl(&self) -> String {
        let threads = self.threads.count();
        let shader = Shader::new(
            include_str!("../../wgsl/params/row.wgsl"),
            include_str!("../../wgsl/kernel/held_row.wgsl"),
        )
        .compute(Native::F32)
        .set("THREADS", threads.to_string())
        .set("ROWS", (256 / threads).to_string())
        .set("SHARES", if threads == 256 { "16" } else { "8" })
        .operand("out", self.output, Access::StoreFour)
        .operand("x", self.input, Access::LoadFour);
        match self.op {
            RowOp::LogSoftmax => self.softmax(shader, true),
            RowOp::LayerNorm(norm) => self.norm(shader, norm, true),
            RowOp::RmsNorm(norm) => self.norm(shader, Norm { bias: false, ..norm }, false),
            _ => self.softmax(shader, false),
        }
        .finish()
    }

    fn softmax(&self, shader: Shader, log: bool) -> Shader {
        // Rows of 16 bits are as long in arithmetic as rows of twice their bytes: rounding hides what is saved here.
        let short = !self.output.is_wide();
        let load =
            self.each("var x$V = vec4<f32>(-inf_f32());\nif ($IN) { x$V = load_four_x(source + $E); }");
        let mut statistics = "var top = -inf_f32();\n".to_owned();
        statistics += &self.each("top = max(top, highest(x$V));");
        statistics += "top = row_max(top);\nvar sum = 0.0;\n";
        statistics += &self.each(if log {
            "sum += total(exponentials(x$V - top));"
        } else {
            "x$V = exponentials(x$V - top);\nsum += total(x$V);"
        });
        // Infinity less itself is a NaN, and so is the whole row.
        statistics +=
            "let all = select(row_sums(vec2<f32>(sum)).x, nan_f32(), bitcast<u32>(top) == 0x7f800000u);";
        let value = if log {
            statistics += "\nlet divisor = log_f32(all);";
            "(x$V - top) - divisor"
        } else if short {
            statistics += "\nlet share = 1.0 / all;";
            "x$V * share"
        } else {
            "x$V / all"
        };
        let write = self.each(&format!("if ($IN) {{ store_four_out(to + $E, {value}); }}"));
        shader
            .set("EXP", if short { "exp_short" } else { "exp_f32" })
            .set("LOAD", load)
            .set("STATISTICS", statistics)
            .set("WRITE", write)
    }

    /// Mean, then the mean square of what is left; see `row_norm.wgsl`.
    fn norm(&self, mut shader: Shader, key: Norm, centered: bool) -> Shader {
        let load = self.each(match self.sum {
            RowSum::None => "var x$V = vec4<f32>();\nif ($IN) { x$V = load_four_x(source + $E); }",
            RowSum::Added => {
                "var x$V = vec4<f32>();\nif ($IN) { x$V = load_four_x(source + $E) + load_four_summand(summands + $E); }"
            }
            RowSum::Kept => {
                "var x$V = vec4<f32>();\nif ($IN) {\nx$V = load_four_x(source + $E) + load_four_summand(summands + $E);\n\
                 if (wanted < p.rows) { store_four_sum(sums + $E, x$V); }\n}"
            }
        });
        let load = match self.sum {
            RowSum::None => load,
            RowSum::Added => format!("let summands = p.groups + row * p.size;\n{load}"),
            RowSum::Kept => {
                let places = "let summands = p.groups + row * p.size;\nlet sums = p.places + row * p.size;";
                format!("{places}\n{load}")
            }
        };
        shader = shader.set("EXP", "exp_f32");
        let mut statistics = "var mean = 0.0;\nvar left_over = 0.0;\n".to_owned();
        if centered {
            statistics += &self.each("mean += total(x$V);");
            statistics += "mean = row_sums(vec2<f32>(mean)).x / f32(p.size);\n";
        }
        statistics += "var rest = vec2<f32>();\n";
        statistics +=
            &self.each("if ($IN) { x$V = x$V - mean; rest += vec2<f32>(total(x$V), dot(x$V, x$V)); }");
        statistics += "rest = row_sums(rest) / f32(p.size);\n";
        if centered {
            statistics += "left_over = rest.x;\n";
        }
        statistics += "let rstd = 1.0 / sqrt(rest.y - left_over * left_over + p.eps);";
        let mut value = if centered { "(x$V - left_over) * rstd" } else { "x$V * rstd" }.to_owned();
        if key.weight {
            shader = shader.operand("weight", self.input, Access::LoadFour);
            value += " * load_four_weight(p.offsets.z + $E)";
        }
        if key.bias {
            shader = shader.operand("bias", self.input, Access::LoadFour);
            value += " + load_four_bias(p.offsets.w + $E)";
        }
        let mut write = self.each(&format!("if ($IN) {{ store_four_out(to + $E, {value}); }}"));
        if let Some(stats) = key.stats {
            write += "if (lane == 0u) {\n";
            if centered {
                shader = shader.operand("mean", stats, Access::Store);
                write += "store_mean(p.stats.x + row, mean + left_over);\n";
            }
            shader = shader.operand("rstd", stats, Access::Store);
            write += "store_rstd(p.stats.y + row, rstd);\n}";
        }
        if self.sum != RowSum::None {
            shader = shader.operand("summand", self.input, Access::LoadFour);
        }
        if self.sum == RowSum::Kept {
            shader = shader.operand("sum", self.input, Access::StoreFour);
        }
        shader.set("LOAD", load).set("STATISTICS", statistics).set("WRITE", write)
    }
}
