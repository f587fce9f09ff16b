//! Matrix products on tiles whose factors are read four elements at a time.

use super::matmul::Matmul;
use crate::shader::Shader;
use std::fmt::Write;

/// A tile whose factors are read four elements at a time. All are powers of two, and rows and columns of an invocation
/// multiples of four.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Blocks {
    /// Rows of the tile.
    pub rows: u32,
    /// Columns of the tile.
    pub columns: u32,
    /// Steps along k that are in shared memory at a time.
    pub depth: u32,
    /// Rows of an invocation.
    pub own_rows: u32,
    /// Columns of an invocation.
    pub own_columns: u32,
    /// Into how many parts the invocations of a workgroup cut those steps: each part makes sums of the whole tile.
    pub slices: u32,
}

impl Blocks {
    /// 128 x 128 for a workgroup of 256.
    pub const LARGE: Self = Self::new([128, 128, 16], [8, 8], 1);
    /// 64 x 64 for a workgroup of 128.
    pub const MEDIUM: Self = Self::new([64, 64, 32], [8, 4], 1);
    /// 32 x 32 for a workgroup of 128.
    pub const SMALL: Self = Self::new([32, 32, 32], [4, 4], 2);
    /// 32 x 32 for a workgroup of 256.
    pub const SMALL_SLICED: Self = Self::new([32, 32, 64], [4, 4], 4);
    /// 32 x 32 for a workgroup of 256 and many terms.
    pub const SMALL_DEEP: Self = Self::new([32, 32, 128], [8, 8], 16);
    /// 16 x 16 for a workgroup of 128.
    pub const SLICED: Self = Self::new([16, 16, 64], [4, 4], 8);
    /// 16 x 16 for a workgroup of 256.
    pub const SLICED_DEEP: Self = Self::new([16, 16, 128], [4, 4], 16);
    /// 16 x 8 for a workgroup of 256.
    pub const NARROW: Self = Self::new([16, 8, 128], [4, 4], 32);
    /// 16 x 8 for a workgroup of 256 and many terms.
    pub const NARROW_DEEP: Self = Self::new([16, 8, 256], [4, 4], 32);
    /// 8 x 16 for a workgroup of 256.
    pub const FLAT: Self = Self::new([8, 16, 128], [4, 4], 32);
    /// 8 x 8 for a workgroup of 256 and many terms.
    pub const FLAT_DEEP: Self = Self::new([8, 8, 256], [4, 4], 64);

    /// Those that products are [planned](super::Tile::plan) with.
    pub const ALL: [Self; 11] = [
        Self::LARGE,
        Self::MEDIUM,
        Self::SMALL,
        Self::SMALL_SLICED,
        Self::SMALL_DEEP,
        Self::SLICED,
        Self::SLICED_DEEP,
        Self::NARROW,
        Self::NARROW_DEEP,
        Self::FLAT,
        Self::FLAT_DEEP,
    ];

    const fn new(tile: [u32; 3], own: [u32; 2], slices: u32) -> Self {
        let ([rows, columns, depth], [own_rows, own_columns]) = (tile, own);
        Self { rows, columns, depth, own_rows, own_columns, slices }
    }

    /// Invocations that make the whole tile.
    const fn slice(&self) -> u32 {
        self.rows / self.own_rows * (self.columns / self.own_columns)
    }

    pub(super) const fn threads(&self) -> u32 {
        self.slice() * self.slices
    }

    /// Vectors of an invocation that the slices exchange at a time.
    const fn round(&self) -> u32 {
        let (own, most) = (self.own_rows * self.own_columns / 4, 4);
        let round = if own < self.slices { own } else { self.slices };
        if round < most { round } else { most }
    }

    pub(super) fn label(&self) -> String {
        let Self { rows, columns, depth, own_rows, own_columns, slices } = *self;
        format!("{rows}x{columns}x{depth}_{own_rows}x{own_columns}x{slices}")
    }
}

/// A factor on its way to a tile.
#[derive(Clone, Copy)]
struct Side {
    name: &'static str,
    /// Whether elements along k are neighbours.
    along_k: bool,
    /// Rows or columns of the tile.
    size: u32,
    depth: u32,
    threads: u32,
    slices: u32,
}

impl Side {
    /// Vectors of an invocation.
    const fn own(&self) -> u32 {
        self.size * self.depth / 4 / self.threads
    }

    /// Vectors of a step along k.
    const fn width(&self) -> u32 {
        self.size / 4
    }

    /// Vectors along k that neighbouring invocations read.
    const fn run(&self) -> u32 {
        if self.depth < 32 { self.depth / 4 } else { 8 }
    }

    /// By how many vectors four steps along k, the `quad`th, change places and are moved, so that the 32 invocations that write
    /// together, `run` vectors along k of 32 / `run` rows, meet in no bank.
    const fn turn(&self, quad: u32) -> (u32, u32) {
        let width = self.width();
        if !self.along_k {
            (0, 0)
        } else if width < 8 {
            (quad % width, quad / width * width)
        } else {
            (quad % self.run() * (8 / self.run()), 0)
        }
    }

