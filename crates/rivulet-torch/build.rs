//! Compiles the C++ adaptor (`csrc/`) against the PyTorch named by `RIVULET_TORCH_DIR`, the folder of the installed
//! `torch` package. Without that variable, or for another platform than this one, the adaptor is left out and the
//! library says so when it is asked to register.

use std::path::{Path, PathBuf};

#[allow(clippy::disallowed_methods, reason = "build scripts are configured by the environment")]
fn main() {
    println!("cargo::rustc-check-cfg=cfg(adaptor)");
    println!("cargo::rerun-if-env-changed=RIVULET_TORCH_DIR");
    // Not at compile time: a target folder that was copied from another checkout would compile that one's C++.
    let here = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
    let csrc = Path::new(&here).join("../../csrc");
    println!("cargo::rerun-if-changed={}", csrc.display());
    println!("cargo::rerun-if-changed=include");

    let cross = std::env::var("HOST") != std::env::var("TARGET");
    let Some(torch) = std::env::var_os("RIVULET_TORCH_DIR").map(PathBuf::from).filter(|_| !cross) else {
        return;
    };
    if !torch.join("include/ATen/ATen.h").is_file() {
        println!(
            "cargo::error=RIVULET_TORCH_DIR={} is not a torch package: it has no include/ATen/ATen.h",
            torch.display()
        );
        return;
    }
    let mut build = cc::Build::new();
    // What PyTorch's wheels are compiled with: the types of its kernel stubs depend on it. Those for macOS have none.
    let target = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    let capabilities: &[&str] = match (&*target("OS"), &*target("ARCH")) {
        (_, "x86_64") => &["AVX2", "AVX512"],
        ("linux", "aarch64") => &["SVE256", "ARM_BF16"],
        _ => &[],
    };
    for name in capabilities {
        build.define(&format!("HAVE_{name}_CPU_DEFINITION"), None);
    }
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
        .files(units(&csrc));
    build.compile("rivulet_adaptor");
    println!("cargo::rustc-link-search=native={}", torch.join("lib").display());
    println!("cargo::rustc-link-lib=dylib=torch_cpu");
    println!("cargo::rustc-link-lib=dylib=c10");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "macos") {
        // The default is the path in the build folder, and the file is moved. PyTorch's libraries are found by their
        // install names among those that `import torch` has loaded.
        println!("cargo::rustc-cdylib-link-arg=-Wl,-install_name,@rpath/librivulet_torch.dylib");
    }
    println!("cargo::rustc-cfg=adaptor");
}

/// One translation unit a folder: PyTorch's headers take longer to read than our code takes to compile.
#[allow(clippy::disallowed_methods, reason = "build scripts are configured by the environment")]
fn units(csrc: &Path) -> Vec<PathBuf> {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    let mut units = Vec::new();
    for folder in sorted(csrc).into_iter().filter(|path| path.is_dir()) {
        let mut text = String::new();
        for file in sorted(&folder).iter().filter(|path| path.extension().is_some_and(|e| e == "cpp")) {
            text += &format!("#include \"{}\"\n", file.display());
        }
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let unit = out.join(format!("{name}.cpp"));
        if let Err(error) = std::fs::write(&unit, text) {
            println!("cargo::error=cannot write {}: {error}", unit.display());
        }
        units.push(unit);
    }
    units
}

fn sorted(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}
