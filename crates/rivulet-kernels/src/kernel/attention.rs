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
    /// A tensor of bools: true where a number takes the score's place, the last of the parameters' `logsumexp_strides`.
    Filled,
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

/// What a workgroup of the kernel on tiles takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttentionTile {
    /// Queries of one head: 16, 32 or 64, the last of heads up to 32 alone.
    pub queries: u32,
    /// Slices that share out the keys, 32 at a time: 1 or 2, the latter with up to 32 queries of heads up to 32, or 16 of heads
    /// up to 64.
    pub slices: u32,
}

/// Queries from which on the kernel on tiles leaves few of its invocations without work.
const TILE_QUERIES: u32 = 20;

impl AttentionTile {
    /// What takes the least time for `queries` and `keys` of `heads` heads of all batches, by measurements on an H200 (132
    /// processors): large tiles, but smaller ones in slices where those alone do not give each processor a workgroup. None
    /// where the kernel on tiles does not suit.
    pub fn choose(head: HeadSize, queries: u32, keys: u32, heads: u32, processors: u32) -> Option<Self> {
        let large = match head {
            HeadSize::Upto32 => 64,
            HeadSize::Upto64 => 32,
            HeadSize::Upto128 | HeadSize::Upto256 => return None,
        };
        if queries < TILE_QUERIES {
            return None;
        }
        let small = large / 2;
        let groups = queries.div_ceil(small).saturating_mul(heads);
        // A second slice has no key of the first 32.
        if keys > 32 && groups <= processors {
            Some(Self { queries: small, slices: 2 })
        } else {
            Some(Self { queries: large, slices: 1 })
        }
    }
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
    /// True where q, k and v are read four elements at a time: their offsets, strides and the head size are multiples of
    /// four.
    pub quads: bool,
    /// What a workgroup of the kernel on tiles takes; none for the kernel that serves few queries and large heads.
    pub tile: Option<AttentionTile>,
    /// True for what a product, a scale, a mask and a softmax give one after the other: scores are rounded to `dtype` after
    /// each of the first three, and a query that sees no key gives NaN rather than 0.
    pub written_out: bool,
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

    /// Whether there is a [tiled](Attention::tile) kernel.
    pub const fn has_tile(self) -> bool {
        matches!(self, Self::Upto32 | Self::Upto64)
    }
}

impl Attention {
    /// Workgroups for `queries` of `heads` heads in `batch` batches.
    pub fn groups(&self, queries: u32, heads: u32, batch: u32) -> [u32; 3] {
        [queries.div_ceil(self.queries()), heads, batch]
    }

    fn tile(&self) -> bool {
        self.tile.is_some() && self.head.has_tile()
    }

    /// Queries of a workgroup: fewer where they would fill the shared memory.
    fn queries(&self) -> u32 {
        match self.head {
            HeadSize::Upto256 => 8,
            HeadSize::Upto32 | HeadSize::Upto64 => self.tile.map_or(16, |tile| tile.queries),
            HeadSize::Upto128 => 16,
        }
    }

    fn threads(&self) -> u32 {
        self.tile.filter(|_| self.tile()).map_or(128, |tile| tile.queries * tile.slices * 2)
    }

    pub(super) fn label(&self) -> String {
        let tile = self.tile.filter(|_| self.tile());
        let tile = tile.map_or(String::new(), |tile| format!("_tile{}x{}", tile.queries, tile.slices));
        let written_out = if self.written_out { "_written_out" } else { "" };
        let (dtype, dim) = (self.dtype.name(), self.head.dim());
        format!("attention_{dtype}_{dim}{}{tile}{written_out}", self.variant())
    }

    /// The end of a label, by all but the element type, the head size and the tile.
    pub(super) fn variant(&self) -> String {
        let mask = match self.mask {
            Mask::None => String::new(),
            Mask::Bool => "_mask_bool".to_owned(),
            Mask::Additive(dtype) => format!("_mask_{}", dtype.name()),
            Mask::Filled => "_mask_filled".to_owned(),
        };
        let causal = if self.causal { "_causal" } else { "" };
        let pairs = if self.pairs { "_pairs" } else { "" };
        let kept = if self.logsumexp { "_logsumexp" } else { "" };
        let quads = if self.quads { "_quads" } else { "" };
        format!("{mask}{causal}{pairs}{kept}{quads}")
    }