    /// Vectors in shared memory.
    const fn vectors(&self) -> u32 {
        self.width() * self.depth + self.turn(self.depth / 4 - 1).1
    }

    /// Where the vectors of an invocation begin in memory, and where they lie in the tile. `strides`: from row to row or
    /// column to column, and along k. `own` is its place in the tile, in vectors, `to` where this factor's vectors begin.
    fn declare(
        &self,
        base: &str,
        first: &str,
        count: &str,
        strides: [&str; 2],
        own: &str,
        to: u32,
    ) -> String {
        let Self { name, size, depth, slices, .. } = *self;
        let (run, width) = (self.run(), self.width());
        let mut text = String::new();
        for i in 0..self.own() {
            let at = format!("(local + {}u)", i * self.threads);
            let stride = strides[usize::from(!self.along_k)];
            // Writing to a String cannot fail.
            let _ = if self.along_k {
                writeln!(
                    text,
                    "let {name}_row{i} = {at} / {run}u % {size}u;\n\
                     let {name}_quad{i} = {at} % {run}u + {at} / {}u * {run}u;\n\
                     let {name}_k{i} = {name}_quad{i} * 4u;",
                    run * size
                )
                .and_then(|()| {
                    let row = format!("min({first} + {name}_row{i}, {count} - 1u)");
                    writeln!(text, "let {name}_at{i} = {base} + {row} * {stride} + {name}_k{i};")
                })
                .and_then(|()| {
                    let (turn, moved) = self.turned(&format!("{name}_quad{i}"));
                    writeln!(
                        text,
                        "let {name}_to{i} = {to}u + {name}_k{i} * {width}u + {moved} + (({name}_row{i} / 4u) ^ {turn});"
                    )
                })
            } else {
                writeln!(text, "let {name}_row{i} = {at} % {width}u;\nlet {name}_k{i} = {at} / {width}u;")
                    .and_then(|()| {
                        let row = format!("min({first} + {name}_row{i} * 4u, {count} - 4u)");
                        writeln!(text, "let {name}_at{i} = {base} + {row} + {name}_k{i} * {stride};")
                    })
            };
            let _ = writeln!(text, "var next_{name}{i} = vec4<f32>();");
        }
        let quads = depth / slices / 4;
        let (turn, moved) = self.turned(&format!("(slice * {quads}u)"));
        let _ = writeln!(text, "let {name}_own = {own} ^ {turn};");
        let _ = writeln!(text, "let {name}_from = {to}u + slice * {}u + {moved};", depth / slices * width);
        text
    }

    /// [`turn`](Self::turn) of a quad that the kernel works out.
    fn turned(&self, quad: &str) -> (String, String) {
        let (width, run) = (self.width(), self.run());
        if !self.along_k {
            ("0u".to_owned(), "0u".to_owned())
        } else if width < 8 {
            (format!("({quad} % {width}u)"), format!("{quad} / {width}u * {width}u"))
        } else {
            (format!("({quad} % {run}u * {}u)", 8 / run), "0u".to_owned())
        }
    }

    /// Reads the vectors of the tile that begins at `k`.
    fn fetch(&self, k: &str, stride: &str) -> String {
        let Self { name, .. } = *self;
        let step = if self.along_k { format!("({k})") } else { format!("({k}) * {stride}") };
        let mut text = String::new();
        for i in 0..self.own() {
            let _ = writeln!(
                text,
                "next_{name}{i} = vec4<f32>();\n\
                 if (({k}) + {name}_k{i} < end) {{ next_{name}{i} = load_four_{name}({name}_at{i} + {step}); }}"
            );
        }
        text
    }

    /// Writes them to shared memory, to `to` and after.
    fn keep(&self, to: u32) -> String {
        let Self { name, threads, .. } = *self;
        let mut text = String::new();
        for i in 0..self.own() {
            if !self.along_k {
                let _ = writeln!(text, "tile[local + {}u] = next_{name}{i};", to + i * threads);
                continue;
            }
            for j in 0..4 {
                let place = format!("{name}_to{i} + {}u", j * self.width());
                let _ = writeln!(text, "tile[{place}][{name}_row{i} % 4u] = next_{name}{i}[{j}];");
            }
        }
        text
    }

    /// The place of an invocation's vector, `first` vectors after its first, of step `k` of its slice.
    fn kept(&self, k: u32, first: u32) -> String {
        let Self { name, .. } = *self;
        let (turn, moved) = self.turn(k / 4);
        format!("{name}_from + {}u + ({name}_own ^ {}u)", k * self.width() + moved, first ^ turn)
    }
}

