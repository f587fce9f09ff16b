//! The stand-in itself: it finds what it is there to find.

use crate::compiler;
use rivulet_hal::metal;
use std::io::Write;
use std::process::{Command, Stdio};

/// A kernel of one output, with `body`.
fn text(body: &str) -> String {
    format!(
        "#include <metal_stdlib>\nusing metal::uint;\ntypedef uint type_1[1];\nstruct type_2 {{ uint inner[4]; }};\n\
         kernel void main_(\n  uint local [[thread_index_in_threadgroup]]\n, device type_1& out [[buffer(0)]]\n, \
         threadgroup type_2& parts\n) {{\n{body}\n}}\n"
    )
}

/// Runs it with 4 invocations on `words` words; the output or what it died of.
fn run(body: &str, words: u32) -> Result<Vec<u32>, String> {
    let object = compiler::compile("test", &text(body), "main_")?;
    let message: Vec<u32> =
        [1, 1, 1, 4, 1, 1, 1, 16, 1, words * 4].into_iter().chain((0..words).map(|_| 0)).collect();
    let mut process = Command::new(compiler::runner())
        .arg(object)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let bytes: Vec<u8> = message.into_iter().flat_map(u32::to_le_bytes).collect();
    process.stdin.take().unwrap().write_all(&bytes).unwrap();
    let output = process.wait_with_output().unwrap();
    if !output.status.success() {
        return Err(format!("{} {}", output.status, String::from_utf8_lossy(&output.stderr)));
    }
    Ok(output.stdout.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect())
}

const BARRIER: &str = "metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);";

#[test]
fn invocations_meet_at_barriers() {
    let body =
        format!("parts.inner[local] = local * local;\n{BARRIER}\nout[local] = parts.inner[3u - local];");
    assert_eq!(run(&body, 4).unwrap(), [9, 4, 1, 0]);
}

#[test]
fn a_missing_barrier_shows() {
    let body = format!("{BARRIER}\nparts.inner[local] = 7u;\nout[local] = parts.inner[3u - local];");
    assert_ne!(run(&body, 4).unwrap(), [7; 4]);
}

#[test]
fn threadgroup_memory_is_not_zero_before_it_is_written() {
    assert_eq!(run("out[local] = parts.inner[local];", 4).unwrap(), [0xa5a5_a5a5; 4]);
}

#[test]
fn a_barrier_that_some_do_not_come_to_is_found() {
    let error = run(&format!("if (local < 2u) {{ {BARRIER} }}\nout[local] = 1u;"), 4).unwrap_err();
    assert!(error.contains("at a barrier"), "{error}");
}

#[test]
fn an_access_beyond_an_operand_is_found() {
    assert_eq!(run("out[local] = 1u;", 4).unwrap(), [1; 4]);
    let error = run("out[local + 4u] = 1u;", 4).unwrap_err();
    assert!(error.contains("signal"), "{error}");
    let error = run("parts.inner[local * 4u] = 1u;", 4).unwrap_err();
    assert!(error.contains("signal"), "{error}");
}

#[test]
fn what_metal_does_not_have_does_not_compile() {
    for body in ["double x = 1.0; out[local] = uint(x) + metal::no_such(1u);", "simdgroup_float16x16 m;"] {
        assert!(run(body, 4).unwrap_err().contains("error"));
    }
}

#[test]
fn one_bad_text_among_good_ones_is_found() {
    let good = || ("good".to_owned(), text("out[local] = 1u;"));
    compiler::check_syntax(&[good(), good()]).unwrap();
    let bad = ("bad".to_owned(), text("out[local] = no_such;"));
    assert!(compiler::check_syntax(&[good(), bad, good()]).unwrap_err().contains("no_such"));
}

#[test]
fn the_drivers_own_kernels_compile() {
    let copies = metal::builtin_text().to_owned();
    compiler::check_syntax(&[("builtin".to_owned(), copies)]).unwrap();
}
