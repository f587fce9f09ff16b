//! Kernels that read or write at places that a tensor of indices holds.
//!
//! Gather: `out[p] = source[p, index[p] along one dimension]`, with strides for each operand over the places `p` of the
//! output; a stride of 0 in the indexed dimension makes it `index_select`, `embedding` and `index` with one tensor, and
//! indices into several dimensions are put together by pointwise kernels first.

use super::pointwise::{GROUP, Layout, Pointwise};
use super::{Op, spread};
use crate::dtype::DType;
use crate::features::Features;
use crate::params::StridedParams;
use crate::shader::{Access, Shader};

/// Key of a gather. Bindings: out, index, source. An index outside gives 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gather {
    /// Element type of source and output.
    pub dtype: DType,
    /// Element type of the indices: int64 or int32.
    pub index: DType,
    /// How the output lies; one of the strided layouts.
    pub layout: Layout,
}

/// How a scattered element meets the one that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScatterOp {
    /// Takes its place; where indices repeat, any of the elements stays.
    Assign,
    /// Is added.
    Add,
    /// Is multiplied; not for int64.
    Mul,
    /// The larger stays; not for int64.
    Max,
    /// The smaller stays; not for int64.
    Min,
}

/// Key of a scatter. Bindings: out (changed in place), index, and source where there is one. An index outside
/// changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scatter {
    /// How elements meet.
    pub op: ScatterOp,
    /// Element type of source and output.
    pub dtype: DType,
    /// Element type of the indices: int64 or int32.
    pub index: DType,
    /// True where scalar 0 of the parameters is written instead of a source's elements.
    pub scalar: bool,
}

impl Gather {
    /// The key; dense layouts become their strided counterparts.
    pub fn new(dtype: DType, index: DType, layout: Layout) -> Self {
        let layout = match layout {
            Layout::Linear => Layout::Gathered,
            Layout::LinearRagged => Layout::GatheredRagged,
            other => other,
        };
        // Bits are moved, never computed with.
        Self { dtype: dtype.bits(), index, layout: layout.canonical(dtype) }
    }

    fn pointwise(&self) -> Pointwise {
        Pointwise {
            op: Op::Copy,
            inputs: [self.index, self.dtype, self.dtype],
            common: self.dtype,
            output: self.dtype,
            scalar: None,
            layout: self.layout,
        }
    }

    /// Workgroups for `count` elements whose output begins at element `offset`.
    pub fn groups(&self, offset: u32, count: u32) -> [u32; 3] {
        self.pointwise().groups(offset, count)
    }

    pub(super) fn label(&self) -> String {
        format!("gather_{}_{}_{}", self.dtype.name(), self.index.name(), self.layout.label())
    }

    pub(super) fn bindings(&self) -> u32 {
        3
    }

    pub(super) fn param_bytes(&self) -> u32 {
        size_of::<StridedParams>() as u32
    }

    pub(super) fn requires(&self) -> Features {
        Features::of(self.dtype) | Features::of(self.index)
    }

    pub(super) fn wgsl(&self) -> String {
        self.pointwise()
            .shader(concat!(
                include_str!("../../wgsl/kernel/gather.wgsl"),
                include_str!("../../wgsl/kernel/pointwise.wgsl")
            ))
            .operand("in0", self.index, Access::Load)
            .operand("in1", self.dtype, Access::Load)
            .set("INDEX", self.index.native().name())
            .set("SOURCE", self.dtype.native().name())
            .set("CALL", "gathered()")
            .finish()
    }
}

impl ScatterOp {
    /// Every op.
    pub const ALL: [Self; 5] = [Self::Assign, Self::Add, Self::Mul, Self::Max, Self::Min];

    /// True where there is a kernel for elements of this type.
    pub const fn takes(self, dtype: DType) -> bool {
        matches!(self, Self::Assign | Self::Add) || !matches!(dtype, DType::I64)
    }

    const fn label(self) -> &'static str {
        match self {
            Self::Assign => "assign",
            Self::Add => "add",
            Self::Mul => "mul",
            Self::Max => "max",
            Self::Min => "min",
        }
    }
}

impl Scatter {
    /// Workgroups for `count` indices.
    pub fn groups(&self, count: u32) -> [u32; 3] {
        spread(count.div_ceil(GROUP))
    }

    pub(super) fn label(&self) -> String {
        let scalar = if self.scalar { "_scalar" } else { "" };
        format!("scatter_{}_{}_{}{scalar}", self.op.label(), self.dtype.name(), self.index.name())
    }

    pub(super) fn bindings(&self) -> u32 {
        if self.scalar { 2 } else { 3 }
    }

    pub(super) fn param_bytes(&self) -> u32 {
        size_of::<StridedParams>() as u32
    }

    pub(super) fn requires(&self) -> Features {
        Features::of(self.dtype) | Features::of(self.index)
    }

    pub(super) fn wgsl(&self) -> String {
        let native = self.dtype.native().name();
        let (access, change) = match self.op {
            // Several may assign to one element, which a narrow store does not allow.
            ScatterOp::Assign if self.dtype.is_wide() => {
                (Access::Store, include_str!("../../wgsl/kernel/scatter_assign.wgsl"))
            }
            ScatterOp::Add if self.dtype == DType::I64 => {
                (Access::Atomic, include_str!("../../wgsl/kernel/scatter_add_wide.wgsl"))
            }
            _ => (Access::Atomic, include_str!("../../wgsl/kernel/scatter_join.wgsl")),
        };
        let join = match self.op {
            ScatterOp::Mul => "join_prod".to_owned(),
            ScatterOp::Max => format!("join_max_{native}"),
            ScatterOp::Min => format!("join_min_{native}"),
            ScatterOp::Assign => "join_second".to_owned(),
            ScatterOp::Add => "join_sum".to_owned(),
        };
        let (decode, encode) = if self.dtype.is_wide() {
            (format!("bitcast<{native}>"), "bitcast<u32>".to_owned())
        } else {
            (format!("decode_{}", self.dtype.name()), format!("encode_{}", self.dtype.name()))
        };
        let mask = if self.dtype.is_wide() {
            "0xffffffffu".to_owned()
        } else {
            format!("LANE_MASK_{}", self.dtype.size() * 8)
        };
        let mut shader = Shader::new(
            include_str!("../../wgsl/params/pointwise.wgsl"),
            include_str!("../../wgsl/kernel/scatter.wgsl"),
        )
        .compute(self.dtype.native())
        .set("STRIDED_FIELDS", include_str!("../../wgsl/params/strided.wgsl"))
        .set("LOCATE", include_str!("../../wgsl/kernel/locate_strided.wgsl"))
        .set("GROUP", GROUP.to_string())
        .set("INDEX", self.index.native().name())
        .set("CHANGE", change)
        .set("T", native)
        .set("A", native)
        .set("LANES", self.dtype.lanes().to_string())
        .set("BITS", (self.dtype.size() * 8).min(32).to_string())
        .set("MASK", mask)
        .set("JOIN", join)
        .set("DECODE", decode)
        .set("ENCODE", encode)
        .operand("out", self.dtype, access)
        .operand("in0", self.index, Access::Load);
        if self.scalar {
            shader = shader.set("VALUE", format!("scalar_{native}(0u)"));
        } else {
            shader = shader.operand("in1", self.dtype, Access::Load).set("VALUE", "load_in1(at.z)");
        }
        shader.finish()
    }
}
