//! Chains of pointwise ops in one kernel.
//!
//! What a step makes stays in a register, rounded to the type that the step alone would have stored, so that a chain gives
//! what its ops give one after the other, bit for bit.

use super::ops::Op;
use super::pointwise::GROUP;
use crate::dtype::{DType, Native, convert};
use crate::features::Features;
use crate::params::{FUSED_INPUTS, FUSED_SCALARS, FusedParams};
use crate::shader::{Access, Shader, Store};
use std::fmt::Write;

/// Steps of a chain.
pub const FUSED_STEPS: usize = 8;
/// Words that an invocation makes.
const ITEMS: u32 = 4;

/// Where an argument of a step comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FusedSource {
    /// The input of that number.
    Input(u8),
    /// The result of an earlier step.
    Step(u8),
    /// The scalar of that number, in the type that the step computes in.
    Scalar(u8),
}

/// One op of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FusedStep {
    /// What is done: not an op that depends on places or reads parameters.
    pub op: Op,
    /// The type that arguments are converted to: a floating-point one.
    pub common: DType,
    /// Type of the result.
    pub output: DType,
    /// As many as the op takes; the others are without meaning and should be the first.
    pub sources: [FusedSource; 3],
}

/// A tensor that a chain reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FusedInput {
    /// Element type.
    pub dtype: DType,
    /// Its elements are repeated, after as many as the parameters say; otherwise there is one for each of the output.
    pub repeated: bool,
}

/// Key of a chain. Bindings: the output of the last step, then the inputs. All are dense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fused {
    steps: [Option<FusedStep>; FUSED_STEPS],
    inputs: [Option<FusedInput>; FUSED_INPUTS],
}

impl Fused {
    /// `None` where there are more steps, inputs or scalars than a kernel takes, or a step that it cannot do.
    pub fn new(steps: &[FusedStep], inputs: &[FusedInput]) -> Option<Self> {
        let mut key = Self { steps: [None; FUSED_STEPS], inputs: [None; FUSED_INPUTS] };
        let known = |at: usize, source: &FusedSource| match *source {
            FusedSource::Input(input) => usize::from(input) < inputs.len(),
            FusedSource::Step(step) => usize::from(step) < at,
            FusedSource::Scalar(scalar) => usize::from(scalar) < FUSED_SCALARS,
        };
        let fits = |(at, step): (usize, &FusedStep)| {
            step.common.is_float()
                && step.op.computes(step.common)
                && !step.op.is_indexed()
                && !step.op.reads_params(step.common)
                && step.sources.iter().take(step.op.arity()).all(|source| known(at, source))
        };
        if steps.is_empty()
            || steps.len() > FUSED_STEPS
            || inputs.len() > FUSED_INPUTS
            || !steps.iter().enumerate().all(fits)
        {
            return None;
        }
        key.steps.iter_mut().zip(steps).for_each(|(to, step)| *to = Some(*step));
        key.inputs.iter_mut().zip(inputs).for_each(|(to, input)| *to = Some(*input));
        Some(key)
    }

    /// The steps, in order.
    pub fn steps(&self) -> impl Iterator<Item = &FusedStep> {
        self.steps.iter().flatten()
    }

    /// The inputs, in binding order.
    pub fn inputs(&self) -> impl Iterator<Item = &FusedInput> {
        self.inputs.iter().flatten()
    }

    /// Type of the output.
    pub fn output(&self) -> DType {
        self.steps().last().map_or(DType::F32, |step| step.output)
    }

    /// Workgroups for `count` elements.
    pub fn groups(&self, count: u32) -> [u32; 3] {
        super::spread(count.div_ceil(self.output().lanes()).div_ceil(GROUP * ITEMS))
    }

    pub(super) fn label(&self) -> String {
        let mut label = "fused".to_owned();
        for step in self.steps() {
            label = label + "_" + step.op.label() + "_" + step.common.name();
            for source in step.sources.iter().take(step.op.arity()) {
                // Writing to a String cannot fail, here and below.
                let _ = match source {
                    FusedSource::Input(input) => write!(label, "_i{input}"),
                    FusedSource::Step(step) => write!(label, "_t{step}"),
                    FusedSource::Scalar(scalar) => write!(label, "_s{scalar}"),
                };
            }
            if step.output != step.common {
                label = label + "_to_" + step.output.name();
            }
        }
        for input in self.inputs() {
            label = label + "_" + input.dtype.name() + if input.repeated { "r" } else { "" };
        }
        label
    }

