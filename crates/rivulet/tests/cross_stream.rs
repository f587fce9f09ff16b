//! Tensors that cross streams without anybody synchronising: right by value, no wait in a circle, and no fault that the
//! simulated device could find. And the same with tracking switched off, which must go wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![cfg(not(loom))]

mod common;
#[path = "common/cross.rs"]
mod cross;

use common::{add, add_kernel, copy, fill, read, sim, sim_with, store_word, until, within, write};
use cross::{crossed, reachable, storm, streams};
use rivulet::hazard::Tracking;
use rivulet::{Access, Event};
use rivulet_hal::QueueIndex;
use rivulet_hal::sim::{Delay, SimConfig, SimControl};
use rivulet_hal::sync::Arc;
use std::time::Duration;

fn quick(queues: usize, seed: u64) -> SimConfig {
    let delay = Delay::Random { min: Duration::ZERO, max: Duration::from_micros(40) };
    SimConfig { queues, seed, delay, ..SimConfig::default() }
}

#[track_caller]
fn clean(control: &SimControl) {
    assert_eq!(control.faults(), Vec::<String>::new());
}

#[test]
fn a_tensor_handed_over_unsynchronised_is_read_after_it_is_written() {
    for queues in [1, 2] {
        let (device, control) = sim(queues);
        let [a, b] = streams(&device);
        let (x, y) = (device.allocate(256).unwrap(), device.allocate(256).unwrap());
        fill(&a, &x, 7).unwrap();
        copy(&b, &x, &y).unwrap();
        assert_eq!(read(&a, &y).unwrap(), 7);
        clean(&control);
    }
}

#[test]
fn a_write_waits_for_reads_of_another_stream() {
    for queues in [1, 2] {
        let (device, control) = sim(queues);
        let [a, b] = streams(&device);
        let (x, y) = (device.allocate(256).unwrap(), device.allocate(256).unwrap());
        fill(&a, &x, 1).unwrap();
        copy(&a, &x, &y).unwrap();
        fill(&b, &x, 2).unwrap();
        assert_eq!((read(&b, &y).unwrap(), read(&a, &x).unwrap()), (1, 2));
        clean(&control);
    }
}

#[test]
fn the_cpu_writes_only_when_the_device_has_read() {
    let (device, control) = sim(2);
    let [a, b] = streams(&device);
    let (x, y) = (device.allocate(256).unwrap(), device.allocate(256).unwrap());
    write(&b, &x, 5).unwrap();
    copy(&a, &x, &y).unwrap();
    write(&b, &x, 6).unwrap();
    assert_eq!(read(&b, &y).unwrap(), 5);
    clean(&control);
}

#[test]
fn memory_freed_while_the_device_uses_it_is_safe_to_reuse() {
    let (device, control) = sim(2);
    let [a, b] = streams(&device);
    control.hold(QueueIndex(a.id().index() % 2));
    let out = device.allocate(256).unwrap();
    let x = device.allocate(256).unwrap();
    let address = x.address();
    fill(&a, &x, 3).unwrap();
    copy(&a, &x, &out).unwrap();
    a.flush().unwrap();
    // Freed with the kernel still to run, and asked for again: the same range comes back, and the CPU writes it.
    device.free(x);
    let again: Vec<_> = (0..64).map(|_| device.allocate(256).unwrap()).collect();
    let reused = again.iter().find(|block| block.address() == address);
    let reused = Arc::clone(reused.expect("the range is reused by the same thread's stream"));
    let writer = std::thread::spawn(move || {
        write(&b, &reused, 9).unwrap();
        read(&b, &reused).unwrap()
    });
    std::thread::sleep(Duration::from_millis(20));
    assert!(!writer.is_finished(), "the CPU write waits for the late kernel");
    control.release(QueueIndex(a.id().index() % 2));
    assert_eq!(writer.join().unwrap(), 9);
    assert_eq!(read(&a, &out).unwrap(), 3);
    drop(again);
    clean(&control);
}

#[test]
fn ops_of_one_stream_have_barriers_only_where_operands_meet() {
    let (device, control) = sim(1);
    let [a, _] = streams(&device);
    let blocks: Vec<_> = (0..3).map(|_| device.allocate(256).unwrap()).collect();
    fill(&a, &blocks[0], 1).unwrap();
    fill(&a, &blocks[1], 2).unwrap();
    copy(&a, &blocks[0], &blocks[2]).unwrap();
    copy(&a, &blocks[1], &blocks[2]).unwrap();
    a.synchronize().unwrap();
    // The same blocks again in a new command buffer.
    fill(&a, &blocks[1], 3).unwrap();
    assert_eq!(read(&a, &blocks[2]).unwrap(), 2);
    clean(&control);
}

#[test]
fn crossed_in_place_ops_never_wait_in_a_circle() {
    for queues in [1, 2, 3] {
        let control = within(Duration::from_secs(120), move || {
            let (device, control) = sim_with(quick(queues, 1), Tracking::On);
            for _ in 0..350 {
                let (x, y) = crossed(&device, 10);
                assert!(reachable(x, y, 10), "no order of the ops gives {x}, {y}");
            }
            crossed(&device, 400);
            control
        });
        clean(&control);
    }
}

