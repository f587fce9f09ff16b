//! The kernels' MSL compiled with the machine's C++ compiler, by way of a stand-in for Metal's standard library, and run:
//! the tests of `tests/gpu`, all of them, on Metal's text instead of a Vulkan device. It shows that the text says what the
//! WGSL says; of Apple's compiler and hardware it shows nothing.
//!
//! Needs g++ (or `CXX`), on Linux. Compiled kernels stay in the target folder, by the hash of their text, so that only the
//! first run takes long.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test says by a panic what is wrong")]
#![allow(unreachable_pub, reason = "one binary of several files")]

mod compiler;
mod gpu;

#[path = "../gpu/attention.rs"]
mod attention;
#[path = "../gpu/convolutions.rs"]
mod convolutions;
#[path = "../gpu/creation.rs"]
mod creation;
#[path = "../gpu/indexing.rs"]
mod indexing;
#[path = "../gpu/layouts.rs"]
mod layouts;
#[path = "../gpu/losses.rs"]
mod losses;
#[path = "../gpu/maths.rs"]
mod maths;
#[path = "../gpu/norms.rs"]
mod norms;
#[path = "../gpu/ops.rs"]
mod ops;
#[path = "../gpu/pads.rs"]
mod pads;
#[path = "../gpu/products.rs"]
mod products;
#[path = "../gpu/reductions.rs"]
mod reductions;
#[path = "../gpu/rows.rs"]
mod rows;
#[path = "../gpu/scans.rs"]
mod scans;
#[path = "../gpu/sorts.rs"]
mod sorts;
#[path = "../gpu/special.rs"]
mod special;
#[path = "../gpu/values.rs"]
mod values;

mod attention_simd;
mod shim;
mod simd;
