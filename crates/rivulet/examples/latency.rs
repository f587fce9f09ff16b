//! Time from recording the first of a row of ops to having the last waited for, with gaps between them as an interpreter
//! makes them, for several values of [`FlushPolicy::idle`](rivulet::stream::FlushPolicy).
//!
//! ```text
//! RIVULET_ADAPTER=nvidia cargo run --release -p rivulet --example latency
//! ```

use rivulet::ops::{DType, Op, Scalar, View, pointwise};
use rivulet::{Device, DeviceOptions, Result};
use std::time::{Duration, Instant};

/// Median of the time that `ops` sums of `count` floats take, each followed by `gap` on the CPU.
fn time(device: &Device, count: u64, ops: usize, gap: Duration) -> Result<Duration> {
    let (a, b) = (device.allocate(4 * count)?, device.allocate(4 * count)?);
    let (x, y) = (View::dense(&a, DType::F32, &[count]), View::dense(&b, DType::F32, &[count]));
    let mut times = Vec::new();
    for _ in 0..(4000 / ops).min(300) {
        let start = Instant::now();
        for _ in 0..ops {
            pointwise(device, Op::Add, DType::F32, &x, &[x.clone(), y.clone()], None, &[Scalar::F32(1.0)])?;
            let begun = Instant::now();
            while begun.elapsed() < gap {
                std::hint::spin_loop();
            }
        }
        device.synchronize()?;
        times.push(start.elapsed());
    }
    device.free(a);
    device.free(b);
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

fn main() -> Result<()> {
    let gap = Duration::from_micros(8);
    println!("{:>8} {:>14} {:>14} {:>14} {:>14}", "idle", "1 op", "20 ops", "20 large", "1000, no gap");
    for idle in [None, Some(0), Some(20), Some(50), Some(100)] {
        let mut options = DeviceOptions::default();
        options.flush.idle = idle.map_or(Duration::MAX, Duration::from_micros);
        let device = Device::open(options)?;
        let one = time(&device, 1 << 12, 1, Duration::ZERO)?;
        let (few, large) = (time(&device, 1 << 12, 20, gap)?, time(&device, 1 << 16, 20, gap)?);
        let many = time(&device, 1 << 12, 1000, Duration::ZERO)?;
        let idle = idle.map_or_else(|| "never".to_owned(), |idle| format!("{idle} µs"));
        println!("{idle:>8} {one:>14.1?} {few:>14.1?} {large:>14.1?} {many:>14.1?}");
    }
    Ok(())
}
