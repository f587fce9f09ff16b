//! How fast a device moves memory through kernels: `cargo run --release -p rivulet --example bandwidth_speed -- [adapter]`.
//!
//! Prints GB/s of copies, additions, softmax and layer norm over a gibibyte of each type: bytes that have to be read and
//! written, once each, by the time of an op. Every figure is the best of five rounds of ten ops.
#![allow(clippy::print_stdout, reason = "it is what an example is for")]

use rivulet::memory::Block;
use rivulet::ops::{DType, Op, Scalar, View, copy, fill, layer_norm, pointwise, softmax};
use rivulet::{Device, DeviceOptions};
use rivulet_hal::sync::Arc;
use rivulet_hal::vulkan::{self, Options};
use std::time::Instant;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const ROUNDS: u32 = 5;
const TIMES: u32 = 10;

fn tensor(device: &Device, dtype: DType, count: u64) -> Outcome<Arc<Block>> {
    let block = device.allocate(count * u64::from(dtype.size()))?;
    fill(device, &View::dense(&block, dtype, &[count]), Scalar::F32(0.5))?;
    Ok(block)
}

/// Prints the rate of an op that moves so many bytes.
fn rate(
    device: &Device,
    dtype: DType,
    name: &str,
    bytes: u64,
    run: impl Fn() -> rivulet::Result<()>,
) -> Outcome<()> {
    run()?;
    device.synchronize()?;
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..TIMES {
            run()?;
        }
        device.synchronize()?;
        best = best.min(start.elapsed().as_secs_f64() / f64::from(TIMES));
    }
    println!("{:5} {name:24} {:8.1} GB/s {:9.1} us", dtype.name(), bytes as f64 / best / 1e9, best * 1e6);
    Ok(())
}

fn main() -> Outcome<()> {
    let wanted = std::env::args().nth(1).unwrap_or_default().to_lowercase();
    let index = vulkan::adapters().iter().position(|adapter| adapter.name.to_lowercase().contains(&wanted));
    let index = index.ok_or_else(|| format!("no adapter is called {wanted}"))?;
    let device = Device::with(vulkan::open(index, Options::default())?, DeviceOptions::default())?;
    println!("{}", device.info().name);
    // A device that is a CPU would take minutes.
    let small = device.info().class == rivulet_hal::AdapterClass::Cpu;
    let bytes: u64 = if small { 1 << 22 } else { 1 << 30 };
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let count = bytes / u64::from(dtype.size());
        let [out, x, y] =
            [tensor(&device, dtype, count)?, tensor(&device, dtype, count)?, tensor(&device, dtype, count)?];
        let flat = |block| View::dense(block, dtype, &[count]);
        rate(&device, dtype, "copy", 2 * bytes, || copy(&device, &flat(&out), &flat(&x)))?;
        rate(&device, dtype, "add", 3 * bytes, || {
            pointwise(&device, Op::Add, dtype, &flat(&out), &[flat(&x), flat(&y)], None, &[Scalar::F32(1.0)])
        })?;
        rate(&device, dtype, "relu", 2 * bytes, || {
            pointwise(&device, Op::Relu, dtype, &flat(&out), &[flat(&x)], None, &[])
        })?;
        for size in [256, 768, 1024, 4096] {
            let rows = count / size;
            let matrix = |block| View::dense(block, dtype, &[rows, size]);
            let moved = 2 * rows * size * u64::from(dtype.size());
            rate(&device, dtype, &format!("softmax of {size}"), moved, || {
                softmax(&device, false, &matrix(&out), &matrix(&x), 1)
            })?;
            let [weight, bias] = [tensor(&device, dtype, size)?, tensor(&device, dtype, size)?];
            let vector = |block| View::dense(block, dtype, &[size]);
            rate(&device, dtype, &format!("layer_norm of {size}"), moved, || {
                let (weight, bias) = (vector(&weight), vector(&bias));
                layer_norm(&device, &matrix(&out), None, None, &matrix(&x), Some(&weight), Some(&bias), 1e-5)
            })?;
        }
    }
    Ok(())
}
