//! Changes of resolution of up to three dimensions, and their gradients.

use super::row::RowStore;
use crate::dtype::{DType, Native};
use crate::features::Features;
use crate::params::ResampleParams;
use crate::shader::{Access, Shader};

/// How places between those of x are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResampleMode {
    /// The place at the output's times the scale, rounded down: PyTorch's `nearest`.
    Nearest,
    /// The place nearest to the middle: `nearest-exact`.
    NearestExact,
    /// Between the two neighbours in each dimension; places are squares.
    Linear,
    /// The same with places that are points, the outermost on one another: `align_corners`.
    LinearAligned,
}

/// Key of a change of resolution of dense `[outer, depth, height, width]`. Bindings: out, x.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Resample {
    /// How places are made.
    pub mode: ResampleMode,
    /// True for the gradient: `out` has the size of the input, `x` is the gradient of the output; floats only.
    pub backward: bool,
    /// Element type; floats only but for the nearest place's value.
    pub dtype: DType,
    /// How the output is stored; never scattered.
    pub store: RowStore,
}

impl Resample {
    /// The key; `offset` is the first element of the output, `count` their number.
    pub fn new(mode: ResampleMode, backward: bool, dtype: DType, offset: u32, count: u32) -> Self {
        let copies = !backward && matches!(mode, ResampleMode::Nearest | ResampleMode::NearestExact);
        let dtype = if copies { dtype.bits() } else { dtype };
        Self { mode, backward, dtype, store: RowStore::choose(dtype, offset, count, 1) }
    }

    /// Workgroups for `count` elements of the output, which begins at element `offset`.
    pub fn groups(&self, offset: u32, count: u32) -> [u32; 3] {
        let lanes = self.dtype.lanes();
        super::spread((offset % lanes + count).div_ceil(lanes).div_ceil(256))
    }

    pub(super) fn label(&self) -> String {
        let mode = match self.mode {
            ResampleMode::Nearest => "nearest",
            ResampleMode::NearestExact => "nearest_exact",
            ResampleMode::Linear => "linear",
            ResampleMode::LinearAligned => "linear_aligned",
        };
        let backward = if self.backward { "_backward" } else { "" };
        format!("resample_{mode}{backward}_{}_{}", self.dtype.name(), self.store.label())
    }

    pub(super) fn bindings(&self) -> u32 {
        2
    }

    pub(super) fn param_bytes(&self) -> u32 {
        size_of::<ResampleParams>() as u32
    }

    pub(super) fn requires(&self) -> Features {
        Features::of(self.dtype)
    }

    pub(super) fn wgsl(&self) -> String {
        let linear = matches!(self.mode, ResampleMode::Linear | ResampleMode::LinearAligned);
        macro_rules! body {
            ($source:literal, $element:literal) => {
                concat!(
                    include_str!(concat!("../../wgsl/kernel/", $source, ".wgsl")),
                    include_str!(concat!("../../wgsl/kernel/", $element, ".wgsl")),
                    include_str!("../../wgsl/kernel/units.wgsl")
                )
            };
        }
        let body = match (linear, self.backward) {
            (false, false) => body!("resample_nearest", "resample_nearest_forward"),
            (false, true) => body!("resample_nearest", "resample_backward"),
            (true, false) => body!("resample_linear", "resample_linear_forward"),
            (true, true) => body!("resample_linear", "resample_backward"),
        };
        let place = match self.mode {
            ResampleMode::Nearest => "f32(o) * p.scale[dim]",
            ResampleMode::NearestExact => "(f32(o) + 0.5) * p.scale[dim]",
            ResampleMode::Linear => "max(p.scale[dim] * (f32(o) + 0.5) - 0.5, 0.0)",
            ResampleMode::LinearAligned => "p.scale[dim] * f32(o)",
        };
        let native = if linear || self.backward { Native::F32 } else { self.dtype.native() };
        Shader::new(include_str!("../../wgsl/params/resample.wgsl"), body)
            .compute(native)
            .set("PLACE", place)
            .operand("out", self.dtype, Access::Put(self.store.store(self.dtype)))
            .operand("x", self.dtype, Access::Load)
            .finish()
    }
}
