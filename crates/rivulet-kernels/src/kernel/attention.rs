//! Scaled dot-product attention in one kernel.

use crate::dtype::{DType, Native};
use crate::features::Features;
use crate::params::AttentionParams;
use crate::shader::{Access, Shader};
use std::fmt::Write;

/// What decides which keys a query sees, besides their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mask {
    /// Nothing.
    None,
    /// A tensor of bools: true where a key is seen.
    Bool,
    /// A tensor that is added to the scores.
    Additive(DType),
}

/// The head size that the kernel is made for; smaller ones are filled up with zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HeadSize {
    /// Up to 32.
    Upto32,
    /// Up to 64.
    Upto64,
    /// Up to 128.
    Upto128,
    /// Up to 256.
    Upto256,
}

/// Key of an attention kernel. Bindings: out, q, k, v, then mask and logsumexp (float32) where there are such.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Attention {
    /// Element type of q, k, v and the output. Sums are in float32.
    pub dtype: DType,
    /// The mask.
    pub mask: Mask,
    /// True where query `i` sees keys up to `i + diagonal`.
    pub causal: bool,
    /// Head size.
    pub head: HeadSize,
    /// True where the output's elements narrower than a word may be stored in pairs: its offset, strides and the head
    /// size are even. Without meaning for float32.
    pub pairs: bool,
    /// True where the logarithm of each query's sum of exponentials is kept.
    pub logsumexp: bool,
}

impl HeadSize {
    /// Every size.
    pub const ALL: [Self; 4] = [Self::Upto32, Self::Upto64, Self::Upto128, Self::Upto256];

    /// The smallest that holds `dim`; none above 256.
    pub const fn choose(dim: u32) -> Option<Self> {
        match dim {
            0..=32 => Some(Self::Upto32),
            33..=64 => Some(Self::Upto64),
            65..=128 => Some(Self::Upto128),
            129..=256 => Some(Self::Upto256),
            _ => None,
        }
    }

    const fn dim(self) -> u32 {
        match self {
            Self::Upto32 => 32,
            Self::Upto64 => 64,
            Self::Upto128 => 128,
            Self::Upto256 => 256,
        }
    }

    /// Queries of a workgroup: fewer where they would fill the shared memory.
    const fn queries(self) -> u32 {
        if matches!(self, Self::Upto256) { 8 } else { 16 }
    }
}

impl Attention {
    /// Workgroups for `queries` of `heads` heads in `batch` batches.
    pub fn groups(&self, queries: u32, heads: u32, batch: u32) -> [u32; 3] {
        [queries.div_ceil(self.head.queries()), heads, batch]
    }

    pub(super) fn label(&self) -> String {
        let mask = match self.mask {
            Mask::None => String::new(),
            Mask::Bool => "_mask_bool".to_owned(),
            Mask::Additive(dtype) => format!("_mask_{}", dtype.name()),
        };
        let causal = if self.causal { "_causal" } else { "" };
        let pairs = if self.pairs { "_pairs" } else { "" };
        let kept = if self.logsumexp { "_logsumexp" } else { "" };
        format!("attention_{}_{}{mask}{causal}{pairs}{kept}", self.dtype.name(), self.head.dim())
    }

    pub(super) fn workgroup(&self) -> [u32; 3] {
        [128, 1, 1]
    }

    pub(super) fn bindings(&self) -> u32 {
        4 + u32::from(self.mask != Mask::None) + u32::from(self.logsumexp)
    }

    pub(super) fn param_bytes(&self) -> u32 {
        size_of::<AttentionParams>() as u32
    }

    pub(super) fn requires(&self) -> Features {
        let mask = match self.mask {
            Mask::Additive(dtype) => Features::of(dtype),
            _ => Features::NONE,
        };
        Features::of(self.dtype) | mask
    }

