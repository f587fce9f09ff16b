//! Kernels run on a device, against float64 or exact references on the CPU.
//!
//! The device is Mesa's llvmpipe; `RIVULET_TEST_ADAPTER=nvidia` picks another by a part of its name, and
//! `LP_NUM_THREADS=0` makes llvmpipe quicker. Without a device nothing is tested and each test says so, unless
//! `RIVULET_REQUIRE_VULKAN=1`.
#![allow(clippy::unwrap_used, reason = "a test says by a panic what is wrong")]
#![allow(unreachable_pub, reason = "one binary of several files")]

mod attention;
mod convolutions;
mod creation;
mod gpu;
mod indexing;
mod layouts;
mod losses;
mod maths;
mod norms;
mod ops;
mod pads;
mod products;
mod reductions;
mod rows;
mod scans;
mod sorts;
mod values;
