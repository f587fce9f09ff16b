//! Matrix products: `out = activation(alpha a b + beta bias)`, in batches, with any strides.

use super::matmul_join::{finished, stored};
use super::ops::Op;
use crate::dtype::{DType, Native};
use crate::features::Features;
use crate::params::MatmulParams;
use crate::shader::{Access, Shader};
use std::fmt::Write;

/// How the output is cut up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tile {
    /// 32 x 32 for a workgroup of 64.
    Small,
    /// 64 x 64 for a workgroup of 256.
    Medium,
    /// 128 x 128 for a workgroup of 256.
    Large,
    /// One row at a time for a workgroup of 256; the number of columns follows from how `b` lies.
    Skinny1,
    /// Four rows at a time.
    Skinny4,
    /// Eight rows at a time.
    Skinny8,
    /// 128 x 128 for a workgroup of 256, on cooperative matrices: float16 factors read four at a time
    /// ([`Matmul::quads`]), a float32 output or one stored in pairs. For Vulkan alone: Metal's are 8 x 8.
    Cooperative,
}

/// Key of a matrix product. Bindings: out, a, b, and bias where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Matmul {
    /// Element type of both factors. Products are summed up in float32.
    pub input: DType,
    /// Element type of the output and the bias.
    pub output: DType,
    /// How the output is cut up.
    pub tile: Tile,
    /// True where the elements of `a` along k are neighbours (a row-major `a`); decides how loads are shared out.
    pub a_along_k: bool,
    /// True where the elements of `b` along k are neighbours (a transposed `b`: the weight of a linear layer).
    pub b_along_k: bool,
    /// True where there is a bias: a matrix, or a vector by a stride of 0.
    pub bias: bool,
    /// A unary float op without scalars that the sum goes through.
    pub activation: Option<Op>,
    /// True where elements narrower than a word are stored in pairs: offset, row stride, batch strides of the output
    /// and `n` are even. Without meaning for wide ones.
    pub pairs: bool,
    /// True where the factors are read four elements at a time: along k or across it, as the flags above say, elements
    /// are neighbours, their number and all offsets and strides but that are multiples of four. Skinny tiles do so
    /// where both run along k.
    pub quads: bool,
    /// True for a part of k in each workgroup: sums of products, which [`MatmulJoin`](super::MatmulJoin) puts together.
    /// The output is float32, without bias and activation. Not for skinny and cooperative tiles.
    pub split: bool,
}

/// A tile: rows and columns of the output, and steps along k.
pub(super) struct Shape {
    pub(super) rows: u32,
    pub(super) columns: u32,
    /// Rows and columns of an invocation.
    own: u32,
    pub(super) depth: u32,
}

impl Shape {
    pub(super) const SMALL: Self = Self { rows: 32, columns: 32, own: 4, depth: 16 };

    /// Steps along k with which every invocation reads one vector of each factor.
    const fn quad_depth(&self) -> u32 {
        4 * self.threads() / self.rows
    }

    pub(super) const fn threads(&self) -> u32 {
        self.rows / self.own * (self.columns / self.own)
    }

