//! Memory that somebody else allocated.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod memory_device;

use memory_device::{AddressDevice, CompletedTo};
use rivulet::hazard::{OperandSet, Tracking};
use rivulet::ids::{Access, StreamId};
use rivulet::memory::{Allocator, BlockKind, DropFn, MemoryError};
use rivulet_hal::sync::atomic::{AtomicUsize, Ordering};
use rivulet_hal::{Device, MemoryUsage};
use std::sync::Arc;

const S1: StreamId = StreamId(1);
const S2: StreamId = StreamId(2);

fn open() -> Allocator {
    Allocator::new(AddressDevice::new(1 << 30, u64::MAX))
}

fn counting(count: &Arc<AtomicUsize>) -> DropFn {
    let count = Arc::clone(count);
    Box::new(move || {
        count.fetch_add(1, Ordering::SeqCst);
    })
}

#[test]
fn adopted_memory_is_found_counted_and_given_back() {
    let allocator = open();
    let dropped = Arc::new(AtomicUsize::new(0));
    let block = allocator.adopt(0x1001, 50, S1, counting(&dropped)).unwrap();
    assert_eq!((block.address(), block.size(), block.requested()), (0x1001, 50, 50));
    assert_eq!(block.kind(), BlockKind::Adopted);
    assert!(block.buffer().is_none());
    for address in [0x1001, 0x1001 + 49] {
        assert!(Arc::ptr_eq(&allocator.find(address).unwrap(), &block));
    }
    assert!(allocator.find(0x1000).is_none() && allocator.find(0x1001 + 50).is_none());
    let stats = allocator.stats();
    assert_eq!((stats.allocated, stats.reserved, stats.adopted, stats.active_blocks), (50, 50, 50, 1));
    allocator.free(block);
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
    let stats = allocator.stats();
    assert_eq!((stats.allocated, stats.reserved, stats.adopted, stats.active_blocks), (0, 0, 0, 0));
    assert_eq!((stats.peak_allocated, stats.peak_reserved), (50, 50));
    assert!(allocator.find(0x1001).is_none());
}

#[test]
fn adopted_memory_counts_against_the_limit() {
    let allocator = open();
    let dropped = Arc::new(AtomicUsize::new(0));
    // 8 MiB of 1 GiB, 2 of them in the cache.
    allocator.set_fraction(8.0 / 1024.0).unwrap();
    allocator.free(allocator.allocate(S1, 100, &CompletedTo::new(0)).unwrap());
    assert_eq!(allocator.stats().reserved, 2 << 20);
    let block = allocator.adopt(1 << 20, 7 << 20, S1, counting(&dropped)).unwrap();
    assert_eq!(allocator.stats().reserved, 7 << 20, "the cache made room");
    let error = allocator.adopt(1 << 30, 2 << 20, S2, counting(&dropped)).unwrap_err();
    assert!(matches!(error, MemoryError::OutOfMemory { requested: 0x20_0000, .. }), "{error}");
    let stats = allocator.stats();
    assert_eq!((stats.reserved, stats.adopted, stats.ooms), (7 << 20, 7 << 20, 1));
    assert_eq!(dropped.load(Ordering::SeqCst), 0, "a refused range stays its owner's");
    allocator.free(block);
    allocator.free(allocator.adopt(1 << 30, 2 << 20, S2, counting(&dropped)).unwrap());
    assert_eq!(dropped.load(Ordering::SeqCst), 2);
}

#[test]
fn headers_and_slots_are_reused() {
    let allocator = open();
    let dropped = Arc::new(AtomicUsize::new(0));
    let first = allocator.adopt(0x1000, 64, S1, counting(&dropped)).unwrap();
    let header = Arc::as_ptr(&first);
    allocator.free(first);
    let second = allocator.adopt(0x2000, 128, S1, counting(&dropped)).unwrap();
    assert_eq!((Arc::as_ptr(&second), second.address(), second.size()), (header, 0x2000, 128));
    allocator.free(second);
    assert_eq!(dropped.load(Ordering::SeqCst), 2);
}

