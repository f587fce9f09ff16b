//! Kernels that make each element of the output from the elements of up to three inputs at the same place.

use super::ops::Op;
use crate::dtype::{DType, Native, convert};
use crate::features::Features;
use crate::params::{PointwiseParams, StridedParams};
use crate::shader::{Access, Shader, Store};

/// Invocations of a workgroup.
pub(super) const GROUP: u32 = 256;
/// Units (elements, or words of several elements) that an invocation makes where operands are dense.
const ITEMS_DENSE: u32 = 4;
/// Vectors of four elements that it makes.
const ITEMS_FOURS: u32 = 2;

/// How the operands lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// All operands dense, in the same order. Elements narrower than a word: the output begins with a word, and
    /// nobody else's elements live in its last word.
    Linear,
    /// All operands dense, in the same order; the output may begin and end inside a word.
    LinearRagged,
    /// Inputs of any strides, output as for [`Layout::Linear`].
    Gathered,
    /// Inputs of any strides, output as for [`Layout::LinearRagged`].
    GatheredRagged,
    /// Any strides. Elements of the output narrower than a word cost two atomic operations each.
    Strided,
    /// As [`Layout::Linear`], four elements at a time: only what [`Pointwise::in_fours`] gives.
    Fours,
}

impl Layout {
    /// Every layout that any kernel has.
    pub const ALL: [Self; 5] =
        [Self::Linear, Self::LinearRagged, Self::Gathered, Self::GatheredRagged, Self::Strided];

    /// The cheapest layout that is right. `dense_inputs`: every input is dense in the output's order;
    /// `dense_output`: so is the output; `offset`: its first element; `owns_tail`: no element of another tensor
    /// shares its last word (true for a fresh allocation, and where the view ends with a word).
    pub fn choose(
        output: DType,
        dense_inputs: bool,
        dense_output: bool,
        offset: u32,
        owns_tail: bool,
    ) -> Self {
        let whole = offset.is_multiple_of(output.lanes()) && owns_tail;
        let layout = match (dense_output, dense_inputs, whole) {
            (false, _, _) => Self::Strided,
            (true, true, true) => Self::Linear,
            (true, true, false) => Self::LinearRagged,
            (true, false, true) => Self::Gathered,
            (true, false, false) => Self::GatheredRagged,
        };
        layout.canonical(output)
    }

    /// The layout with the same code for this output: what is a word or wider has no ragged edges.
    pub const fn canonical(self, output: DType) -> Self {
        match self {
            Self::LinearRagged if output.is_wide() => Self::Linear,
            Self::GatheredRagged | Self::Gathered if output.is_wide() => Self::Strided,
            other => other,
        }
    }

    /// True where strides are read: the parameters are [`StridedParams`].
    pub const fn is_strided(self) -> bool {
        !matches!(self, Self::Linear | Self::LinearRagged | Self::Fours)
    }

    const fn store(self, output: DType) -> Store {
        if output.is_wide() {
            return Store::Wide;
        }
        match self {
            Self::Linear | Self::Gathered | Self::Fours => Store::Whole,
            Self::LinearRagged | Self::GatheredRagged => Store::Ragged,
            Self::Strided => Store::Scattered,
        }
    }

    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::LinearRagged => "linear_ragged",
            Self::Gathered => "gathered",
            Self::GatheredRagged => "gathered_ragged",
            Self::Strided => "strided",
            Self::Fours => "fours",
        }
    }
}

/// Key of a pointwise kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pointwise {
    /// What is done.
    pub op: Op,
    /// Element types of the inputs; those past [`Op::arity`], and that of a scalar, are ignored and should be
    /// `common`.
    pub inputs: [DType; 3],
    /// The type that inputs are converted to, and that the op computes for (PyTorch's promoted type).
    pub common: DType,
    /// Element type of the output.
    pub output: DType,
    /// The input that is scalar 0 of the parameters instead of a tensor.
    pub scalar: Option<u8>,
    /// How the operands lie.
    pub layout: Layout,
}

