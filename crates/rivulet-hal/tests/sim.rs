//! The sim driver through the public interface: lateness, control, failures. Races are in `sim_races.rs`.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a test says by a panic what is wrong")]

mod common;

use common::{
    Q0, Q1, add_assign, at, bytes, commands, memory, part, pipeline, read, set_bytes, submit, whole, write,
};
use rivulet_hal::sim::{Delay, FailingSubmission, SimConfig, SimControl, open};
use rivulet_hal::{Backend, ByteRange, Device, HalError, MemoryUsage, QueueIndex, Submission, TimelinePoint};
use std::sync::Arc;
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(20);

fn manual(queues: usize) -> (Arc<dyn Device>, SimControl) {
    open(SimConfig { queues, manual: true, delay: Delay::None, ..SimConfig::default() })
}

fn empty(
    device: &Arc<dyn Device>,
    queue: QueueIndex,
    label: &str,
    waits: &[TimelinePoint],
    signal: TimelinePoint,
) {
    submit(device, queue, label, waits, signal, |_| {}).unwrap();
}

fn labels(control: &SimControl) -> Vec<String> {
    control.executed().iter().map(|executed| executed.label.to_string()).collect()
}

#[test]
fn work_runs_late_and_right() {
    let (device, control) =
        open(SimConfig { delay: Delay::Fixed(Duration::from_millis(30)), ..Default::default() });
    assert_eq!(device.info().backend, Backend::Sim);
    assert!(!device.info().inline_completion);
    let (source, target) = (memory(&device, 64), memory(&device, 64));
    let timeline = device.timeline().unwrap();
    set_bytes(&target, 0, &[1; 64]);
    let add = pipeline(&device, "add_assign", 2, add_assign);
    let start = Instant::now();
    submit(&device, Q0, "work", &[], at(&timeline, 1), |recorder| {
        recorder.fill(&whole(&source), 0x0505_0505).unwrap();
        recorder.barrier().unwrap();
        recorder
            .dispatch(&add, &[read(part(&source, 0, 32)), write(part(&target, 32, 64))], &[], [1; 3])
            .unwrap();
    })
    .unwrap();
    assert_eq!(timeline.completed().unwrap(), 0);
    assert!(timeline.wait(1, LONG).unwrap());
    assert!(start.elapsed() >= Duration::from_millis(30));
    assert_eq!(bytes(&target, 0, 64), [[1; 32], [6; 32]].concat());
    assert_eq!(control.faults(), [""; 0]);
}

#[test]
fn held_queues_run_nothing_and_step_runs_one() {
    let (device, control) = manual(2);
    let timeline = device.timeline().unwrap();
    for value in 1..=3 {
        empty(&device, Q0, &format!("first {value}"), &[], at(&timeline, value));
    }
    assert!(!timeline.wait(1, Duration::from_millis(30)).unwrap());
    assert_eq!(control.unfinished(Q0), 3);
    assert!(control.step(Q0));
    assert_eq!(timeline.completed().unwrap(), 1);
    assert!(!timeline.wait(2, Duration::from_millis(30)).unwrap());
    control.release(Q0);
    assert!(timeline.wait(3, LONG).unwrap());
    assert_eq!(labels(&control), ["first 1", "first 2", "first 3"]);
    assert!(control.wait_idle(LONG));
    control.hold(Q0);
    empty(&device, Q0, "held again", &[], at(&timeline, 4));
    assert!(!timeline.wait(4, Duration::from_millis(30)).unwrap());
}

#[test]
fn queues_overtake_each_other_unless_they_wait() {
    let (device, control) = manual(2);
    let lines = [device.timeline().unwrap(), device.timeline().unwrap()];
    empty(&device, Q0, "a", &[], at(&lines[0], 1));
    empty(&device, Q1, "b", &[], at(&lines[1], 1));
    empty(&device, Q1, "c", &[at(&lines[0], 1)], at(&lines[1], 2));
    control.release(Q1);
    assert!(lines[1].wait(1, LONG).unwrap());
    assert!(!lines[1].wait(2, Duration::from_millis(30)).unwrap());
    control.release(Q0);
    assert!(lines[1].wait(2, LONG).unwrap());
    assert_eq!(labels(&control), ["b", "a", "c"]);
}

