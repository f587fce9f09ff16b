//! The host driver through the public interface.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a test says by a panic what is wrong")]

mod common;

use common::{Q0, Q1, add_assign, at, bytes, memory, part, pipeline, read, set_bytes, submit, whole, write};
use rivulet_hal::{
    Backend, ByteRange, HalError, MemoryUsage, PipelineDesc, PipelineSource, QueueIndex, Submission,
    adapters, host,
};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[test]
fn the_adapter_describes_the_machine() {
    let info = host::info();
    assert_eq!(info.backend, Backend::Host);
    assert!(info.inline_completion && info.unified_memory && info.float64 && info.queues >= 1);
    assert!(info.memory_bytes > 64 << 20 && info.max_allocation <= info.memory_bytes);
    assert!(adapters().iter().any(|adapter| adapter.name == info.name));
    assert_eq!(host::open().info().name, info.name);
}

#[test]
fn commands_run_inside_submit_in_order() {
    let device = host::open();
    let (source, target) = (memory(&device, 256), memory(&device, 256));
    let add = pipeline(&device, "add_assign", 2, add_assign);
    let timeline = device.timeline().unwrap();
    submit(&device, Q0, "work", &[], at(&timeline, 3), |recorder| {
        recorder.fill(&whole(&source), 0x0403_0201).unwrap();
        recorder.barrier().unwrap();
        recorder.copy(&part(&source, 0, 128), &part(&target, 128, 256)).unwrap();
        recorder.barrier().unwrap();
        recorder.dispatch(&add, &[read(whole(&source)), write(whole(&target))], &[], [1, 1, 1]).unwrap();
        assert_eq!(recorder.len(), 3);
    })
    .unwrap();
    assert_eq!(timeline.completed().unwrap(), 3);
    assert_eq!(bytes(&target, 0, 4), [1, 2, 3, 4]);
    assert_eq!(bytes(&target, 252, 256), [2, 4, 6, 8]);
}

#[test]
fn memory_is_zeroed_aligned_and_its_address_is_the_pointer() {
    let device = host::open();
    for size in [1, 64, 255, 4097] {
        let memory = device.allocate(size, MemoryUsage::Upload).unwrap();
        assert_eq!(memory.size(), size);
        assert_eq!(memory.address() % 256, 0);
        assert_eq!(memory.host_ptr().unwrap().addr().get(), memory.address());
        assert!(bytes(&memory, 0, size).iter().all(|&byte| byte == 0));
    }
}

#[test]
fn impossible_requests_fail_with_the_sizes() {
    let device = host::open();
    let total = device.info().memory_bytes;
    for bytes in [100 << 40, u64::MAX, 1 << 63] {
        let error = device.allocate(bytes, MemoryUsage::Device).unwrap_err();
        assert!(matches!(error, HalError::OutOfMemory { requested, .. } if requested == bytes), "{error}");
        assert!(error.to_string().contains(&bytes.to_string()), "{error}");
    }
    // Twice the memory would still be mapped by some kernels, and kill the process when touched.
    let error = device.allocate(total * 3, MemoryUsage::Device).unwrap_err();
    assert!(error.to_string().contains("the machine has"), "{error}");
    assert!(matches!(device.allocate(0, MemoryUsage::Device), Err(HalError::Usage(_))));
    assert!(device.allocate(1 << 20, MemoryUsage::Device).is_ok());
}

#[test]
fn a_submission_waits_for_its_timelines() {
    let device = host::open();
    let (gate, done) = (device.timeline().unwrap(), device.timeline().unwrap());
    let memory = memory(&device, 64);
    std::thread::scope(|scope| {
        let submitter = scope.spawn(|| {
            submit(&device, Q0, "late", &[at(&gate, 2)], at(&done, 1), |recorder| {
                recorder.fill(&whole(&memory), 9).unwrap();
            })
        });
        gate.signal(1).unwrap();
        assert!(!done.wait(1, Duration::from_millis(30)).unwrap());
        gate.signal(2).unwrap();
        submitter.join().unwrap().unwrap();
    });
    assert_eq!(done.completed().unwrap(), 1);
    assert_eq!(bytes(&memory, 0, 1), [9]);
}