    /// Sizes, and the part of a tile that an invocation makes: declared, multiplied and written, by a function
    /// `store_four` whose first arguments are `to`. With `quads`, tiles begin at `from_a` and `from_b`, and vectors have
    /// changed places by `A_TURN` and `B_TURN`.
    pub(super) fn fill(&self, shader: Shader, to: &str, quads: bool) -> Shader {
        let Self { rows, columns, own, depth } = *self;
        let (row_stripe, column_stripe) = (rows / (own / 4), columns / (own / 4));
        let xs = columns / own;
        let (mut declare, mut multiply, mut write) = (String::new(), String::new(), String::new());
        // Named variables rather than arrays: an array that a driver fails to unroll goes to memory.
        for v in 0..own / 4 {
            // Writing to a String cannot fail, here and below.
            let (a, b) = (v * row_stripe / 4, v * column_stripe / 4);
            let _ = if quads {
                writeln!(multiply, "let a{v} = tile_a[from_a + (({a}u + y)$A_TURN)];")
                    .and_then(|()| writeln!(multiply, "let b{v} = tile_b[from_b + (({b}u + x)$B_TURN)];"))
            } else {
                writeln!(multiply, "let a{v} = tile_a[kk * {}u + {a}u + y];", rows / 4)
                    .and_then(|()| writeln!(multiply, "let b{v} = tile_b[kk * {}u + {b}u + x];", columns / 4))
            };
        }
        for r in 0..own {
            for c in 0..own / 4 {
                let _ = writeln!(declare, "var c{r}_{c} = vec4<f32>();");
                let factor = format!("vec4<f32>(a{}[{}])", r / 4, r % 4);
                let _ = writeln!(multiply, "c{r}_{c} = fma({factor}, b{c}, c{r}_{c});");
                let row = format!("first_row + {}u + y * 4u", r / 4 * row_stripe + r % 4);
                let column = format!("first_column + {}u + x * 4u", c * column_stripe);
                let _ = writeln!(write, "store_four({to}, {row}, {column}, c{r}_{c});");
            }
        }
        shader
            .set("TM", rows.to_string())
            .set("TN", columns.to_string())
            .set("TK", depth.to_string())
            .set("RM", own.to_string())
            .set("RN", own.to_string())
            .set("XS", xs.to_string())
            .set("A_VECTORS", (rows * depth / 4).to_string())
            .set("B_VECTORS", (columns * depth / 4).to_string())
            .set("DECLARE", declare)
            .set("MULTIPLY", multiply)
            .set("WRITE", write)
    }
}

impl Tile {
    /// What suits a product of `batches` matrices of `m` x `n`, given how many workgroups fill the device.
    pub fn choose(m: u32, n: u32, batches: u32, fill: u32) -> Self {
        let tiles = |side: u32| m.div_ceil(side) * n.div_ceil(side) * batches;
        match m {
            1 => Self::Skinny1,
            2..=4 => Self::Skinny4,
            5..=16 => Self::Skinny8,
            _ if tiles(128) >= fill => Self::Large,
            _ if tiles(64) >= fill => Self::Medium,
            _ => Self::Small,
        }
    }

    /// What [`Tile::choose`] says, and how many parts `k` is cut into where the tiles alone would leave much of the
    /// device without work: each part goes to a workgroup of its own.
    pub fn split(m: u32, n: u32, k: u32, batches: u32, fill: u32) -> (Self, u32) {
        let tile = Self::choose(m, n, batches, fill);
        let groups = |side: u32| m.div_ceil(side).saturating_mul(n.div_ceil(side)).saturating_mul(batches);
        let parts = |side: u32, least: u32| (2 * fill).div_ceil(groups(side).max(1)).min(k / least);
        // The larger the tile, the fewer times the factors are read; the larger the part, the less there is to join.
        let filled = |side: u32, parts: u32| parts.saturating_mul(groups(side)) >= fill;
        let (large, medium, small) = (parts(128, 512), parts(64, 256), parts(32, 128).max(1));
        match tile {
            Self::Medium if large > 1 && filled(128, large) => (Self::Large, large),
            Self::Small if m > 32 && n > 32 && medium > 1 && filled(64, medium) => (Self::Medium, medium),
            Self::Small => (Self::Small, small),
            _ => (tile, 1),
        }
    }

    pub(super) const fn shape(self) -> Option<Shape> {
        match self {
            Self::Small => Some(Shape::SMALL),
            Self::Medium => Some(Shape { rows: 64, columns: 64, own: 4, depth: 16 }),
            Self::Large => Some(Shape { rows: 128, columns: 128, own: 8, depth: 16 }),
            _ => None,
        }
    }

    const fn skinny_rows(self) -> u32 {
        match self {
            Self::Skinny4 => 4,
            Self::Skinny8 => 8,
            _ => 1,
        }
    }

    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Medium => "medium",
            Self::Large => "large",
            Self::Skinny1 => "skinny1",
            Self::Skinny4 => "skinny4",
            Self::Skinny8 => "skinny8",
            Self::Cooperative => "cooperative",
        }
    }

    pub(super) const fn threads(self) -> u32 {
        match self.shape() {
            Some(shape) => shape.threads(),
            None => 256,
        }
    }
}

