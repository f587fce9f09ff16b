//! Reductions over any dimensions.

use crate::dtype::{DType, Native, convert};
use crate::features::Features;
use crate::params::ReduceParams;
use crate::shader::{Access, Shader};

/// What many elements are made into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReduceOp {
    /// Sum, times `scale` for floats: a mean where that is 1 / count.
    Sum,
    /// Product.
    Prod,
    /// Largest element, or the NaN among them.
    Max,
    /// Smallest element, or the NaN among them.
    Min,
    /// As [`ReduceOp::Max`], with the first place where it is found.
    ArgMax,
    /// As [`ReduceOp::Min`], with the first place where it is found.
    ArgMin,
    /// Whether an element is not 0.
    Any,
    /// Whether no element is 0.
    All,
    /// How many elements are not 0.
    CountNonzero,
    /// Sum of magnitudes.
    SumAbs,
    /// Sum of squares.
    SumSquares,
    /// Root of the sum of squares: the Euclidean norm. In chunks: SumSquares, then RootSum.
    Norm2,
    /// Root of a sum.
    RootSum,
    /// Sum of magnitudes to the power `power`.
    SumPower,
    /// Largest magnitude.
    MaxAbs,
    /// Smallest magnitude.
    MinAbs,
    /// Variance; `scale` is 1 / (count - correction).
    Var,
    /// Root of the variance.
    Std,
}

/// Where a reduction in chunks stands. Ops without places are chunks of one kernel merged by another op's: sums by
/// [`ReduceOp::Sum`] and so on. [`ReduceOp::ArgMax`], [`ReduceOp::ArgMin`], [`ReduceOp::Var`] and [`ReduceOp::Std`] need
/// two numbers of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReduceStage {
    /// The elements of the input, in any number of chunks, give results.
    Whole,
    /// [`ReduceOp::Var`] only. The elements of the input, in chunks, give `[chunks, kept]` means and, in a second
    /// binding, sums of squared distances from them. Bindings: means, squares, input; all but the input float32.
    Part,
    /// What chunks gave gives results. The input is `[chunks, kept]` values (or means) of chunks; one more binding
    /// comes last and holds their places (or squares), at the same elements. For variances `chunk` is the number of
    /// elements in a chunk, and the fourth offset that of all.
    Merge,
}

/// Which results are stored, for [`ReduceOp::ArgMax`] and [`ReduceOp::ArgMin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReduceOutput {
    /// Bindings: values, input.
    Values,
    /// Bindings: indices (int64), input.
    Indices,
    /// Bindings: values, indices (int64), input.
    Both,
}

/// Invocations for one result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReduceThreads {
    /// One: where neighbouring results read neighbouring elements, or there is little to add up.
    One,
    /// A workgroup of 256: where the elements of one result are neighbours.
    Group,
}

/// Key of a reduction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reduce {
    /// What is computed.
    pub op: ReduceOp,
    /// Element type of the input.
    pub input: DType,
    /// Element type of the values.
    pub output: DType,
    /// What is stored.
    pub stores: ReduceOutput,
    /// Invocations for one result.
    pub threads: ReduceThreads,
    /// Where the reduction stands.
    pub stage: ReduceStage,
}

impl ReduceOp {
    /// Every op.
    pub const ALL: [Self; 18] = [
        Self::Sum,
        Self::Prod,
        Self::Max,
        Self::Min,
        Self::ArgMax,
        Self::ArgMin,
        Self::Any,
        Self::All,
        Self::CountNonzero,
        Self::SumAbs,
        Self::SumSquares,
        Self::Norm2,
        Self::RootSum,
        Self::SumPower,
        Self::MaxAbs,
        Self::MinAbs,
        Self::Var,
        Self::Std,
    ];

    /// True where the op has places to tell.
    pub const fn is_arg(self) -> bool {
        matches!(self, Self::ArgMax | Self::ArgMin)
    }

    /// True for the ops that are defined for floats alone.
    pub const fn is_float_only(self) -> bool {
        matches!(
            self,
            Self::SumAbs
                | Self::SumSquares
                | Self::Norm2
                | Self::RootSum
                | Self::SumPower
                | Self::MaxAbs
                | Self::MinAbs
                | Self::Var
                | Self::Std
        )
    }

    /// The output that PyTorch allocates where it is not told otherwise.
    pub const fn output(self, input: DType) -> DType {
        match self {
            Self::Sum | Self::Prod if !input.is_float() => DType::I64,
            Self::Any | Self::All => DType::Bool,
            Self::CountNonzero => DType::I64,
            _ => input,
        }
    }

