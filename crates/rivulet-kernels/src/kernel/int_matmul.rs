//! Products of matrices of integers, wrapped as PyTorch's are.

use super::MAX_GROUPS;
use crate::dtype::DType;
use crate::features::Features;
use crate::params::IntMatmulParams;
use crate::shader::{Access, Shader};

/// Key of a product of integers. Bindings: out (dense), a, b, of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IntMatmul {
    /// Element type; not bool.
    pub dtype: DType,
}

impl IntMatmul {
    /// Workgroups; none where there are more than a dispatch takes.
    pub fn groups(&self, params: &IntMatmulParams) -> Option<[u32; 3]> {
        let groups = [params.n.div_ceil(16), params.m.div_ceil(16), params.batch];
        groups.iter().all(|&count| count <= MAX_GROUPS).then_some(groups)
    }

    pub(super) fn label(&self) -> String {
        format!("int_matmul_{}", self.dtype.name())
    }

    pub(super) fn bindings(&self) -> u32 {
        3
    }

    pub(super) fn param_bytes(&self) -> u32 {
        size_of::<IntMatmulParams>() as u32
    }

    pub(super) fn requires(&self) -> Features {
        Features::of(self.dtype)
    }

    pub(super) fn wgsl(&self) -> String {
        Shader::new(
            include_str!("../../wgsl/params/int_matmul.wgsl"),
            include_str!("../../wgsl/kernel/int_matmul.wgsl"),
        )
        .compute(self.dtype.native())
        .operand("out", self.dtype, Access::Store)
        .operand("a", self.dtype, Access::Load)
        .operand("b", self.dtype, Access::Load)
        .finish()
    }
}
