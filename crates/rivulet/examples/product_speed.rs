//! How fast a device multiplies matrices: `cargo run --release -p rivulet --example product_speed -- [adapter [type]]`.
//!
//! Prints TFLOP/s (2 n³ a product) of square matrices of each size and type, a row-major product and one by a
//! transposed right factor, of the layers of small models, and of a 3 x 3 convolution. Every figure is the best of five
//! rounds of as many products as take about a tenth of a second, and of one at least.
#![allow(clippy::print_stdout, reason = "it is what an example is for")]

use rivulet::memory::Block;
use rivulet::ops::{ConvGeometry, DType, View, conv2d, fill, matmul};
use rivulet::{Device, DeviceOptions};
use rivulet_hal::sync::Arc;
use rivulet_hal::vulkan::{self, Options};
use std::time::{Duration, Instant};

/// Rows, inputs and outputs of the layers of a small perceptron, of a transformer layer of width 256 and of one of width
/// 384, one text and 32.
const LAYERS: [(u64, u64, u64); 16] = [
    (32, 256, 128),
    (1, 512, 1024),
    (1, 1024, 1024),
    (1, 1024, 512),
    (32, 512, 1024),
    (32, 1024, 1024),
    (32, 1024, 512),
    (512, 256, 768),
    (512, 256, 256),
    (512, 256, 2048),
    (512, 2048, 256),
    (32, 384, 1536),
    (32, 1536, 384),
    (4096, 384, 384),
    (4096, 384, 1536),
    (4096, 1536, 384),
];

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn tensor(device: &Device, dtype: DType, count: u64) -> Outcome<Arc<Block>> {
    let block = device.allocate(count * u64::from(dtype.size()))?;
    fill(device, &View::dense(&block, dtype, &[count]), rivulet::ops::Scalar::F32(0.5))?;
    Ok(block)
}

/// Seconds of one run, after a first one that compiles.
fn best(device: &Device, run: impl Fn() -> rivulet::Result<()>) -> Outcome<f64> {
    let time = |times: u32| -> Outcome<f64> {
        let start = Instant::now();
        for _ in 0..times {
            run()?;
        }
        device.synchronize()?;
        Ok(start.elapsed().as_secs_f64() / f64::from(times))
    };
    time(1)?;
    let once = time(1)?;
    let times = (Duration::from_millis(100).as_secs_f64() / once).clamp(1.0, 1000.0) as u32;
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        best = best.min(time(times)?);
    }
    Ok(best)
}

fn products(device: &Device, dtype: DType, n: u64) -> Outcome<()> {
    let [out, a, b] =
        [tensor(device, dtype, n * n)?, tensor(device, dtype, n * n)?, tensor(device, dtype, n * n)?];
    let [out, a, b] = [&out, &a, &b].map(|block| View::dense(block, dtype, &[n, n]));
    let mut turned = b.clone();
    turned.strides = [1, i64::try_from(n)?].into_iter().collect();
    let operations = 2.0 * (n as f64).powi(3);
    for (b, name) in [(&b, "row-major"), (&turned, "transposed")] {
        let seconds = best(device, || matmul(device, &out, &a, b, None, 1.0, 0.0, None))?;
        println!(
            "{:5} {n:5} {name:10} {:8.3} TFLOP/s {:9.3} ms",
            dtype.name(),
            operations / seconds / 1e12,
            seconds * 1e3
        );
    }
    Ok(())
}

/// `[m, k]` by a linear layer's weight `[n, k]`, a bias added.
fn layer(device: &Device, dtype: DType, (m, k, n): (u64, u64, u64)) -> Outcome<()> {
    let [out, x] = [tensor(device, dtype, m * n)?, tensor(device, dtype, m * k)?];
    let [weight, bias] = [tensor(device, dtype, n * k)?, tensor(device, dtype, n)?];
    let (out, x) = (View::dense(&out, dtype, &[m, n]), View::dense(&x, dtype, &[m, k]));
    let mut weight = View::dense(&weight, dtype, &[k, n]);
    weight.strides = [1, i64::try_from(k)?].into_iter().collect();
    let mut bias = View::dense(&bias, dtype, &[m, n]);
    bias.strides = [0, 1].into_iter().collect();
    let seconds = best(device, || matmul(device, &out, &x, &weight, Some(&bias), 1.0, 1.0, None))?;
    let operations = 2.0 * (m * n * k) as f64;
    println!(
        "{:5} layer {m:5} x {k:4} -> {n:4} {:8.3} TFLOP/s {:9.4} ms",
        dtype.name(),
        operations / seconds / 1e12,
        seconds * 1e3
    );
    Ok(())
}

fn convolution(device: &Device, dtype: DType, batch: u64, channels: u64, side: u64) -> Outcome<()> {
    let count = batch * channels * side * side;
    let [out, x] = [tensor(device, dtype, count)?, tensor(device, dtype, count)?];
    let weight = tensor(device, dtype, channels * channels * 9)?;
    let images = [batch, channels, side, side];
    let [out, x] = [&out, &x].map(|block| View::dense(block, dtype, &images));
    let weight = View::dense(&weight, dtype, &[channels, channels, 3, 3]);
    let geometry = ConvGeometry { stride: [1; 2], padding: [1; 2], dilation: [1; 2], groups: 1 };
    let seconds = best(device, || conv2d(device, &out, &x, &weight, None, &geometry))?;
    let operations = 2.0 * (count * channels * 9) as f64;
    println!(
        "{:5} conv 3x3 {batch} x {channels} x {side}² {:8.3} TFLOP/s {:9.3} ms",
        dtype.name(),
        operations / seconds / 1e12,
        seconds * 1e3
    );
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
    let sizes: &[u64] = if small { &[256] } else { &[1024, 2048, 4096, 8192] };
    let asked = std::env::args().nth(2);
    let types = [DType::F32, DType::F16, DType::BF16].into_iter();
    for dtype in types.filter(|dtype| asked.as_ref().is_none_or(|asked| asked == dtype.name())) {
        for &n in sizes {
            products(&device, dtype, n)?;
        }
        for shape in LAYERS.into_iter().filter(|&(m, ..)| !small || m <= 32) {
            layer(&device, dtype, shape)?;
        }
        if small {
            convolution(&device, dtype, 1, 16, 16)?;
        } else {
            convolution(&device, dtype, 32, 128, 56)?;
        }
    }
    Ok(())
}
