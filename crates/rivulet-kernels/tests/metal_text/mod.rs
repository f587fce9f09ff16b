//! What is asked of every MSL text, and what is kept of it: for each test that enumerates kernels a file of digests in
//! `tests/snapshots/msl`, one line for each op.
//!
//! `RIVULET_UPDATE_SNAPSHOTS=1` writes them anew. `RIVULET_MSL_OUT=folder` writes the texts themselves there, for a look at
//! a difference. `RIVULET_MSL_SYNTAX=1/10` compiles the first tenth of them with the machine's C++ compiler and the
//! stand-in of `tests/metal_shim`, `1/1` all.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says by a panic what is wrong")]
#![allow(unreachable_pub, reason = "one binary of several files")]

#[allow(dead_code, reason = "here kernels are compiled and not run")]
#[path = "../metal_shim/compiler.rs"]
mod compiler;

use rivulet_kernels::Kernel;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// Texts that naga is known to write though Metal takes them for something else or not at all, or that our options and
/// kernels are meant to keep out. Each with the reason.
const REFUSED: &[(&str, &str)] = &[
    ("simdgroup_float16x16", "Metal multiplies matrices of 8 x 8 alone"),
    ("simdgroup_half16x16", "Metal multiplies matrices of 8 x 8 alone"),
    ("double", "Metal has no float64"),
    ("atomic_ulong", "adding to it is written, and does not exist"),
    ("atomic_float", "has neither maximum nor threadgroup memory; ours are integers"),
    ("[[user(", "a binding without a place: naga made one up"),
    ("unpredictable", "loops are bounded by us"),
    ("loop_bound", "loops are bounded by us"),
    ("packed_", "its layout is not that of the parameter structs"),
    ("metal::isnan(", "a compiler may assume that there is none: bits are tested"),
    ("metal::isinf(", "a compiler may assume that there is none: bits are tested"),
    ("metal::isfinite(", "a compiler may assume that there is none: bits are tested"),
    ("metal::fast::", "kernels state their accuracy"),
    ("INFINITY", "values that are not finite are made of bits"),
    ("NAN", "values that are not finite are made of bits"),
    ("oob", "accesses are in bounds by construction, and bounds checks would hide where not"),
    (
        "DefaultConstructible",
        "accesses are in bounds by construction, and bounds checks would hide where not",
    ),
    ("texture", "there are none"),
    ("sampler", "there are none"),
    ("threadgroup_imageblock", "there are none"),
    ("argument_buffer", "operands are bound one by one"),
];

/// Metal's limits on every Apple GPU.
const BUFFERS: u32 = 31;
const PARAM_BYTES: u32 = 4096;
const THREADGROUP_BYTES: u32 = 32 << 10;
const THREADS: u32 = 1024;
/// Features of MSL 3.0 on the GPU family Apple7, the M1's; what later versions and families add is not used.
const LANGUAGE: &str = "// language: metal3.0\n";

/// What is wrong with a kernel's text.
pub fn lint(kernel: &Kernel, text: &str, threadgroup: &[u32]) -> Vec<String> {
    let mut found = Vec::new();
    let label = kernel.label();
    let mut wrong = |what: String| found.push(format!("{label}: {what}"));
    for (word, why) in REFUSED {
        if text.contains(word) {
            wrong(format!("`{word}`: {why}"));
        }
    }
    if !text.starts_with(LANGUAGE) {
        wrong("not of the language version that the driver asks for".to_owned());
    }
    if kernel.bindings() + 2 > BUFFERS || kernel.param_bytes() > PARAM_BYTES {
        wrong(format!("{} bindings, {} bytes of parameters", kernel.bindings(), kernel.param_bytes()));
    }
    let threads: u32 = kernel.workgroup().iter().product();
    if threads > THREADS {
        wrong(format!("{threads} threads"));
    }
    let bytes: u32 = threadgroup.iter().map(|bytes| bytes.next_multiple_of(16)).sum();
    if bytes > THREADGROUP_BYTES {
        wrong(format!("{bytes} bytes of threadgroup memory"));
    }
    // Every binding, the parameters and the lengths stand where the driver puts them.
    let arguments = |part: &str| text.matches(part).count();
    for index in 0..kernel.bindings() {
        if arguments(&format!("[[buffer({index})]]")) != 1 {
            wrong(format!("binding {index} is not one argument"));
        }
    }
    let place = format!("[[buffer({})]]", kernel.bindings());
    let params = text.lines().find(|line| line.starts_with(", constant Params& "));
    if !params.is_some_and(|line| line.ends_with(&place)) {
        wrong("no parameters after the bindings".to_owned());
    }
    let struct_bytes = params_bytes(text);
    if struct_bytes != Some(kernel.param_bytes()) {
        wrong(format!("parameters of {struct_bytes:?} bytes; {} are given", kernel.param_bytes()));
    }
    found
}

