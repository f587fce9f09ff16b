//! The block lock and the operand set in every interleaving:
//! `RUSTFLAGS="--cfg loom" cargo test -p rivulet --release --test loom_hazard`.
//!
//! Each model has a bug that can be planted in the code for it to find; that is a test too.
#![cfg(loom)]
#![allow(clippy::disallowed_types, reason = "counts beside the model")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod memory_device;

use memory_device::{AddressDevice, CompletedTo};
use rivulet::hazard::lock::{BlockLock, CELL_COUNT, Mode, Patience};
use rivulet::hazard::{OperandSet, Tracking, Waits, seeded};
use rivulet::ids::{Access, StreamId};
use rivulet::memory::{Allocator, Block};
use rivulet_hal::sync::atomic::{AtomicU64, Ordering};
use rivulet_hal::sync::{Arc, thread};
use std::time::Duration;

/// A lock and two words behind it that are always equal. `Relaxed`: only the lock can make them look so.
struct Guarded {
    lock: BlockLock,
    words: [AtomicU64; 2],
}

impl Guarded {
    fn new() -> Arc<Self> {
        Arc::new(Self { lock: BlockLock::new(), words: [AtomicU64::new(0), AtomicU64::new(0)] })
    }

    /// In cells mode: enough streams have read.
    fn spread() -> Arc<Self> {
        let guarded = Self::new();
        for stream in 0..CELL_COUNT as u32 {
            guarded.read(stream);
        }
        assert!(guarded.lock.has_cells());
        guarded
    }

    fn look(&self) -> u64 {
        let [first, second] = [0, 1].map(|word: usize| self.words[word].load(Ordering::Relaxed));
        assert_eq!(first, second, "half of a write is visible");
        first
    }

    fn change(&self) {
        let next = self.look() + 1;
        self.words.iter().for_each(|word| word.store(next, Ordering::Relaxed));
    }

    fn read(&self, stream: u32) {
        let mode = Mode::Shared;
        if let Some(hold) = self.lock.lock_for(mode, StreamId(stream), None, &mut Patience::default()) {
            self.look();
            self.lock.unlock(hold);
        }
    }

    fn write(&self, stream: u32) {
        let mode = Mode::Exclusive;
        if let Some(hold) = self.lock.lock_for(mode, StreamId(stream), None, &mut Patience::default()) {
            self.change();
            self.lock.unlock(hold);
        }
    }
}

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

