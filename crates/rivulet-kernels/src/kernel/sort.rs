//! Sorting along a dimension: runs of 1024 in shared memory, then, for longer rows, merges of runs in pairs. A tensor is
//! `[outer, size, inner]`, dense, and a row one `(outer, inner)`. Stable; NaN counts as the largest.

use crate::dtype::{DType, Native};
use crate::features::Features;
use crate::params::SortParams;
use crate::shader::{Access, Shader};

/// A step of a sort.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SortStep {
    /// All of it, for rows of up to [`Sort::RUN`] elements. Bindings: values, indices, x.
    Rows,
    /// Sorts runs. Bindings: keys, places, x.
    Runs,
    /// Merges runs in pairs. Bindings: keys, places, keys in, places in.
    Merge,
    /// Fetches the elements. Bindings: values, indices, places, x.
    Finish,
}

/// Key of a step of a sort. Indices are int64; keys are of type [`Sort::key`] and places int32, both
/// `[rows, size]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sort {
    /// Which step.
    pub step: SortStep,
    /// Element type.
    pub dtype: DType,
    /// True where the largest come first. Without meaning for merges, whose keys are turned round already, and for the
    /// last step.
    pub descending: bool,
}

impl Sort {
    /// Elements that a workgroup sorts.
    pub const RUN: u32 = 1024;

    /// Element type of the keys: four or eight bytes.
    pub const fn key(dtype: DType) -> DType {
        match dtype {
            DType::I64 => DType::I64,
            _ => DType::I32,
        }
    }

    /// Length of the runs of rows of `size` elements, and how many runs a row has.
    pub fn runs(size: u32) -> (u32, u32) {
        let width = size.next_power_of_two().clamp(2, Self::RUN);
        (width, size.div_ceil(width).max(1))
    }

    /// Workgroups for `rows` rows of `size` elements, the first `keep` of which are kept.
    pub fn groups(&self, rows: u32, size: u32, keep: u32) -> [u32; 3] {
        super::spread(match self.step {
            SortStep::Rows | SortStep::Runs => {
                let (width, runs) = Self::runs(size);
                (rows * runs).div_ceil(Self::RUN / width)
            }
            SortStep::Merge => (rows * size).div_ceil(256),
            SortStep::Finish => (rows * keep).div_ceil(256),
        })
    }

    /// The same key for all sorts that the kernel serves.
    fn canonical(self) -> Self {
        match self.step {
            SortStep::Rows | SortStep::Runs => self,
            SortStep::Merge => Self { dtype: Self::key(self.dtype), descending: false, ..self },
            SortStep::Finish => Self { descending: false, ..self },
        }
    }

    pub(super) fn label(&self) -> String {
        let step = match self.step {
            SortStep::Rows => "rows",
            SortStep::Runs => "runs",
            SortStep::Merge => "merge",
            SortStep::Finish => "finish",
        };
        let descending = if self.descending { "_descending" } else { "" };
        format!("sort_{step}_{}{descending}", self.dtype.name())
    }

    /// The step of a sort of this type and direction.
    pub fn new(step: SortStep, dtype: DType, descending: bool) -> Self {
        Self { step, dtype, descending }.canonical()
    }

    pub(super) fn bindings(&self) -> u32 {
        match self.step {
            SortStep::Rows | SortStep::Runs => 3,
            SortStep::Merge | SortStep::Finish => 4,
        }
    }

    pub(super) fn param_bytes(&self) -> u32 {
        size_of::<SortParams>() as u32
    }

    pub(super) fn requires(&self) -> Features {
        match self.step {
            SortStep::Rows | SortStep::Finish => Features::of(self.dtype) | Features::INT64,
            SortStep::Runs => Features::of(self.dtype),
            SortStep::Merge => Features::of(Self::key(self.dtype)),
        }
    }

    pub(super) fn wgsl(&self) -> String {
        let key = Self::key(self.dtype);
        let body = match self.step {
            SortStep::Rows | SortStep::Runs => {
                concat!(
                    include_str!("../../wgsl/kernel/sort_key.wgsl"),
                    include_str!("../../wgsl/kernel/sort_block.wgsl")
                )
            }
            SortStep::Merge => include_str!("../../wgsl/kernel/sort_merge.wgsl"),
            SortStep::Finish => include_str!("../../wgsl/kernel/sort_finish.wgsl"),
        };
        let native = self.dtype.native();
        let ordered = format!("ordered_{}(x)", native.name());
        let wide = native == Native::I64;
        let mut shader = Shader::new(include_str!("../../wgsl/params/sort.wgsl"), body)
            .compute(native)
            .set("K", if wide { "i64" } else { "u32" })
            .set(
                "ORDERED",
                match (self.descending, wide) {
                    (false, _) => ordered,
                    (true, false) => format!("~{ordered}"),
                    (true, true) => format!("i64(-1) - {ordered}"),
                },
            );
        const FETCH: &str = "let to = row_start(row, p.keep) + rank * p.inner;\n\
             store_values(p.offsets.x + to, load_x(p.offsets.z + row_start(row, p.size) + place * p.inner));\n\
             store_indices(p.offsets.y + to, i64(place));";
        let fetches = matches!(self.step, SortStep::Rows | SortStep::Finish);
        if fetches {
            shader = shader.set("STORE", FETCH).set("LIMIT", "p.keep");
            shader = shader.operand("values", self.dtype, Access::Store);
            shader = shader.operand("indices", DType::I64, Access::Store);
        } else {
            let keep = if wide { "key" } else { "bitcast<i32>(key)" };
            shader = shader.set("LIMIT", "p.size").set(
                "STORE",
                format!(
                    "store_keys(row * p.size + rank, {keep});\n\
                     store_places(row * p.size + rank, bitcast<i32>(place));"
                ),
            );
            shader = shader.operand("keys", key, Access::Store).operand("places", DType::I32, Access::Store);
        }
        match self.step {
            SortStep::Rows | SortStep::Runs => shader.operand("x", self.dtype, Access::Load),
            SortStep::Merge => {
                let load = if wide { "load_keys_in(AT)" } else { "bitcast<u32>(load_keys_in(AT))" };
                shader
                    .set("OWN", load.replace("AT", "i"))
                    .set("OTHER", load.replace("AT", "row + probe"))
                    .set("KEEP", if wide { "key" } else { "bitcast<i32>(key)" })
                    .operand("keys_in", key, Access::Load)
                    .operand("places_in", DType::I32, Access::Load)
            }
            SortStep::Finish => {
                shader.operand("places", DType::I32, Access::Load).operand("x", self.dtype, Access::Load)
            }
        }
        .finish()
    }
}