/// Size in Metal of the struct of parameters: words, and vectors of two and four of them.
fn params_bytes(text: &str) -> Option<u32> {
    let members = text.lines().skip_while(|line| *line != "struct Params {").skip(1);
    let (mut at, mut align) = (0_u32, 4_u32);
    for member in members.take_while(|line| !line.starts_with('}')) {
        let member = member.trim();
        let (bytes, step) = match member.split(' ').next()? {
            "uint" | "int" | "float" => (4, 4),
            "metal::uint2" | "metal::int2" | "metal::float2" => (8, 8),
            "metal::uint4" | "metal::int4" | "metal::float4" => (16, 16),
            "char" => (member.split(['[', ']']).nth(1)?.parse().ok()?, 1),
            name => {
                // An array of a struct or of vectors, by its typedef: `struct type_3 { metal::uint4 inner[8]; };`.
                let text = text.split(&format!("struct {name} {{")).nth(1)?.split("};").next()?;
                let count: u32 = text.split(['[', ']']).nth(1)?.parse().ok()?;
                let element = if text.contains("uint4") { 16 } else { 4 };
                (element * count, element)
            }
        };
        at = at.next_multiple_of(step) + bytes;
        align = align.max(step);
    }
    Some(at.next_multiple_of(align))
}

/// The texts of one test.
#[derive(Default)]
pub struct Texts {
    /// Labels and texts that are to be compiled.
    chosen: Vec<(String, String)>,
    seen: usize,
    /// By op: how many, and what they hash to, in order.
    ops: BTreeMap<String, (usize, u64)>,
}

impl Texts {
    pub fn add(&mut self, kernel: &Kernel, text: String) {
        let label = kernel.label();
        let op = label.split('_').take(2).collect::<Vec<_>>().join("_");
        let (count, digest) = self.ops.entry(op).or_insert((0, FNV));
        *count += 1;
        *digest = [label.as_bytes(), text.as_bytes()].into_iter().flatten().fold(*digest, hash);
        self.seen += 1;
        if part().is_some_and(|(part, parts)| self.seen % parts == part % parts) {
            self.chosen.push((label.clone(), text.clone()));
        }
        if let Some(folder) = switch("RIVULET_MSL_OUT") {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(Path::new(&folder).join(format!("{label}.metal")), text).unwrap();
        }
    }

    /// Fails where they are not as kept.
    pub fn compare(self) {
        for chunk in self.chosen.chunks(CHUNK) {
            if let Err(error) = compiler::check_syntax(chunk) {
                panic!("{error}");
            }
        }
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        assert!(test.contains("translate"), "digests are kept by the name of the test, which is {test:?}");
        let mut lines = String::new();
        for (op, (count, digest)) in self.ops {
            writeln!(lines, "{op} {count} {digest:016x}").unwrap();
        }
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/snapshots/msl/{test}.txt"));
        if switch("RIVULET_UPDATE_SNAPSHOTS").is_some_and(|value| value == "1") {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &lines).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        let changed: Vec<_> = lines.lines().filter(|line| !kept.lines().any(|old| old == *line)).collect();
        assert!(
            kept == lines,
            "the MSL of {changed:?} differs from {}; RIVULET_UPDATE_SNAPSHOTS=1 writes the digests anew",
            path.display()
        );
    }
}

/// Texts compiled in one go.
const CHUNK: usize = 64;

/// The part that `RIVULET_MSL_SYNTAX` names, and of how many.
fn part() -> Option<(usize, usize)> {
    let value = switch("RIVULET_MSL_SYNTAX")?;
    let (part, parts) = value.split_once('/').expect("RIVULET_MSL_SYNTAX is like 1/10");
    Some((part.parse().unwrap(), parts.parse().unwrap()))
}

const FNV: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a.
fn hash(digest: u64, byte: &u8) -> u64 {
    (digest ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
}

#[allow(clippy::disallowed_methods, reason = "switches of these tests alone")]
fn switch(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