impl Pointwise {
    /// The op on tensors of one type, with the output that PyTorch allocates for it.
    pub fn new(op: Op, dtype: DType, layout: Layout) -> Self {
        let output = if op.is_predicate() { DType::Bool } else { dtype };
        Self { op, inputs: [dtype; 3], common: dtype, output, scalar: None, layout: layout.canonical(output) }
    }

    /// A copy that converts; between equal types it keeps every bit.
    pub fn cast(from: DType, to: DType, layout: Layout) -> Self {
        let (from, to) = if from == to { (from.bits(), from.bits()) } else { (from, to) };
        Self {
            op: Op::Copy,
            inputs: [from; 3],
            common: to,
            output: to,
            scalar: None,
            layout: layout.canonical(to),
        }
    }

    /// The same with input `index` passed as scalar 0.
    pub fn with_scalar(self, index: u8) -> Self {
        Self { scalar: Some(index), ..self }
    }

    /// The same that reads and writes four elements at a time, for a multiple of four of them, from multiples of four on in
    /// every operand. None where there is no such kernel: for other types than those of two and four bytes, and where an
    /// element's place matters.
    pub fn in_fours(self) -> Option<Self> {
        let fits = |dtype: DType| matches!(dtype.size(), 2 | 4);
        let all = fits(self.output) && self.tensors().all(fits) && self.tensors().count() > 0;
        let dense = self.layout == Layout::Linear && !self.op.is_indexed();
        (all && dense).then_some(Self { layout: Layout::Fours, ..self })
    }

