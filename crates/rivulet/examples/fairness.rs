//! Time of a small op, from recording it to having it waited for, alone and beside a stream that always has 50 ms of work
//! queued. Run with `RIVULET_ADAPTER` set to a GPU (or llvmpipe):
//!
//! ```text
//! RIVULET_ADAPTER=nvidia cargo run --release -p rivulet --example fairness -- 2
//! ```
//!
//! The argument is how many milliseconds of work a hardware queue holds at most, see
//! [`FlushPolicy::ahead`](rivulet::stream::FlushPolicy).

use rivulet::memory::Block;
use rivulet::{Access, Device, DeviceOp, DeviceOptions, Result, Stream};
use rivulet_hal::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Work that the busy stream keeps queued.
const QUEUED: Duration = Duration::from_millis(50);
/// Small ops that are timed.
const ROUNDS: usize = 300;

fn fill(stream: &Stream, block: &Block, word: u32) -> Result<()> {
    let Some(target) = block.buffer() else { return Ok(()) };
    let operands = [(block, Access::Write)];
    stream.record(&DeviceOp::new("fill", &operands), |recorder| recorder.fill(&target, word)).map(|_| ())
}

/// Device time of one large fill.
fn calibrate(stream: &Stream, block: &Block) -> Result<Duration> {
    fill(stream, block, 0)?;
    stream.synchronize()?;
    let start = Instant::now();
    (0..20).try_for_each(|word| fill(stream, block, word))?;
    stream.synchronize()?;
    Ok(start.elapsed() / 20)
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

fn time_small(stream: &Stream, block: &Block) -> Result<Vec<Duration>> {
    let mut times = Vec::with_capacity(ROUNDS);
    for round in 0..ROUNDS {
        let start = Instant::now();
        fill(stream, block, round as u32)?;
        stream.synchronize()?;
        times.push(start.elapsed());
        std::thread::sleep(Duration::from_millis(1));
    }
    times.sort_unstable();
    Ok(times)
}

fn show(what: &str, times: &[Duration]) {
    let at = |percent| percentile(times, percent);
    println!("{what:<40} p50 {:>10.1?}  p99 {:>10.1?}  worst {:>10.1?}", at(50), at(99), at(100));
}

/// Keeps about [`QUEUED`] of work on the stream until told to stop; ops done a second.
fn keep_busy(stream: &Stream, block: &Block, each: Duration, stop: &AtomicBool) -> Result<f64> {
    let batch = (QUEUED.as_nanos() / 2 / each.as_nanos().max(1)).max(1) as u32;
    let start = Instant::now();
    let mut done = 0;
    let event = |stream: &Stream| {
        let event = rivulet::Event::new(false);
        event.record(stream).map(|()| event)
    };
    (0..batch).try_for_each(|word| fill(stream, block, word))?;
    let mut last = event(stream)?;
    while !stop.load(Ordering::Relaxed) {
        (0..batch).try_for_each(|word| fill(stream, block, word))?;
        let next = event(stream)?;
        last.synchronize()?;
        last = next;
        done += batch;
    }
    last.synchronize()?;
    Ok(f64::from(done) / start.elapsed().as_secs_f64())
}

fn main() -> Result<()> {
    let mut options = DeviceOptions::default();
    if let Some(milliseconds) = std::env::args().nth(1).and_then(|argument| argument.parse().ok()) {
        options.flush.ahead = Duration::from_millis(milliseconds);
    }
    println!("a queue holds at most {:?}", options.flush.ahead);
    let device = Device::open(options)?;
    println!("{}, {} queues", device.info().name, device.queues());
    // Streams take the queues in turn; two neighbours of one queue.
    let busy = device.new_stream(0)?;
    let same_queue = |priority| -> Result<Stream> {
        loop {
            let stream = device.new_stream(priority)?;
            if stream.id().index() % device.queues() == busy.id().index() % device.queues() {
                return Ok(stream);
            }
        }
    };
    let (small, urgent) = (same_queue(0)?, same_queue(-1)?);
    let mut bytes = 1 << 20;
    let mut large = device.allocate(bytes)?;
    let mut each = calibrate(&busy, &large)?;
    while each < Duration::from_micros(300) && bytes < 1 << 30 {
        device.free(large);
        bytes *= 2;
        large = device.allocate(bytes)?;
        each = calibrate(&busy, &large)?;
    }
    println!("a large op fills {} MiB in {each:.1?}", bytes >> 20);
    let block = device.allocate(4096)?;
    let stop = AtomicBool::new(false);
    show("a small op alone", &time_small(&small, &block)?);
    let alone = std::thread::scope(|scope| {
        let worker = scope.spawn(|| keep_busy(&busy, &large, each, &stop));
        std::thread::sleep(Duration::from_secs(2));
        stop.store(true, Ordering::Relaxed);
        worker.join().unwrap_or(Ok(0.0))
    })?;
    stop.store(false, Ordering::Relaxed);
    println!("the busy stream alone: {alone:.0} ops a second");
    std::thread::scope(|scope| -> Result<()> {
        let worker = scope.spawn(|| keep_busy(&busy, &large, each, &stop));
        std::thread::sleep(Duration::from_millis(200));
        let result = time_small(&small, &block).and_then(|times| {
            show("beside 50 ms of queued work", &times);
            show("the same, priority -1", &time_small(&urgent, &block)?);
            Ok(())
        });
        stop.store(true, Ordering::Relaxed);
        match worker.join() {
            Ok(rate) => println!("the busy stream beside it: {:.0} ops a second", rate?),
            Err(_) => println!("the busy thread panicked"),
        }
        result
    })
}
