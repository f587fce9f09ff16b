//! From MSL to something that runs here.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Arrays of unknown length are declared with one element, integers wrap, and nothing is fused or reassociated.
const FLAGS: &[&str] = &[
    "-std=c++20",
    "-O1",
    "-fPIC",
    "-fwrapv",
    "-fno-strict-aliasing",
    "-fno-aggressive-loop-optimizations",
    "-ffp-contract=off",
    "-fno-exceptions",
    // A number without a suffix is a float in Metal's language.
    "-fsingle-precision-constant",
    "-Wno-attributes",
    "-Werror=return-type",
];

/// The folder of the stand-in.
fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/metal_shim")
}

/// Where what was compiled is kept.
fn cache() -> &'static Path {
    static CACHE: OnceLock<PathBuf> = OnceLock::new();
    CACHE.get_or_init(|| {
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("metal_shim");
        std::fs::create_dir_all(&cache).unwrap();
        cache
    })
}

#[allow(clippy::disallowed_methods, reason = "a switch of these tests alone")]
fn compiler() -> String {
    std::env::var("CXX").ok().filter(|name| !name.is_empty()).unwrap_or_else(|| "g++".to_owned())
}

/// FNV-1a.
fn hash(texts: &[&str]) -> u64 {
    let bytes = texts.iter().flat_map(|text| text.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

fn run(command: &mut Command, what: &str) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{what}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(format!("{what}:\n{}", words.lines().take(20).collect::<Vec<_>>().join("\n")))
}

/// Makes `name` with `make`, which is given a path to write to; once for all processes.
fn made(name: &str, make: impl FnOnce(&Path) -> Result<(), String>) -> Result<PathBuf, String> {
    let path = cache().join(name);
    if !path.exists() {
        let fresh = cache().join(format!("{name}.{}", std::process::id()));
        make(&fresh)?;
        std::fs::rename(&fresh, &path).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(path)
}

fn library_text() -> &'static str {
    concat!(include_str!("include/metal_stdlib"), include_str!("runner.h"))
}

/// The program that runs compiled kernels.
pub fn runner() -> PathBuf {
    let text = include_str!("runner.cpp");
    let name = format!("runner-{:016x}", hash(&[text, library_text()]));
    let build = |out: &Path| {
        let source = sources().join("runner.cpp");
        run(
            Command::new(compiler()).args(["-std=c++20", "-O2", "-rdynamic", "-o"]).arg(out).arg(source),
            "runner.cpp",
        )
    };
    made(&name, build).unwrap()
}

/// A shared object with the kernel of `text` behind `rivulet_invoke`.
pub fn compile(label: &str, text: &str, entry: &str) -> Result<PathBuf, String> {
    let unit = unit(text, entry)?;
    let name = format!("{:016x}.so", hash(&[&unit, library_text(), &FLAGS.join(" ")]));
    made(&name, |out| {
        let source = out.with_extension("cpp");
        std::fs::write(&source, &unit).map_err(|error| error.to_string())?;
        let include = sources();
        let result = run(
            Command::new(compiler())
                .args(FLAGS)
                .arg("-I")
                .arg(include.join("include"))
                .arg("-I")
                .arg(include)
                .args(["-shared", "-o"])
                .arg(out)
                .arg(&source),
            label,
        );
        let _ = std::fs::remove_file(source);
        result
    })
}

/// The text as C++ can say it: parts of vectors are functions, and functions that differ in the address space of an
/// argument alone are one.
fn spelled(text: &str) -> String {
    let mut text = text.to_owned();
    while let Some(at) = text.find("    threadgroup A *atomic_ptr") {
        let start = text[..at].rfind("template <typename A>").unwrap();
        let end = at + text[at..].find("\n}\n").unwrap() + 3;
        text.replace_range(start..end, "");
    }
    for part in ["xy", "yz", "zw", "xzw", "yzw"] {
        let mut rest = text.as_str();
        let mut spelled = String::with_capacity(text.len());
        while let Some((before, after)) = rest.split_once(&format!(".{part}")) {
            let whole = !after.starts_with(|c: char| c.is_alphanumeric() || c == '_' || c == '(');
            spelled.extend([before, ".", part, if whole { "()" } else { "" }]);
            rest = after;
        }
        text = spelled + rest;
    }
    text
}

/// Whether all these texts compile, in one go: each in a namespace of its own.
pub fn check_syntax(texts: &[(String, String)]) -> Result<(), String> {
    let mut unit = String::from("#include <metal_stdlib>\n");
    for (index, (label, text)) in texts.iter().enumerate() {
        writeln!(unit, "namespace kernel_{index} {{ // {label}\n{}\n}}", spelled(text)).unwrap();
    }
    let source = cache().join(format!("syntax-{}-{:016x}.cpp", std::process::id(), hash(&[&unit])));
    std::fs::write(&source, unit).map_err(|error| error.to_string())?;
    let include = sources().join("include");
    let result = run(
        Command::new(compiler()).args(FLAGS).arg("-fsyntax-only").arg("-I").arg(include).arg(&source),
        "MSL",
    );
    let _ = std::fs::remove_file(source);
    result
}

/// The text with a function that calls the kernel as the runner wants it.
fn unit(text: &str, entry: &str) -> Result<String, String> {
    let mut unit = String::from("#include \"runner.h\"\n");
    unit.push_str(&spelled(text));
    let lines = text.lines().skip_while(|line| !line.contains(&format!("kernel void {entry}(")));
    let mut shared = 0;
    let mut arguments = Vec::new();
    for line in lines.skip(1).take_while(|line| !line.starts_with(')')) {
        arguments.push(argument(line.trim_start_matches([',', ' ']), &mut shared)?);
    }
    if text.contains("threadgroup_barrier(") {
        unit.push_str("\nextern \"C\" { int rivulet_has_barriers = 1; }\n");
    }
    write!(
        unit,
        "\nextern \"C\" void rivulet_invoke(void* const* b, void* const* s, RivuletPlace const* at) {{\n\
         (void)b;\n(void)s;\n(void)at;\n{entry}({});\n}}\n",
        arguments.join(", ")
    )
    .unwrap();
    Ok(unit)
}

/// What the kernel is called with for one argument of its declaration.
fn argument(declared: &str, shared: &mut u32) -> Result<String, String> {
    let three = |name: &str| format!("metal::uint3(at->{name}[0], at->{name}[1], at->{name}[2])");
    for (attribute, value) in [
        ("threadgroup_position_in_grid", three("group")),
        ("threadgroups_per_grid", three("groups")),
        ("thread_position_in_threadgroup", three("local")),
        ("thread_position_in_grid", three("global")),
        ("thread_index_in_threadgroup", "at->index".to_owned()),
    ] {
        if declared.ends_with(&format!("[[{attribute}]]")) {
            let one = declared.starts_with("uint ") && value.starts_with("metal::uint3");
            return Ok(if one { value + ".x" } else { value });
        }
    }
    let unknown = || format!("an argument that the runner does not know: {declared}");
    let (space, rest) = declared.split_once(' ').ok_or_else(unknown)?;
    let (ty, rest) = rest.split_once('&').ok_or_else(unknown)?;
    match space {
        "threadgroup" => {
            *shared += 1;
            Ok(format!("*static_cast<{ty}*>(s[{}])", *shared - 1))
        }
        "device" | "constant" => {
            let number = rest.split("[[buffer(").nth(1).and_then(|rest| rest.split(')').next());
            Ok(format!("*static_cast<{ty}*>(b[{}])", number.ok_or_else(unknown)?))
        }
        _ => Err(unknown()),
    }
}