    /// Element types of the tensor inputs, in binding order (after the output).
    pub fn tensors(&self) -> impl Iterator<Item = DType> + '_ {
        let scalar = self.scalar.map(usize::from);
        self.inputs
            .iter()
            .copied()
            .take(self.op.arity())
            .enumerate()
            .filter(move |(k, _)| Some(*k) != scalar)
            .map(|(_, d)| d)
    }

    /// Workgroups for `count` elements whose output begins at element `offset`.
    pub fn groups(&self, offset: u32, count: u32) -> [u32; 3] {
        if self.layout == Layout::Fours {
            return super::spread((count / 4).div_ceil(GROUP * ITEMS_FOURS));
        }
        let lanes = self.output.lanes();
        let units = match self.layout.store(self.output) {
            Store::Wide | Store::Scattered => count,
            Store::Whole => count.div_ceil(lanes),
            Store::Ragged => (offset % lanes + count).div_ceil(lanes),
        };
        super::spread(units.div_ceil(GROUP * self.items()))
    }

    /// Binary digits of a number in [0, 1) that the output holds.
    fn digits(&self) -> u32 {
        match self.output {
            DType::F16 => 11,
            DType::BF16 => 8,
            _ => 24,
        }
    }

    /// The expression of `q` in the precision of the type computed for.
    fn rounded(&self) -> String {
        if self.common.is_float() && self.common != DType::F32 {
            let name = self.common.name();
            return format!("decode_{name}(encode_{name}(q))");
        }
        "q".to_owned()
    }

    const fn items(&self) -> u32 {
        match self.layout {
            Layout::Fours => ITEMS_FOURS,
            layout if layout.is_strided() => 1,
            _ => ITEMS_DENSE,
        }
    }

    pub(super) fn label(&self) -> String {
        let mut label = format!("{}_{}", self.op.label(), self.common.name());
        for (k, input) in self.inputs.iter().enumerate().take(self.op.arity()) {
            if self.scalar == Some(k as u8) {
                label = format!("{label}_scalar{k}");
            } else if *input != self.common {
                label = label + "_" + input.name();
            }
        }
        if self.output != self.common {
            label = label + "_to_" + self.output.name();
        }
        label + "_" + self.layout.label()
    }

    pub(super) fn bindings(&self) -> u32 {
        1 + self.tensors().count() as u32
    }

    pub(super) fn param_bytes(&self) -> u32 {
        let bytes =
            if self.layout.is_strided() { size_of::<StridedParams>() } else { size_of::<PointwiseParams>() };
        bytes as u32
    }

    pub(super) fn requires(&self) -> Features {
        self.tensors()
            .chain([self.output])
            .fold(Features::of(self.common.native().dtype()), |all, dtype| all | Features::of(dtype))
    }

    /// The kernel up to its inputs and to `CALL`, with `body` around the output.
    pub(super) fn shader(&self, body: &'static str) -> Shader {
        let (fields, locate) = if self.layout.is_strided() {
            (
                include_str!("../../wgsl/params/strided.wgsl"),
                include_str!("../../wgsl/kernel/locate_strided.wgsl"),
            )
        } else {
            ("", include_str!("../../wgsl/kernel/locate_linear.wgsl"))
        };
        Shader::new(include_str!("../../wgsl/params/pointwise.wgsl"), body)
            .compute(self.common.native())
            .set("STRIDED_FIELDS", fields)
            .set("LOCATE", locate)
            .set("GROUP", GROUP.to_string())
            .set("ITEMS", self.items().to_string())
            .set("WIDTH", (self.common.size() * 8).to_string())
            .set("OUT", self.output.native().name())
            .set("ROUNDED", self.rounded())
            .set("DIGITS", self.digits().to_string())
            .set("STEP", format!("{:?}", (-f64::from(self.digits())).exp2()))
            .operand("out", self.output, self.store())
    }

    fn store(&self) -> Access {
        match self.layout {
            Layout::Fours => Access::StoreFour,
            layout => Access::Put(layout.store(self.output)),
        }
    }

    pub(super) fn wgsl(&self) -> String {
        if self.layout == Layout::Fours {
            return self.fours();
        }
        let mut shader = self.shader(include_str!("../../wgsl/kernel/pointwise.wgsl"));
        for (k, dtype) in self.tensors().enumerate() {
            shader = shader.operand(&format!("in{k}"), dtype, Access::Load);
        }
        let call = self.call(|tensor| format!("load_in{tensor}(at.{})", ["y", "z", "w"][tensor]));
        shader.set("CALL", call).finish()
    }

    fn fours(&self) -> String {
        let mut shader = self.shader(include_str!("../../wgsl/kernel/pointwise_fours.wgsl"));
        let mut loads = String::new();
        for (k, dtype) in self.tensors().enumerate() {
            shader = shader.operand(&format!("in{k}"), dtype, Access::LoadFour);
            loads += &format!("let x{k} = load_four_in{k}(p.offsets.{} + e);\n", ["y", "z", "w"][k]);
        }
        let values = ["x", "y", "z", "w"].map(|part| self.call(|tensor| format!("x{tensor}.{part}")));
        shader.set("LOADS", loads).set("VALUES", values.join(", ")).finish()
    }

    /// The expression that makes element `e`, found at `at`; `load` is one that reads it from a tensor.
    fn call(&self, load: impl Fn(usize) -> String) -> String {
        let mut arguments = Vec::with_capacity(4);
        if self.op.is_indexed() {
            arguments.push("e".to_owned());
        }
        let mut tensor = 0;
        for (k, dtype) in self.inputs.iter().enumerate().take(self.op.arity()) {
            if self.scalar == Some(k as u8) {
                arguments.push(format!("scalar_{}(0u)", self.common.native().name()));
            } else {
                let load = load(tensor);
                // Bools come from storage as 0 or 1 already.
                let same = *dtype == self.common;
                arguments.push(if same { load } else { convert(load, dtype.native(), self.common) });
                tensor += 1;
            }
        }
        let value = format!("{}({})", self.op.function(self.common), arguments.join(", "));
        if self.op.function_is_predicate(self.common) {
            convert(format!("select(0, 1, {value})"), Native::I32, self.output)
        } else {
            convert(value, self.common.native(), self.output)
        }
    }
}
