//! Matrix products on cooperative matrices.

use super::matmul::Matmul;
use crate::shader::Shader;
use std::fmt::Write;

/// A tile of cooperative matrices: its rows and columns, steps along k, and rows and columns of a subgroup.
pub(super) struct Fragments {
    pub(super) rows: u32,
    pub(super) columns: u32,
    pub(super) depth: u32,
    pub(super) own_rows: u32,
    pub(super) own_columns: u32,
}

impl Fragments {
    pub(super) const fn threads(&self) -> u32 {
        32 * (self.rows / self.own_rows) * (self.columns / self.own_columns)
    }
}

/// A factor on its way to a tile: vectors of eight elements.
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
    /// Vectors that lie beside each other in memory.
    const fn run(&self) -> u32 {
        if self.along_k { self.depth / 8 } else { self.size / 8 }
    }

    /// Vectors from one run to the next in shared memory: one more, so that they begin in other banks.
    const fn pitch(&self) -> u32 {
        self.run() + 1
    }

    const fn vectors(&self) -> u32 {
        self.pitch() * if self.along_k { self.size } else { self.depth }
    }

    /// Vectors of an invocation.
    const fn own(&self) -> u32 {
        self.size * self.depth / 8 / self.threads
    }

    /// Where the vectors of an invocation come from and go to. `strides`: from row to row or column to column, and along k.
    fn declare(&self, base: &str, first: &str, count: &str, strides: [&str; 2]) -> String {
        let Self { name, .. } = *self;
        let mut text = String::new();
        for i in 0..self.own() {
            let (far, near) = (
                format!("(local + {}u) / {}u", i * self.threads, self.run()),
                format!("(local + {}u) % {}u", i * self.threads, self.run()),
            );
            // Writing to a String cannot fail, here and below.
            let _ = if self.along_k {
                let row = format!("min({first} + {far}, {count} - 1u)");
                writeln!(text, "let {name}_k{i} = {near} * 8u;").and_then(|()| {
                    writeln!(text, "let {name}_at{i} = ({base} + {row} * {} + {name}_k{i}) / 8u;", strides[0])
                })
            } else {
                let row = format!("min({first} + {near} * 8u, {count} - 8u)");
                writeln!(text, "let {name}_k{i} = {far};").and_then(|()| {
                    writeln!(text, "let {name}_at{i} = ({base} + {row} + {name}_k{i} * {}) / 8u;", strides[1])
                })
            };
            let _ = writeln!(text, "let {name}_to{i} = {far} * {}u + {near};", self.pitch());
            let _ = writeln!(text, "var next_{name}{i} = vec4<u32>();");
        }
        text
    }

    /// Reads the vectors of the tile that begins at `k`.
    fn fetch(&self, k: &str, stride: &str) -> String {
        let Self { name, .. } = *self;
        let step = if self.along_k { format!("({k}) / 8u") } else { format!("({k}) * ({stride} / 8u)") };
        let mut text = String::new();
        for i in 0..self.own() {
            let _ = writeln!(
                text,
                "next_{name}{i} = vec4<u32>();\n\
                 if (({k}) + {name}_k{i} < end) {{ next_{name}{i} = {name}[{name}_at{i} + {step}]; }}"
            );
        }
        text
    }

    /// Writes them to shared memory.
    fn keep(&self) -> String {
        let name = self.name;
        (0..self.own()).map(|i| format!("tile_{name}[{name}_to{i}] = next_{name}{i};\n")).collect()
    }

    /// The matrix of 16 rows or columns from `first` on, at step `k`. Rows follow one another where `coopLoadT` loads,
    /// columns where `coopLoad` does.
    fn load(&self, role: &str, first: &str, k: u32) -> String {
        let Self { name, .. } = *self;
        let pitch = self.pitch();
        let place = if self.along_k {
            format!("({first}) * {pitch}u + {}u", k / 8)
        } else {
            format!("{}u + ({first}) / 8u", k * pitch)
        };
        let call = if self.along_k == (role == "A") { "coopLoadT" } else { "coopLoad" };
        format!("{call}<coop_mat16x16<f16, {role}>>(&tile_{name}[{place}], {pitch}u)")
    }
}