    /// The op's one name.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Prod => "prod",
            Self::Max => "max",
            Self::Min => "min",
            Self::ArgMax => "argmax",
            Self::ArgMin => "argmin",
            Self::Any => "any",
            Self::All => "all",
            Self::CountNonzero => "count_nonzero",
            Self::SumAbs => "sum_abs",
            Self::SumSquares => "sum_squares",
            Self::Norm2 => "norm2",
            Self::RootSum => "root_sum",
            Self::SumPower => "sum_power",
            Self::MaxAbs => "max_abs",
            Self::MinAbs => "min_abs",
            Self::Var => "var",
            Self::Std => "std",
        }
    }
}

/// Stores a variance. `scale` is 1 / (count - correction).
const VARIANCE: &str = "let total = squares * p.scale;\nstore_out(p.offsets.x + o, FINISH);";
/// Stores what a chunk of a variance gives.
const MOMENTS: &str = "store_out(p.offsets.x + o, mean);\nstore_squares(p.offsets.y + o, squares);";

impl Reduce {
    /// The key with PyTorch's output type.
    pub fn new(op: ReduceOp, input: DType, stores: ReduceOutput, threads: ReduceThreads) -> Self {
        Self { op, input, output: op.output(input), stores, threads, stage: ReduceStage::Whole }
    }

    /// Workgroups for `kept` results in `chunks` parts each.
    pub fn groups(&self, kept: u32, chunks: u32) -> [u32; 3] {
        let results = kept * chunks;
        super::spread(match self.threads {
            ReduceThreads::One => results.div_ceil(256),
            ReduceThreads::Group => results,
        })
    }

    pub(super) fn label(&self) -> String {
        let stores = match self.stores {
            ReduceOutput::Values => "",
            ReduceOutput::Indices => "_indices",
            ReduceOutput::Both => "_both",
        };
        let threads = match self.threads {
            ReduceThreads::One => "one",
            ReduceThreads::Group => "group",
        };
        let stage = match self.stage {
            ReduceStage::Whole => "",
            ReduceStage::Part => "_part",
            ReduceStage::Merge => "_merge",
        };
        format!("{}{stores}_{}_{}_{threads}{stage}", self.op.label(), self.input.name(), self.output.name())
    }

    pub(super) fn bindings(&self) -> u32 {
        2 + u32::from(self.stores == ReduceOutput::Both) + u32::from(self.stage != ReduceStage::Whole)
    }

    pub(super) fn param_bytes(&self) -> u32 {
        size_of::<ReduceParams>() as u32
    }

    pub(super) fn requires(&self) -> Features {
        let places =
            self.stores != ReduceOutput::Values || (self.stage == ReduceStage::Merge && self.op.is_arg());
        let indices = if places { Features::INT64 } else { Features::NONE };
        Features::of(self.input) | Features::of(self.output) | indices
    }

    /// The type that is added up in.
    fn native(&self) -> Native {
        match self.op {
            ReduceOp::Any | ReduceOp::All => Native::I32,
            ReduceOp::CountNonzero | ReduceOp::Sum | ReduceOp::Prod => self.output.native(),
            _ => self.input.native(),
        }
    }

