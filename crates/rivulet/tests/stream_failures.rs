//! What fails, fails on its own stream, with the op's name, and nobody hangs.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![cfg(not(loom))]

mod common;

use common::{add, add_kernel, copy, fill, read, sim, sim_with, within, write};
use rivulet::hazard::Tracking;
use rivulet::{Access, DeviceOp, Error, Event};
use rivulet_hal::sim::{FailingSubmission, SimConfig};
use rivulet_hal::{HalError, QueueIndex};
use std::time::{Duration, Instant};

fn refused() -> HalError {
    HalError::OutOfMemory { requested: 1, detail: "the test's own".to_owned() }
}

#[test]
fn a_failed_submission_poisons_its_stream_and_no_other() {
    let (device, control) = sim(1);
    let (a, b) = (device.new_stream(0).unwrap(), device.new_stream(0).unwrap());
    let (x, y) = (device.allocate(64).unwrap(), device.allocate(64).unwrap());
    write(&a, &x, 1).unwrap();
    fill(&b, &y, 2).unwrap();
    // Both the combined call and the call of its own.
    for _ in 0..2 {
        control.fail_submission(FailingSubmission::Label("copy".to_owned()), refused());
    }
    let (c, d) = (device.allocate(64).unwrap(), device.allocate(64).unwrap());
    write(&a, &c, 3).unwrap();
    let event = Event::new(false);
    let before = Event::new(false);
    before.record(&a).unwrap();
    copy(&a, &c, &d).unwrap();
    let _ = a.flush();
    for error in [a.synchronize(), a.query().map(|_| ()), event.record(&a), fill(&a, &x, 1).map(|_| ())] {
        let text = error.unwrap_err().to_string();
        assert!(text.contains("copy") && text.contains("the test's own"), "{text}");
    }
    assert!(before.query().unwrap(), "what came before the failure is not touched by it");
    // The failed op's output is refused to other streams too, by name.
    let error = read(&b, &d).unwrap_err();
    assert!(matches!(&error, Error::Poisoned { op, .. } if op == "copy"), "{error}");
    assert!(matches!(device.synchronize(), Err(Error::Poisoned { .. })));
    assert_eq!(read(&b, &y).unwrap(), 2);
    a.clear_error().unwrap();
    fill(&a, &d, 9).unwrap();
    assert_eq!(read(&b, &d).unwrap(), 9);
    device.synchronize().unwrap();
    assert_eq!(control.faults(), Vec::<String>::new());
}

#[test]
fn a_failed_combined_call_is_retried_stream_by_stream() {
    let (device, control) = sim_with(SimConfig { queues: 1, ..SimConfig::default() }, Tracking::On);
    let streams: Vec<_> = (0..4).map(|_| device.new_stream(0).unwrap()).collect();
    let blocks: Vec<_> = (0..4).map(|_| device.allocate(64).unwrap()).collect();
    for (value, (stream, block)) in (10..).zip(streams.iter().zip(&blocks)) {
        fill(stream, block, value).unwrap();
    }
    // Transient: the first call fails, the retry of the same submission does not.
    control.fail_submission(FailingSubmission::Nth(2), refused());
    device.synchronize().unwrap();
    for (value, (stream, block)) in (10..).zip(streams.iter().zip(&blocks)) {
        assert_eq!(read(stream, block).unwrap(), value);
    }
    assert_eq!(control.faults(), Vec::<String>::new());
}

#[test]
fn an_error_of_the_commands_names_the_op_and_poisons_only_after_half_an_op() {
    let (device, _) = sim(1);
    let stream = device.new_stream(0).unwrap();
    let block = device.allocate(64).unwrap();
    let target = common::buffer(&block);
    let operands = [(&*block, Access::Write)];
    let op = DeviceOp::new("broken", &operands);
    let nothing = stream.record(&op, |_| Err(HalError::Usage("no such layout".to_owned())));
    let text = nothing.unwrap_err().to_string();
    assert!(text.contains("broken") && text.contains("no such layout"), "{text}");
    fill(&stream, &block, 1).unwrap();
    assert_eq!(read(&stream, &block).unwrap(), 1);
    let half = stream.record(&op, |recorder| {
        recorder.fill(&target, 2)?;
        Err(HalError::Usage("second half".to_owned()))
    });
    assert!(half.is_err());
    assert!(matches!(stream.synchronize(), Err(Error::Poisoned { op, .. }) if op == "broken"));
    stream.clear_error().unwrap();
    fill(&stream, &block, 3).unwrap();
    assert_eq!(read(&stream, &block).unwrap(), 3);
}