impl Matmul {
    pub(super) fn cooperative(&self, shader: Shader, fragments: &Fragments) -> Shader {
        let Fragments { rows, columns, depth, own_rows, own_columns } = *fragments;
        let a = Side { name: "a", along_k: self.a_along_k, size: rows, depth, threads: fragments.threads() };
        let b = Side { name: "b", along_k: self.b_along_k, size: columns, ..a };
        let (a_strides, b_strides) = (["p.strides.x", "p.strides.y"], ["p.strides.w", "p.strides.z"]);
        let mut declare = a.declare("base.y", "first_row", "p.m", a_strides);
        declare += &b.declare("base.z", "first_column", "p.n", b_strides);
        let (mut multiply, mut write) = (String::new(), String::new());
        let (down, across) = (own_rows / 16, own_columns / 16);
        for k in (0..depth).step_by(16) {
            for r in 0..down {
                let load = a.load("A", &format!("own_row + {}u", r * 16), k);
                let _ = writeln!(multiply, "let a{r}_{k} = {load};");
            }
            for c in 0..across {
                let load = b.load("B", &format!("own_column + {}u", c * 16), k);
                let _ = writeln!(multiply, "let b{c}_{k} = {load};");
                for r in 0..down {
                    let _ = writeln!(multiply, "c{r}_{c} = coopMultiplyAdd(a{r}_{k}, b{c}_{k}, c{r}_{c});");
                }
            }
        }
        // As many sums at a time as there is room for beside the tiles.
        let subgroups = fragments.threads() / 32;
        let room = (48 << 10) / 16 - a.vectors() - b.vectors();
        let held = if 2 * subgroups * 80 <= room && across.is_multiple_of(2) { 2 } else { 1 };
        for r in 0..down {
            for c in 0..across {
                let _ = writeln!(declare, "var c{r}_{c} = coop_mat16x16<f32, C>();");
            }
            for first in (0..across).step_by(held as usize) {
                let place = |c: u32| format!("(subgroup * {held}u + {}u) * 80u", c - first);
                for c in first..first + held {
                    let _ = writeln!(write, "coopStoreT(c{r}_{c}, &sums[{}], 5u);", place(c));
                }
                write += "workgroupBarrier();\n";
                for c in first..first + held {
                    for half in 0..2 {
                        let _ = writeln!(
                            write,
                            "store_four(base, row + {}u, column + {}u, sums[{} + half_row + {half}u]);",
                            r * 16,
                            c * 16 + half * 4,
                            place(c)
                        );
                    }
                }
                write += "workgroupBarrier();\n";
            }
        }
        let next = format!("k + {depth}u");
        self.stored(shader.cooperative())
            .set("TM", rows.to_string())
            .set("TN", columns.to_string())
            .set("TK", depth.to_string())
            .set("OWN_ROWS", own_rows.to_string())
            .set("OWN_COLUMNS", own_columns.to_string())
            .set("XS", (columns / own_columns).to_string())
            .set("A_VECTORS", a.vectors().to_string())
            .set("B_VECTORS", b.vectors().to_string())
            .set("HELD", held.to_string())
            .set("SUMS", (subgroups * held * 80).to_string())
            .set("DECLARE", declare)
            .set("FETCH", a.fetch("first", a_strides[1]) + &b.fetch("first", b_strides[1]))
            .set("FETCH_NEXT", a.fetch(&next, a_strides[1]) + &b.fetch(&next, b_strides[1]))
            .set("KEEP", a.keep() + &b.keep())
            .set("MULTIPLY", multiply)
            .set("WRITE", write)
    }
}
