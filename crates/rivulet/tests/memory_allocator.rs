//! The allocator's books: sizes, reuse, limits, growth.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod memory_device;

use memory_device::{AddressDevice, CompletedTo};
use rivulet::hazard::{OperandSet, Tracking};
use rivulet::ids::{Access, StreamId};
use rivulet::memory::{Allocator, Block, BlockKind, MemoryError};
use std::collections::BTreeMap;
use std::sync::Arc;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const S1: StreamId = StreamId(1);
const S2: StreamId = StreamId(2);

fn open(memory: u64) -> (Arc<AddressDevice>, Allocator, CompletedTo) {
    let device = AddressDevice::new(memory, u64::MAX);
    (Arc::clone(&device), Allocator::new(device), CompletedTo::new(0))
}

fn stamp(block: &Block, access: Access, stream: StreamId, value: u64) {
    let set = OperandSet::acquire(&[(block, access)], stream, Tracking::On).unwrap();
    set.stamp_device(stream, value);
}

#[test]
fn sizes_are_aligned_and_true_to_the_byte() {
    let (device, allocator, progress) = open(GIB);
    let mut live = Vec::new();
    let mut sum = 0;
    for bytes in [1, 255, 256, 257, 4096, MIB - 1, MIB, MIB + 1, 9 * MIB, 33 * MIB + 5] {
        let block = allocator.allocate(S1, bytes, &progress).unwrap();
        assert!(block.size() >= bytes && block.address() % 256 == 0);
        assert_eq!((block.requested(), block.home()), (bytes, S1));
        let buffer = block.buffer().unwrap();
        assert_eq!(buffer.range.len(), block.size());
        assert_eq!(buffer.memory.address() as u64 + buffer.range.start, block.address() as u64);
        sum += bytes;
        live.push(block);
    }
    let stats = allocator.stats();
    assert_eq!((stats.allocated, stats.peak_allocated, stats.alloc_bytes), (sum, sum, sum));
    assert_eq!((stats.active_blocks, stats.alloc_count, stats.free_count), (10, 10, 0));
    assert_eq!(stats.reserved, device.held());
    allocator.free(live.pop().unwrap());
    allocator.reset_stats(true);
    let stats = allocator.stats();
    let left = sum - (33 * MIB + 5);
    assert_eq!((stats.allocated, stats.peak_allocated), (left, left));
    assert_eq!((stats.free_count, stats.free_bytes), (1, 33 * MIB + 5));
    allocator.reset_stats(false);
    assert_eq!((allocator.stats().alloc_count, allocator.stats().free_bytes), (0, 0));
    live.into_iter().for_each(|block| allocator.free(block));
    allocator.empty_cache(&progress);
    let stats = allocator.stats();
    assert_eq!((stats.allocated, stats.reserved, stats.segments, device.held()), (0, 0, 0, 0));
    assert_eq!(stats.active_blocks, 0);
}

#[test]
fn a_freed_block_is_reused_with_its_header() {
    for bytes in [100, 3 * MIB] {
        let (_, allocator, progress) = open(GIB);
        let first = allocator.allocate(S1, bytes, &progress).unwrap();
        let (address, header) = (first.address(), Arc::as_ptr(&first));
        allocator.free(first);
        let second = allocator.allocate(S1, bytes - 7, &progress).unwrap();
        assert_eq!((second.address(), Arc::as_ptr(&second)), (address, header));
        assert_eq!(second.requested(), bytes - 7);
    }
}

#[test]
fn a_held_block_is_not_reused() {
    for bytes in [100, 3 * MIB] {
        let (_, allocator, progress) = open(GIB);
        let block = allocator.allocate(S1, bytes, &progress).unwrap();
        let set = OperandSet::acquire(&[(&*block, Access::Read)], S1, Tracking::On).unwrap();
        allocator.free(Arc::clone(&block));
        let other = allocator.allocate(S1, bytes, &progress).unwrap();
        assert_ne!(other.address(), block.address());
        allocator.empty_cache(&progress);
        drop(set);
        let third = allocator.allocate(S1, bytes, &progress).unwrap();
        assert_eq!(third.address(), block.address());
    }
}

