//! Operand sets on real threads.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod memory_device;

use memory_device::{AddressDevice, CompletedTo};
use rivulet::hazard::lock::{CELL_COUNT, Mode, Patience};
use rivulet::hazard::{OperandSet, Tracking, Waits};
use rivulet::ids::{Access, Point, StreamId};
use rivulet::memory::{Allocator, Block};
use rivulet_hal::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

const S1: StreamId = StreamId(1);
const S2: StreamId = StreamId(2);

fn blocks(count: usize) -> Vec<Arc<Block>> {
    let allocator = Allocator::new(AddressDevice::new(1 << 30, u64::MAX));
    (0..count).map(|_| allocator.allocate(S1, 100, &CompletedTo::new(0)).unwrap()).collect()
}

fn acquire<'a>(operands: &[(&'a Block, Access)], stream: StreamId) -> OperandSet<'a> {
    OperandSet::acquire(operands, stream, Tracking::On).unwrap()
}

fn device_op(operands: &[(&Block, Access)], stream: StreamId, value: u64) -> Waits {
    let set = acquire(operands, stream);
    let waits = set.waits(&CompletedTo::new(0));
    set.stamp_device(stream, value);
    waits
}

fn at(stream: StreamId, value: u64) -> Point {
    Point { stream, value }
}

#[test]
fn waits_follow_reads_and_writes() {
    let blocks = blocks(1);
    let (read, write) = ([(&*blocks[0], Access::Read)], [(&*blocks[0], Access::Write)]);
    assert!(device_op(&read, S1, 1).is_empty());
    assert!(device_op(&read, S2, 1).is_empty(), "two reads do not meet");
    let mut waits = device_op(&write, S2, 2);
    waits.sort_by_key(|point| point.stream);
    assert_eq!(waits.as_slice(), [at(S1, 1), at(S2, 1)], "the own stream's too");
    assert_eq!(device_op(&read, S1, 2).as_slice(), [at(S2, 2)]);
    let set = acquire(&write, S1);
    assert!(set.waits(&CompletedTo::new(2)).is_empty(), "complete work is not waited for");
    set.clear_waited();
    assert!(blocks[0].stamps().is_empty());
}

#[test]
fn a_reader_clears_the_write_it_waited_for_and_keeps_reads() {
    let blocks = blocks(1);
    device_op(&[(&*blocks[0], Access::Write)], S1, 1);
    device_op(&[(&*blocks[0], Access::Read)], S2, 7);
    acquire(&[(&*blocks[0], Access::Read)], S1).clear_waited();
    let waits = acquire(&[(&*blocks[0], Access::Write)], S1).waits(&CompletedTo::new(0));
    assert_eq!(waits.as_slice(), [at(S2, 7)]);
}

#[test]
fn a_block_named_often_is_taken_once_in_its_stronger_mode() {
    for count in [1, 40] {
        let blocks = blocks(count);
        let mut operands: Vec<(&Block, Access)> =
            blocks.iter().map(|block| (&**block, Access::Read)).collect();
        operands.push((&blocks[0], Access::Write));
        operands.push((&blocks[0], Access::Read));
        let set = acquire(&operands, S1);
        assert_eq!(set.blocks().count(), count);
        let strongest = set.blocks().find(|(block, _)| std::ptr::eq(*block, &*blocks[0])).unwrap().1;
        assert_eq!(strongest, Access::Write);
        drop(set);
        assert!(blocks.iter().all(|block| block.lock().is_idle()));
    }
}

#[test]
fn an_op_inside_an_op_takes_what_it_does_not_hold() {
    let blocks = blocks(3);
    let outer = acquire(&[(&blocks[1], Access::Read)], S1);
    let inner = acquire(&[(&blocks[1], Access::Write), (&blocks[0], Access::Write)], S1);
    let innermost = acquire(&[(&blocks[0], Access::Read), (&blocks[2], Access::Read)], S1);
    // In no particular order.
    drop(outer);
    assert!(blocks[1].lock().is_idle() && !blocks[0].lock().is_idle());
    drop(inner);
    drop(innermost);
    assert!(blocks.iter().all(|block| block.lock().is_idle()));
    let again = acquire(&[(&blocks[0], Access::Write), (&blocks[1], Access::Write)], S1);
    assert!(!blocks[0].lock().is_idle() && !blocks[1].lock().is_idle(), "nothing counts as held any more");
    drop(again);
}

#[test]
fn without_tracking_nothing_is_locked() {
    let blocks = blocks(1);
    let set = OperandSet::acquire(&[(&*blocks[0], Access::Write)], S1, Tracking::Off).unwrap();
    set.stamp_device(S1, 1);
    assert!(blocks[0].lock().is_idle() && blocks[0].stamps().is_empty() && set.blocks().next().is_none());
}

