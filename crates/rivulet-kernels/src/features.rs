//! What a kernel asks of a device.

use crate::dtype::DType;
use std::ops::BitOr;

/// Optional abilities of a device, as a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Features(u32);

impl Features {
    /// Nothing beyond Vulkan 1.2 or Metal 3.
    pub const NONE: Self = Self(0);
    /// Arithmetic in 64-bit integers (`shaderInt64`).
    pub const INT64: Self = Self(1);
    /// 16-bit floats and integers in registers (`shaderFloat16` and `shaderInt16`); 16-bit storage is not needed.
    pub const HALF: Self = Self(2);
    /// Subgroup arithmetic in compute shaders.
    pub const SUBGROUP: Self = Self(4);
    /// Products of 16 x 16 float16 matrices with float32 sums that a subgroup of 32 holds together
    /// (`VK_KHR_cooperative_matrix`), with the Vulkan memory model, and 48 KiB of workgroup memory.
    pub const COOPERATIVE: Self = Self(8);
    /// Products of 8 x 8 matrices of float16 or float32, with float32 sums, that a subgroup of 32 holds together: Metal's
    /// simdgroup matrices.
    pub const SIMD_MATRIX: Self = Self(16);
    /// The same of bfloat16 (`VK_KHR_shader_bfloat16`).
    pub const COOPERATIVE_BF16: Self = Self(32);

    /// True where every feature of `other` is in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// What operands of this element type need.
    pub const fn of(dtype: DType) -> Self {
        match dtype {
            DType::I64 => Self::INT64,
            DType::F16 => Self::HALF,
            _ => Self::NONE,
        }
    }
}

impl BitOr for Features {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}