#[test]
fn a_thousand_random_rounds_are_right_by_value_without_a_fault() {
    for (queues, seed) in [(1, 10), (2, 20), (3, 30)] {
        let control = within(Duration::from_secs(120), move || {
            let (device, control) = sim_with(quick(queues, seed), Tracking::On);
            assert_eq!(storm(&device, 4, 250, seed).unwrap(), [0; 4], "{queues} queues");
            control
        });
        clean(&control);
    }
}

#[test]
fn without_tracking_the_same_storm_goes_wrong() {
    for (queues, seed) in [(1, 10), (2, 20)] {
        let (right, faults) = within(Duration::from_secs(120), move || {
            let (device, control) = sim_with(quick(queues, seed), Tracking::Off);
            let result = storm(&device, 4, 250, seed);
            (matches!(&result, Ok(missing) if missing.iter().all(|&sum| sum == 0)), control.faults())
        });
        assert!(!right && !faults.is_empty(), "{queues} queues: right {right}, faults {faults:?}");
        assert!(faults.iter().any(|fault| fault.contains("nothing orders the two")), "{faults:?}");
    }
}

#[test]
fn many_readers_of_one_weight_and_one_writer() {
    let control = within(Duration::from_secs(60), || {
        let (device, control) = sim_with(quick(2, 3), Tracking::On);
        let kernel = add_kernel(&device);
        let weight = device.allocate(256).unwrap();
        let home = device.new_stream(0).unwrap();
        write(&home, &weight, 1).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..12 {
                scope.spawn(|| {
                    let stream = device.current_stream().unwrap();
                    let sum = device.allocate(256).unwrap();
                    write(&stream, &sum, 0).unwrap();
                    let mut last = 0;
                    for _ in 0..40 {
                        add(&stream, &kernel, &weight, &sum).unwrap();
                        let now = read(&stream, &sum).unwrap();
                        // Whatever the writer does meanwhile, the weight is whole: it only grows.
                        assert!(now - last >= 1 && now - last <= 21, "{last} then {now}");
                        last = now;
                    }
                    device.free(sum);
                });
            }
            scope.spawn(|| {
                for value in 2..=21 {
                    write(&home, &weight, value).unwrap();
                    fill(&home, &weight, value).unwrap();
                }
            });
        });
        control
    });
    clean(&control);
}

#[test]
fn a_cpu_access_waits_for_another_threads_cpu_access() {
    let (device, control) = sim(1);
    let block = device.allocate(256).unwrap();
    let [a, b] = streams(&device);
    let access = a.host_access("hold", &[(&block, Access::Write)]).unwrap();
    let waiter = {
        let block = Arc::clone(&block);
        std::thread::spawn(move || write(&b, &block, 2).unwrap())
    };
    std::thread::sleep(Duration::from_millis(20));
    assert!(!waiter.is_finished());
    store_word(&block, 1);
    drop(access);
    waiter.join().unwrap();
    assert_eq!(read(&a, &block).unwrap(), 2);
    clean(&control);
}

#[test]
fn an_op_waits_at_its_recording_for_a_cpu_access_and_not_in_the_queue() {
    let (device, control) = sim(1);
    let block = device.allocate(256).unwrap();
    let [a, b] = streams(&device);
    let access = a.host_access("hold", &[(&block, Access::Write)]).unwrap();
    let recorder = {
        let (block, b) = (Arc::clone(&block), b.clone());
        std::thread::spawn(move || fill(&b, &block, 4).unwrap())
    };
    std::thread::sleep(Duration::from_millis(20));
    assert!(!recorder.is_finished());
    // The queue is free for others meanwhile.
    let other = device.allocate(256).unwrap();
    let c = device.new_stream(0).unwrap();
    fill(&c, &other, 1).unwrap();
    c.synchronize().unwrap();
    drop(access);
    recorder.join().unwrap();
    assert_eq!(read(&b, &block).unwrap(), 4);
    clean(&control);
}

#[test]
fn nested_accesses_of_one_thread_need_no_second_turn() {
    let (device, control) = sim(1);
    let block = device.allocate(256).unwrap();
    let [a, _] = streams(&device);
    within(Duration::from_secs(10), move || {
        let operands = [(&*block, Access::Write)];
        let outer = a.host_access("outer", &operands).unwrap();
        let inner = a.host_access("inner", &operands).unwrap();
        store_word(&block, 1);
        drop(inner);
        // Nor does waiting inside an op wait for that op.
        let event = Event::new(false);
        event.record(&a).unwrap();
        event.synchronize().unwrap();
        a.synchronize().unwrap();
        device.synchronize().unwrap();
        drop(outer);
    });
    clean(&control);
}

#[test]
fn an_op_of_a_stream_that_waits_for_an_unsubmitted_one_submits_it() {
    for queues in [1, 2] {
        let (device, control) = sim(queues);
        let [a, b] = streams(&device);
        let (x, y) = (device.allocate(256).unwrap(), device.allocate(256).unwrap());
        fill(&b, &y, 8).unwrap();
        fill(&a, &x, 7).unwrap();
        let ran = || control.executed().len() + control.unfinished(QueueIndex(0));
        assert_eq!(ran(), 0, "nothing is submitted before somebody needs it");
        copy(&b, &x, &y).unwrap();
        until("both streams' earlier work is with the driver", || {
            (0..queues).map(|queue| control.unfinished(QueueIndex(queue))).sum::<usize>()
                + control.executed().len()
                == 2
        });
        assert_eq!(read(&b, &y).unwrap(), 7);
        clean(&control);
    }
}
