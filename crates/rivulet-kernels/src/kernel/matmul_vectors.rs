//! Matrix products that read vectors of four elements: on tiles in registers, and on cooperative matrices.

use super::matmul::{Matmul, Shape};
use crate::shader::Shader;
use std::fmt::Write;

impl Matmul {
    pub(super) fn quad_tiles(&self, shader: Shader, shape: &Shape) -> Shader {
        let Shape { rows, columns, depth, .. } = *shape;
        // The 32 invocations that write together hold this many rows, and write to other banks for other k by turns of a
        // quarter of that many vectors.
        let turn = 32 / (depth / 4) / 4;
        let vectors = depth / 4;
        // Where an invocation's vector lies: along k and across, and where it is kept.
        let place = |along_k: bool, side: u32, name: &str| {
            if along_k {
                let keep = (0..4).map(|j| {
                    format!(
                        "tile_{name}[slot_{name} + (local % {vectors}u * 4u + {j}u) * {0}u \
                         + (local / {vectors}u / 4u ^ (local % {vectors}u * {turn}u))][local / {vectors}u % 4u] \
                         = {name}[{j}];\n",
                        side / 4
                    )
                });
                (format!("local % {vectors}u * 4u"), format!("local / {vectors}u"), keep.collect())
            } else {
                (
                    format!("local / {}u", side / 4),
                    format!("local % {}u * 4u", side / 4),
                    format!("tile_{name}[slot_{name} + local] = {name};"),
                )
            }
        };
        let (a_k, a_row, keep_a): (_, _, String) = place(self.a_along_k, rows, "a");
        let (b_k, b_column, keep_b): (_, _, String) = place(self.b_along_k, columns, "b");
        let turned = |along_k: bool| if along_k { " ^ turn" } else { "" };
        self.stored(shape.fill(shader, "base", true))
            .set("A_BOTH", (rows * depth / 2).to_string())
            .set("B_BOTH", (columns * depth / 2).to_string())
            .set("A_TURN", turned(self.a_along_k))
            .set("B_TURN", turned(self.b_along_k))
            .set("TURN", turn.to_string())
            .set("A_K", a_k)
            .set("A_ROW", a_row)
            .set("A_AT", if self.a_along_k { "row * p.strides.x + k" } else { "row + k * p.strides.y" })
            .set("B_K", b_k)
            .set("B_COLUMN", b_column)
            .set("B_AT", if self.b_along_k { "column * p.strides.w + k" } else { "column + k * p.strides.z" })
            .set("KEEP_A", keep_a)
            .set("KEEP_B", keep_b)
    }

    pub(super) fn cooperative(&self, shader: Shader) -> Shader {
        // A row of a tile is what is contiguous in memory, and two vectors more, so that rows begin in other banks.
        let pitch = |along_k: bool| if along_k { 10 } else { 34 };
        let size = |along_k: bool| if along_k { 128 * 10 } else { 32 * 34 };
        let place = |along_k: bool| {
            if along_k { ("i % 8u * 4u", "i / 8u") } else { ("i / 32u", "i % 32u * 4u") }
        };
        let keep = |along_k: bool| {
            if along_k { "i / 8u * 10u + i % 8u" } else { "i / 32u * 34u + i % 32u" }
        };
        let ((a_k, a_row), (b_k, b_column)) = (place(self.a_along_k), place(self.b_along_k));
        let (mut declare, mut fetch, mut next, mut kept) =
            (String::new(), String::new(), String::new(), String::new());
        let (mut multiply, mut write) = (String::new(), String::new());
        for i in 0..4 {
            // Writing to a String cannot fail, here and below.
            for (name, first) in [("a", "base.y, first_row"), ("b", "base.z, first_column")] {
                let call = |k: &str| format!("fetch_{name}({first}, {k}, local + {}u)", i * 256);
                let _ = writeln!(fetch, "var next_{name}{i} = {};", call("0u"));
                let _ = writeln!(next, "next_{name}{i} = {};", call("k + 32u"));
                let at = keep(if name == "a" { self.a_along_k } else { self.b_along_k });
                let at = at.replace('i', &format!("(local + {}u)", i * 256));
                let _ = writeln!(kept, "tile_{name}[{at}] = next_{name}{i};");
            }
        }
        // Rows follow one another where a matrix is loaded by `coopLoadT`, columns where by `coopLoad`.
        let load = |name: &str, role: &str, along_k: bool, rows: bool, first: String| {
            let call = if rows { "coopLoadT" } else { "coopLoad" };
            let (pitch, inner) =
                (pitch(along_k), if along_k { "kk / 4u".to_owned() } else { format!("({first}) / 4u") });
            let outer = if along_k { first } else { "kk".to_owned() };
            format!(
                "{call}<coop_mat16x16<f16, {role}>>(&tile_{name}[({outer}) * {pitch}u + {inner}], {pitch}u)"
            )
        };
        for r in 0..2 {
            let first = format!("own_row + {}u", r * 16);
            let _ =
                writeln!(multiply, "let a{r} = {};", load("a", "A", self.a_along_k, self.a_along_k, first));
        }
        for c in 0..4 {
            let first = format!("own_column + {}u", c * 16);
            let _ =
                writeln!(multiply, "let b{c} = {};", load("b", "B", self.b_along_k, !self.b_along_k, first));
            for r in 0..2 {
                let _ = writeln!(declare, "var c{r}_{c} = coop_mat16x16<f32, C>();");
                let _ = writeln!(multiply, "c{r}_{c} = coopMultiplyAdd(a{r}, b{c}, c{r}_{c});");
                let _ = writeln!(
                    write,
                    "coopStoreT(c{r}_{c}, &parts[subgroup * 256u], 16u);\nworkgroupBarrier();\n\
                     store_parts(base, first_row + own_row + {}u, first_column + own_column + {}u, subgroup, lane);\n\
                     workgroupBarrier();",
                    r * 16,
                    c * 16
                );
            }
        }
        self.stored(shader.cooperative())
            .set("A_VECTORS", size(self.a_along_k).to_string())
            .set("B_VECTORS", size(self.b_along_k).to_string())
            .set("A_K", a_k)
            .set("A_ROW", a_row)
            .set("A_AT", if self.a_along_k { "row * p.strides.x + k" } else { "row + k * p.strides.y" })
            .set("B_K", b_k)
            .set("B_COLUMN", b_column)
            .set("B_AT", if self.b_along_k { "column * p.strides.w + k" } else { "column + k * p.strides.z" })
            .set("DECLARE", declare)
            .set("FETCH", fetch)
            .set("FETCH_NEXT", next)
            .set("KEEP", kept)
            .set("MULTIPLY", multiply)
            .set("WRITE", write)
    }
}