#[test]
fn random_delays_mix_queues_and_keep_each_in_order() {
    let delay = Delay::Random { min: Duration::ZERO, max: Duration::from_micros(400) };
    let (device, control) = open(SimConfig { queues: 3, seed: 11, delay, ..SimConfig::default() });
    let lines: Vec<_> = (0..3).map(|_| device.timeline().unwrap()).collect();
    for value in 1..=40 {
        for (queue, line) in lines.iter().enumerate() {
            empty(&device, QueueIndex(queue), "work", &[], at(line, value));
        }
    }
    for line in &lines {
        assert!(line.wait(40, LONG).unwrap());
    }
    let executed = control.executed();
    for queue in 0..3 {
        let own = executed.iter().filter(|entry| entry.queue == QueueIndex(queue));
        assert!(own.map(|entry| entry.signal).eq(1..=40));
    }
    let turns = executed.windows(2).filter(|pair| pair[0].queue != pair[1].queue).count();
    let in_step = executed.iter().enumerate().all(|(index, entry)| entry.queue.0 == index % 3);
    assert!(turns > 10 && !in_step, "{turns} changes of queue");
}

#[test]
fn the_cpu_signals_what_a_queue_waits_for() {
    let (device, control) = open(SimConfig { delay: Delay::None, ..SimConfig::default() });
    let (gate, line) = (device.timeline().unwrap(), device.timeline().unwrap());
    let memory = memory(&device, 64);
    submit(&device, Q0, "promised", &[at(&gate, 1)], at(&line, 1), |recorder| {
        recorder.copy(&part(&memory, 0, 32), &part(&memory, 32, 64)).unwrap();
    })
    .unwrap();
    set_bytes(&memory, 0, &[7; 32]);
    assert!(!line.wait(1, Duration::from_millis(20)).unwrap());
    gate.signal(1).unwrap();
    assert!(gate.signal(1).unwrap_err().to_string().contains("is at 1"));
    assert!(line.wait(1, LONG).unwrap());
    assert_eq!(bytes(&memory, 32, 64), [7; 32]);
    assert_eq!(control.faults(), [""; 0]);
}

#[test]
fn a_lost_device_fails_every_wait_and_call_at_once() {
    let (device, control) = manual(2);
    let timeline = device.timeline().unwrap();
    let memory = memory(&device, 64);
    empty(&device, Q1, "softmax", &[], at(&timeline, 1));
    let start = Instant::now();
    std::thread::scope(|scope| {
        let waiters: Vec<_> = (0..8).map(|_| scope.spawn(|| timeline.wait(1, Duration::MAX))).collect();
        std::thread::sleep(Duration::from_millis(20));
        control.lose_device("watchdog");
        for waiter in waiters {
            let text = waiter.join().unwrap().unwrap_err().to_string();
            assert!(text.contains("watchdog") && text.contains("`softmax` on queue 1"), "{text}");
        }
    });
    assert!(start.elapsed() < Duration::from_secs(2));
    assert_eq!(control.unfinished(Q1), 0);
    control.lose_device("later");
    let lost = |outcome: Result<(), HalError>| {
        let error = outcome.unwrap_err();
        assert!(matches!(&error, HalError::DeviceLost { reason } if reason.contains("watchdog")), "{error}");
    };
    lost(timeline.completed().map(drop));
    lost(timeline.signal(9));
    lost(device.allocate(64, MemoryUsage::Device).map(drop));
    lost(device.timeline().map(drop));
    lost(device.recorder(Q0).map(drop));
    lost(memory.begin_host_access(ByteRange { start: 0, end: 4 }, false));
    let work = Submission { commands: vec![], waits: vec![], signal: at(&timeline, 2), label: "late".into() };
    lost(device.submit(Q0, vec![work]).map_err(|failure| failure.error));
    drop(memory);
    assert_eq!(control.faults(), [""; 0]);
}

#[test]
fn dropping_the_device_ends_threads_and_waits() {
    let (device, control) = manual(2);
    let timeline = device.timeline().unwrap();
    empty(&device, Q0, "never", &[], at(&timeline, 1));
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| timeline.wait(1, Duration::MAX));
        std::thread::sleep(Duration::from_millis(10));
        drop(device);
        assert!(matches!(waiter.join().unwrap(), Err(HalError::DeviceLost { .. })));
    });
    assert_eq!(control.unfinished(Q0), 0);
}