#[test]
fn the_own_stream_reuses_at_once_and_stamps_survive() {
    let (_, allocator, progress) = open(GIB);
    let block = allocator.allocate(S1, 3 * MIB, &progress).unwrap();
    stamp(&block, Access::Write, S1, 5);
    let address = block.address();
    allocator.free(block);
    let block = allocator.allocate(S1, 3 * MIB, &progress).unwrap();
    assert_eq!(block.address(), address);
    let set = OperandSet::acquire(&[(&*block, Access::Write)], S1, Tracking::On).unwrap();
    assert_eq!(set.waits(&progress).as_slice(), [rivulet::ids::Point { stream: S1, value: 5 }]);
}

#[test]
fn another_stream_gets_memory_only_when_its_work_is_complete() {
    // Blocks that fill their segments, so that there is nothing else to hand out.
    let (_, allocator, progress) = open(GIB);
    let block = allocator.allocate(S1, 20 * MIB, &progress).unwrap();
    stamp(&block, Access::Read, S1, 5);
    let address = block.address();
    allocator.free(block);
    let early = allocator.allocate(S2, 20 * MIB, &progress).unwrap();
    assert_ne!(early.address(), address);
    progress.set(5);
    let late = allocator.allocate(S2, 20 * MIB, &progress).unwrap();
    assert_eq!((late.address(), allocator.stats().segments), (address, 2));
    let set = OperandSet::acquire(&[(&*late, Access::Write)], S2, Tracking::On).unwrap();
    assert!(set.waits(&CompletedTo::new(0)).is_empty(), "nothing is left to wait for");
}

#[test]
fn more_freed_blocks_in_use_than_are_looked_at_do_not_hide_a_new_segment() {
    let (_, allocator, progress) = open(8 * GIB);
    let blocks: Vec<_> = (0..200).map(|_| allocator.allocate(S1, 10 * MIB, &progress).unwrap()).collect();
    for block in blocks {
        stamp(&block, Access::Read, S1, 5);
        allocator.free(block);
    }
    for _ in 0..4 {
        let block = allocator.allocate(S2, 10 * MIB, &progress).unwrap();
        assert_eq!(block.size(), 10 * MIB);
    }
}

#[test]
fn stamps_survive_split_and_merge() {
    let (_, allocator, progress) = open(GIB);
    let blocks: Vec<_> = (0..2).map(|_| allocator.allocate(S1, 4 * MIB, &progress).unwrap()).collect();
    stamp(&blocks[0], Access::Write, S1, 7);
    stamp(&blocks[1], Access::Read, S2, 9);
    blocks.into_iter().for_each(|block| allocator.free(block));
    // Joined with each other and the rest of the 20 MiB segment; then cut again.
    let whole = allocator.allocate(S1, 20 * MIB, &progress).unwrap();
    assert_eq!(allocator.stats().segments, 1);
    let waits = |block: &Block, access| {
        let set = OperandSet::acquire(&[(block, access)], S1, Tracking::On).unwrap();
        let mut waits = set.waits(&progress);
        waits.sort_by_key(|point| point.stream);
        waits.iter().map(|point| (point.stream, point.value)).collect::<Vec<_>>()
    };
    assert_eq!(waits(&whole, Access::Write), [(S1, 7), (S2, 9)]);
    assert_eq!(waits(&whole, Access::Read), [(S1, 7)]);
    allocator.free(whole);
    let parts: Vec<_> = (0..2).map(|_| allocator.allocate(S1, 6 * MIB, &progress).unwrap()).collect();
    assert!(parts.iter().all(|part| waits(part, Access::Write) == [(S1, 7), (S2, 9)]));
    parts.into_iter().for_each(|block| allocator.free(block));
    progress.set(8);
    allocator.empty_cache(&progress);
    assert_eq!(allocator.stats().segments, 1, "value 9 is still late");
    progress.set(9);
    allocator.empty_cache(&progress);
    assert_eq!(allocator.stats().segments, 0);
}

#[test]
fn find_answers_for_every_byte_and_only_for_live_blocks() {
    let (_, allocator, progress) = open(GIB);
    for bytes in [300, 5 * MIB] {
        let block = allocator.allocate(S1, bytes, &progress).unwrap();
        for inside in [0, 1, block.size() as usize - 1] {
            let found = allocator.find(block.address() + inside).unwrap();
            assert!(Arc::ptr_eq(&found, &block));
        }
        let past = allocator.find(block.address() + block.size() as usize);
        assert!(past.is_none_or(|other| !Arc::ptr_eq(&other, &block)));
        assert!(allocator.find(block.address() - 1).is_none());
        let address = block.address();
        allocator.free(block);
        assert!(allocator.find(address).is_none());
    }
    assert!(allocator.find(0).is_none() && allocator.find(usize::MAX).is_none());
}

