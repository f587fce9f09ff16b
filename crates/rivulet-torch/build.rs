//! Compiles the C++ adaptor (`csrc/`) against the PyTorch named by `RIVULET_TORCH_DIR`, the folder of the installed
//! `torch` package. Without that variable, or for another platform than this one, the adaptor is left out and the
//! library says so when it is asked to register.

use std::path::{Path, PathBuf};

#[allow(clippy::disallowed_methods, reason = "build scripts are configured by the environment")]
fn main() {
    println!("cargo::rustc-check-cfg=cfg(adaptor)");
    println!("cargo::rerun-if-env-changed=RIVULET_TORCH_DIR");
    let csrc = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../csrc");
    println!("cargo::rerun-if-changed={}", csrc.display());
    println!("cargo::rerun-if-changed=include");

    let cross = std::env::var("HOST") != std::env::var("TARGET");
    let Some(torch) = std::env::var_os("RIVULET_TORCH_DIR").map(PathBuf::from).filter(|_| !cross) else { return };
    if !torch.join("include/ATen/ATen.h").is_file() {
        println!("cargo::error=RIVULET_TORCH_DIR={} is not a torch package: it has no include/ATen/ATen.h", torch.display());
        return;
    }
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++20")
        .opt_level(2)
        .pic(true)
        .flag("-fvisibility=hidden")
        .flag("-fvisibility-inlines-hidden")
        .flag_if_supported("-Wno-unused-parameter")
        .include(&csrc)
        .include("include")
        .flag(format!("-isystem{}", torch.join("include").display()))
        .flag(format!("-isystem{}", torch.join("include/torch/csrc/api/include").display()))
        .files(sources(&csrc));
    build.compile("rivulet_adaptor");
    println!("cargo::rustc-link-search=native={}", torch.join("lib").display());
    println!("cargo::rustc-link-lib=dylib=torch_cpu");
    println!("cargo::rustc-link-lib=dylib=c10");
    println!("cargo::rustc-cfg=adaptor");
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else { return files };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "cpp") {
            files.push(path);
        }
    }
    files.sort();
    files
}