impl Matmul {
    /// Workgroups for `batches` products of `m` x `n`: at most 65535 in each dimension, which the caller sees to.
    pub fn groups(&self, m: u32, n: u32, batches: u32) -> [u32; 3] {
        match self.tile.shape() {
            _ if self.tile == Tile::Cooperative => [n.div_ceil(128), m.div_ceil(128), batches],
            Some(shape) => [n.div_ceil(shape.columns), m.div_ceil(shape.rows), batches],
            None => [n.div_ceil(self.skinny().0), m.div_ceil(self.tile.skinny_rows()), batches],
        }
    }

    /// Columns and slices of a skinny workgroup.
    const fn skinny(&self) -> (u32, u32) {
        if self.b_along_k { (8, 32) } else { (32, 8) }
    }

    pub(super) fn label(&self) -> String {
        let mut label = format!("matmul_{}_{}_{}", self.input.name(), self.output.name(), self.tile.label());
        label += if self.a_along_k { "_n" } else { "_t" };
        label += if self.b_along_k { "t" } else { "n" };
        if self.bias {
            label += "_bias";
        }
        if let Some(op) = self.activation {
            label = label + "_" + op.label();
        }
        if self.pairs {
            label += "_pairs";
        }
        if self.quads() {
            label += "_quads";
        }
        if self.split {
            label += "_split";
        }
        label
    }

    pub(super) fn workgroup(&self) -> [u32; 3] {
        [self.tile.threads(), 1, 1]
    }

    pub(super) fn bindings(&self) -> u32 {
        3 + u32::from(self.bias)
    }

    pub(super) fn param_bytes(&self) -> u32 {
        size_of::<MatmulParams>() as u32
    }

    pub(super) fn requires(&self) -> Features {
        let cooperative = if self.tile == Tile::Cooperative { Features::COOPERATIVE } else { Features::NONE };
        Features::of(self.input) | Features::of(self.output) | cooperative
    }

    fn quads(&self) -> bool {
        let along_k = self.a_along_k && self.b_along_k;
        self.tile == Tile::Cooperative || (self.quads && (along_k || self.tile.shape().is_some()))
    }

    fn pairs(&self) -> bool {
        (self.pairs && !self.output.is_wide() && self.tile.shape().is_some())
            || (self.tile == Tile::Cooperative && !self.output.is_wide())
    }

    pub(super) fn wgsl(&self) -> String {
        let body = match self.tile.shape() {
            _ if self.tile == Tile::Cooperative => concat!(
                include_str!("../../wgsl/kernel/matmul_finish.wgsl"),
                include_str!("../../wgsl/kernel/matmul_store.wgsl"),
                include_str!("../../wgsl/kernel/matmul_cooperative.wgsl")
            ),
            Some(_) if self.quads() => {
                concat!(
                    include_str!("../../wgsl/kernel/matmul_finish.wgsl"),
                    include_str!("../../wgsl/kernel/matmul_store.wgsl"),
                    include_str!("../../wgsl/kernel/matmul_quads.wgsl")
                )
            }
            Some(_) => {
                concat!(
                    include_str!("../../wgsl/kernel/matmul_finish.wgsl"),
                    include_str!("../../wgsl/kernel/matmul_store.wgsl"),
                    include_str!("../../wgsl/kernel/matmul_tile.wgsl")
                )
            }
            None => concat!(
                include_str!("../../wgsl/kernel/matmul_finish.wgsl"),
                include_str!("../../wgsl/kernel/matmul_skinny_sum.wgsl"),
                include_str!("../../wgsl/kernel/matmul_skinny.wgsl")
            ),
        };
        let store = if self.pairs() { Access::Words } else { Access::Store };
        let load = if self.tile == Tile::Cooperative {
            Access::Vectors
        } else if self.quads() {
            Access::LoadFour
        } else {
            Access::Load
        };
        let shader = Shader::new(include_str!("../../wgsl/params/matmul.wgsl"), body)
            .compute(Native::F32)
            .operand("out", self.output, store)
            .operand("a", self.input, load)
            .operand("b", self.input, load)
            .set("THREADS", self.tile.threads().to_string());
        let shader = if self.split {
            let (z, part) = ("group.z / p.parts", "group.z % p.parts");
            shader
                .set("BASE", format!("matrices({z}) + vec4<u32>({part} * p.edges.w, 0u, 0u, 0u)"))
                .set("FIRST", format!("{part} * p.chunk"))
                .set("END", format!("min(({part} + 1u) * p.chunk, p.k)"))
        } else {
            shader.set("BASE", "matrices(group.z)").set("FIRST", "0u").set("END", "p.k")
        };
        let shader = if self.split {
            shader.set("SUM", "sum").set("ACTIVATION", "value")
        } else {
            finished(shader, self.output, self.bias, self.activation)
        };
        match self.tile.shape() {
            _ if self.tile == Tile::Cooperative => self.cooperative(shader),
            Some(shape) if self.quads() => {
                self.quad_tiles(shader, &Shape { depth: shape.quad_depth(), ..shape })
            }
            Some(shape) => self.tiled(shader, &shape),
            None => self.skinny_body(shader),
        }
        .finish()
    }