#[test]
fn bad_requests_are_refused_with_their_numbers() {
    let (_, allocator, progress) = open(GIB);
    assert_eq!(allocator.allocate(S1, 0, &progress).unwrap_err(), MemoryError::ZeroSize);
    for bytes in [u64::MAX, u64::MAX - 255, 1 << 63, 100 << 40] {
        let error = allocator.allocate(S1, bytes, &progress).unwrap_err();
        assert!(error.is_out_of_memory() && error.to_string().contains(&bytes.to_string()), "{error}");
    }
    assert_eq!(allocator.stats().ooms, 4);
    for (fraction, text) in [(-0.1, "-0.1"), (2.5, "2.5"), (f64::NAN, "NaN"), (f64::INFINITY, "inf")] {
        let error = allocator.set_fraction(fraction).unwrap_err().to_string();
        assert!(error.contains(text) && error.contains("0 (no limit) to 2"), "{error}");
    }
    let block = allocator.allocate(S1, 1, &progress).unwrap();
    allocator.free(block);
}

#[test]
fn a_fraction_limits_what_is_reserved() {
    let (device, allocator, progress) = open(100 * MIB);
    allocator.set_fraction(0.5).unwrap();
    let block = allocator.allocate(S1, 40 * MIB, &progress).unwrap();
    let error = allocator.allocate(S1, 11 * MIB, &progress).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("11.00 MiB") && text.contains("50.00 MiB") && text.contains("40.00 MiB"), "{text}");
    assert!(matches!(error, MemoryError::OutOfMemory { limit: Some(limit), .. } if limit == 50 * MIB));
    // What is only cached makes room.
    allocator.free(block);
    let block = allocator.allocate(S1, 50 * MIB, &progress).unwrap();
    assert_eq!((device.held(), allocator.stats().retries, allocator.stats().ooms), (50 * MIB, 2, 1));
    allocator.set_fraction(0.0).unwrap();
    assert_eq!(allocator.stats().limit, 0);
    let beyond = allocator.allocate(S1, 200 * MIB, &progress).unwrap();
    allocator.free(block);
    allocator.free(beyond);
}

#[test]
fn out_of_memory_empties_the_caches_of_all_streams_first() {
    let device = AddressDevice::new(GIB, 64 * MIB);
    let allocator = Allocator::new(Arc::<AddressDevice>::clone(&device));
    let progress = CompletedTo::new(0);
    for stream in 0..3 {
        let block = allocator.allocate(StreamId(stream), 20 * MIB, &progress).unwrap();
        let small = allocator.allocate(StreamId(stream), 1000, &progress);
        allocator.free(block);
        small.into_iter().for_each(|block| allocator.free(block));
    }
    let all = allocator.allocate(S1, 64 * MIB, &progress).unwrap();
    let error = allocator.allocate(S2, 30 * MIB, &progress).unwrap_err();
    assert!(error.to_string().contains("driver: capacity 67108864"), "{error}");
    allocator.free(all);
    allocator.allocate(S2, 30 * MIB, &progress).unwrap();
    assert!(allocator.audit().is_ok());
}

#[test]
fn memory_that_waits_for_the_device_is_named() {
    let device = AddressDevice::new(GIB, 64 * MIB);
    let allocator = Allocator::new(device);
    let progress = CompletedTo::new(0);
    let block = allocator.allocate(S1, 60 * MIB, &progress).unwrap();
    stamp(&block, Access::Read, S2, 3);
    stamp(&block, Access::Read, S2, 4);
    allocator.free(block);
    match allocator.allocate(S2, 40 * MIB, &progress).unwrap_err() {
        MemoryError::NeedsIdle { points } => {
            assert_eq!(points.as_slice(), [rivulet::ids::Point { stream: S2, value: 4 }]);
        }
        other => panic!("{other}"),
    }
    progress.set(4);
    allocator.allocate(S2, 40 * MIB, &progress).unwrap();
}

