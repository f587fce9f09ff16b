//! Freed while in use, in every interleaving:
//! `RUSTFLAGS="--cfg loom" cargo test -p rivulet --release --test loom_memory`.
//!
//! Each model has a bug that can be planted in the code for it to find; that is a test too.
#![cfg(loom)]
#![allow(clippy::disallowed_types, reason = "counts beside the model")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod memory_device;

use memory_device::{AddressDevice, CompletedTo};
use rivulet::hazard::{OperandSet, Tracking, seeded};
use rivulet::ids::{Access, StreamId};
use rivulet::memory::{Allocator, Block};
use rivulet_hal::sync::atomic::{AtomicU64, Ordering};
use rivulet_hal::sync::{Arc, thread};

const NEAR: StreamId = StreamId(0);
const FAR: StreamId = StreamId(1);

/// Tries every interleaving with at most `preemptions` of them; their number.
fn model(bug: Option<&'static str>, preemptions: usize, body: impl Fn() + Sync + Send + 'static) -> usize {
    seeded::plant(bug);
    let runs = std::sync::Arc::new(std::sync::Mutex::new(0));
    let count = std::sync::Arc::clone(&runs);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(move || {
        *count.lock().unwrap() += 1;
        body();
    });
    *runs.lock().unwrap()
}

fn allocator() -> Arc<Allocator> {
    Arc::new(Allocator::new(AddressDevice::new(1 << 40, 1 << 40)))
}

fn nothing_done() -> CompletedTo {
    CompletedTo::new(0)
}

/// The op of one thread holds a block, a second thread frees it, a third allocates as much: it never gets the bytes
/// while the op is inside.
fn free_while_in_use(bug: Option<&'static str>) {
    for bytes in [256, 2 << 20] {
        model(bug, 2, move || {
            let allocator = allocator();
            let block = allocator.allocate(NEAR, bytes, &nothing_done()).unwrap();
            // 0: before the op, 1: inside, 2: over. `Relaxed`: only the lock of the block orders it for the third.
            let phase = Arc::new(AtomicU64::new(0));
            let address = block.address();

            let (held, seen) = (std::sync::Arc::clone(&block), Arc::clone(&phase));
            let (freed_in, freed) = (Arc::clone(&allocator), std::sync::Arc::clone(&block));
            drop(block);
            let op = thread::spawn(move || {
                let set = OperandSet::acquire(&[(&*held, Access::Write)], NEAR, Tracking::On).unwrap();
                seen.store(1, Ordering::Release);
                let freeing = thread::spawn(move || freed_in.free(freed));
                seen.store(2, Ordering::Relaxed);
                drop(set);
                freeing.join().unwrap();
            });
            let next = allocator.allocate(NEAR, bytes, &nothing_done()).unwrap();
            if next.address() == address {
                assert_eq!(phase.load(Ordering::Relaxed), 2, "handed out while in use");
            }
            op.join().unwrap();
        });
    }
}

#[test]
fn a_held_block_is_not_handed_out() {
    free_while_in_use(None);
}

#[test]
#[should_panic(expected = "while in use")]
fn a_held_block_handed_out_is_noticed() {
    free_while_in_use(Some("memory_reuse_while_held"));
}

/// Memory that the device still works on for one stream does not go to another.
fn free_while_incomplete(bug: Option<&'static str>) {
    model(bug, 2, || {
        let allocator = allocator();
        // A block that fills its segment, so that there is nothing else to hand out.
        let progress = Arc::new(nothing_done());
        let block = allocator.allocate(NEAR, 20 << 20, &*progress).unwrap();
        let address = block.address();
        let set = OperandSet::acquire(&[(&*block, Access::Write)], NEAR, Tracking::On).unwrap();
        set.stamp_device(NEAR, 5);
        drop(set);

        let freed_in = Arc::clone(&allocator);
        let freeing = thread::spawn(move || freed_in.free(block));
        let done = Arc::new(AtomicU64::new(0));
        let (device, completed) = (Arc::clone(&progress), Arc::clone(&done));
        let completing = thread::spawn(move || {
            completed.store(1, Ordering::Relaxed);
            device.set(5);
        });
        let next = allocator.allocate(FAR, 20 << 20, &*progress).unwrap();
        if next.address() == address {
            assert_eq!(done.load(Ordering::Relaxed), 1, "handed out while incomplete");
        }
        freeing.join().unwrap();
        completing.join().unwrap();
    });
}

#[test]
fn unfinished_memory_goes_to_no_other_stream() {
    free_while_incomplete(None);
}

#[test]
#[should_panic(expected = "while incomplete")]
fn unfinished_memory_handed_out_is_noticed() {
    free_while_incomplete(Some("memory_reuse_while_incomplete"));
}

/// Frees that find the cache taken are on the return list, and none is lost from it.
fn contended_frees_all_arrive(bug: Option<&'static str>) {
    model(bug, 2, || {
        let allocator = allocator();
        let blocks: Vec<std::sync::Arc<Block>> =
            (0..2).map(|_| allocator.allocate(NEAR, 256, &nothing_done()).unwrap()).collect();
        let freeing: Vec<_> = blocks
            .into_iter()
            .map(|block| {
                let allocator = Arc::clone(&allocator);
                thread::spawn(move || allocator.free(block))
            })
            .collect();
        let mine = [0, 1].map(|_| allocator.allocate(NEAR, 256, &nothing_done()).unwrap());
        freeing.into_iter().for_each(|thread| thread.join().unwrap());
        let stats = allocator.stats();
        assert_eq!((stats.active_blocks, stats.allocated), (2, 512), "a free was lost");
        drop(mine);
    });
}

#[test]
fn contended_frees_arrive() {
    contended_frees_all_arrive(None);
}

#[test]
#[should_panic(expected = "was lost")]
fn a_lost_free_is_noticed() {
    contended_frees_all_arrive(Some("memory_returns_not_swapped"));
}

/// Adopted memory goes back once, after the last use, whoever frees it and whenever.
#[test]
fn adopted_memory_goes_back_after_its_last_use() {
    model(None, 2, || {
        let allocator = allocator();
        let dropped = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&dropped);
        let give_back = Box::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let block = allocator.adopt(0x1000, 64, NEAR, give_back).unwrap();
        let (held, seen) = (std::sync::Arc::clone(&block), Arc::clone(&dropped));
        let freed_in = Arc::clone(&allocator);
        let op = thread::spawn(move || {
            let set = OperandSet::acquire(&[(&*held, Access::Write)], NEAR, Tracking::On).unwrap();
            let freeing = thread::spawn(move || freed_in.free(block));
            assert_eq!(seen.load(Ordering::Relaxed), 0);
            drop(set);
            freeing.join().unwrap();
        });
        drop(allocator.allocate(NEAR, 256, &nothing_done()).unwrap());
        op.join().unwrap();
        drop(allocator.allocate(NEAR, 256, &nothing_done()).unwrap());
        assert_eq!(dropped.load(Ordering::Relaxed), 1);
    });
}
