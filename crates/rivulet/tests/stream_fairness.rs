//! What a hardware queue gets, and when: enough to be busy, and of every stream in its turn.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![cfg(not(loom))]

mod common;

use common::{TestEnv, buffer, options, until, within};
use rivulet::memory::Block;
use rivulet::stream::FlushPolicy;
use rivulet::{Access, Device, DeviceOp, DeviceOptions, Stream};
use rivulet_hal::QueueIndex;
use rivulet_hal::sim::{self, SimConfig, SimControl};
use std::time::Duration;

const Q0: QueueIndex = QueueIndex(0);
const MS: Duration = Duration::from_millis(1);

/// A device whose queue is held, and whose streams submit each op by itself.
fn device() -> (Device, SimControl) {
    let (hal, control) = sim::open(SimConfig { queues: 1, manual: true, ..SimConfig::default() });
    let flush = FlushPolicy { commands: 1, ahead: 2 * MS, ..FlushPolicy::default() };
    (Device::with(hal, DeviceOptions { flush, ..options(&TestEnv::new(&[])) }).unwrap(), control)
}

fn op(stream: &Stream, label: &'static str, block: &Block, cost: Duration) {
    let target = buffer(block);
    let operands = [(block, Access::Write)];
    let op = DeviceOp { label, operands: &operands, cost: Some(cost) };
    stream.record(&op, |recorder| recorder.fill(&target, 1)).unwrap();
}

/// Lets the queue run until nothing is left.
fn run(device: &Device, control: &SimControl) {
    control.release(Q0);
    device.synchronize().unwrap();
}

fn place(control: &SimControl, label: &str) -> usize {
    control.executed().iter().position(|executed| &*executed.label == label).unwrap()
}

#[test]
fn a_small_op_passes_the_work_that_another_stream_has_queued() {
    let (device, control) = device();
    let (busy, small, urgent) =
        (device.new_stream(0).unwrap(), device.new_stream(0).unwrap(), device.new_stream(-1).unwrap());
    let blocks: Vec<_> = (0..3).map(|_| device.allocate(256).unwrap()).collect();
    (0..50).for_each(|_| op(&busy, "long", &blocks[0], MS));
    let held = control.unfinished(Q0);
    assert!((2..=3).contains(&held), "{held} of 50 are on the queue");
    op(&small, "small", &blocks[1], MS / 100);
    op(&urgent, "urgent", &blocks[2], MS / 100);
    assert_eq!(control.unfinished(Q0), held, "the queue is full");
    run(&device, &control);
    let (small, urgent) = (place(&control, "small"), place(&control, "urgent"));
    assert_eq!(urgent, held, "right behind what the queue had");
    assert!(small <= held + 3, "{small}");
    assert_eq!(control.executed().len(), 52);
    assert_eq!(control.faults(), [""; 0]);
}

#[test]
fn nobody_has_to_wait_for_work_that_is_held_back() {
    let (device, control) = device();
    let stream = device.new_stream(0).unwrap();
    let block = device.allocate(256).unwrap();
    (0..50).for_each(|_| op(&stream, "long", &block, MS));
    control.release(Q0);
    // The thread that refills the queue does it all.
    until("everything ran", || control.executed().len() == 50);
    assert!(stream.query().unwrap());
    assert_eq!(control.faults(), [""; 0]);
}

#[test]
fn what_another_stream_needs_is_not_held_back() {
    let (device, control) = device();
    let (busy, other) = (device.new_stream(0).unwrap(), device.new_stream(0).unwrap());
    let (block, target) = (device.allocate(256).unwrap(), device.allocate(256).unwrap());
    (0..20).for_each(|_| op(&busy, "long", &block, MS));
    {
        let (device, other, block, target) = (device.clone(), other, block, target);
        // The queue runs nothing, and yet the thread goes on.
        within(Duration::from_secs(5), move || {
            let (from, to) = (buffer(&block), buffer(&target));
            let operands = [(&*block, Access::Read), (&*target, Access::Write)];
            other.record(&DeviceOp::new("copy", &operands), |recorder| recorder.copy(&from, &to)).unwrap();
            drop(device);
        });
    }
    assert!(control.unfinished(Q0) >= 20);
    run(&device, &control);
    assert_eq!(place(&control, "copy"), 20);
    assert_eq!(control.faults(), [""; 0]);
}

