//! What a CPU access costs beside the locks of its operands: `cargo run --release --example host_access_cost`.
//!
//! Prints nanoseconds an access for 0 and 2 operands, on the main thread, on workers, and for other entries that an op
//! may go through. No figure is checked; compare runs on one machine.

use rivulet::hazard::{OperandSet, Tracking};
use rivulet::{Access, Device, Event, StreamId};
use std::hint::black_box;
use std::time::Instant;

/// Best of many short runs, in nanoseconds a call: on a busy machine some of them are undisturbed.
fn nanoseconds(mut body: impl FnMut()) -> f64 {
    const CALLS: u32 = 5_000;
    let mut run = || {
        let start = Instant::now();
        (0..CALLS).for_each(|_| body());
        start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
    };
    (0..400).map(|_| run()).fold(f64::INFINITY, f64::min)
}

fn measure(name: &str, device: &Device) -> rivulet::Result<()> {
    let (input, output) = (device.allocate(64)?, device.allocate(64)?);
    let operands = [(&*input, Access::Read), (&*output, Access::Write)];
    let bare = nanoseconds(|| drop(black_box(OperandSet::acquire(&operands, StreamId(1), Tracking::On))));
    let none = nanoseconds(|| drop(black_box(device.host_access("none", &[]))));
    let two = nanoseconds(|| drop(black_box(device.host_access("two", &operands))));
    let event = Event::new(false);
    let stream = device.current_stream()?;
    let record = nanoseconds(|| {
        black_box(event.record(&stream)).ok();
    });
    let memory = nanoseconds(|| {
        if let Ok(block) = device.allocate(64) {
            device.free(black_box(block));
        }
    });
    println!(
        "{name:<8} operand set {bare:6.1}   access, no operand {none:6.1}   2 operands {two:6.1} (beside the set \
         {:6.1})   event record {record:6.1}   allocate + free {memory:6.1}",
        two - bare
    );
    device.free(input);
    device.free(output);
    Ok(())
}

fn main() -> rivulet::Result<()> {
    let device = Device::host();
    measure("main", &device)?;
    std::thread::scope(|scope| scope.spawn(|| measure("worker", &device)).join()).unwrap_or(Ok(()))?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| measure("each", &device));
        }
    });
    Ok(())
}