#[test]
fn a_panicking_kernel_loses_the_device_by_name() {
    fn broken(_: &mut [&mut [u8]], _: &[u8], _: [u32; 3]) {
        panic!("index 7 is out of bounds");
    }
    let (device, control) = open(SimConfig::default());
    let timeline = device.timeline().unwrap();
    let broken = pipeline(&device, "gather", 0, broken);
    let record =
        |recorder: &mut dyn rivulet_hal::Recorder| recorder.dispatch(&broken, &[], &[], [1; 3]).unwrap();
    submit(&device, Q0, "lookup", &[], at(&timeline, 1), record).unwrap();
    let text = timeline.wait(1, LONG).unwrap_err().to_string();
    assert!(text.contains("gather") && text.contains("index 7") && text.contains("`lookup`"), "{text}");
    assert!(control.wait_idle(LONG));
}

#[test]
fn allocations_fail_on_demand_and_at_the_limit() {
    let (device, control) = open(SimConfig { memory_bytes: 4096, ..SimConfig::default() });
    control.fail_next_allocations(2);
    for _ in 0..2 {
        let error = device.allocate(64, MemoryUsage::Device).unwrap_err();
        assert!(matches!(error, HalError::OutOfMemory { requested: 64, .. }), "{error}");
    }
    let first = memory(&device, 4000);
    let text = device.allocate(128, MemoryUsage::Device).unwrap_err().to_string();
    assert!(text.contains("128 bytes") && text.contains("4096") && text.contains("4000"), "{text}");
    drop(first);
    assert_eq!(memory(&device, 4096).size(), 4096);
}

#[test]
fn submissions_fail_on_demand_and_the_rest_stays() {
    let (device, control) = open(SimConfig { delay: Delay::None, ..SimConfig::default() });
    let timeline = device.timeline().unwrap();
    let out_of_memory = HalError::OutOfMemory { requested: 1, detail: "descriptor pool".into() };
    control.fail_submission(FailingSubmission::Label("second".into()), out_of_memory.clone());
    let batch = |labels: &[&str], first: u64| {
        let work = labels.iter().zip(first..).map(|(label, value)| Submission {
            commands: vec![],
            waits: vec![],
            signal: at(&timeline, value),
            label: (*label).to_owned(),
        });
        work.collect::<Vec<_>>()
    };
    let failure = device.submit(Q0, batch(&["first", "second", "third"], 1)).unwrap_err();
    assert_eq!((failure.accepted, failure.error), (1, out_of_memory.clone()));
    assert!(timeline.wait(1, LONG).unwrap());
    assert_eq!(timeline.completed().unwrap(), 1);
    // The failure is used up: the same work goes through at the second attempt.
    device.submit(Q0, batch(&["second", "third"], 2)).unwrap();
    control.fail_submission(FailingSubmission::Nth(2), out_of_memory);
    let failure = device.submit(Q0, batch(&["fourth", "fifth"], 4)).unwrap_err();
    assert_eq!(failure.accepted, 1);
    assert!(timeline.wait(4, LONG).unwrap());
    assert_eq!(labels(&control), ["first", "second", "third", "fourth"]);
}

#[test]
fn a_wait_for_what_nobody_submits_is_reported_as_deadlock() {
    let deadlock_after = Duration::from_millis(100);
    let (device, control) = open(SimConfig { delay: Delay::None, deadlock_after, ..SimConfig::default() });
    let (gate, line) = (device.timeline().unwrap(), device.timeline().unwrap());
    empty(&device, Q1, "stuck", &[at(&gate, 5)], at(&line, 1));
    // Behind the stuck one, but submitted: that is a wait, not a deadlock of its own.
    empty(&device, Q0, "behind", &[at(&line, 1)], at(&gate, 3));
    assert!(!line.wait(1, Duration::from_millis(400)).unwrap());
    let faults = control.take_faults();
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].contains("queue deadlock") && faults[0].contains("`stuck` on queue 1"), "{faults:?}");
    assert!(faults[0].contains("value 5") && faults[0].contains("highest submitted: 3"), "{faults:?}");
    gate.signal(5).unwrap();
    assert!(line.wait(1, LONG).unwrap());
    assert_eq!(control.faults(), [""; 0]);
}