/// Counters behind blocks, changed by plain loads and stores: only the sets keep increments from being lost. Operands
/// are named in random order, so an order of locking other than one for all would hang.
fn hammer(threads: usize, tracking: Tracking) -> (u64, u64) {
    const ROUNDS: u64 = 20_000;
    let blocks = blocks(6);
    let counters: Vec<[AtomicU64; 2]> =
        blocks.iter().map(|_| [AtomicU64::new(0), AtomicU64::new(0)]).collect();
    let torn = AtomicBool::new(false);
    let mut written = 0;
    std::thread::scope(|scope| {
        let run = |thread: usize| {
            let (blocks, counters, torn) = (&blocks, &counters, &torn);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(thread as u64);
                let mut writes = 0;
                for _ in 0..ROUNDS {
                    let mut picked = [0, 1, 2, 3, 4, 5];
                    random.shuffle(&mut picked);
                    let operands: Vec<_> = picked[..3]
                        .iter()
                        .map(|&block| {
                            let access = if random.u8(0..4) == 0 { Access::Write } else { Access::Read };
                            (block, access)
                        })
                        .collect();
                    let locked: Vec<_> =
                        operands.iter().map(|&(block, access)| (&*blocks[block], access)).collect();
                    let stream = StreamId(thread as u32);
                    let set = OperandSet::acquire(&locked, stream, tracking).unwrap();
                    for &(block, access) in &operands {
                        let [first, second] = &counters[block];
                        let value = first.load(Ordering::Relaxed);
                        if value != second.load(Ordering::Relaxed) {
                            torn.store(true, Ordering::Relaxed);
                        }
                        if access == Access::Write {
                            writes += 1;
                            first.store(value + 1, Ordering::Relaxed);
                            second.store(value + 1, Ordering::Relaxed);
                        }
                    }
                    drop(set);
                }
                writes
            })
        };
        let running: Vec<_> = (0..threads).map(run).collect();
        written = running.into_iter().map(|thread| thread.join().unwrap()).sum();
    });
    assert!(blocks.iter().all(|block| block.lock().is_idle()));
    let counted = counters.iter().map(|counter| counter[0].load(Ordering::Relaxed)).sum();
    (written, if torn.into_inner() { u64::MAX } else { counted })
}

#[test]
fn threads_lose_no_write_and_see_no_half() {
    for threads in [2, 8, 40] {
        let (written, counted) = hammer(threads, Tracking::On);
        assert_eq!(written, counted, "{threads} threads");
    }
}

#[test]
fn without_tracking_the_same_threads_do_lose_writes() {
    // Preemption in the middle of an increment is rare on two cores; a few rounds make it certain enough.
    let lost = (0..50).any(|_| {
        let (written, counted) = hammer(8, Tracking::Off);
        written != counted
    });
    assert!(lost, "the test above would not notice");
}

#[test]
fn readers_of_many_streams_get_cells_and_a_writer_still_excludes_them() {
    let blocks = blocks(1);
    for stream in 0..CELL_COUNT as u32 {
        drop(acquire(&[(&blocks[0], Access::Read)], StreamId(stream)));
    }
    assert!(blocks[0].lock().has_cells());
    for stream in 0..CELL_COUNT as u32 + 3 {
        device_op(&[(&*blocks[0], Access::Read)], StreamId(stream), 10 + u64::from(stream));
    }
    let writer = acquire(&[(&*blocks[0], Access::Write)], S1);
    assert_eq!(blocks[0].lock().try_lock(Mode::Shared, S2), None);
    let waits = writer.waits(&CompletedTo::new(0));
    assert_eq!(waits.len(), CELL_COUNT + 3, "every reader's stamp, those that share a cell too");
    writer.clear_waited();
    assert!(writer.waits(&CompletedTo::new(0)).is_empty());
}

#[test]
fn giving_up_leaves_the_lock_as_it_was() {
    let blocks = blocks(1);
    let lock = blocks[0].lock();
    let reader = lock.try_lock(Mode::Shared, S1).unwrap();
    let start = Instant::now();
    let mut patience = Patience::default();
    let limit = Some(Duration::from_millis(20));
    assert_eq!(lock.lock_for(Mode::Exclusive, S2, limit, &mut patience), None);
    assert!(start.elapsed() >= Duration::from_millis(20));
    let second = lock.try_lock(Mode::Shared, S2).expect("no writer waits any more");
    lock.unlock(second);
    lock.unlock(reader);
    assert!(lock.is_idle());
}

#[test]
fn a_waiting_writer_is_not_passed_by_new_readers() {
    let blocks = blocks(1);
    let lock = blocks[0].lock();
    let reader = lock.try_lock(Mode::Shared, S1).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let hold = lock.lock_for(Mode::Exclusive, S2, None, &mut Patience::default()).unwrap();
            lock.unlock(hold);
        });
        while let Some(hold) = lock.try_lock(Mode::Shared, S1) {
            lock.unlock(hold);
            std::thread::yield_now();
        }
        assert!(!writer.is_finished());
        lock.unlock(reader);
        writer.join().unwrap();
    });
    assert!(lock.is_idle());
}

/// Threads that take the lock again as soon as they have let go of it; one more wants it now and then.
#[test]
fn nobody_starves() {
    const HOLD: Duration = Duration::from_micros(300);
    for (greedy, modest) in [(Mode::Exclusive, Mode::Shared), (Mode::Exclusive, Mode::Exclusive)] {
        let blocks = blocks(1);
        let lock = blocks[0].lock();
        let done = AtomicBool::new(false);
        let take = |mode| lock.lock_for(mode, S1, None, &mut Patience::default()).unwrap();
        let mut longest = Duration::ZERO;
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        let hold = take(greedy);
                        let start = Instant::now();
                        while start.elapsed() < HOLD {
                            std::hint::spin_loop();
                        }
                        lock.unlock(hold);
                    }
                });
            }
            for _ in 0..200 {
                // In the middle of somebody's turn.
                std::thread::sleep(Duration::from_millis(1));
                let start = Instant::now();
                let hold = take(modest);
                longest = longest.max(start.elapsed());
                lock.unlock(hold);
            }
            done.store(true, Ordering::Relaxed);
        });
        assert!(longest < Duration::from_secs(1), "{modest:?} waited {longest:?}");
    }
}