#[test]
fn before_the_process_ends_everything_is_submitted() {
    let (device, control) = device();
    let stream = device.new_stream(0).unwrap();
    let block = device.allocate(256).unwrap();
    (0..50).for_each(|_| op(&stream, "long", &block, MS));
    assert!(control.unfinished(Q0) < 50);
    device.prepare_exit();
    assert_eq!(control.unfinished(Q0), 50);
    op(&stream, "later", &block, MS);
    assert_eq!(control.unfinished(Q0), 51);
    run(&device, &control);
    drop((stream, block, device));
    assert_eq!(control.faults(), [""; 0]);
}

#[test]
fn a_device_that_is_dropped_or_lost_ends_its_thread() {
    let (device, control) = device();
    let stream = device.new_stream(0).unwrap();
    let block = device.allocate(256).unwrap();
    (0..50).for_each(|_| op(&stream, "long", &block, MS));
    control.lose_device("unplugged");
    let error = within(Duration::from_secs(5), {
        let stream = stream.clone();
        move || stream.synchronize().unwrap_err()
    });
    assert!(error.to_string().contains("unplugged"), "{error}");
    drop((stream, block, device));
}

#[test]
fn an_idle_stream_submits_its_first_op_at_once_and_a_busy_one_collects() {
    let (hal, control) = sim::open(SimConfig { queues: 1, manual: true, ..SimConfig::default() });
    let flush = FlushPolicy { age: Duration::MAX, idle: 300 * MS, prompt: 0, ..FlushPolicy::default() };
    let device = Device::with(hal, DeviceOptions { flush, ..options(&TestEnv::new(&[])) }).unwrap();
    let stream = device.new_stream(0).unwrap();
    let block = device.allocate(256).unwrap();
    let small = || op(&stream, "small", &block, MS / 1000);
    small();
    assert_eq!(control.unfinished(Q0), 1, "the device had nothing to do");
    std::thread::sleep(310 * MS);
    (0..10).for_each(|_| small());
    assert_eq!(control.unfinished(Q0), 1, "the device is busy with the first");
    run(&device, &control);
    small();
    assert_eq!(control.executed().len(), 2, "just submitted");
    std::thread::sleep(310 * MS);
    small();
    until("the idle device got both", || control.executed().len() == 3);
    assert_eq!(control.faults(), [""; 0]);
}

#[test]
fn after_a_wait_the_next_ops_are_submitted_whenever_the_device_has_nothing_to_do() {
    let (hal, control) = sim::open(SimConfig { queues: 1, manual: true, ..SimConfig::default() });
    let flush = FlushPolicy { age: Duration::MAX, idle: 10_000 * MS, prompt: 3, ..FlushPolicy::default() };
    let device = Device::with(hal, DeviceOptions { flush, ..options(&TestEnv::new(&[])) }).unwrap();
    let stream = device.new_stream(0).unwrap();
    let block = device.allocate(256).unwrap();
    let small = || op(&stream, "small", &block, MS / 1000);
    for round in 1..=2 {
        for prompt in 1..=3 {
            small();
            assert_eq!(control.unfinished(Q0), 1, "op {prompt} of round {round}");
            assert!(control.step(Q0));
            until("the device has nothing to do", || stream.query().unwrap());
        }
        small();
        assert_eq!(control.unfinished(Q0), 0, "so many ops without a wait are collected");
        let waiter = std::thread::spawn({
            let stream = stream.clone();
            move || stream.synchronize().unwrap()
        });
        until("the wait submits the rest", || control.unfinished(Q0) == 1);
        assert!(control.step(Q0));
        waiter.join().unwrap();
    }
    assert_eq!(control.faults(), [""; 0]);
}