#[test]
fn discrete_memory_is_reached_through_staging() {
    let (device, control) = open(SimConfig { unified_memory: false, ..SimConfig::default() });
    assert!(!device.info().unified_memory);
    let local = memory(&device, 64);
    assert!(local.host_ptr().is_none());
    let text = local.begin_host_access(ByteRange { start: 0, end: 4 }, true).unwrap_err().to_string();
    assert!(text.contains("not visible"), "{text}");
    let upload = device.allocate(64, MemoryUsage::Upload).unwrap();
    let readback = device.allocate(64, MemoryUsage::Readback).unwrap();
    set_bytes(&upload, 0, &[42; 64]);
    let line = device.timeline().unwrap();
    submit(&device, Q0, "round trip", &[], at(&line, 1), |recorder| {
        recorder.copy(&whole(&upload), &whole(&local)).unwrap();
        recorder.barrier().unwrap();
        recorder.copy(&whole(&local), &whole(&readback)).unwrap();
    })
    .unwrap();
    assert!(line.wait(1, LONG).unwrap());
    assert_eq!(bytes(&readback, 0, 64), [42; 64]);
    assert_eq!(control.faults(), [""; 0]);
}

#[test]
fn misuse_is_named() {
    let (device, _control) = open(SimConfig { queues: 2, ..SimConfig::default() });
    let (other, _other_control) = open(SimConfig::default());
    let line = device.timeline().unwrap();
    let foreign = memory(&other, 64);
    let mut recorder = device.recorder(Q0).unwrap();
    let text = recorder.fill(&whole(&foreign), 0).unwrap_err().to_string();
    assert!(text.contains("another device"), "{text}");
    let text = recorder.fill(&part(&memory(&device, 64), 60, 68), 0).unwrap_err().to_string();
    assert!(text.contains("60..68 of a memory of 64"), "{text}");
    assert!(device.recorder(QueueIndex(2)).unwrap_err().to_string().contains("queue 2"));

    let submit = |queue, buffer, signal| {
        let work = Submission { commands: vec![buffer], waits: vec![], signal, label: "work".into() };
        device.submit(queue, vec![work]).map_err(|failure| failure.to_string())
    };
    let buffer = commands(&device, Q0, |_| {});
    let text = submit(Q1, Arc::clone(&buffer), at(&line, 1)).unwrap_err();
    assert!(text.contains("recorded for queue 0, submitted to queue 1"), "{text}");
    submit(Q0, Arc::clone(&buffer), at(&line, 1)).unwrap();
    assert!(submit(Q0, buffer, at(&line, 2)).unwrap_err().contains("twice"));
    let text = submit(Q0, commands(&device, Q0, |_| {}), at(&line, 1)).unwrap_err();
    assert!(text.contains("signals 1, but 1 was asked for"), "{text}");
    let text = submit(Q0, commands(&device, Q0, |_| {}), at(&other.timeline().unwrap(), 1)).unwrap_err();
    assert!(text.contains("timeline of another device"), "{text}");
    let text =
        memory(&device, 8).end_host_access(ByteRange { start: 0, end: 8 }, true).unwrap_err().to_string();
    assert!(text.contains("no write of bytes 0..8 was begun"), "{text}");
}

#[test]
fn timestamps_come_with_completion() {
    let (device, control) = manual(1);
    let line = device.timeline().unwrap();
    let mut recorder = device.recorder(Q0).unwrap();
    let slots = [recorder.timestamp().unwrap(), recorder.timestamp().unwrap()];
    let buffer = recorder.finish().unwrap();
    let work = Submission {
        commands: vec![Arc::clone(&buffer)],
        waits: vec![],
        signal: at(&line, 1),
        label: "timed".into(),
    };
    device.submit(Q0, vec![work]).unwrap();
    assert_eq!(slots.map(|slot| buffer.timestamp(slot)), [None, None]);
    assert!(control.step(Q0));
    let times = slots.map(|slot| buffer.timestamp(slot).unwrap());
    assert!(times[0] <= times[1]);
}