#[test]
fn timelines_only_rise_and_time_out() {
    let timeline = host::open().timeline().unwrap();
    assert_eq!(timeline.completed().unwrap(), 0);
    timeline.signal(5).unwrap();
    for stale in [5, 4, 0] {
        let error = timeline.signal(stale).unwrap_err().to_string();
        assert!(error.contains(&stale.to_string()) && error.contains("at 5"), "{error}");
    }
    assert!(timeline.wait(5, Duration::ZERO).unwrap());
    let start = Instant::now();
    assert!(!timeline.wait(6, Duration::from_millis(20)).unwrap());
    assert!(start.elapsed() >= Duration::from_millis(20));
}

#[test]
fn many_waiters_are_all_woken() {
    let timeline = host::open().timeline().unwrap();
    std::thread::scope(|scope| {
        let waiters: Vec<_> = (1..=16)
            .map(|value| {
                scope.spawn({
                    let timeline = &timeline;
                    move || timeline.wait(value, Duration::MAX)
                })
            })
            .collect();
        (1..=16).for_each(|value| timeline.signal(value).unwrap());
        assert!(waiters.into_iter().all(|waiter| waiter.join().unwrap().unwrap()));
    });
}

#[test]
fn the_same_bytes_may_be_read_twice_and_updated_in_place() {
    let device = host::open();
    let memory = memory(&device, 64);
    let timeline = device.timeline().unwrap();
    set_bytes(&memory, 0, &[3; 64]);
    let add = pipeline(&device, "add_assign", 2, add_assign);
    submit(&device, Q0, "double", &[], at(&timeline, 1), |recorder| {
        recorder.dispatch(&add, &[read(whole(&memory)), write(whole(&memory))], &[], [1, 1, 1]).unwrap();
        recorder.barrier().unwrap();
        // Shifted by one: the source is what was there before the kernel ran.
        recorder
            .dispatch(&add, &[read(part(&memory, 0, 63)), write(part(&memory, 1, 64))], &[], [1, 1, 1])
            .unwrap();
        let both = [write(part(&memory, 0, 8)), write(part(&memory, 7, 16))];
        let error = recorder.dispatch(&add, &both, &[], [1, 1, 1]).unwrap_err().to_string();
        assert!(error.contains("add_assign") && error.contains("both written"), "{error}");
    })
    .unwrap();
    assert_eq!(bytes(&memory, 0, 64), [&[6][..], &[12; 63]].concat());
}

#[test]
fn misuse_is_named() {
    let device = host::open();
    let memory = memory(&device, 64);
    let add = pipeline(&device, "add_assign", 2, add_assign);
    let mut recorder = device.recorder(Q0).unwrap();
    let past_end = part(&memory, 32, 65);
    let errors = [
        (recorder.fill(&past_end, 0), "32..65 of a memory of 64"),
        (recorder.fill(&part(&memory, 2, 8), 0), "2..8; both ends must be multiples of 4"),
        (recorder.copy(&part(&memory, 0, 8), &part(&memory, 8, 12)), "source has 8 bytes, destination 4"),
        (recorder.copy(&part(&memory, 0, 8), &part(&memory, 4, 12)), "share bytes"),
        (recorder.dispatch(&add, &[read(whole(&memory))], &[], [1; 3]), "1 bindings given, it has 2"),
        (
            recorder.dispatch(&add, &[read(whole(&memory)), write(whole(&memory))], &[1], [1; 3]),
            "1 parameter bytes given, it takes 0",
        ),
        (memory.begin_host_access(ByteRange { start: 8, end: 65 }, true), "8..65"),
        (memory.end_host_access(ByteRange { start: 9, end: 8 }, true), "9..8"),
    ];
    for (outcome, words) in errors {
        let text = outcome.unwrap_err().to_string();
        assert!(text.contains(words), "{text}");
    }
    assert!(recorder.is_empty());

    let queues = device.info().queues;
    let error = device.recorder(QueueIndex(queues)).unwrap_err().to_string();
    assert!(error.contains(&format!("queue {queues}")), "{error}");
    let spirv = PipelineDesc {
        label: "matmul".into(),
        source: PipelineSource::SpirV(vec![]),
        bindings: 0,
        param_bytes: 0,
        workgroup: [1; 3],
    };
    let error = device.pipeline(&spirv).unwrap_err().to_string();
    assert!(error.contains("matmul") && error.contains("SPIR-V"), "{error}");
}

