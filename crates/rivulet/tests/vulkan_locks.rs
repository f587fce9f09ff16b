//! On a Vulkan device an op takes its own stream's recorder and no other lock, also where threads share weights; what a
//! submission takes is a handful, whatever the number of ops in it. Mesa's llvmpipe, or the adapter whose name contains
//! `RIVULET_TEST_ADAPTER`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![cfg(not(loom))]

#[path = "../../rivulet-hal/tests/common/adapter.rs"]
mod adapter;

use rivulet::memory::Block;
use rivulet::ops::{self, DType, Op, Scalar, View};
use rivulet::stream::FlushPolicy;
use rivulet::{Device, DeviceOptions};
use rivulet_hal::sync::{Arc, Rank, lock_counts};
use rivulet_hal::vulkan::{self, Options};
use std::sync::Barrier;
use std::time::Duration;

const THREADS: usize = 8;
const ROUNDS: u64 = 50;
/// Ops of one [`round`].
const OPS: u64 = 5;
const N: u64 = 32;

fn device(commands: usize) -> Option<Device> {
    let hal = vulkan::open(adapter::find()?, Options::default()).unwrap();
    let (age, cost, idle) = (Duration::MAX, Duration::MAX, Duration::MAX);
    let flush = FlushPolicy { commands, age, cost, idle, ..FlushPolicy::default() };
    Some(Device::with(hal, DeviceOptions { flush, ..DeviceOptions::default() }).unwrap())
}

fn matrix(block: &Block) -> View<'_> {
    View::dense(block, DType::F32, &[N, N])
}

fn made(device: &Device) -> Arc<Block> {
    let block = device.allocate(4 * N * N).unwrap();
    ops::fill(device, &matrix(&block), Scalar::F32(0.5)).unwrap();
    block
}

/// What a layer does, on weights that all threads share and activations of the thread's own.
fn round(device: &Device, weights: &[Arc<Block>; 2], own: &[Arc<Block>; 2]) {
    let [weight, gain] = [&weights[0], &weights[1]].map(|block| matrix(block));
    let [x, y] = [&own[0], &own[1]].map(|block| matrix(block));
    let row = View::dense(&weights[1], DType::F32, &[N]);
    ops::matmul(device, &y, &x, &weight, None, 1.0, 0.0, None).unwrap();
    ops::pointwise(device, Op::Add, DType::F32, &x, &[y.clone(), gain], None, &[Scalar::F32(1.0)]).unwrap();
    ops::layer_norm(device, &y, None, None, &x, Some(&row), Some(&row), 1e-5).unwrap();
    ops::softmax(device, false, &x, &y, 1).unwrap();
    ops::copy(device, &y, &x).unwrap();
}

fn counts() -> Vec<(Rank, u64)> {
    Rank::ALL.iter().map(|&rank| (rank, lock_counts::of_this_thread(rank))).collect()
}

/// Locks that each of the threads took in `ROUNDS` rounds, by rank.
fn taken(device: &Device) -> Vec<Vec<(Rank, u64)>> {
    let weights = [made(device), made(device)];
    device.synchronize().unwrap();
    let (weights, start) = (&weights, &Barrier::new(THREADS));
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(move || {
                    let own = [made(device), made(device)];
                    // Kernels get compiled, the shared blocks get cells for this thread's reads.
                    (0..3).for_each(|_| round(device, weights, &own));
                    device.current_stream().unwrap().synchronize().unwrap();
                    round(device, weights, &own);
                    start.wait();
                    let before = counts();
                    (0..ROUNDS).for_each(|_| round(device, weights, &own));
                    let after = counts();
                    device.current_stream().unwrap().synchronize().unwrap();
                    before.iter().zip(after).map(|(before, after)| (after.0, after.1 - before.1)).collect()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn an_op_takes_its_own_streams_recorder_and_nothing_else() {
    let Some(device) = device(usize::MAX) else { return };
    for locks in taken(&device) {
        for (rank, count) in locks {
            let wanted = if rank == Rank::RECORDER { OPS * ROUNDS } else { 0 };
            assert_eq!(count, wanted, "{rank}");
        }
    }
}

#[test]
fn a_submission_takes_a_few_locks_however_many_ops_it_holds() {
    for commands in [64, 128] {
        let Some(device) = device(commands) else { return };
        // An op is one command, with a barrier before it.
        let submissions = 2 * OPS * ROUNDS / commands as u64 + 1;
        let submissions = THREADS as u64 * submissions;
        // Whoever submits does it for the other threads too, so they are counted together.
        let taken = taken(&device);
        for (place, &rank) in Rank::ALL.iter().enumerate() {
            let count: u64 = taken.iter().map(|locks| locks[place].1).sum();
            let most = match rank {
                Rank::RECORDER => THREADS as u64 * OPS * ROUNDS,
                // Put on the list, taken off and counted.
                Rank::COMBINER => 8 * submissions,
                // A buffer to record into, the queue, what is kept until it is done, and who waits for one of these.
                Rank::DRIVER | Rank::PENDING | Rank::REGISTRY | Rank::PARKING => 4 * submissions,
                _ => 0,
            };
            assert!(count <= most, "{rank}: {count} for {submissions} submissions");
        }
    }
}
