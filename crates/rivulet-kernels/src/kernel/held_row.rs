//! Rows short enough for the registers of the invocations that make them.

use super::fused::{Fused, kept};
use super::row::{Norm, RowOp, RowThreads};
use crate::dtype::{DType, Native};
use crate::features::Features;
use crate::params::{RowParams, TAIL_INPUTS, TailedRowParams};
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
    /// What becomes of each element that is made: what [`HeldRow::then`] allows.
    pub tail: Option<Fused>,
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
        Some(Self { op, input, output, threads, vectors, sum: RowSum::None, tail: None })
    }

    /// The key that does a chain of pointwise ops to what it makes, rounded to the output's type: the first input of the
    /// chain. Further ones are float tensors of the elements of all rows, or such as repeat themselves after a multiple
    /// of four, whose first elements are multiples of four; their bindings come last. None where there is a chain already,
    /// or the kernel cannot do this one. The parameters are [`TailedRowParams`].
    #[must_use]
    pub fn then(self, tail: Fused) -> Option<Self> {
        let row = tail.inputs().next().is_some_and(|row| row.dtype == self.output && !row.repeated);
        let further = || tail.inputs().skip(1);
        let fits = further().count() <= TAIL_INPUTS && further().all(|input| input.dtype.is_float());
        (self.tail.is_none() && row && fits && tail.output().is_float())
            .then_some(Self { tail: Some(tail), ..self })
    }

    /// The key that normalises sums. The first elements of summand and kept sum are multiples of four, see [`RowParams`].
    /// None where the op is no normalisation, or there is a chain behind it.
    #[must_use]
    pub fn of_sum(self, sum: RowSum) -> Option<Self> {
        let sums = matches!(self.op, RowOp::LayerNorm(_) | RowOp::RmsNorm(_)) && self.tail.is_none();
        sums.then_some(Self { sum, ..self })
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
        let tail = self.tail.map_or(String::new(), |tail| format!("_{}", tail.label()));
        format!("{sum}{}_{input}_{output}_held_{threads}x{vectors}{tail}", self.op.label())
    }

    pub(super) fn bindings(&self) -> u32 {
        self.op.bindings()
            + match self.sum {
                RowSum::None => 0,
                RowSum::Added => 1,
                RowSum::Kept => 2,
            }
            + self.tail.map_or(0, |tail| tail.inputs().count() as u32 - 1)
    }

    pub(super) fn param_bytes(&self) -> u32 {
        (if self.tail.is_some() { size_of::<TailedRowParams>() } else { size_of::<RowParams>() }) as u32
    }

    pub(super) fn requires(&self) -> Features {
        let tail = self.tail.map_or(Features::NONE, |tail| tail.requires());
        Features::of(self.input) | Features::of(self.output) | self.op.requires() | tail
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
        let params = match self.tail {
            Some(_) => include_str!("../../wgsl/params/row_tail.wgsl"),
            None => include_str!("../../wgsl/params/row.wgsl"),
        };
        let shader = Shader::new(params, include_str!("../../wgsl/kernel/held_row.wgsl"))
            .compute(Native::F32)
            .set("THREADS", threads.to_string())
            .set("ROWS", (256 / threads).to_string())
            .set("SHARES", if threads == 256 { "16" } else { "8" })
            .operand("out", self.tail.map_or(self.output, |tail| tail.output()), Access::StoreFour)
            .operand("x", self.input, Access::LoadFour);
        let shader = match self.op {
            RowOp::LogSoftmax => self.softmax(shader, true),
            RowOp::LayerNorm(norm) => self.norm(shader, norm, true),
            RowOp::RmsNorm(norm) => self.norm(shader, Norm { bias: false, ..norm }, false),
            _ => self.softmax(shader, false),
        };
        self.tailed(shader).finish()
    }

    /// The statements that store `value`, four elements from `E` on.
    fn store(&self, value: &str) -> String {
        let value =
            if self.tail.is_some() { format!("tail(row * p.size + $E, {value})") } else { value.to_owned() };
        self.each(&format!("if ($IN) {{ store_four_out(to + $E, {value}); }}"))
    }

    /// Adds what the chain reads, and `tail`, which does it to four elements from `e` on, counted over all rows.
    fn tailed(&self, mut shader: Shader) -> Shader {
        let Some(tail) = &self.tail else { return shader.set("TAIL", "") };
        if tail.computes_half() {
            shader = shader.half();
        }
        let component = |place: usize| ["x", "y", "z", "w"][place % 4];
        let made = kept("made[i]", self.output);
        let (mut loads, mut arguments, mut given) = (String::new(), "x0: f32".to_owned(), made);
        for (place, input) in tail.inputs().enumerate().skip(1) {
            let (name, word) = (format!("in{place}"), component(place));
            let at = if input.repeated { format!("e % p.tail_periods.{word}") } else { "e".to_owned() };
            let _ = writeln!(loads, "    let x{place} = load_four_{name}(p.tail_offsets.{word} + {at});");
            arguments += &format!(", x{place}: f32");
            given += &format!(", x{place}[i]");
            shader = shader.operand(&name, input.dtype, Access::LoadFour);
        }
        let four: Vec<_> =
            (0..4).map(|i| format!("element({})", given.replace("[i]", &format!("[{i}]")))).collect();
        let (steps, four) = (tail.statements(), four.join(", "));
        let element = format!("fn element({arguments}) -> f32 {{\n{steps}}}\n");
        let tail = format!(
            "fn tail(e: u32, made: vec4<f32>) -> vec4<f32> {{\n{loads}    return vec4<f32>({four});\n}}\n"
        );
        shader.set("TAIL", element + &tail)
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
        let write = self.store(value);
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
        let mut write = self.store(&value);
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