#[test]
fn a_lost_device_ends_every_wait_within_two_seconds() {
    let (device, control) =
        sim_with(SimConfig { queues: 2, manual: true, ..SimConfig::default() }, Tracking::On);
    let streams: Vec<_> = (0..4).map(|_| device.new_stream(0).unwrap()).collect();
    let blocks: Vec<_> = (0..4).map(|_| device.allocate(64).unwrap()).collect();
    let waiters: Vec<_> = streams
        .iter()
        .zip(&blocks)
        .enumerate()
        .map(|(kind, (stream, block))| {
            fill(stream, block, 1).unwrap();
            let (stream, device, block) =
                (stream.clone(), device.clone(), rivulet_hal::sync::Arc::clone(block));
            std::thread::spawn(move || match kind {
                0 => stream.synchronize(),
                1 => device.synchronize(),
                2 => {
                    let event = Event::new(false);
                    event.record(&stream)?;
                    event.synchronize()
                }
                _ => stream.host_access("read", &[(&block, Access::Read)]).map(drop),
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(50));
    assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
    let start = Instant::now();
    control.lose_device("unplugged");
    for waiter in waiters {
        let error = within(Duration::from_secs(2), move || waiter.join().unwrap()).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, Error::DeviceLost { .. }), "{text}");
        assert!(
            text.contains("unplugged") && text.contains("fill") && text.contains("rivulet.reset()"),
            "{text}"
        );
    }
    assert!(start.elapsed() < Duration::from_secs(2));
    for later in [device.synchronize(), device.allocate(64).map(drop), streams[0].query().map(drop)] {
        assert!(matches!(later, Err(Error::DeviceLost { .. })));
    }
    blocks.into_iter().for_each(|block| device.free(block));
}

#[test]
fn a_failure_while_others_wait_for_the_stream_reaches_all_of_them() {
    let (device, control) =
        sim_with(SimConfig { queues: 1, manual: true, ..SimConfig::default() }, Tracking::On);
    let (a, b) = (device.new_stream(0).unwrap(), device.new_stream(0).unwrap());
    let (x, y) = (device.allocate(64).unwrap(), device.allocate(64).unwrap());
    let kernel = add_kernel(&device);
    fill(&a, &x, 1).unwrap();
    for _ in 0..2 {
        control.fail_submission(FailingSubmission::Label("fill".to_owned()), refused());
    }
    // The other stream's op needs the value, finds that it will never come, and says so; its stream is sound.
    let error = add(&b, &kernel, &x, &y).unwrap_err();
    assert!(
        matches!(&error, Error::Poisoned { stream, op, .. } if *stream == a.id() && op == "fill"),
        "{error}"
    );
    control.release(QueueIndex(0));
    fill(&b, &y, 5).unwrap();
    assert_eq!(read(&b, &y).unwrap(), 5);
}

#[test]
fn out_of_memory_waits_for_pending_frees_before_it_fails() {
    let config = SimConfig { queues: 1, manual: true, memory_bytes: 64 << 20, ..SimConfig::default() };
    let (device, control) = sim_with(config, Tracking::On);
    let stream = device.new_stream(0).unwrap();
    let large = device.allocate(40 << 20).unwrap();
    fill(&stream, &large, 1).unwrap();
    stream.flush().unwrap();
    device.free(large);
    let waiter = {
        let device = device.clone();
        // Another thread, so another stream, which cannot reuse the range in stream order.
        std::thread::spawn(move || device.allocate(48 << 20))
    };
    std::thread::sleep(Duration::from_millis(50));
    assert!(!waiter.is_finished());
    control.release(QueueIndex(0));
    let block = within(Duration::from_secs(5), move || waiter.join().unwrap()).unwrap();
    let error = device.allocate(48 << 20).unwrap_err();
    assert!(matches!(&error, Error::OutOfMemory { text } if text.contains("out of memory")), "{error}");
    device.free(block);
    assert_eq!(control.faults(), Vec::<String>::new());
}
