//! Every wait ends at a signal, with the interpreter's lock taken back and nothing left behind.
//!
//! A process has one set of hooks, so these tests have a file of their own.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![cfg(not(loom))]

mod common;

use common::{fill, host, sim_with, until, write};
use rivulet::blocking::{self, Interrupted, WaitHooks};
use rivulet::hazard::Tracking;
use rivulet::pool::{self, ThreadHooks};
use rivulet::{Access, Device, Error, Event, Result, StreamId};
use rivulet_hal::QueueIndex;
use rivulet_hal::sim::SimConfig;
use rivulet_hal::sync::Arc;
use rivulet_hal::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::cell::Cell;
use std::time::{Duration, Instant};

thread_local! {
    static SIGNAL: Cell<Option<&'static AtomicBool>> = const { Cell::new(None) };
    static INSIDE: Cell<usize> = const { Cell::new(0) };
    static SERVICE: Cell<bool> = const { Cell::new(false) };
}

static WAITS: AtomicUsize = AtomicUsize::new(0);
static TAKEN: AtomicUsize = AtomicUsize::new(0);

struct Hooks;

impl WaitHooks for Hooks {
    fn enter(&self) -> usize {
        WAITS.fetch_add(1, Ordering::Relaxed);
        INSIDE.set(INSIDE.get() + 1);
        INSIDE.get()
    }

    fn poll(&self) -> Result<(), Interrupted> {
        let raised = SIGNAL.get().is_some_and(|signal| signal.load(Ordering::Relaxed));
        if raised { Err(Interrupted) } else { Ok(()) }
    }

    fn leave(&self, token: usize) {
        assert_eq!(token, INSIDE.get(), "leave gets what enter gave");
        INSIDE.set(INSIDE.get() - 1);
    }
}

impl ThreadHooks for Hooks {
    fn is_service_thread(&self) -> bool {
        SERVICE.get()
    }

    fn slot_taken(&self) {
        TAKEN.fetch_add(1, Ordering::Relaxed);
    }
}

fn install() {
    blocking::install(&Hooks);
    pool::install_hooks(&Hooks);
}

/// Runs `wait` on a thread, raises a signal when it has waited for a while, and gives its answer.
#[track_caller]
fn interrupt(device: &Device, wait: impl FnOnce(&Device) -> Result<()> + Send + 'static) {
    let signal: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
    let device = device.clone();
    let thread = std::thread::spawn(move || {
        SIGNAL.set(Some(signal));
        let result = wait(&device);
        SIGNAL.set(None);
        (result, INSIDE.get())
    });
    std::thread::sleep(Duration::from_millis(80));
    assert!(!thread.is_finished(), "it waits");
    let raised = Instant::now();
    signal.store(true, Ordering::Relaxed);
    until("the signal ends the wait", || thread.is_finished());
    assert!(raised.elapsed() < Duration::from_millis(500));
    let (result, inside) = thread.join().unwrap();
    assert!(matches!(result, Err(Error::Interrupted(Interrupted))), "{result:?}");
    assert_eq!(inside, 0);
}

#[test]
fn each_wait_for_the_device_ends_at_a_signal() {
    install();
    let (device, control) =
        sim_with(SimConfig { queues: 1, manual: true, ..SimConfig::default() }, Tracking::On);
    let stream = device.new_stream(0).unwrap();
    let block = device.allocate(64).unwrap();
    fill(&stream, &block, 1).unwrap();
    let event = Event::new(false);
    event.record(&stream).unwrap();
    let event = Arc::new(event);
    interrupt(&device, Device::synchronize);
    let (s, e, b) = (stream.clone(), Arc::clone(&event), Arc::clone(&block));
    interrupt(&device, move |_| s.synchronize());
    interrupt(&device, move |_| e.synchronize());
    interrupt(&device, move |device| device.host_access("read", &[(&b, Access::Read)]).map(drop));
    control.release(QueueIndex(0));
    // What was waited for is as it was.
    event.synchronize().unwrap();
    write(&stream, &block, 2).unwrap();
    assert_eq!(device.report().pool.unwrap().used.len(), 1, "this thread's own slot");
    assert_eq!(control.faults(), Vec::<String>::new());
}

#[test]
fn waits_for_a_slot_a_turn_and_a_block_end_at_a_signal() {
    install();
    let (device, _) = host(&[("MPS_STREAM_POOL_SIZE", "2"), ("MPS_POOL_BACKPRESSURE", "1")]);
    let block = device.allocate(64).unwrap();
    device.release_current_thread();
    let stream = device.new_stream(0).unwrap();
    let operands = [(&*block, Access::Write)];
    let held = device.host_access("hold the slot and the block", &operands).unwrap();
    interrupt(&device, |device| device.current_stream_id().map(drop));
    let (s, b) = (stream.clone(), Arc::clone(&block));
    interrupt(&device, move |_| s.host_access("block", &[(&b, Access::Write)]).map(drop));
    drop(held);
    let held = stream.host_access("hold the turn", &[]).unwrap();
    let s = stream.clone();
    interrupt(&device, move |_| s.host_access("turn", &[]).map(drop));
    // The ticket that was given up is passed over.
    let s = stream.clone();
    let next = std::thread::spawn(move || s.host_access("next", &[]).map(drop));
    drop(held);
    until("the next one's turn", || next.is_finished());
    next.join().unwrap().unwrap();
    assert_eq!(device.report().pool.unwrap().waiting, 0);
}

#[test]
fn short_calls_enter_no_wait() {
    install();
    let (device, _) = host(&[]);
    let block = device.allocate(64).unwrap();
    std::thread::spawn(move || {
        let before = INSIDE.get();
        let operands = [(&*block, Access::Write)];
        for _ in 0..1000 {
            drop(device.host_access("op", &operands).unwrap());
        }
        let event = Event::new(false);
        event.record(&device.current_stream().unwrap()).unwrap();
        event.synchronize().unwrap();
        device.synchronize().unwrap();
        assert_eq!(INSIDE.get(), before);
    })
    .join()
    .unwrap();
}

#[test]
fn service_threads_take_no_slot_and_others_are_announced() {
    install();
    let (device, _) = host(&[("MPS_STREAM_POOL_SIZE", "2")]);
    let run = |service: bool| {
        let device = device.clone();
        std::thread::spawn(move || {
            SERVICE.set(service);
            device.host_access("op", &[]).unwrap().stream()
        })
        .join()
        .unwrap()
    };
    let service: Vec<StreamId> = (0..3).map(|_| run(true)).collect();
    assert_eq!(service, [StreamId(2); 3], "the reserve stream lies behind the slots");
    let before = TAKEN.load(Ordering::Relaxed);
    assert_eq!(run(false), StreamId(1));
    assert!(TAKEN.load(Ordering::Relaxed) > before);
}
