//! Scaled dot-product attention on Metal's simdgroup matrices.

use super::attention::{Attention, HeadSize};
use crate::features::Features;
use crate::params::AttentionParams;
use std::fmt::Write;

/// Key of an attention kernel on 8 x 8 matrices that a subgroup of 32 holds together: for Metal alone. Matrices of every
/// element type are float32 on their way. Bindings: as [`Attention`]. Never run on Apple hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttentionSimd {
    /// Without a tile, and of the smallest head size that holds `dim`.
    attention: Attention,
    dim: u32,
}

impl AttentionSimd {
    /// Queries of a workgroup: 8 for each of its subgroups.
    const QUERIES: u32 = 32;
    /// The largest head size: a subgroup's queries, and what a step gathers and all steps before it did, are held in registers.
    const MOST: u32 = 128;

    /// The kernel that does what `attention` does, for a head size that is exactly `dim`: a multiple of 8 up to 128, none for
    /// others, nor for what is written out step by step.
    pub fn of(attention: Attention, dim: u32) -> Option<Self> {
        let fits = dim > 0 && dim.is_multiple_of(8) && dim <= Self::MOST && !attention.written_out;
        let head = HeadSize::choose(dim).filter(|_| fits)?;
        Some(Self { attention: Attention { head, tile: None, ..attention }, dim })
    }

    /// Whether attention of this size gains by it: half a workgroup's queries at least, and half a step's keys. By the shape
    /// of the kernel alone; nothing has been measured.
    pub fn suits(&self, queries: u32, keys: u32) -> bool {
        queries >= 16 && keys >= 16
    }

    /// Workgroups for `queries` of `heads` heads in `batch` batches.
    pub fn groups(&self, queries: u32, heads: u32, batch: u32) -> [u32; 3] {
        [queries.div_ceil(Self::QUERIES), heads, batch]
    }

    pub(super) fn label(&self) -> String {
        let (dtype, dim) = (self.attention.dtype.name(), self.dim);
        format!("attention_simd_{dtype}_{dim}{}", self.attention.variant())
    }

    pub(super) fn workgroup(&self) -> [u32; 3] {
        [Self::QUERIES * 4, 1, 1]
    }

    pub(super) fn bindings(&self) -> u32 {
        self.attention.bindings()
    }

    pub(super) fn param_bytes(&self) -> u32 {
        size_of::<AttentionParams>() as u32
    }

    pub(super) fn requires(&self) -> Features {
        self.attention.requires() | Features::SIMD_MATRIX
    }

    pub(super) fn wgsl(&self) -> String {
        let (dim, pitch) = (self.dim, self.dim + 4);
        let (mut load_q, mut scores, mut gather, mut gathered) =
            (String::new(), String::new(), String::new(), String::new());
        // Writing to a String cannot fail, here and below. Rows follow one another where `coopLoadT` loads, columns where
        // `coopLoad` does: keys are the columns of a product's right factor.
        for j in 0..4 {
            let _ = writeln!(scores, "var s{j} = coop_mat8x8<f32, C>();");
            let at = format!("own * 36u + {}u", j * 8);
            let _ = writeln!(gather, "let w{j} = coopLoadT<coop_mat8x8<f32, A>>(&scores[{at}], 36u);");
        }
        for c in 0..dim / 8 {
            let at = format!("own * {pitch}u + {}u", c * 8);
            let _ = writeln!(load_q, "let q{c} = coopLoadT<coop_mat8x8<f32, A>>(&tile[{at}], {pitch}u);");
            let _ = writeln!(gather, "var g{c} = coop_mat8x8<f32, C>();");
            let _ = writeln!(gathered, "coopStoreT(g{c}, &tile[{at}], {pitch}u);");
            for j in 0..4 {
                let at = j * 8 * pitch + c * 8;
                let key = format!("coopLoad<coop_mat8x8<f32, B>>(&tile[{at}u], {pitch}u)");
                let value = format!("coopLoadT<coop_mat8x8<f32, B>>(&tile[{at}u], {pitch}u)");
                let _ =
                    writeln!(scores, "let k{c}_{j} = {key};\ns{j} = coopMultiplyAdd(q{c}, k{c}_{j}, s{j});");
                let _ = writeln!(
                    gather,
                    "let v{c}_{j} = {value};\ng{c} = coopMultiplyAdd(w{j}, v{c}_{j}, g{c});"
                );
            }
        }
        for j in 0..4 {
            let _ = writeln!(scores, "coopStoreT(s{j}, &scores[own * 36u + {}u], 36u);", j * 8);
        }
        let (mut declare, mut add, mut finish) = (String::new(), String::new(), String::new());
        for n in 0..dim / 4 {
            let at = format!("tile[slot * {pitch}u + part + {}u]", n * 4);
            let _ = writeln!(declare, "var o{n} = 0.0;");
            let _ = writeln!(add, "o{n} = fma(o{n}, factor, {at});");
            let _ = writeln!(finish, "{at} = o{n} * share;");
        }
        let body = concat!(
            include_str!("../../wgsl/kernel/attention_parts.wgsl"),
            include_str!("../../wgsl/kernel/attention_simd.wgsl")
        );
        self.attention
            .shader(body, Self::QUERIES)
            .set("DIM", dim.to_string())
            .set("PITCH", pitch.to_string())
            .set("TILE", (Self::QUERIES * pitch).to_string())
            .set("VECTORS", (dim / 4).to_string())
            .set("FOURS", (Self::QUERIES * dim / 4).to_string())
            .set("LOAD_Q", load_q)
            .set("DECLARE", declare)
            .set("SCORES", scores)
            .set("GATHER", gather)
            .set("GATHERED", gathered)
            .set("ADD", add)
            .set("FINISH", finish)
            .set("KEEP", self.attention.keep("part", "highest", "total", "query"))
            .cooperative()
            .finish()
    }
}
