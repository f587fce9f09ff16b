//! Threads that come and go while the device still works for them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![cfg(not(loom))]

mod common;

use common::{fill, options, read, until};
use rivulet::stream::FlushPolicy;
use rivulet::{Device, DeviceOptions, Error, StreamId};
use rivulet_hal::QueueIndex;
use rivulet_hal::sim::{self, SimConfig, SimControl};
use rivulet_hal::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

/// A device whose queue is held and whose pool has one worker slot.
fn small(settings: &[(&str, &str)], flush: FlushPolicy) -> (Device, SimControl, Arc<common::TestEnv>) {
    let env = common::TestEnv::new(&[("MPS_STREAM_POOL_SIZE", "2")]);
    settings.iter().for_each(|(name, value)| env.set(name, value));
    let (hal, control) = sim::open(SimConfig { queues: 1, manual: true, ..SimConfig::default() });
    (Device::with(hal, DeviceOptions { flush, ..options(&env) }).unwrap(), control, env)
}

const NEVER: FlushPolicy = FlushPolicy {
    commands: usize::MAX,
    age: Duration::MAX,
    cost: Duration::MAX,
    idle: Duration::MAX,
    prompt: 0,
    ahead: Duration::MAX,
    unfinished: usize::MAX,
};

#[test]
fn what_a_thread_recorded_before_it_ended_goes_with_the_next_submission() {
    let (device, control, _) = small(&[], NEVER);
    let stream = device.new_stream(0).unwrap();
    let (x, y) = {
        device.exchange_stream(Some(stream.id())).unwrap();
        (device.allocate(64).unwrap(), device.allocate(64).unwrap())
    };
    {
        let (device, x) = (device.clone(), Arc::clone(&x));
        std::thread::spawn(move || fill(&device.current_stream().unwrap(), &x, 4).unwrap()).join().unwrap();
    }
    assert_eq!(control.unfinished(QueueIndex(0)), 0, "the end of a thread calls no driver");
    assert!(device.report().pool.unwrap().used.is_empty());
    fill(&stream, &y, 5).unwrap();
    stream.flush().unwrap();
    assert_eq!(control.unfinished(QueueIndex(0)), 2);
    control.release(QueueIndex(0));
    assert_eq!((read(&stream, &x).unwrap(), read(&stream, &y).unwrap()), (4, 5));
    assert_eq!(control.faults(), Vec::<String>::new());
}

#[test]
fn the_next_owner_of_a_slot_comes_after_the_last_ones_work() {
    let (device, control, _) = small(&[], NEVER);
    let home = device.new_stream(0).unwrap();
    device.exchange_stream(Some(home.id())).unwrap();
    let block = device.allocate(64).unwrap();
    for value in 1..=3 {
        let (device, block) = (device.clone(), Arc::clone(&block));
        let stream = std::thread::spawn(move || {
            let stream = device.current_stream().unwrap();
            fill(&stream, &block, value).unwrap();
            stream.id()
        });
        assert_eq!(stream.join().unwrap(), StreamId(1));
    }
    control.release(QueueIndex(0));
    assert_eq!(read(&home, &block).unwrap(), 3);
    assert_eq!(control.faults(), Vec::<String>::new());
}

#[test]
fn an_idle_threads_slot_is_taken_only_when_its_device_work_is_done() {
    let (device, control, env) = small(&[("MPS_POOL_TIMEOUT_MS", "60")], NEVER);
    let (end, ended) = mpsc::channel::<()>();
    let (tell, told) = mpsc::channel();
    let idle = {
        let device = device.clone();
        std::thread::spawn(move || {
            let stream = device.current_stream().unwrap();
            let block = device.allocate(64).unwrap();
            // Recorded and never submitted by this thread: whoever wants the slot has to do that.
            fill(&stream, &block, 1).unwrap();
            tell.send(()).unwrap();
            ended.recv().unwrap();
        })
    };
    told.recv().unwrap();
    let take = |device: &Device| {
        let device = device.clone();
        std::thread::spawn(move || device.current_stream_id()).join().unwrap()
    };
    assert!(matches!(take(&device), Err(Error::PoolTimeout { .. })));
    assert_eq!(control.unfinished(QueueIndex(0)), 1, "the one who waits has submitted it");
    env.set("MPS_POOL_TIMEOUT_MS", "20000");
    let waiter = {
        let device = device.clone();
        std::thread::spawn(move || device.current_stream_id().unwrap())
    };
    std::thread::sleep(Duration::from_millis(30));
    assert!(!waiter.is_finished());
    control.release(QueueIndex(0));
    until("the slot is taken", || waiter.is_finished());
    assert_eq!(waiter.join().unwrap(), StreamId(1));
    end.send(()).unwrap();
    idle.join().unwrap();
    assert_eq!(control.faults(), Vec::<String>::new());
}

#[test]
fn a_stream_submits_by_itself_at_the_policys_limits() {
    let by_count = FlushPolicy { commands: 3, ..NEVER };
    let by_age = FlushPolicy { age: Duration::from_millis(5), ..NEVER };
    let by_cost = FlushPolicy { cost: rivulet::stream::COMMAND_COST * 3, ..NEVER };
    for (policy, pause) in [(by_count, 0), (by_age, 10), (by_cost, 0)] {
        let (device, control, _) = small(&[], policy);
        let stream = device.new_stream(0).unwrap();
        device.exchange_stream(Some(stream.id())).unwrap();
        let block = device.allocate(64).unwrap();
        fill(&stream, &block, 1).unwrap();
        fill(&stream, &block, 2).unwrap();
        assert_eq!(control.unfinished(QueueIndex(0)), 0, "{policy:?}");
        std::thread::sleep(Duration::from_millis(pause));
        fill(&stream, &block, 3).unwrap();
        assert_eq!(control.unfinished(QueueIndex(0)), 1, "{policy:?}");
        control.release(QueueIndex(0));
        stream.synchronize().unwrap();
    }
}

#[test]
fn a_thread_far_ahead_of_the_device_waits_for_its_oldest_work() {
    let (device, control, _) = small(&[], FlushPolicy { commands: 1, unfinished: 4, ..NEVER });
    let recorder = {
        let device = device.clone();
        std::thread::spawn(move || {
            let stream = device.current_stream().unwrap();
            let block = device.allocate(64).unwrap();
            for value in 1..=100 {
                fill(&stream, &block, value).unwrap();
            }
            read(&stream, &block).unwrap()
        })
    };
    until("four submissions are unfinished", || control.unfinished(QueueIndex(0)) == 4);
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!((control.unfinished(QueueIndex(0)), recorder.is_finished()), (4, false));
    // Another stream is not held up by that.
    let stream = device.new_stream(0).unwrap();
    device.exchange_stream(Some(stream.id())).unwrap();
    fill(&stream, &device.allocate(64).unwrap(), 1).unwrap();
    control.release(QueueIndex(0));
    assert_eq!(recorder.join().unwrap(), 100);
    assert_eq!(control.faults(), Vec::<String>::new());
}
