//! The end of a matrix product: parts along k put together, bias and activation, storing.

use super::ops::Op;
use crate::dtype::{DType, Native};
use crate::features::Features;
use crate::params::MatmulParams;
use crate::shader::{Access, Shader};

/// Key of what puts the parts of a [split](super::Matmul::split) product together: `activation(alpha (sum of parts) + beta
/// bias) + residual`, the parts in their order. Bindings: out, the parts as float32, then bias and residual where there are
/// such.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MatmulJoin {
    /// Element type of the output and the bias.
    pub output: DType,
    /// As [`Matmul::bias`](super::Matmul::bias).
    pub bias: bool,
    /// As [`Matmul::activation`](super::Matmul::activation).
    pub activation: Option<Op>,
    /// As [`Matmul::residual`](super::Matmul::residual), but that it takes the place of `b` among the parameters: first
    /// element and batch strides.
    pub residual: bool,
    /// As [`Matmul::store`](super::Matmul::store).
    pub store: ProductStore,
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
        if self.residual {
            label += "_residual";
        }
        label + self.store.of(self.output).label()
    }

    pub(super) fn bindings(&self) -> u32 {
        2 + u32::from(self.bias) + u32::from(self.residual)
    }

    pub(super) fn param_bytes(&self) -> u32 {
        size_of::<MatmulParams>() as u32
    }

    pub(super) fn requires(&self) -> Features {
        Features::of(self.output)
    }

    pub(super) fn wgsl(&self) -> String {
        let body = concat!(
            include_str!("../../wgsl/kernel/matmul_finish.wgsl"),
            include_str!("../../wgsl/kernel/matmul_store.wgsl"),
            include_str!("../../wgsl/kernel/matmul_join.wgsl")
        );
        // Where the columns are a multiple of four, so are those of the parts.
        let fours = self.store == ProductStore::Fours;
        let add = if fours {
            "if (row < p.m && first_column < p.n) { sums += load_four_parts(at); }".to_owned()
        } else {
            let one = |j| {
                format!(
                    "if (row < p.m && first_column + {j}u < p.n) {{ sums[{j}] += load_parts(at + {j}u); }}\n"
                )
            };
            (0..4).map(one).collect()
        };
        let shader = Shader::new(include_str!("../../wgsl/params/matmul.wgsl"), body)
            .compute(Native::F32)
            .operand("out", self.output, self.store.of(self.output).access())
            .operand("parts", DType::F32, if fours { Access::LoadFour } else { Access::Load })
            .set("ADD", add)
            .set("ROWS", Self::ROWS.to_string())
            .set("QUADS", Self::QUADS.to_string());
        let mut shader = finished(shader, self.output, self.bias, self.activation);
        if self.residual {
            let place = "base.z + row * p.edges.x + column";
            shader = with_residual(shader, self.output, self.activation, place);
        }
        stored(shader, self.output, self.store).finish()
    }
}

/// What becomes of a sum before it is stored.
pub(super) fn finished(shader: Shader, output: DType, bias: bool, activation: Option<Op>) -> Shader {
    let shader = if bias {
        let bias = "load_bias(base.w + row * p.edges.y + column * p.edges.z)";
        shader.operand("bias", output, Access::Load).set("SUM", format!("fma(p.alpha, sum, p.beta * {bias})"))
    } else {
        shader.set("SUM", "p.alpha * sum")
    };
    shader.set("ACTIVATION", activated(activation))
}

/// What the kernels call the value, after its activation.
fn activated(activation: Option<Op>) -> String {
    activation.map_or("value".to_owned(), |op| format!("{}(value)", op.function(DType::F32)))
}

/// Adds to what [`finished`] gives the element of the residual at `place`, an expression of `base`, `row` and `column`.
pub(super) fn with_residual(shader: Shader, output: DType, activation: Option<Op>, place: &str) -> Shader {
    let made = activated(activation);
    shader
        .operand("residual", output, Access::Load)
        .set("ACTIVATION", format!("{made} + load_residual({place})"))
}

/// How the four sums that an invocation has beside each other are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProductStore {
    /// One by one, at any place.
    One,
    /// Elements narrower than a word in pairs: offset, row stride, batch strides of the output and `n` are even. Wide ones
    /// one by one.
    Pairs,
    /// All at once: those are multiples of four.
    Fours,
}

impl ProductStore {
    /// The same with the same code for this output.
    pub(super) const fn of(self, output: DType) -> Self {
        match self {
            Self::Pairs if output.is_wide() => Self::One,
            other => other,
        }
    }

    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::One => "",
            Self::Pairs => "_pairs",
            Self::Fours => "_fours",
        }
    }

    pub(super) const fn access(self) -> Access {
        match self {
            Self::One => Access::Store,
            Self::Pairs => Access::Words,
            Self::Fours => Access::StoreFour,
        }
    }
}

/// Stores `sums`, from element `to` on.
pub(super) fn stored(shader: Shader, output: DType, store: ProductStore) -> Shader {
    let finished = |j: u32| format!("finished(base, row, column + {j}u, sums[{j}])");
    let text = match store.of(output) {
        ProductStore::Fours => {
            let values = (0..4).map(finished).collect::<Vec<_>>().join(", ");
            format!("if (column < p.n) {{ store_four_out(to, vec4<f32>({values})); }}")
        }
        ProductStore::Pairs => (0..4)
            .step_by(2)
            .map(|j| {
                let half = j / 2;
                format!(
                    "if (column + {j}u < p.n) {{ out[to / 2u + {half}u] = encode_{0}({1}) | (encode_{0}({2}) << 16u); }}\n",
                    output.name(),
                    finished(j),
                    finished(j + 1)
                )
            })
            .collect(),
        ProductStore::One => {
            let one = |j| format!("if (column + {j}u < p.n) {{ store_out(to + {j}u, {}); }}\n", finished(j));
            (0..4).map(one).collect()
        }
    };
    shader.set("STORE", text)
}