    pub(super) fn stored(&self, shader: Shader) -> Shader {
        stored(shader, self.output, self.pairs())
    }

    fn tiled(&self, shader: Shader, shape: &Shape) -> Shader {
        let Shape { rows, columns, depth, .. } = *shape;
        let along = |along_k: bool, side: u32| {
            if along_k {
                (format!("i % {depth}u"), format!("i / {depth}u"))
            } else {
                (format!("i / {side}u"), format!("i % {side}u"))
            }
        };
        let ((a_k, a_row), (b_k, b_column)) = (along(self.a_along_k, rows), along(self.b_along_k, columns));
        self.stored(shape.fill(shader, "base", false))
            .set("A_K", a_k)
            .set("A_ROW", a_row)
            .set("B_K", b_k)
            .set("B_COLUMN", b_column)
    }

    fn skinny_body(&self, shader: Shader) -> Shader {
        let rows = self.tile.skinny_rows();
        let (columns, slices) = self.skinny();
        let (mut declare, mut multiply, mut write) = (String::new(), String::new(), String::new());
        let (four, zero, sum) = if self.quads() {
            ("_four", "vec4<f32>()", ".x + c$R.y + c$R.z + c$R.w")
        } else {
            ("", "0.0", "")
        };
        for r in 0..rows {
            let row = format!("min(first_row + {r}u, last)");
            let sum = sum.replace("$R", &r.to_string());
            let _ = writeln!(declare, "var c{r} = {zero};");
            let _ = writeln!(multiply, "c{r} = fma(load{four}_a(a + {row} * p.strides.x), factor, c{r});");
            let _ = writeln!(write, "let sum{r} = column_sum(local, slot, slice, c{r}{sum});");
            let _ = writeln!(write, "if (slice == 0u && column < p.n && first_row + {r}u < p.m) {{");
            let to = format!("base.x + (first_row + {r}u) * p.edges.x + column");
            let _ = writeln!(write, "store_out({to}, finished(base, first_row + {r}u, column, sum{r}));\n}}");
        }
        // Neighbouring invocations take neighbouring elements of b.
        let (slice, column) = if self.b_along_k {
            (format!("local % {slices}u"), format!("local / {slices}u"))
        } else {
            (format!("local / {columns}u"), format!("local % {columns}u"))
        };
        shader
            .set("ROWS", rows.to_string())
            .set("COLUMNS", columns.to_string())
            .set("SLICES", slices.to_string())
            .set("SLICE", slice)
            .set("COLUMN", column)
            .set("TERMS", if self.quads() { "4" } else { "1" })
            .set("LOAD_B", if self.quads() { "load_four_b" } else { "load_b" })
            .set("DECLARE", declare)
            .set("MULTIPLY", multiply)
            .set("WRITE", write)
    }
}
