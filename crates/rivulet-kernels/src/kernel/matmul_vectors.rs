//! Matrix products on tiles whose factors are read four elements at a time.

use super::matmul::Matmul;
use crate::shader::Shader;
use std::fmt::Write;

/// A tile whose factors are read four elements at a time: its rows and columns, steps along k, and rows and columns of an
/// invocation.
pub(super) struct Blocks {
    pub(super) rows: u32,
    pub(super) columns: u32,
    pub(super) depth: u32,
    pub(super) own_rows: u32,
    pub(super) own_columns: u32,
}

impl Blocks {
    pub(super) const fn threads(&self) -> u32 {
        self.rows / self.own_rows * (self.columns / self.own_columns)
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
}

impl Side {
    /// Vectors of an invocation.
    const fn own(&self) -> u32 {
        self.size * self.depth / 4 / self.threads
    }

    /// By how many vectors the place of a vector turns with the next four steps along k. The 32 invocations that write
    /// together hold vectors of `depth / 4` different steps, and of 32 / (depth / 4) different rows.
    const fn turn(&self) -> u32 {
        let turn = 32 / (self.depth / 4) / 4;
        if turn == 0 { 1 } else { turn }
    }

    /// Where the vectors of an invocation begin in memory, and where they lie in the tile. `strides`: from row to row or
    /// column to column, and along k.
    fn declare(&self, base: &str, first: &str, count: &str, strides: [&str; 2]) -> String {
        let Self { name, size, depth, .. } = *self;
        let mut text = String::new();
        for i in 0..self.own() {
            let at = format!("(local + {}u)", i * self.threads);
            let stride = strides[usize::from(!self.along_k)];
            // Writing to a String cannot fail.
            let _ = if self.along_k {
                writeln!(
                    text,
                    "let {name}_row{i} = {at} / {}u;\nlet {name}_k{i} = {at} % {0}u * 4u;",
                    depth / 4
                )
                .and_then(|()| {
                    let row = format!("min({first} + {name}_row{i}, {count} - 1u)");
                    writeln!(text, "let {name}_at{i} = {base} + {row} * {stride} + {name}_k{i};")
                })
            } else {
                writeln!(text, "let {name}_row{i} = {at} % {}u;\nlet {name}_k{i} = {at} / {0}u;", size / 4)
                    .and_then(|()| {
                        let row = format!("min({first} + {name}_row{i} * 4u, {count} - 4u)");
                        writeln!(text, "let {name}_at{i} = {base} + {row} + {name}_k{i} * {stride};")
                    })
            };
            let _ = writeln!(text, "var next_{name}{i} = vec4<f32>();");
        }
        text
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

    /// Writes them to shared memory.
    fn keep(&self) -> String {
        let Self { name, size, threads, .. } = *self;
        let mut text = String::new();
        for i in 0..self.own() {
            if !self.along_k {
                let _ = writeln!(text, "tile_{name}[local + {}u] = next_{name}{i};", i * threads);
                continue;
            }
            let turned = format!("(({name}_row{i} / 4u) ^ ({name}_k{i} / 4u * {}u))", self.turn());
            for j in 0..4 {
                let _ = writeln!(
                    text,
                    "tile_{name}[({name}_k{i} + {j}u) * {}u + {turned}][{name}_row{i} % 4u] = next_{name}{i}[{j}];",
                    size / 4
                );
            }
        }
        text
    }

    /// The place of vector `own` + `first` of step `k`.
    fn kept(&self, k: u32, first: u32, own: &str) -> String {
        let turn = if self.along_k { k / 4 * self.turn() } else { 0 };
        format!("{}u + (({first}u + {own}) ^ {turn}u)", k * self.size / 4)
    }
}

impl Matmul {
    pub(super) fn quad_tiles(&self, shader: Shader, blocks: &Blocks) -> Shader {
        let Blocks { rows, columns, depth, own_rows, own_columns } = *blocks;
        let a = Side { name: "a", along_k: self.a_along_k, size: rows, depth, threads: blocks.threads() };
        let b = Side { name: "b", along_k: self.b_along_k, size: columns, ..a };
        let (a_strides, b_strides) = (["p.strides.x", "p.strides.y"], ["p.strides.w", "p.strides.z"]);
        let mut declare = a.declare("base.y", "first_row", "p.m", a_strides);
        declare += &b.declare("base.z", "first_column", "p.n", b_strides);
        let (mut multiply, mut write) = (String::new(), String::new());
        // Writing to a String cannot fail, here and below. Named variables rather than arrays: an array that a driver
        // fails to unroll goes to memory.
        let sums = |r: u32, c: u32| format!("c{r}_{c}");
        for kk in 0..depth {
            for v in 0..own_rows / 4 {
                let _ =
                    writeln!(multiply, "let a{v}_{kk} = tile_a[{}];", a.kept(kk, rows / own_rows * v, "y"));
            }
            for v in 0..own_columns / 4 {
                let place = b.kept(kk, columns / own_columns * v, "x");
                let _ = writeln!(multiply, "let b{v}_{kk} = tile_b[{place}];");
            }
            for r in 0..own_rows {
                for c in 0..own_columns / 4 {
                    let (sum, a, j) = (sums(r, c), r / 4, r % 4);
                    let _ = writeln!(multiply, "{sum} = fma(vec4<f32>(a{a}_{kk}[{j}]), b{c}_{kk}, {sum});");
                }
            }
        }
        for r in 0..own_rows {
            for c in 0..own_columns / 4 {
                let sum = sums(r, c);
                let _ = writeln!(declare, "var {sum} = vec4<f32>();");
                let row = format!("first_row + {}u + y * 4u", r / 4 * (rows / own_rows * 4) + r % 4);
                let column = format!("first_column + {}u + x * 4u", c * (columns / own_columns * 4));
                let _ = writeln!(write, "store_four(base, {row}, {column}, {sum});");
            }
        }
        let next = format!("k + {depth}u");
        self.stored(shader)
            .set("TM", rows.to_string())
            .set("TN", columns.to_string())
            .set("TK", depth.to_string())
            .set("XS", (columns / own_columns / 8).to_string())
            .set("A_VECTORS", (rows * depth / 4).to_string())
            .set("B_VECTORS", (columns * depth / 4).to_string())
            .set("DECLARE", declare)
            .set("FETCH", a.fetch("first", a_strides[1]) + &b.fetch("first", b_strides[1]))
            .set("FETCH_NEXT", a.fetch(&next, a_strides[1]) + &b.fetch(&next, b_strides[1]))
            .set("KEEP", a.keep() + &b.keep())
            .set("MULTIPLY", multiply)
            .set("WRITE", write)
    }
}

impl Matmul {
    /// The body of a [sliced](super::Tile::Sliced) product.
    pub(super) fn slices(&self, shader: Shader) -> Shader {
        let (mut declare, mut keep, mut multiply, mut parts) =
            (String::new(), String::new(), String::new(), String::new());
        let fetch = |k: &str| {
            let mut text = String::new();
            for name in ["a", "b"] {
                for i in 0..4 {
                    // Writing to a String cannot fail, here and below.
                    let _ = writeln!(
                        text,
                        "next_{name}{i} = vec4<f32>();\n\
                         if (({k}) + own_k < end) {{ next_{name}{i} = load_four_{name}({name}_at{i} + ({k})); }}"
                    );
                }
            }
            text
        };
        for (name, base, first, count, stride) in [
            ("a", "base.y", "first_row", "p.m", "p.strides.x"),
            ("b", "base.z", "first_column", "p.n", "p.strides.w"),
        ] {
            for i in 0..4 {
                let row = format!("min({first} + own_row + {}u, {count} - 1u)", i * 4);
                let _ = writeln!(declare, "let {name}_at{i} = {base} + {row} * {stride} + own_k;");
                let _ = writeln!(declare, "var next_{name}{i} = vec4<f32>();");
                for j in 0..4 {
                    let place = format!("keep + {}u + ({}u ^ turn)", j * 16, i * 4);
                    let _ = writeln!(keep, "tile_{name}[{place}] = next_{name}{i}[{j}];");
                }
            }
        }
        for r in 0..4 {
            let _ = writeln!(declare, "var c{r} = vec2<f32>();");
        }
        for kk in 0..32 {
            let turn = kk / 4 % 4 * 4;
            let at =
                |own: &str, i: u32| format!("[slice * 512u + {}u + (({own} + {i}u) ^ {turn}u)]", kk * 16);
            let _ = writeln!(multiply, "let b{kk} = vec2<f32>(tile_b{}, tile_b{});", at("x", 0), at("x", 8));
            for r in 0..4 {
                let a = format!("vec2<f32>(tile_a{})", at("y", r * 4));
                let _ = writeln!(multiply, "c{r} = fma({a}, b{kk}, c{r});");
            }
        }
        for r in 0..4 {
            for (c, part) in ["x", "y"].into_iter().enumerate() {
                let at = format!("slice * 256u + (y + {}u) * 16u + x + {}u", r * 4, c * 8);
                let _ = writeln!(parts, "tile_a[{at}] = c{r}.{part};");
            }
        }
        self.stored(shader)
            .set("DECLARE", declare)
            .set("FETCH", fetch("first + slice * 32u"))
            .set("FETCH_NEXT", fetch("k + slice * 32u + 256u"))
            .set("KEEP", keep)
            .set("MULTIPLY", multiply)
            .set("PARTS", parts)
    }
}
