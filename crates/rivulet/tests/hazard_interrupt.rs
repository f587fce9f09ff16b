//! A signal that ends a wait for operands. A file of its own: hooks are installed once a process.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod memory_device;

use memory_device::{AddressDevice, CompletedTo};
use rivulet::blocking::{self, Interrupted, WaitHooks};
use rivulet::hazard::lock::Mode;
use rivulet::hazard::{HazardError, OperandSet, Tracking};
use rivulet::ids::{Access, StreamId};
use rivulet::memory::{Allocator, Block};
use rivulet_hal::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

static HOOKS: Hooks = Hooks {
    signal: AtomicBool::new(false),
    handler: AtomicBool::new(false),
    inside: AtomicUsize::new(0),
    waits: AtomicUsize::new(0),
};

struct Hooks {
    signal: AtomicBool,
    /// What a signal handler would do: an op on the block of [`IN_HANDLER`].
    handler: AtomicBool,
    inside: AtomicUsize,
    waits: AtomicUsize,
}

thread_local! { static IN_HANDLER: std::cell::RefCell<Option<Arc<Block>>> = const { std::cell::RefCell::new(None) }; }

impl WaitHooks for Hooks {
    fn enter(&self) -> usize {
        self.waits.fetch_add(1, Ordering::SeqCst);
        self.inside.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn poll(&self) -> Result<(), Interrupted> {
        if self.handler.swap(false, Ordering::SeqCst) {
            let block = IN_HANDLER.with_borrow(Clone::clone).unwrap();
            drop(OperandSet::acquire(&[(&*block, Access::Read)], StreamId(1), Tracking::On).unwrap());
        }
        if self.signal.load(Ordering::SeqCst) { Err(Interrupted) } else { Ok(()) }
    }

    fn leave(&self, token: usize) {
        assert!(token > 0);
        self.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

#[test]
fn an_interrupted_wait_leaves_nothing_behind() {
    assert!(blocking::install(&HOOKS));
    let allocator = Allocator::new(AddressDevice::new(1 << 30, u64::MAX));
    let blocks: Vec<_> =
        (0..3).map(|_| allocator.allocate(StreamId(1), 100, &CompletedTo::new(0)).unwrap()).collect();
    for (held, wanted) in [(Access::Read, Access::Write), (Access::Write, Access::Read)] {
        HOOKS.signal.store(false, Ordering::SeqCst);
        let holder = OperandSet::acquire(&[(&blocks[1], held)], StreamId(1), Tracking::On).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let operands = [(&*blocks[0], Access::Write), (&*blocks[1], wanted), (&*blocks[2], wanted)];
                OperandSet::acquire(&operands, StreamId(2), Tracking::On).map(drop)
            });
            std::thread::sleep(Duration::from_millis(120));
            assert!(!waiter.is_finished(), "nobody has sent a signal yet");
            let start = Instant::now();
            HOOKS.signal.store(true, Ordering::SeqCst);
            assert_eq!(waiter.join().unwrap(), Err(HazardError::Interrupted(Interrupted)));
            assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
        });
        assert_eq!(HOOKS.inside.load(Ordering::SeqCst), 0);
        assert!(blocks[0].lock().is_idle() && blocks[2].lock().is_idle() && !blocks[1].lock().is_idle());
        if held == Access::Read {
            let hold =
                blocks[1].lock().try_lock(Mode::Shared, StreamId(3)).expect("no writer waits any more");
            blocks[1].lock().unlock(hold);
        }
        drop(holder);
        assert!(blocks[1].lock().is_idle());
    }
    assert_eq!(HOOKS.waits.load(Ordering::SeqCst), 2, "only those who had to wait let go of the interpreter");

    // A handler that runs an op on the very block that its thread waits to write.
    HOOKS.signal.store(false, Ordering::SeqCst);
    let holder = OperandSet::acquire(&[(&blocks[1], Access::Read)], StreamId(1), Tracking::On).unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            IN_HANDLER.set(Some(Arc::clone(&blocks[1])));
            let operands = [(&*blocks[1], Access::Write)];
            OperandSet::acquire(&operands, StreamId(2), Tracking::On).map(drop)
        });
        HOOKS.handler.store(true, Ordering::SeqCst);
        let start = Instant::now();
        while HOOKS.handler.load(Ordering::SeqCst) || HOOKS.inside.load(Ordering::SeqCst) > 1 {
            assert!(start.elapsed() < Duration::from_secs(10), "the handler hangs on its own thread's claim");
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(holder);
        assert_eq!(waiter.join().unwrap(), Ok(()));
    });
}