impl Matmul {
    pub(super) fn quad_tiles(&self, shader: Shader, blocks: &Blocks) -> Shader {
        let Blocks { rows, columns, depth, own_rows, own_columns, slices } = *blocks;
        let threads = blocks.threads();
        let a = Side { name: "a", along_k: self.a_along_k, size: rows, depth, threads, slices };
        let b = Side { name: "b", along_k: self.b_along_k, size: columns, ..a };
        // Invocations beside and above each other.
        let (xs, ys) = (columns / own_columns, rows / own_rows);
        let (a_strides, b_strides) = (["p.strides.x", "p.strides.y"], ["p.strides.w", "p.strides.z"]);
        let mut declare = a.declare("base.y", "first_row", "p.m", a_strides, "y", 0);
        declare += &b.declare("base.z", "first_column", "p.n", b_strides, "x", a.vectors());
        let (mut multiply, mut write) = (String::new(), String::new());
        // Writing to a String cannot fail, here and below. Named variables rather than arrays: an array that a driver
        // fails to unroll goes to memory.
        let sums = |r: u32, c: u32| format!("c{r}_{c}");
        for kk in 0..depth / slices {
            for v in 0..own_rows / 4 {
                let _ = writeln!(multiply, "let a{v}_{kk} = tile[{}];", a.kept(kk, ys * v));
            }
            for v in 0..own_columns / 4 {
                let _ = writeln!(multiply, "let b{v}_{kk} = tile[{}];", b.kept(kk, xs * v));
            }
            for r in 0..own_rows {
                for c in 0..own_columns / 4 {
                    let (sum, a, j) = (sums(r, c), r / 4, r % 4);
                    let _ = writeln!(multiply, "{sum} = fma(vec4<f32>(a{a}_{kk}[{j}]), b{c}_{kk}, {sum});");
                }
            }
        }
        let across = own_columns / 4;
        for r in 0..own_rows {
            for c in 0..across {
                let _ = writeln!(declare, "var {} = vec4<f32>();", sums(r, c));
            }
        }
        let (own, round, slice) = (own_rows * across, blocks.round(), blocks.slice());
        for first in (0..own).step_by(round as usize) {
            if slices == 1 {
                let (r, c) = (first / across, first % across);
                let row = format!("first_row + {}u + y * 4u", r / 4 * ys * 4 + r % 4);
                let column = format!("first_column + {}u + x * 4u", c * xs * 4);
                let _ = writeln!(write, "store_four(base, {row}, {column}, {});", sums(r, c));
                continue;
            }
            if first > 0 {
                let _ = writeln!(write, "workgroupBarrier();");
            }
            for v in 0..round {
                let sum = sums((first + v) / across, (first + v) % across);
                let _ = writeln!(write, "tile[(slice * {round}u + {v}u) * {slice}u + thread] = {sum};");
            }
            let _ = writeln!(write, "workgroupBarrier();\nif (slice < {round}u) {{");
            let _ = writeln!(
                write,
                "let which = slice + {first}u;\nvar total = tile[slice * {slice}u + thread];"
            );
            for other in 1..slices {
                let place = format!("({}u + slice) * {slice}u + thread", other * round);
                let _ = writeln!(write, "total += tile[{place}];");
            }
            let row = format!(
                "first_row + which / {}u * {}u + which / {across}u % 4u + y * 4u",
                across * 4,
                ys * 4
            );
            let column = format!("first_column + which % {across}u * {}u + x * 4u", xs * 4);
            let _ = writeln!(write, "store_four(base, {row}, {column}, total);\n}}");
        }
        let vectors = (a.vectors() + b.vectors()).max(if slices == 1 { 0 } else { threads * round });
        // Invocations that run together are 8 x 4 of the tile where a slice has so many. Those whose numbers differ in the
        // last bit are above each other, and in the next one beside each other: then a vector that either pair reads is one
        // read of shared memory.
        let (x, y) = if xs >= 8 && ys >= 4 {
            let beside = xs / 8;
            (
                format!("thread / 32u % {beside}u * 8u + thread / 2u % 8u"),
                format!("thread / 32u / {beside}u * 4u + thread % 2u + thread % 32u / 16u * 2u"),
            )
        } else {
            (format!("thread / 2u % {xs}u"), format!("thread % 2u + thread / {}u * 2u", 2 * xs))
        };
        let fetch = |k: &str| a.fetch(k, a_strides[1]) + &b.fetch(k, b_strides[1]);
        self.stored(shader)
            .set("TM", rows.to_string())
            .set("TN", columns.to_string())
            .set("TK", depth.to_string())
            .set("SLICE", slice.to_string())
            .set("X", x)
            .set("Y", y)
            .set("VECTORS", vectors.to_string())
            .set("DECLARE", declare)
            .set("FETCH", fetch("first"))
            .set("FETCH_NEXT", fetch(&format!("k + {depth}u")))
            .set("KEEP", a.keep(0) + &b.keep(a.vectors()))
            .set("MULTIPLY", multiply)
            .set("WRITE", write)
    }
}
