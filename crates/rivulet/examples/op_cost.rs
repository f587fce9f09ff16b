//! What an op costs the calling thread: records a sum, a matrix product, 32 rows that are joined, of small tensors, again and again.
//!
//! `op_cost <add|matmul|softmax|reduce|layer_norm|copy|join> [rounds] [threads]` prints nanoseconds for each op, submissions and waits
//! included, and without them where a round of 50 is recorded before anything is submitted. For instructions, under
//! `valgrind --tool=callgrind --toggle-collect='*record_fifty*'`.
//!
//! On the adapter whose name contains `RIVULET_TEST_ADAPTER`, llvmpipe where that is not set.

use rivulet::memory::Block;
use rivulet::ops::{
    DType, Op, ReduceOp, Scalar, View, copy, join, layer_norm, matmul, pointwise, reduce, softmax,
};
use rivulet::stream::FlushPolicy;
use rivulet::{Device, DeviceOptions};
use rivulet_hal::vulkan::{self, Options};
use std::time::{Duration, Instant};

type Answer<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Below what a stream submits by itself.
const ROUND: u32 = 50;

struct Tensors<'d> {
    a: View<'d>,
    b: View<'d>,
    row: View<'d>,
    out: View<'d>,
    rows: Vec<View<'d>>,
}

fn one(device: &Device, op: &str, of: &Tensors<'_>) -> rivulet::Result<()> {
    let Tensors { a, b, row, out, rows } = of;
    match op {
        "matmul" => matmul(device, out, a, b, None, 1.0, 0.0, None),
        "softmax" => softmax(device, false, out, a, 1),
        "reduce" => reduce(device, ReduceOp::Sum, Some(row), None, a, 2, 1.0),
        "layer_norm" => layer_norm(device, out, None, None, a, None, None, 1e-5),
        "copy" => copy(device, out, a),
        "join" => join(device, out, rows),
        _ => pointwise(device, Op::Add, DType::F32, out, &[a.clone(), b.clone()], None, &[Scalar::F32(1.0)]),
    }
}

fn square(block: &Block) -> View<'_> {
    View::dense(block, DType::F32, &[32, 32])
}

#[inline(never)]
fn record_fifty(device: &Device, op: &str, tensors: &Tensors<'_>) -> rivulet::Result<()> {
    (0..ROUND).try_for_each(|_| one(device, op, tensors))
}

fn run(device: &Device, op: &str, rounds: u32) -> Answer<(Duration, Duration)> {
    let blocks: Vec<_> = (0..4).map(|_| device.allocate(4 * 32 * 32)).collect::<Result<_, _>>()?;
    let parts: Vec<_> = (0..32).map(|_| device.allocate(4 * 32)).collect::<Result<_, _>>()?;
    let rows = parts.iter().map(|block| View::dense(block, DType::F32, &[32])).collect();
    let mut row = square(&blocks[2]);
    row.strides = [1, 0].into_iter().collect();
    let tensors =
        Tensors { a: square(&blocks[0]), b: square(&blocks[1]), row, out: square(&blocks[3]), rows };
    record_fifty(device, op, &tensors)?;
    device.synchronize()?;
    let (mut recording, start) = (Duration::ZERO, Instant::now());
    for _ in 0..rounds {
        let begin = Instant::now();
        record_fifty(device, op, &tensors)?;
        recording += begin.elapsed();
        device.synchronize()?;
    }
    let all = start.elapsed();
    drop(tensors);
    blocks.into_iter().chain(parts).for_each(|block| device.free(block));
    Ok((recording / (rounds * ROUND), all / (rounds * ROUND)))
}

#[allow(clippy::disallowed_methods, reason = "a switch of this program alone")]
fn main() -> Answer<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let op = arguments.first().map_or("add", String::as_str);
    let number = |at: usize, otherwise| arguments.get(at).map_or(Ok(otherwise), |text| text.parse::<u32>());
    let (rounds, threads) = (number(1, 200)?, number(2, 1)?);
    let wanted = std::env::var("RIVULET_TEST_ADAPTER").unwrap_or_else(|_| "llvmpipe".to_owned());
    let adapters = vulkan::adapters();
    let index =
        adapters.iter().position(|adapter| adapter.name.contains(&wanted)).ok_or("no such adapter")?;
    let flush = FlushPolicy { age: Duration::MAX, cost: Duration::MAX, ..FlushPolicy::default() };
    let options = DeviceOptions { flush, ..DeviceOptions::default() };
    let device = Device::with(vulkan::open(index, Options::default())?, options)?;
    run(&device, op, 1)?;
    std::thread::scope(|scope| {
        let started: Vec<_> = (0..threads).map(|_| scope.spawn(|| run(&device, op, rounds))).collect();
        for thread in started {
            let (recording, all) = thread.join().map_err(|_| "a thread panicked")??;
            let (recording, all) = (recording.as_nanos(), all.as_nanos());
            println!("{op}: {recording} ns to record, {all} ns until done, for each op");
        }
        Ok(())
    })
}