    pub(super) fn wgsl(&self) -> String {
        let native = self.native();
        let loaded = self.input.native();
        let map = match self.op {
            ReduceOp::Any | ReduceOp::All => format!("truth_{}(x)", loaded.name()),
            ReduceOp::CountNonzero => {
                convert(format!("truth_{}(x)", loaded.name()), Native::I32, native.dtype())
            }
            ReduceOp::SumAbs | ReduceOp::MaxAbs | ReduceOp::MinAbs => "abs(x)".to_owned(),
            ReduceOp::SumSquares | ReduceOp::Norm2 => "x * x".to_owned(),
            ReduceOp::SumPower => "pow_f32(abs(x), p.power)".to_owned(),
            _ => convert("x".to_owned(), loaded, native.dtype()),
        };
        let name = native.name();
        let (combine, identity) = match self.op {
            ReduceOp::Prod => ("join_prod".to_owned(), format!("{name}(1)")),
            ReduceOp::Max | ReduceOp::Any | ReduceOp::MaxAbs => (
                format!("join_max_{name}"),
                if self.op == ReduceOp::Max { format!("lowest_{name}()") } else { format!("{name}(0)") },
            ),
            ReduceOp::Min | ReduceOp::MinAbs => (format!("join_min_{name}"), format!("highest_{name}()")),
            ReduceOp::All => (format!("join_min_{name}"), format!("{name}(1)")),
            _ => ("join_sum".to_owned(), format!("{name}(0)")),
        };
        let finish = match self.op {
            ReduceOp::Sum if native == Native::F32 => "total * p.scale",
            ReduceOp::Norm2 | ReduceOp::RootSum | ReduceOp::Std => "sqrt(total)",
            _ => "total",
        };
        let finished = convert(finish.to_owned(), native, self.output);
        let group = self.threads == ReduceThreads::Group;
        let index = if group {
            "group.y * groups.x + group.x"
        } else {
            "(group.y * groups.x + group.x) * 256u + local"
        };
        let shared = |call: &str| {
            let arguments = if group { "start + local, 256u, end" } else { "start, 1u, end" };
            let fold = call.replace("RANGE", arguments);
            if group { format!("share(local, {fold})") } else { fold }
        };
        let mut shader = Shader::new(
            include_str!("../../wgsl/params/reduce.wgsl"),
            include_str!("../../wgsl/kernel/reduce.wgsl"),
        )
        .compute(native)
        .set("A", name)
        .set("MAP", map)
        .set("COMBINE", combine)
        .set("IDENTITY", identity)
        .set("FINISH", finished.clone())
        .set("RESULT_INDEX", index)
        .set("WRITES", if group { "local == 0u" } else { "true" });
        if !self.op.is_arg() || self.stores != ReduceOutput::Indices {
            shader = shader.operand("out", self.output, Access::Store);
        }
        if self.op.is_arg() && self.stores != ReduceOutput::Values {
            shader = shader.operand("places", DType::I64, Access::Store);
        }
        if self.stage == ReduceStage::Part {
            shader = shader.operand("squares", DType::F32, Access::Store);
        }
        shader = shader.operand("x", self.input, Access::Load);
        if self.stage == ReduceStage::Merge {
            let dtype = if self.op.is_arg() { DType::I64 } else { DType::F32 };
            shader = shader.operand("second", dtype, Access::Load);
        }
        let (fold, share) = match self.op {
            ReduceOp::ArgMax | ReduceOp::ArgMin => {
                shader = self.arg(shader, shared("fold(base, RANGE)"));
                (
                    include_str!("../../wgsl/kernel/reduce_arg.wgsl"),
                    include_str!("../../wgsl/kernel/reduce_arg_share.wgsl"),
                )
            }
            ReduceOp::Var | ReduceOp::Std => {
                let (weight, spread, store) = match self.stage {
                    ReduceStage::Whole => ("1.0", "0.0", VARIANCE.replace("FINISH", &finished)),
                    ReduceStage::Part => ("1.0", "0.0", MOMENTS.to_owned()),
                    ReduceStage::Merge => {
                        let squares = "load_second(place(base, r))";
                        (
                            "f32(min(p.chunk, p.offsets.w - r * p.chunk))",
                            squares,
                            VARIANCE.replace("FINISH", &finished),
                        )
                    }
                };
                let merge = self.stage == ReduceStage::Merge;
                let members = if merge { "p.offsets.w" } else { "end - start" };
                let (start, end) = if merge {
                    ("0u", "p.count")
                } else {
                    ("o / p.kept * p.chunk", "min(start + p.chunk, p.count)")
                };
                shader = shader
                    .set("START", start)
                    .set("END", end)
                    .set("WEIGHT", weight)
                    .set("SPREAD", spread)
                    .set("MEMBERS", members)
                    .set("STORE", store)
                    .set("MEAN", shared("fold_sum(base, RANGE)"))
                    .set("SQUARES", shared("fold_squares(base, RANGE, mean)"));
                (
                    include_str!("../../wgsl/kernel/reduce_variance.wgsl"),
                    include_str!("../../wgsl/kernel/reduce_share.wgsl"),
                )
            }
            _ => {
                shader = shader.set("TOTAL", shared("fold(base, RANGE)"));
                (
                    include_str!("../../wgsl/kernel/reduce_values.wgsl"),
                    include_str!("../../wgsl/kernel/reduce_share.wgsl"),
                )
            }
        };
        // The common beginning and the shared-memory half go in first: markers inside markers are replaced one level
        // deep.
        let fold = fold
            .replace("$MAIN", include_str!("../../wgsl/kernel/reduce_main.wgsl").trim_end())
            .replace("$SHARE", if group { share } else { "" });
        shader.set("FOLD", fold).finish()
    }

    fn arg(&self, shader: Shader, total: String) -> Shader {
        let name = self.input.native().name();
        let order = if self.op == ReduceOp::ArgMax { ">" } else { "<" };
        let beats = if self.input.is_float() {
            format!("(is_nan(a) && !is_nan(b)) || (!is_nan(a) && !is_nan(b) && a {order} b)")
        } else {
            format!("a {order} b")
        };
        let mut store = String::new();
        if self.stores != ReduceOutput::Indices {
            store += &format!(
                "store_out(p.offsets.x + o, {});\n",
                convert("best.value".to_owned(), self.input.native(), self.output)
            );
        }
        if self.stores != ReduceOutput::Values {
            store += "store_places(p.offsets.y + o, i64(best.index));";
        }
        let place = if self.stage == ReduceStage::Merge { "u32(load_second(place(base, r)))" } else { "r" };
        shader.set("A", name).set("BEATS", beats).set("TOTAL", total).set("STORE", store).set("PLACE", place)
    }
}