#[test]
fn a_failing_submission_tells_how_many_ran() {
    fn broken(_: &mut [&mut [u8]], _: &[u8], _: [u32; 3]) {
        panic!("index 7 is out of bounds");
    }
    let device = host::open();
    let timeline = device.timeline().unwrap();
    let broken = pipeline(&device, "gather", 0, broken);
    let good = common::commands(&device, Q0, |_| {});
    let bad = common::commands(&device, Q0, |recorder| recorder.dispatch(&broken, &[], &[], [1; 3]).unwrap());
    let work = [Arc::clone(&good), bad, common::commands(&device, Q0, |_| {})];
    let work = work.into_iter().zip(1..).map(|(commands, value)| Submission {
        commands: vec![commands],
        waits: vec![],
        signal: at(&timeline, value),
        label: "work".to_owned(),
    });
    let failure = device.submit(Q0, work.collect()).unwrap_err();
    assert_eq!(failure.accepted, 1);
    let text = failure.to_string();
    assert!(text.contains("gather") && text.contains("index 7"), "{text}");
    assert_eq!(timeline.completed().unwrap(), 1);

    let again =
        Submission { commands: vec![good], waits: vec![], signal: at(&timeline, 9), label: "again".into() };
    let failure = device.submit(Q0, vec![again]).unwrap_err();
    assert!(failure.to_string().contains("twice"), "{failure}");
}

#[test]
fn timestamps_rise_and_exist_only_after_completion() {
    let device = host::open();
    let timeline = device.timeline().unwrap();
    let mut recorder = device.recorder(Q0).unwrap();
    let slots = [recorder.timestamp().unwrap(), recorder.timestamp().unwrap()];
    let buffer = recorder.finish().unwrap();
    assert_eq!(buffer.timestamp(slots[0]), None);
    let commands = vec![Arc::clone(&buffer)];
    let work = Submission { commands, waits: vec![], signal: at(&timeline, 1), label: "timed".into() };
    device.submit(Q0, vec![work]).unwrap();
    let times = slots.map(|slot| buffer.timestamp(slot).unwrap());
    assert!(times[0] <= times[1]);
}

#[test]
fn queues_run_on_their_callers_at_the_same_time() {
    let device = host::open();
    if device.info().queues < 2 {
        return;
    }
    // Each submission waits for the other queue's earlier signal: possible only where neither blocks the other.
    let lines = [device.timeline().unwrap(), device.timeline().unwrap()];
    std::thread::scope(|scope| {
        for (mine, other, queue) in [(0, 1, Q0), (1, 0, Q1)] {
            let (device, lines) = (&device, &lines);
            scope.spawn(move || {
                for round in 1..200 {
                    let waits = [at(&lines[other], round - 1)];
                    submit(device, queue, "ping", &waits, at(&lines[mine], round), |_| {}).unwrap();
                }
            });
        }
    });
    assert_eq!(lines.map(|line| line.completed().unwrap()), [199, 199]);
}

#[test]
fn adopted_memory_is_released_once_after_its_last_use() {
    let device = host::open();
    let mut bytes = vec![5_u8; 16];
    let released = Arc::new(());
    let token = Arc::clone(&released);
    let start = NonNull::new(bytes.as_mut_ptr()).unwrap();
    // SAFETY: the vector outlives the memory below and is not touched before its release.
    let memory = unsafe { host::adopt(start, 16, Box::new(move || drop(token))) };
    let timeline = device.timeline().unwrap();
    let buffer =
        common::commands(&device, Q0, |recorder| recorder.fill(&whole(&memory), 0x0606_0606).unwrap());
    drop(memory);
    assert_eq!(Arc::strong_count(&released), 2);
    let work =
        Submission { commands: vec![buffer], waits: vec![], signal: at(&timeline, 1), label: "fill".into() };
    device.submit(Q0, vec![work]).unwrap();
    assert_eq!(Arc::strong_count(&released), 1);
    assert_eq!(bytes, [6; 16]);
}