/// Random sizes in random order, freed by the stream or by another one: nothing overlaps, the books balance, and the
/// reserved memory stops growing.
#[test]
fn random_sizes_on_eight_streams_reach_a_plateau() {
    const ROUNDS: usize = 60_000;
    let (device, allocator, progress) = open(64 * GIB);
    let mut random = fastrand::Rng::with_seed(7);
    let mut live: Vec<Arc<Block>> = Vec::new();
    let mut ranges: BTreeMap<usize, usize> = BTreeMap::new();
    let mut after = [0; 4];
    for round in 0..ROUNDS {
        if live.len() < 200 || (live.len() < 400 && random.bool()) {
            let stream = StreamId(random.u32(0..8));
            let bytes = random.u64(1..=1024) * [1, 16, 1024, 4096][random.usize(0..4)];
            let block = allocator.allocate(stream, bytes, &progress).unwrap();
            let (start, end) = (block.address(), block.address() + block.size() as usize);
            let below = ranges.range(..end).next_back();
            assert!(below.is_none_or(|(_, &other)| other <= start), "overlaps a live block");
            ranges.insert(start, end);
            live.push(block);
        } else {
            let block = live.swap_remove(random.usize(..live.len()));
            ranges.remove(&block.address());
            allocator.free(block);
        }
        if round % 4096 == 0 {
            allocator.audit().unwrap();
            let stats = allocator.stats();
            assert_eq!(stats.allocated, live.iter().map(|block| block.requested()).sum::<u64>());
            assert_eq!((stats.active_blocks, stats.reserved), (live.len() as u64, device.held()));
        }
        if (round + 1) % (ROUNDS / 4) == 0 {
            after[round * 4 / ROUNDS] = device.held();
        }
    }
    assert!(after[3] <= after[1] + after[1] / 10, "reserved memory still grows: {after:?}");
    let peak = allocator.stats().peak_allocated;
    assert!(after[3] <= peak * 5 / 2, "{} reserved for a peak of {peak}", after[3]);
    live.into_iter().for_each(|block| allocator.free(block));
    allocator.empty_cache(&progress);
    assert_eq!((device.held(), allocator.stats().allocated), (0, 0));
}

#[test]
fn ever_larger_requests_do_not_pile_up_segments() {
    let (device, allocator, progress) = open(64 * GIB);
    for size in (20..400).step_by(2) {
        let block = allocator.allocate(S1, size * MIB, &progress).unwrap();
        assert!(device.held() <= 2 * size * MIB + 64 * MIB, "{} held at {size} MiB", device.held());
        allocator.free(block);
    }
}

#[test]
fn threads_that_free_each_others_blocks_lose_nothing() {
    let (device, allocator, progress) = open(64 * GIB);
    let (sender, receiver): (Vec<_>, Vec<_>) = (0..4).map(|_| std::sync::mpsc::channel()).unzip();
    std::thread::scope(|scope| {
        for (thread, receiver) in receiver.into_iter().enumerate() {
            let (allocator, progress, sender) = (&allocator, &progress, sender.clone());
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(thread as u64);
                for _ in 0..20_000 {
                    let bytes = random.u64(1..=2048) * [1, 1024][random.usize(0..2)];
                    let block = allocator.allocate(StreamId(thread as u32), bytes, progress).unwrap();
                    assert!(block.is_live());
                    let _ = sender[random.usize(0..4)].send(block);
                    while let Ok(block) = receiver.try_recv() {
                        allocator.free(block);
                    }
                }
                drop(sender);
                // Until every other thread has dropped its senders.
                while let Ok(block) = receiver.recv_timeout(std::time::Duration::from_millis(200)) {
                    allocator.free(block);
                }
            });
        }
        drop(sender);
    });
    allocator.audit().unwrap();
    let stats = allocator.stats();
    assert_eq!((stats.alloc_count, stats.free_count), (80_000, 80_000));
    assert_eq!((stats.allocated, stats.active_blocks, stats.alloc_bytes), (0, 0, stats.free_bytes));
    assert_eq!(stats.reserved, device.held());
    allocator.empty_cache(&progress);
    assert_eq!(device.held(), 0);
}

#[test]
fn a_second_free_does_nothing() {
    let (_, allocator, progress) = open(GIB);
    let block = allocator.allocate(S1, 100, &progress).unwrap();
    allocator.free(Arc::clone(&block));
    allocator.free(block);
    let stats = allocator.stats();
    assert_eq!((stats.allocated, stats.active_blocks, stats.free_count), (0, 0, 1));
    let [first, second] = [0, 1].map(|_| allocator.allocate(S1, 100, &progress).unwrap());
    assert_ne!(first.address(), second.address());
    assert_eq!(first.kind(), BlockKind::Small);
}
