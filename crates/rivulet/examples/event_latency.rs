//! Time from recording a tiny kernel to having waited for the event behind it: alone, and beside 8 streams that each keep
//! about 20 µs of such kernels queued. `benchmarks/event_latency.py` measures the same of PyTorch CUDA.
//!
//! ```text
//! RIVULET_ADAPTER=nvidia cargo run --release -p rivulet --example event_latency
//! ```
#![allow(clippy::print_stdout, reason = "it is what an example is for")]

use rivulet::memory::Block;
use rivulet::ops::{DType, Op, Scalar, View, pointwise};
use rivulet::{Device, DeviceOptions, Event, Result};
use rivulet_hal::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const ROUNDS: usize = 5000;
/// Floats of a kernel's operands.
const COUNT: u64 = 1024;
/// Threads that keep the device busy.
const BESIDE: usize = 8;
/// Dependent kernels of this size that take about 20 µs on a large GPU.
const QUEUED: usize = 8;

fn op(device: &Device, x: &Block, y: &Block) -> Result<()> {
    let (x, y) = (View::dense(x, DType::F32, &[COUNT]), View::dense(y, DType::F32, &[COUNT]));
    pointwise(device, Op::Add, DType::F32, &x, &[x.clone(), y], None, &[Scalar::F32(1.0)])
}

/// Times of rounds, sorted: until the kernel is recorded, until it is submitted, until the wait is over.
fn time(device: &Device, rounds: usize) -> Result<[Vec<Duration>; 3]> {
    let (x, y) = (device.allocate(4 * COUNT)?, device.allocate(4 * COUNT)?);
    let event = Event::new(false);
    let stream = device.current_stream()?;
    let mut times: [Vec<Duration>; 3] = Default::default();
    for _ in 0..rounds {
        let start = Instant::now();
        op(device, &x, &y)?;
        times[0].push(start.elapsed());
        event.record(&stream)?;
        times[1].push(start.elapsed());
        event.synchronize()?;
        times[2].push(start.elapsed());
    }
    times.iter_mut().for_each(|times| times.sort_unstable());
    Ok(times)
}

/// Records [`QUEUED`] kernels and waits for them, again and again; rounds done.
fn keep_busy(device: &Device, over: &AtomicBool) -> Result<usize> {
    let (x, y) = (device.allocate(4 * COUNT)?, device.allocate(4 * COUNT)?);
    let event = Event::new(false);
    let stream = device.current_stream()?;
    let mut rounds = 0;
    while !over.load(Ordering::Relaxed) {
        (0..QUEUED).try_for_each(|_| op(device, &x, &y))?;
        event.record(&stream)?;
        event.synchronize()?;
        rounds += 1;
    }
    Ok(rounds)
}

fn show(what: &str, times: &[Vec<Duration>; 3]) {
    let at = |step: usize, part: f64| times[step][((times[step].len() - 1) as f64 * part) as usize];
    println!(
        "{what:<36} p50 {:>8.1?}  p99 {:>8.1?}  worst {:>8.1?}  (recorded after {:.1?}, submitted after {:.1?})",
        at(2, 0.5),
        at(2, 0.99),
        at(2, 1.0),
        at(0, 0.5),
        at(1, 0.5)
    );
}

fn main() -> Result<()> {
    let device = Device::open(DeviceOptions::default())?;
    println!("{}, {} queues", device.info().name, device.queues());
    let rounds = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(ROUNDS);
    time(&device, 200)?;
    show("kernel + event wait, alone", &time(&device, rounds)?);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let busy: Vec<_> = (0..BESIDE).map(|_| scope.spawn(|| keep_busy(&device, &over))).collect();
        std::thread::sleep(Duration::from_millis(100));
        let times = time(&device, rounds);
        over.store(true, Ordering::Relaxed);
        let done: usize =
            busy.into_iter().map(|busy| busy.join().map_or(0, |rounds| rounds.unwrap_or(0))).sum();
        show("beside 8 streams of 20 µs each", &times?);
        println!("rounds of the 8 streams meanwhile: {done}");
        Ok(())
    })
}
