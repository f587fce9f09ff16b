//! Element types, and how each lies in storage.

/// Element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16, computed in float32.
    F16,
    /// The upper half of a float32, computed in float32.
    BF16,
    /// 64-bit signed integer.
    I64,
    /// 32-bit signed integer.
    I32,
    /// 16-bit signed integer, computed in 32 bits.
    I16,
    /// 8-bit signed integer, computed in 32 bits.
    I8,
    /// 8-bit unsigned integer, computed in 32 bits.
    U8,
    /// One byte, 0 or 1.
    Bool,
}

impl DType {
    /// Every element type.
    pub const ALL: [Self; 9] =
        [Self::F32, Self::F16, Self::BF16, Self::I64, Self::I32, Self::I16, Self::I8, Self::U8, Self::Bool];

    /// Bytes of an element.
    pub const fn size(self) -> u32 {
        match self {
            Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::BF16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// Elements in a 32-bit word; 1 for types that are a word or more.
    pub const fn lanes(self) -> u32 {
        if self.size() >= 4 { 1 } else { 4 / self.size() }
    }

    /// True for types that are stored in whole elements, false for those that share a 32-bit word.
    pub const fn is_wide(self) -> bool {
        self.size() >= 4
    }

    /// True for the floating-point types.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }

    /// Short name, used in labels and in the names of WGSL functions.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::I64 => "i64",
            Self::I32 => "i32",
            Self::I16 => "i16",
            Self::I8 => "i8",
            Self::U8 => "u8",
            Self::Bool => "bool",
        }
    }

    /// The WGSL type that kernels compute in for this element type.
    pub const fn native(self) -> Native {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => Native::F32,
            Self::I64 => Native::I64,
            Self::I32 | Self::I16 | Self::I8 | Self::U8 | Self::Bool => Native::I32,
        }
    }

    /// The type of the same size whose copies keep every bit (a NaN's payload, a bool that is not 0 or 1).
    pub const fn bits(self) -> Self {
        match self {
            Self::F32 => Self::I32,
            Self::F16 | Self::BF16 => Self::I16,
            Self::Bool => Self::U8,
            other => other,
        }
    }
}

/// A type that WGSL computes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Native {
    /// `f32`
    F32,
    /// `i32`
    I32,
    /// `i64`
    I64,
}

impl Native {
    /// The WGSL name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::I32 => "i32",
            Self::I64 => "i64",
        }
    }

    /// An element type that is computed in this type without loss.
    pub const fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::I32 => DType::I32,
            Self::I64 => DType::I64,
        }
    }
}

/// WGSL text that turns `expr`, a value of `from`, into a value of `to`, by the rules of PyTorch's casts.
pub(crate) fn convert(expr: String, from: Native, to: DType) -> String {
    let target = to.native();
    if to == DType::Bool {
        format!("truth_{}({expr})", from.name())
    } else if from == target {
        expr
    } else {
        format!("cast_{}_{}({expr})", from.name(), target.name())
    }
}