    pub(super) fn wgsl(&self) -> String {
        let (queries, vectors) = (self.head.queries(), self.head.dim() / 4);
        let lanes = 128 / queries;
        let own = vectors / lanes;
        let pairs = self.pairs && !self.dtype.is_wide();
        let (mut declare, mut scale, mut gather, mut write) =
            (String::new(), String::new(), String::new(), String::new());
        for v in 0..own {
            // Writing to a String cannot fail.
            let _ = writeln!(declare, "var o{v} = vec4<f32>();");
            let _ = writeln!(scale, "o{v} = o{v} * factor;");
            let from = format!("tile[j * {vectors}u + lane + {}u]", v * lanes);
            let _ = writeln!(gather, "o{v} = fma(vec4<f32>(weight), {from}, o{v});");
            let _ = writeln!(write, "store_four(to, (lane + {}u) * 4u, o{v} * share);", v * lanes);
        }
        let store = if pairs {
            format!(
                "out[i / 2u] = encode_{0}(value[j]) | (encode_{0}(value[j + 1u]) << 16u);",
                self.dtype.name()
            )
        } else {
            "store_out(i, value[j]);".to_owned()
        };
        let end = if self.causal {
            // No query of the group sees more than the last one.
            "u32(clamp(i32(first_query) + QUERIES + p.diagonal, 0, i32(p.keys)))"
                .replace("QUERIES", &queries.to_string())
        } else {
            "p.keys".to_owned()
        };
        let place = "load_mask(base + query * p.mask_strides.z + key * p.mask_strides.w)";
        let mask = match self.mask {
            Mask::None => "return score;".to_owned(),
            // Queries past the last one have no row in the mask, and no result.
            Mask::Bool => {
                format!(
                    "if (query >= p.queries) {{ return score; }}\nreturn select(-inf_f32(), score, {place} != 0);"
                )
            }
            Mask::Additive(_) => {
                format!("if (query >= p.queries) {{ return score; }}\nreturn score + {place};")
            }
        };
        let access = if pairs { Access::Words } else { Access::Store };
        let mut shader = Shader::new(
            include_str!("../../wgsl/params/attention.wgsl"),
            include_str!("../../wgsl/kernel/attention.wgsl"),
        )
        .compute(Native::F32)
        .set("QUERIES", queries.to_string())
        .set("LANES", lanes.to_string())
        .set("OWN", own.to_string())
        .set("VECTORS", vectors.to_string())
        .set("Q_VECTORS", (queries * vectors).to_string())
        .set("KV_VECTORS", (16 * vectors).to_string())
        .set("SCORES", (queries * 16).to_string())
        .set("CAUSAL", if self.causal { " && i32(key) <= i32(query) + p.diagonal" } else { "" })
        .set("PAIR", if pairs { "2" } else { "1" })
        .set("MASK", mask)
        .set("END", end)
        .set("STORE", store)
        .set("DECLARE", declare)
        .set("SCALE", scale)
        .set("GATHER", gather)
        .set("WRITE", write)
        .operand("out", self.dtype, access)
        .operand("q", self.dtype, Access::Load)
        .operand("k", self.dtype, Access::Load)
        .operand("v", self.dtype, Access::Load);
        shader = match self.mask {
            Mask::None => shader,
            Mask::Bool => shader.operand("mask", DType::Bool, Access::Load),
            Mask::Additive(dtype) => shader.operand("mask", dtype, Access::Load),
        };
        if self.logsumexp {
            const KEEP: &str = "if (lane == 0u) {
        let place = group.z * p.logsumexp_strides.x + group.y * p.logsumexp_strides.y;
        let kept = select(highest + log_f32(sum), -inf_f32(), is_zero(sum));
        store_logsumexp(p.logsumexp_offset + place + query * p.logsumexp_strides.z, kept);
    }";
            shader = shader.operand("logsumexp", DType::F32, Access::Store).set("KEEP", KEEP);
        } else {
            shader = shader.set("KEEP", "");
        }
        shader.finish()
    }
}