    pub(super) fn bindings(&self) -> u32 {
        1 + self.inputs().count() as u32
    }

    pub(super) fn param_bytes(&self) -> u32 {
        size_of::<FusedParams>() as u32
    }

    pub(super) fn requires(&self) -> Features {
        let types = self.steps().flat_map(|step| [step.common, step.output]);
        let types = types.chain(self.inputs().map(|input| input.dtype));
        types.fold(Features::NONE, |all, dtype| all | Features::of(dtype))
    }

    pub(super) fn wgsl(&self) -> String {
        let output = self.output();
        let store = if output.is_wide() { Store::Wide } else { Store::Whole };
        let mut shader = Shader::new(
            include_str!("../../wgsl/params/fused.wgsl"),
            include_str!("../../wgsl/kernel/fused.wgsl"),
        )
        .compute(Native::F32)
        .set("GROUP", GROUP.to_string())
        .set("ITEMS", ITEMS.to_string())
        .set("OUT", output.native().name())
        .set("STEPS", self.body())
        .operand("out", output, Access::Put(store));
        if self.computes_half() {
            shader = shader.half();
        }
        for (k, input) in self.inputs().enumerate() {
            shader = shader.operand(&format!("in{k}"), input.dtype, Access::Load);
        }
        shader.finish()
    }

    /// Whether a step takes or gives float16.
    pub(super) fn computes_half(&self) -> bool {
        self.steps().any(|step| step.common == DType::F16 || step.output == DType::F16)
    }

    /// The statements that make element `e`.
    fn body(&self) -> String {
        let mut body = String::new();
        for (k, input) in self.inputs().enumerate() {
            let (offset, period) = (word("offsets", k + 1), word("periods", k + 1));
            let place = if input.repeated { format!("e % {period}") } else { "e".to_owned() };
            let _ = writeln!(body, "    let x{k} = load_in{k}({offset} + {place});");
        }
        body + &self.statements()
    }

    /// The statements that make the result of the inputs `x0`, `x1` and so on, and return it. They read the parameters
    /// `scalars` and `zero`.
    pub(super) fn statements(&self) -> String {
        let mut text = String::new();
        let types: Vec<DType> = self.steps().map(|step| step.output).collect();
        let inputs: Vec<DType> = self.inputs().map(|input| input.dtype).collect();
        for (at, step) in self.steps().enumerate() {
            let argument = |source: &FusedSource| {
                let (value, dtype) = match *source {
                    FusedSource::Scalar(scalar) => {
                        return format!("bitcast<f32>({})", word("scalars", usize::from(scalar)));
                    }
                    FusedSource::Input(input) => (format!("x{input}"), inputs.get(usize::from(input))),
                    FusedSource::Step(step) => (format!("t{step}"), types.get(usize::from(step))),
                };
                let dtype = dtype.copied().unwrap_or(step.common);
                if dtype == step.common { value } else { convert(value, dtype.native(), step.common) }
            };
            let arguments: Vec<_> = step.sources.iter().take(step.op.arity()).map(argument).collect();
            let call = format!("{}({})", step.op.function(step.common), arguments.join(", "));
            let value = if step.op.function_is_predicate(step.common) {
                convert(format!("select(0, 1, {call})"), Native::I32, step.output)
            } else {
                convert(call, step.common.native(), step.output)
            };
            let last = at + 1 == types.len();
            let _ = if last {
                writeln!(text, "    return {value};")
            } else {
                writeln!(text, "    let t{at} = {};", kept(&value, step.output))
            };
        }
        text
    }
}

/// The parameter word of that index in a list of vectors.
fn word(name: &str, index: usize) -> String {
    format!("p.{name}[{}].{}", index / 4, ["x", "y", "z", "w"][index % 4])
}

/// A value as one that is stored in a type and read again.
pub(super) fn kept(value: &str, dtype: DType) -> String {
    match dtype {
        DType::F32 => format!("rounded_f32({value})"),
        DType::I32 | DType::I64 => value.to_owned(),
        narrow => format!("decode_{0}(encode_{0}({value}))", narrow.name()),
    }
}
