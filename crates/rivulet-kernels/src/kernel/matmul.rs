//! Matrix products: `out = activation(alpha a b + beta bias)`, in batches, with any strides.

use super::matmul_cooperative::Fragments;
use super::matmul_join::{ProductStore, finished, stored, with_residual};
use super::matmul_vectors::Blocks;
use super::ops::Op;
use crate::dtype::{DType, Native};
use crate::features::Features;
use crate::params::MatmulParams;
use crate::shader::{Access, Shader};
use std::fmt::Write;

/// How the output is cut up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tile {
    /// 32 x 32 for a workgroup.
    Small,
    /// 64 x 64 for a workgroup.
    Medium,
    /// 128 x 128 for a workgroup.
    Large,
    /// One row at a time for a workgroup of 256; the number of columns follows from how `b` lies.
    Skinny1,
    /// Four rows at a time.
    Skinny4,
    /// Eight rows at a time.
    Skinny8,
    /// 128 x 128 for a workgroup of 128, on cooperative matrices: factors of float16 or bfloat16 read eight at a time
    /// ([`Matmul::quads`]), an output stored in fours ([`Matmul::store`]). For Vulkan alone: Metal's are 8 x 8.
    Cooperative,
    /// 64 x 64 for a workgroup of 128, on cooperative matrices.
    SmallCooperative,
    /// As it says, with factors that are read four elements at a time ([`Matmul::quads`]).
    Blocks(Blocks),
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
    /// True where a matrix of the output's type and layout is added at the very end: `out = activation(…) + residual`. Its first
    /// element is at `edges[3]`. Not with `split`.
    pub residual: bool,
    /// How elements are stored; skinny tiles store one by one.
    pub store: ProductStore,
    /// True where the factors are read four elements at a time, eight on cooperative matrices: along k or across it, as
    /// the flags above say, elements are neighbours, their number and all offsets and strides but that are multiples of
    /// that. Of the tiles that can do both, skinny ones, where both factors run along k; others do by what they are.
    pub quads: bool,
    /// True for a part of k in each workgroup: sums of products, which [`MatmulJoin`](super::MatmulJoin) puts together.
    /// The output is float32, without bias and activation. Not for skinny tiles.
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

    pub(super) const fn threads(&self) -> u32 {
        self.rows / self.own * (self.columns / self.own)
    }

    /// Sizes, and the part of a tile that an invocation makes: declared, multiplied and written, by a function
    /// `store_four` whose first arguments are `to`.
    pub(super) fn fill(&self, shader: Shader, to: &str) -> Shader {
        let Self { rows, columns, own, depth } = *self;
        let (row_stripe, column_stripe) = (rows / (own / 4), columns / (own / 4));
        let xs = columns / own;
        let (mut declare, mut multiply, mut write) = (String::new(), String::new(), String::new());
        // Named variables rather than arrays: an array that a driver fails to unroll goes to memory.
        for v in 0..own / 4 {
            // Writing to a String cannot fail, here and below.
            let (a, b) = (v * row_stripe / 4, v * column_stripe / 4);
            let _ = writeln!(multiply, "let a{v} = tile_a[kk * {}u + {a}u + y];", rows / 4);
            let _ = writeln!(multiply, "let b{v} = tile_b[kk * {}u + {b}u + x];", columns / 4);
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

    pub(super) fn label(self) -> String {
        if let Self::Blocks(blocks) = self {
            return blocks.label();
        }
        match self {
            Self::Small => "small",
            Self::Medium => "medium",
            Self::Large => "large",
            Self::Skinny1 => "skinny1",
            Self::Skinny4 => "skinny4",
            Self::Skinny8 => "skinny8",
            Self::Cooperative => "cooperative",
            Self::SmallCooperative => "cooperative64",
            Self::Blocks(_) => "blocks",
        }
        .to_owned()
    }

    /// Whether the tile is one of cooperative matrices.
    pub const fn is_cooperative(self) -> bool {
        self.fragments().is_some()
    }

    /// The same of cooperative matrices.
    const fn fragments(self) -> Option<Fragments> {
        match self {
            Self::Cooperative => {
                Some(Fragments { rows: 128, columns: 128, depth: 64, own_rows: 64, own_columns: 64 })
            }
            Self::SmallCooperative => {
                Some(Fragments { rows: 64, columns: 64, depth: 64, own_rows: 32, own_columns: 32 })
            }
            _ => None,
        }
    }

    /// Rows and columns; none of skinny tiles.
    const fn sides(self) -> Option<[u32; 2]> {
        if let Self::Blocks(blocks) = self {
            return Some([blocks.rows, blocks.columns]);
        }
        match (self.shape(), self.fragments()) {
            (Some(shape), _) => Some([shape.rows, shape.columns]),
            (_, Some(fragments)) => Some([fragments.rows, fragments.columns]),
            _ => None,
        }
    }
}

impl Matmul {
    /// Workgroups for `batches` products of `m` x `n`: at most 65535 in each dimension, which the caller sees to.
    pub fn groups(&self, m: u32, n: u32, batches: u32) -> [u32; 3] {
        match self.tile.sides() {
            Some([rows, columns]) => [n.div_ceil(columns), m.div_ceil(rows), batches],
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
        if self.residual {
            label += "_residual";
        }
        label += self.store().label();
        if self.quads() {
            label += "_quads";
        }
        if self.split {
            label += "_split";
        }
        label
    }

    pub(super) fn workgroup(&self) -> [u32; 3] {
        [self.threads(), 1, 1]
    }

    pub(super) fn bindings(&self) -> u32 {
        3 + u32::from(self.bias) + u32::from(self.residual)
    }

    pub(super) fn param_bytes(&self) -> u32 {
        size_of::<MatmulParams>() as u32
    }

    pub(super) fn requires(&self) -> Features {
        let cooperative = match self.factors() {
            Some(DType::BF16) => Features::COOPERATIVE | Features::COOPERATIVE_BF16,
            Some(_) => Features::COOPERATIVE,
            None => Features::NONE,
        };
        Features::of(self.input) | Features::of(self.output) | cooperative
    }

    pub(super) fn factors(&self) -> Option<DType> {
        self.tile.fragments().map(|_| self.input)
    }

    fn threads(&self) -> u32 {
        match (self.tile, self.tile.shape(), self.tile.fragments()) {
            (Tile::Blocks(blocks), ..) => blocks.threads(),
            (_, Some(shape), _) => shape.threads(),
            (.., Some(fragments)) => fragments.threads(),
            _ => 256,
        }
    }

    fn quads(&self) -> bool {
        match self.tile {
            Tile::Blocks(_) => true,
            Tile::Skinny1 | Tile::Skinny4 | Tile::Skinny8 => self.quads && self.a_along_k && self.b_along_k,
            tile => tile.is_cooperative(),
        }
    }

    fn store(&self) -> ProductStore {
        match self.tile.sides() {
            Some(_) if self.tile.fragments().is_some() => ProductStore::Fours,
            Some(_) => self.store.of(self.output),
            None => ProductStore::One,
        }
    }

    pub(super) fn wgsl(&self) -> String {
        macro_rules! body {
            ($($file:literal)*) => { concat!($(include_str!(concat!("../../wgsl/kernel/", $file)),)*) };
        }
        let body = match self.tile {
            Tile::Blocks(_) => body!("matmul_finish.wgsl" "matmul_store.wgsl" "matmul_quads.wgsl"),
            Tile::Cooperative | Tile::SmallCooperative => {
                body!("matmul_finish.wgsl" "matmul_store.wgsl" "matmul_cooperative.wgsl")
            }
            Tile::Small | Tile::Medium | Tile::Large => {
                body!("matmul_finish.wgsl" "matmul_store.wgsl" "matmul_tile.wgsl")
            }
            Tile::Skinny1 | Tile::Skinny4 | Tile::Skinny8 => {
                body!("matmul_finish.wgsl" "matmul_skinny_sum.wgsl" "matmul_skinny.wgsl")
            }
        };
        let load = if self.tile.fragments().is_some() {
            Access::Vectors
        } else if self.quads() {
            Access::LoadFour
        } else {
            Access::Load
        };
        let shader = Shader::new(include_str!("../../wgsl/params/matmul.wgsl"), body)
            .compute(Native::F32)
            .operand("out", self.output, self.store().access())
            .operand("a", self.input, load)
            .operand("b", self.input, load)
            .set("THREADS", self.threads().to_string());
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
            let shader = finished(shader, self.output, self.bias, self.activation);
            if self.residual {
                let place = "base.x - p.offsets.x + p.edges.w + row * p.edges.x + column";
                with_residual(shader, self.output, self.activation, place)
            } else {
                shader
            }
        };
        match (self.tile, self.tile.shape(), self.tile.fragments()) {
            (Tile::Blocks(blocks), ..) => self.quad_tiles(shader, &blocks),
            (.., Some(fragments)) => self.cooperative(shader, &fragments),
            (_, Some(shape), _) => self.tiled(shader, &shape),
            _ => self.skinny_body(shader),
        }
        .finish()
    }

    pub(super) fn stored(&self, shader: Shader) -> Shader {
        stored(shader, self.output, self.store())
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
        self.stored(shape.fill(shader, "base"))
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