    pub(super) fn workgroup(&self) -> [u32; 3] {
        [self.threads(), 1, 1]
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
        let body = if self.tile() {
            concat!(
                include_str!("../../wgsl/kernel/attention_parts.wgsl"),
                include_str!("../../wgsl/kernel/attention_tile.wgsl")
            )
        } else {
            concat!(
                include_str!("../../wgsl/kernel/attention_parts.wgsl"),
                include_str!("../../wgsl/kernel/attention.wgsl")
            )
        };
        let shader = self.shader(body, self.queries()).set("THREADS", self.threads().to_string());
        if self.tile() { self.tiles(shader).finish() } else { self.lanes(shader).finish() }
    }

    /// What all kernels of attention share, whose workgroups have `queries` each: the operands and `attention_parts.wgsl`,
    /// with which `body` begins.
    pub(super) fn shader(&self, body: &'static str, queries: u32) -> Shader {
        let pairs = self.pairs && !self.dtype.is_wide();
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
            Mask::None => "return value;".to_owned(),
            // Queries past the last one have no row in the mask, and no result.
            Mask::Bool => {
                format!(
                    "if (query >= p.queries) {{ return value; }}\nreturn select(-inf_f32(), value, {place} != 0);"
                )
            }
            Mask::Filled => {
                let number = self.rounded("bitcast<f32>(p.logsumexp_strides.w)");
                format!(
                    "if (query >= p.queries) {{ return value; }}\nreturn select(value, {number}, {place} != 0);"
                )
            }
            Mask::Additive(_) => {
                let sum = self.rounded(&format!("value + {place}"));
                format!("if (query >= p.queries) {{ return value; }}\nreturn {sum};")
            }
        };
        let value = if self.written_out {
            self.rounded(&format!("{} * p.scale", self.rounded("score")))
        } else {
            "score".to_owned()
        };
        let mask = format!("let value = {value};\n{mask}");
        let access = if pairs { Access::Words } else { Access::Store };
        let load = if self.quads { Access::LoadFour } else { Access::Load };
        let mut shader = Shader::new(include_str!("../../wgsl/params/attention.wgsl"), body)
            .compute(Native::F32)
            .set("QUERIES", queries.to_string())
            .set("FOUR_Q", self.four("q"))
            .set("FOUR_K", self.four("k"))
            .set("FOUR_V", self.four("v"))
            .set("CAUSAL", if self.causal { " && i32(key) <= i32(query) + p.diagonal" } else { "" })
            .set("PAIR", if pairs { "2" } else { "1" })
            .set("MASK", mask)
            .set("SCALED", if self.written_out { "" } else { " * p.scale" })
            .set("END", end)
            .set("STORE", store)
            .operand("out", self.dtype, access)
            .operand("q", self.dtype, load)
            .operand("k", self.dtype, load)
            .operand("v", self.dtype, load);
        shader = match self.mask {
            Mask::None => shader,
            Mask::Bool | Mask::Filled => shader.operand("mask", DType::Bool, Access::Load),
            Mask::Additive(dtype) => shader.operand("mask", dtype, Access::Load),
        };
        if self.logsumexp {
            shader = shader.operand("logsumexp", DType::F32, Access::Store);
        }
        shader
    }

    /// A score as a tensor of the element type would hold it, where the kernel gives what such tensors give.
    fn rounded(&self, score: &str) -> String {
        match self.dtype {
            DType::F16 | DType::BF16 if self.written_out => {
                format!("decode_{0}(encode_{0}({score}))", self.dtype.name())
            }
            _ => score.to_owned(),
        }
    }

    /// What a query's sums are multiplied by. One that sees no key gives 0, as PyTorch's safe softmax, or NaN as a softmax.
    fn share(&self, sum: &str) -> String {
        let nothing = if self.written_out { "nan_f32()" } else { "0.0" };
        format!("select(1.0 / {sum}, {nothing}, is_zero({sum}))")
    }

    /// The function that reads four elements of an operand from element `d` of a head on.
    fn four(&self, name: &str) -> String {
        if self.quads {
            return format!(
                "fn four_{name}(base: u32, d: u32) -> vec4<f32> {{\nif (d < p.dim) {{ return load_four_{name}(base + d); }}\n\
                 return vec4<f32>();\n}}"
            );
        }
        format!(
            "fn fetch_{name}(base: u32, d: u32) -> f32 {{\nif (d < p.dim) {{ return load_{name}(base + d); }}\n\
             return 0.0;\n}}\n\
             fn four_{name}(base: u32, d: u32) -> vec4<f32> {{\n\
             return vec4<f32>(fetch_{name}(base, d), fetch_{name}(base, d + 1u), fetch_{name}(base, d + 2u), \
             fetch_{name}(base, d + 3u));\n}}"
        )
    }

    /// Keeps the logarithm of a query's sum of exponentials, by the invocation of the query whose `lane` is 0.
    pub(super) fn keep(&self, lane: &str, highest: &str, sum: &str, query: &str) -> String {
        if !self.logsumexp {
            return String::new();
        }
        format!(
            "if ({lane} == 0u) {{\n\
             let place = group.z * p.logsumexp_strides.x + group.y * p.logsumexp_strides.y;\n\
             let kept = select({highest} + log_f32({sum}), -inf_f32(), is_zero({sum}));\n\
             store_logsumexp(p.logsumexp_offset + place + {query} * p.logsumexp_strides.z, kept);\n}}"
        )
    }

    fn lanes(&self, shader: Shader) -> Shader {
        let (queries, vectors) = (self.queries(), self.head.dim() / 4);
        let lanes = self.threads() / queries;
        let own = vectors / lanes;
        let (mut declare, mut scale, mut gather, mut write) =
            (String::new(), String::new(), String::new(), String::new());
        for v in 0..own {
            // Writing to a String cannot fail, here and below.
            let _ = writeln!(declare, "var o{v} = vec4<f32>();");
            let _ = writeln!(scale, "o{v} = o{v} * factor;");
            let from = format!("tile[j * {vectors}u + lane + {}u]", v * lanes);
            let _ = writeln!(gather, "o{v} = fma(vec4<f32>(weight), {from}, o{v});");
            let _ = writeln!(write, "store_four(to, (lane + {}u) * 4u, o{v} * share);", v * lanes);
        }
        shader
            .set("LANES", lanes.to_string())
            .set("OWN", own.to_string())
            .set("VECTORS", vectors.to_string())
            .set("Q_VECTORS", (queries * vectors).to_string())
            .set("KV_VECTORS", (16 * vectors).to_string())
            .set("SCORES", (queries * 16).to_string())
            .set("DECLARE", declare)
            .set("SCALE", scale)
            .set("GATHER", gather)
            .set("WRITE", write)
            .set("SHARE", self.share("sum"))
            .set("KEEP", self.keep("lane", "highest", "sum", "query"))
    }

    /// Keys or values on their way: where they begin in memory, their reading, and their writing to shared memory.
    fn on_the_way(&self, name: &str, base: &str, stride: &str, slice: u32) -> [String; 4] {
        let vectors = self.head.dim() / 4;
        let (mut declare, mut fetch, mut next, mut keep) =
            (String::new(), String::new(), String::new(), String::new());
        for i in 0..(32 * vectors).div_ceil(slice) {
            let at = format!("(thread + {}u)", i * slice);
            // Writing to a String cannot fail.
            let _ = writeln!(declare, "let {name}_row{i} = {at} / {vectors}u;");
            let _ = writeln!(declare, "let {name}_d{i} = {at} % {vectors}u * 4u;");
            let _ = writeln!(declare, "var next_{name}{i} = vec4<f32>();");
            for (text, first) in [(&mut fetch, "slice * 32u"), (&mut next, "first + $STEPu")] {
                let start = format!("{base} + min({first} + {name}_row{i}, p.keys - 1u) * {stride}");
                let _ = writeln!(text, "next_{name}{i} = four_{name}({start}, {name}_d{i});");
            }
            if name == "v" {
                let _ = writeln!(keep, "tile[own_tile + {at}] = next_v{i};");
                continue;
            }
            for j in 0..4 {
                let place = format!("(k_d{i} + {j}u) * 9u + k_row{i} / 4u");
                let _ = writeln!(keep, "tile[own_tile + {place}][k_row{i} % 4u] = next_k{i}[{j}];");
            }
        }
        [declare, fetch, format!("if (start + $STEPu < end) {{\n{next}}}"), keep]
    }

    fn tiles(&self, shader: Shader) -> Shader {
        let (queries, dim) = (self.queries(), self.head.dim());
        let slices = self.tile.map_or(1, |tile| tile.slices);
        let slice = queries * 2;
        // A vector more than there are queries, so that rows begin in other banks.
        let (vectors, pitch) = (dim / 4, queries / 4 + 1);
        let own = vectors / 8;
        let [declare_k, fetch_k, next_k, keep_k] = self.on_the_way("k", "base.z", "p.row_strides.z", slice);
        let [declare_v, fetch_v, next_v, keep_v] = self.on_the_way("v", "base.w", "p.row_strides.w", slice);
        let (mut declare, mut scale, mut gather, mut write) =
            (declare_k + &declare_v, String::new(), String::new(), String::new());
        for v in 0..own {
            let _ = writeln!(gather, "let b{v} = tile[own_tile + j * {vectors}u + x + {}u];", v * 8);
        }
        let mut join = String::new();
        if slices > 1 {
            // What has been added up so far is for the highest score of a slice.
            join += "workgroupBarrier();\nif (x == 0u) {\n";
            let _ = writeln!(join, "parts[slice * {}u + y] = highest;", queries / 2);
            let _ = writeln!(join, "parts[slice * {}u + {}u + y] = total;\n}}", queries / 2, queries / 4);
            join += "workgroupBarrier();\nvar top = highest;\n";
            for other in 0..slices {
                let _ = writeln!(join, "let highest{other} = parts[{}u + y];", other * (queries / 2));
                let _ = writeln!(join, "top = max(top, highest{other});");
            }
            join += "total = vec4<f32>();\n";
            for other in 0..slices {
                let place = other * (queries / 2) + queries / 4;
                let _ =
                    writeln!(join, "total = fma(parts[{place}u + y], weights(highest{other}, top), total);");
            }
            join += "let factor = weights(highest, top);\nhighest = top;\n";
        }
        for r in 0..4 {
            let query = format!("query + {r}u");
            let mine = if slices > 1 { format!(" && slice == {}u", r % slices) } else { String::new() };
            let _ = writeln!(write, "if ({query} < p.queries{mine}) {{");
            let _ = writeln!(write, "let share = {};", self.share(&format!("total[{r}]")));
            let _ = writeln!(write, "let to = base.x + ({query}) * p.row_strides.x;");
            for v in 0..own {
                let _ = writeln!(declare, "var o{r}_{v} = vec4<f32>();");
                let _ = writeln!(scale, "o{r}_{v} = o{r}_{v} * factor[{r}];");
                let _ = writeln!(gather, "o{r}_{v} = fma(vec4<f32>(a[{r}]), b{v}, o{r}_{v});");
                let value = if slices > 1 {
                    let at = r * own + v;
                    let place =
                        |of: String| format!("tile[({of} * {}u + {at}u) * {slice}u + thread]", own * 4);
                    let _ = writeln!(join, "{} = o{r}_{v} * factor[{r}];", place("slice".to_owned()));
                    (0..slices).map(|other| place(format!("{other}u"))).collect::<Vec<_>>().join(" + ")
                } else {
                    format!("o{r}_{v}")
                };
                let _ = writeln!(write, "store_four(to, (x + {}u) * 4u, ({value}) * share);", v * 8);
            }
            let (highest, total) = (format!("highest[{r}]"), format!("total[{r}]"));
            let _ = writeln!(write, "{}\n}}", self.keep("x", &highest, &total, &format!("({query})")));
        }
        if slices > 1 {
            join += "workgroupBarrier();";
        }
        shader
            .set("DIM", dim.to_string())
            .set("ROWS", (queries / 4).to_string())
            .set("VECTORS", vectors.to_string())
            .set("SLICES", slices.to_string())
            .set("SLICE", slice.to_string())
            .set("STEP", (32 * slices).to_string())
            .set("Q_PITCH", pitch.to_string())
            .set("Q_VECTORS", (dim * pitch).to_string())
            .set("KV_VECTORS", (dim * 9).to_string())
            .set("TILE_VECTORS", (dim * 9 * slices).to_string())
            .set("OWN_W_VECTORS", (32 * pitch).to_string())
            .set("W_VECTORS", (32 * pitch * slices).to_string())
            .set("FETCH_K", fetch_k)
            .set("FETCH_V", fetch_v)
            .set("FETCH_NEXT_K", next_k)
            .set("FETCH_NEXT_V", next_v)
            .set("KEEP_K", keep_k)
            .set("KEEP_V", keep_v)
            .set("DECLARE", declare)
            .set("SCALE", scale)
            .set("GATHER", gather)
            .set("JOIN", join)
            .set("WRITE", write)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_heads_with_many_keys_are_cut_into_smaller_tiles() {
        let tile = |head, length, heads| AttentionTile::choose(head, length, length, heads, 132);
        let some = |queries, slices| Some(AttentionTile { queries, slices });
        assert_eq!(tile(HeadSize::Upto32, 64, 64), some(32, 2));
        assert_eq!(tile(HeadSize::Upto32, 64, 128), some(64, 1));
        assert_eq!(tile(HeadSize::Upto32, 32, 12), some(64, 1));
        assert_eq!(tile(HeadSize::Upto64, 128, 12), some(16, 2));
        assert_eq!(tile(HeadSize::Upto64, 128, 96), some(32, 1));
        assert_eq!(tile(HeadSize::Upto64, 19, 12), None);
        assert_eq!(tile(HeadSize::Upto128, 128, 12), None);
    }
}
