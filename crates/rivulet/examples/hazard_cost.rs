//! What the books around an op cost: locking its operands, and getting and giving memory.
//!
//! `cargo run --release -p rivulet --example hazard_cost`

use rivulet::hazard::{OperandSet, Tracking};
use rivulet::ids::{Access, Progress, StreamId};
use rivulet::memory::{Allocator, Block};
use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::time::Instant;

struct Done;

impl Progress for Done {
    fn completed(&self, _: StreamId) -> u64 {
        u64::MAX
    }
}

/// Best of many short runs, in nanoseconds a call: on a busy machine some of them are undisturbed.
fn best(mut body: impl FnMut()) -> f64 {
    const CALLS: u32 = 5_000;
    let run = |body: &mut dyn FnMut()| {
        let start = Instant::now();
        (0..CALLS).for_each(|_| body());
        start.elapsed().as_nanos() as f64 / f64::from(CALLS)
    };
    (0..400).map(|_| run(&mut body)).fold(f64::INFINITY, f64::min)
}

fn line(what: &str, nanoseconds: f64, each: usize) {
    println!("{what:<58} {nanoseconds:8.1} ns  {:6.1} ns each", nanoseconds / each as f64);
}

fn acquire(operands: &[(&Block, Access)], stream: StreamId) {
    let set = OperandSet::acquire(operands, stream, Tracking::On);
    drop(black_box(set));
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let allocator = Arc::new(Allocator::new(rivulet_hal::host::open()));
    let home = StreamId(1);
    let blocks: Vec<_> = (0..8).map(|_| allocator.allocate(home, 4096, &Done)).collect::<Result<_, _>>()?;
    for count in [1, 2, 3, 4, 8] {
        let mut operands: Vec<(&Block, Access)> =
            blocks[..count].iter().map(|block| (&**block, Access::Read)).collect();
        operands[count - 1].1 = Access::Write;
        line(
            &format!("lock and unlock {count} operands, last written"),
            best(|| acquire(black_box(&operands), home)),
            count,
        );
    }
    let operands = [(&*blocks[0], Access::Read), (&*blocks[1], Access::Write)];
    line(
        "the same with 2, and asking what to wait for",
        best(|| {
            if let Ok(set) = OperandSet::acquire(black_box(&operands), home, Tracking::On) {
                black_box(set.waits(&Done));
                set.clear_waited();
            }
        }),
        2,
    );

    for stream in 0..9 {
        acquire(&[(&*blocks[2], Access::Read)], StreamId(stream));
    }
    let shared = [(&*blocks[2], Access::Read)];
    line("lock and unlock 1 operand that many streams read", best(|| acquire(black_box(&shared), home)), 1);
    let written = [(&*blocks[2], Access::Write)];
    line("write to it", best(|| acquire(black_box(&written), home)), 1);

    for bytes in [64, 4096, 1 << 20, 8 << 20] {
        let pair = best(|| {
            if let Ok(block) = allocator.allocate(home, black_box(bytes), &Done) {
                allocator.free(block);
            }
        });
        line(&format!("allocate and free {bytes} bytes"), pair, 1);
    }
    let mut bytes = vec![0_u8; 4096];
    let address = bytes.as_mut_ptr().addr();
    let pair = best(|| {
        if let Ok(block) = allocator.adopt(address, 4096, home, Box::new(|| ())) {
            allocator.free(block);
        }
    });
    line("adopt and free 4096 bytes", pair, 1);
    line("find a block from an address inside it", best(|| drop(allocator.find(blocks[0].address() + 9))), 1);

    for threads in [1, 2] {
        let start = Barrier::new(threads);
        let pairs = std::thread::scope(|scope| {
            let run = |thread: usize| {
                let (allocator, start) = (&allocator, &start);
                scope.spawn(move || {
                    let home = StreamId(10 + thread as u32);
                    start.wait();
                    best(|| {
                        if let Ok(block) = allocator.allocate(home, 4096, &Done) {
                            allocator.free(block);
                        }
                    })
                })
            };
            let running: Vec<_> = (0..threads).map(run).collect();
            running.into_iter().filter_map(|thread| thread.join().ok()).fold(0.0, f64::max)
        });
        line(&format!("allocate and free 4096 bytes, {threads} threads at once"), pairs, 1);
    }
    Ok(())
}