#[test]
fn memory_still_in_use_goes_back_later() {
    let allocator = open();
    let progress = CompletedTo::new(0);
    let dropped = Arc::new(AtomicUsize::new(0));
    let held = allocator.adopt(0x1000, 64, S1, counting(&dropped)).unwrap();
    let late = allocator.adopt(0x2000, 64, S1, counting(&dropped)).unwrap();
    let set = OperandSet::acquire(&[(&*late, Access::Write)], S1, Tracking::On).unwrap();
    set.stamp_device(S2, 4);
    drop(set);
    let set = OperandSet::acquire(&[(&*held, Access::Read)], S1, Tracking::On).unwrap();
    allocator.free(Arc::clone(&held));
    allocator.free(late);
    let next = || drop(allocator.allocate(S1, 10, &progress).unwrap());
    next();
    assert_eq!(dropped.load(Ordering::SeqCst), 0);
    drop(set);
    next();
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
    progress.set(4);
    next();
    assert_eq!(dropped.load(Ordering::SeqCst), 2);
    assert_eq!(allocator.stats().adopted, 0);
}

#[test]
fn a_shared_block_is_free_after_its_last_owner() {
    let allocator = open();
    let progress = CompletedTo::new(0);
    let dropped = Arc::new(AtomicUsize::new(0));
    let adopted = allocator.adopt(0x1000, 64, S1, counting(&dropped)).unwrap();
    let owned = allocator.allocate(S1, 300, &progress).unwrap();
    for (block, calls) in [(adopted, 2), (owned, 1)] {
        dropped.store(0, Ordering::SeqCst);
        let second = allocator.find(block.address() + 3).unwrap();
        assert!(allocator.share(&second, counting(&dropped)));
        let before = allocator.stats().active_blocks;
        allocator.free(block);
        assert!(second.is_live());
        assert_eq!((dropped.load(Ordering::SeqCst), allocator.stats().active_blocks), (0, before));
        allocator.free(Arc::clone(&second));
        assert!(!second.is_live());
        assert_eq!((dropped.load(Ordering::SeqCst), allocator.stats().active_blocks), (calls, before - 1));
        assert!(!allocator.share(&second, counting(&dropped)), "a dead block has no owners");
    }
}

#[test]
fn the_same_bytes_may_be_adopted_twice() {
    let allocator = open();
    let dropped = Arc::new(AtomicUsize::new(0));
    let blocks = [0, 1].map(|_| allocator.adopt(0x1000, 64, S1, counting(&dropped)).unwrap());
    assert!(!Arc::ptr_eq(&blocks[0], &blocks[1]));
    blocks.into_iter().for_each(|block| allocator.free(block));
    assert_eq!((dropped.load(Ordering::SeqCst), allocator.stats().active_blocks), (2, 0));
}

#[test]
fn a_deleter_may_free_another_block() {
    let allocator = Arc::new(open());
    let inner = allocator.allocate(S1, 100, &CompletedTo::new(0)).unwrap();
    let again = Arc::clone(&allocator);
    let outer = allocator.adopt(0x1000, 64, S1, Box::new(move || again.free(inner))).unwrap();
    allocator.free(outer);
    assert_eq!(allocator.stats().active_blocks, 0);
}

#[test]
fn adopted_driver_memory_can_be_bound_and_goes_with_the_block() {
    let device = AddressDevice::new(1 << 30, u64::MAX);
    let allocator = Allocator::new(Arc::<AddressDevice>::clone(&device));
    let memory = device.allocate(4096, MemoryUsage::Device).unwrap();
    let block = allocator.adopt_memory(memory, S1).unwrap();
    let buffer = block.buffer().unwrap();
    assert_eq!((buffer.range.start, buffer.range.end), (0, 4096));
    drop(buffer);
    allocator.free(block);
    assert_eq!(device.held(), 0);
}

#[test]
fn bad_ranges_are_refused() {
    let allocator = open();
    let dropped = Arc::new(AtomicUsize::new(0));
    let adopt = |address, bytes| allocator.adopt(address, bytes, S1, counting(&dropped)).unwrap_err();
    assert_eq!(adopt(0x1000, 0), MemoryError::ZeroSize);
    for (address, bytes) in [(0, 16), (usize::MAX - 3, 16), (16, u64::MAX)] {
        let error = adopt(address, bytes);
        assert_eq!(error, MemoryError::BadRange { address, bytes });
        assert!(error.to_string().contains(&format!("{address:#x}")), "{error}");
    }
    assert_eq!(dropped.load(Ordering::SeqCst), 0);
    assert_eq!(allocator.stats().active_blocks, 0);
}