/// Runs the bodies on threads of their own, the last on this one.
fn together(bodies: Vec<Box<dyn FnOnce() + Send>>) {
    let mut bodies = bodies.into_iter();
    let last = bodies.next_back();
    let threads: Vec<_> = bodies.map(thread::spawn).collect();
    last.into_iter().for_each(|body| body());
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

fn on(guarded: &Arc<Guarded>, body: impl FnOnce(&Guarded) + Send + 'static) -> Box<dyn FnOnce() + Send> {
    let guarded = Arc::clone(guarded);
    Box::new(move || body(&guarded))
}

/// A reader in its cell against a writer: Dekker's pattern.
fn fast_path(bug: Option<&'static str>) {
    let runs = model(bug, 3, || {
        let guarded = Guarded::spread();
        together(vec![on(&guarded, |it| it.read(0)), on(&guarded, |it| it.write(1))]);
        assert!(guarded.lock.is_idle());
    });
    assert!(runs > 100, "{runs} runs");
}

#[test]
fn lock_fast_path() {
    fast_path(None);
}

#[test]
#[should_panic(expected = "half of a write")]
fn lock_fast_path_without_the_fence() {
    fast_path(Some("lock_no_store_load_order"));
}

#[test]
#[should_panic(expected = "half of a write")]
fn lock_fast_path_without_waiting_for_cells() {
    fast_path(Some("lock_no_drain"));
}

/// Two writers of one block, the second waiting as a reader may: whoever sleeps is woken.
fn two_writers(bug: Option<&'static str>) {
    let runs = model(bug, 3, || {
        let guarded = Guarded::new();
        together(vec![on(&guarded, |it| it.write(0)), on(&guarded, |it| it.write(1))]);
        assert!(guarded.lock.is_idle());
        assert_eq!(guarded.look(), 2);
    });
    assert!(runs > 100, "{runs} runs");
}

#[test]
fn two_writers_and_no_lost_wake_up() {
    two_writers(None);
}

#[test]
#[should_panic(expected = "deadlock")]
fn two_writers_where_nobody_wakes() {
    two_writers(Some("lock_wakes_nobody"));
}

struct Two {
    allocator: Allocator,
    blocks: [std::sync::Arc<Block>; 2],
}

impl Two {
    fn new() -> Arc<Self> {
        let allocator = Allocator::new(AddressDevice::new(1 << 30, 1 << 30));
        let block = || allocator.allocate(StreamId(0), 256, &CompletedTo::new(0)).unwrap();
        let blocks = [block(), block()];
        Arc::new(Self { allocator, blocks })
    }

    fn device_op(&self, first: (usize, Access), second: (usize, Access), stream: u32) -> Waits {
        let operands = [(&*self.blocks[first.0], first.1), (&*self.blocks[second.0], second.1)];
        let set = OperandSet::acquire(&operands, StreamId(stream), Tracking::On).unwrap();
        let waits = set.waits(&CompletedTo::new(0));
        set.stamp_device(StreamId(stream), 1);
        waits
    }
}

/// `y.add_(x)` on one thread, `x.add_(y)` on the other: one waits for the other, never both.
fn crossed_operands(bug: Option<&'static str>) {
    let runs = model(bug, 2, || {
        let two = Two::new();
        let other = Arc::clone(&two);
        let thread = thread::spawn(move || other.device_op((0, Access::Read), (1, Access::Write), 1));
        let mine = two.device_op((1, Access::Read), (0, Access::Write), 2);
        let theirs = thread.join().unwrap();
        assert_eq!(mine.len() + theirs.len(), 1, "one op is before the other: {mine:?} {theirs:?}");
        assert_eq!(two.allocator.stats().active_blocks, 2);
    });
    assert!(runs > 20, "{runs} runs");
}

#[test]
fn crossed_operands_wait_one_way() {
    crossed_operands(None);
}

#[test]
#[should_panic]
fn crossed_operands_locked_in_no_order() {
    crossed_operands(Some("hazard_unordered_locks"));
}

#[test]
fn two_cells_and_a_writer() {
    model(None, 2, || {
        let guarded = Guarded::spread();
        together(vec![
            on(&guarded, |it| it.read(0)),
            on(&guarded, |it| it.read(1)),
            on(&guarded, |it| it.write(0)),
        ]);
        assert!(guarded.lock.is_idle());
    });
}

#[test]
fn central_to_cells_while_a_writer_comes() {
    model(None, 2, || {
        let guarded = Guarded::new();
        guarded.read(0);
        // One more change of stream and the block gets cells.
        together(vec![
            on(&guarded, |it| {
                it.read(1);
                it.read(1);
            }),
            on(&guarded, |it| it.read(0)),
            on(&guarded, |it| it.write(0)),
        ]);
        assert!(guarded.lock.is_idle());
    });
}

#[test]
fn a_writer_who_gives_up_blocks_nobody() {
    for cells in [false, true] {
        model(None, 2, move || {
            let guarded = if cells { Guarded::spread() } else { Guarded::new() };
            together(vec![
                on(&guarded, |it| {
                    let limit = Some(Duration::from_millis(1));
                    let hold =
                        it.lock.lock_for(Mode::Exclusive, StreamId(1), limit, &mut Patience::default());
                    if let Some(hold) = hold {
                        it.change();
                        it.lock.unlock(hold);
                    }
                }),
                on(&guarded, |it| {
                    it.read(0);
                    it.read(0);
                }),
            ]);
            assert!(guarded.lock.is_idle());
            guarded.write(0);
        });
    }
}

#[test]
fn a_stamp_in_a_cell_is_seen_by_the_writer_or_sees_it() {
    model(None, 2, || {
        let two = Two::new();
        for stream in 0..CELL_COUNT as u32 {
            let operands = [(&*two.blocks[0], Access::Read)];
            drop(OperandSet::acquire(&operands, StreamId(stream), Tracking::On).unwrap());
        }
        assert!(two.blocks[0].lock().has_cells());
        let other = Arc::clone(&two);
        let reader = thread::spawn(move || other.device_op((0, Access::Read), (0, Access::Read), 1));
        let writer = two.device_op((0, Access::Write), (0, Access::Read), 2);
        let reader = reader.join().unwrap();
        assert_eq!(reader.len() + writer.len(), 1, "{reader:?} {writer:?}");
    });
}
