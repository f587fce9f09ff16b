//! The Metal driver on the model of Metal's rules: the calls that it makes, judged. Nothing here has run on a Mac.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a test says by a panic what is wrong")]

mod common;

use common::{
    Q0, Q1, add_assign, at, bytes, commands, memory, part, pipeline, read, set_bytes, submit, whole, write,
};
use rivulet_hal::metal::Options;
use rivulet_hal::metal::model::{self, FailingCommands, ModelConfig, ModelControl};
use rivulet_hal::sync::{Mutex, Rank};
use rivulet_hal::{
    Backend, ByteRange, Device, HalError, Memory, MemoryUsage, PipelineDesc, PipelineSource, QueueIndex,
    Submission, Timeline, TimelinePoint, host,
};
use std::sync::Arc;
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(20);

fn open(config: &ModelConfig) -> (Arc<dyn Device>, ModelControl) {
    model::open(config).unwrap()
}

fn device() -> (Arc<dyn Device>, ModelControl) {
    open(&ModelConfig::default())
}

fn two_queues() -> (Arc<dyn Device>, ModelControl) {
    let options = Options { queues: Some(2), encoders: None };
    open(&ModelConfig { options, ..ModelConfig::default() })
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap())).collect()
}

fn no_faults(control: &ModelControl) {
    assert!(control.wait_idle(LONG));
    assert_eq!(control.faults(), [""; 0]);
}

#[test]
fn the_adapter_is_described_and_options_are_checked() {
    let (device, _control) = device();
    let info = device.info();
    assert_eq!(info.backend, Backend::Metal);
    assert!(info.unified_memory && !info.inline_completion && !info.float64 && info.queues == 1);
    for (queues, encoders, words) in
        [(Some(0), None, "0 queues"), (Some(5), None, "5 queues"), (None, Some(0), "0 encoding threads")]
    {
        let options = Options { queues, encoders };
        let error = model::open(&ModelConfig { options, ..ModelConfig::default() }).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn commands_run_in_order_and_the_cpu_sees_them() {
    let (device, control) = device();
    let (source, target) = (memory(&device, 256), memory(&device, 256));
    let add = pipeline(&device, "add", 2, add_assign);
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
    assert!(timeline.wait(3, LONG).unwrap());
    assert_eq!(timeline.completed().unwrap(), 3);
    assert_eq!(bytes(&target, 0, 4), [1, 2, 3, 4]);
    assert_eq!(bytes(&target, 252, 256), [2, 4, 6, 8]);
    no_faults(&control);
}

#[test]
fn a_missing_barrier_is_a_fault() {
    let (device, control) = device();
    let (source, target) = (memory(&device, 64), memory(&device, 64));
    let timeline = device.timeline().unwrap();
    submit(&device, Q0, "hasty", &[], at(&timeline, 1), |recorder| {
        recorder.fill(&whole(&source), 1).unwrap();
        recorder.copy(&whole(&source), &whole(&target)).unwrap();
    })
    .unwrap();
    assert!(timeline.wait(1, LONG).unwrap());
    let faults = control.take_faults();
    assert!(faults.len() == 1 && faults[0].contains("race: `copy` reads"), "{faults:?}");
}

#[test]
fn submissions_of_one_timeline_need_no_barrier_between_them() {
    let (device, control) = device();
    let target = memory(&device, 64);
    let timeline = device.timeline().unwrap();
    for value in 1..=20 {
        submit(&device, Q0, "fill", &[], at(&timeline, value), |recorder| {
            recorder.fill(&whole(&target), value as u32).unwrap();
        })
        .unwrap();
    }
    assert!(timeline.wait(20, LONG).unwrap());
    assert_eq!(words(&bytes(&target, 0, 64)), [20; 16]);
    no_faults(&control);
}

#[test]
fn timelines_of_one_queue_are_ordered_by_waits_alone() {
    let (device, control) = device();
    let target = memory(&device, 64);
    let (first, second) = (device.timeline().unwrap(), device.timeline().unwrap());
    let fill = |timeline: &Arc<dyn Timeline>, value, waits: &[TimelinePoint]| {
        submit(&device, Q0, "fill", waits, at(timeline, value), |recorder| {
            recorder.fill(&whole(&target), value as u32).unwrap();
        })
        .unwrap();
    };
    fill(&first, 1, &[]);
    fill(&second, 1, &[at(&first, 1)]);
    fill(&first, 2, &[at(&second, 1)]);
    assert!(first.wait(2, LONG).unwrap());
    no_faults(&control);
    fill(&second, 2, &[]);
    assert!(second.wait(2, LONG).unwrap());
    assert!(control.wait_idle(LONG));
    let faults = control.take_faults();
    // The CPU had seen the first timeline's signal before it handed the last one over.
    assert_eq!(faults, [""; 0]);
    fill(&first, 3, &[]);
    fill(&second, 3, &[]);
    assert!(first.wait(3, LONG).unwrap() && second.wait(3, LONG).unwrap());
    assert!(control.take_faults().iter().any(|fault| fault.contains("race: `fill` writes")));
}

#[test]
fn queues_are_ordered_by_waits_and_a_timeline_may_change_its_queue() {
    let (device, control) = two_queues();
    let target = memory(&device, 64);
    let timeline = device.timeline().unwrap();
    for value in 1..=20 {
        let queue = QueueIndex((value % 3 % 2) as usize);
        submit(&device, queue, "fill", &[], at(&timeline, value), |recorder| {
            recorder.fill(&whole(&target), value as u32).unwrap();
        })
        .unwrap();
    }
    assert!(timeline.wait(20, LONG).unwrap());
    assert_eq!(words(&bytes(&target, 0, 64)), [20; 16]);
    no_faults(&control);
}

#[test]
fn a_submission_waits_for_what_it_names_and_for_the_cpu() {
    let (device, control) = device();
    let target = memory(&device, 256);
    let (gate, timeline) = (device.timeline().unwrap(), device.timeline().unwrap());
    submit(&device, Q0, "late", &[at(&gate, 5)], at(&timeline, 1), |recorder| {
        recorder.fill(&whole(&target), 9).unwrap();
    })
    .unwrap();
    let start = Instant::now();
    assert!(!timeline.wait(1, Duration::from_millis(30)).unwrap());
    assert!(start.elapsed() >= Duration::from_millis(30));
    assert_eq!(timeline.completed().unwrap(), 0);
    gate.signal(5).unwrap();
    assert!(timeline.wait(1, LONG).unwrap());
    assert_eq!(words(&bytes(&target, 0, 256)), [9; 64]);
    let error = gate.signal(5).unwrap_err();
    assert!(error.to_string().contains("signalled 5, but it is at 5"), "{error}");
    no_faults(&control);
}

#[test]
fn the_cpu_may_not_touch_bytes_in_use() {
    let (device, control) = device();
    let target = memory(&device, 64);
    let timeline = device.timeline().unwrap();
    control.hold();
    submit(&device, Q0, "late", &[], at(&timeline, 1), |recorder| {
        recorder.fill(&whole(&target), 9).unwrap();
    })
    .unwrap();
    // Accepted, since the command has not run; found when it does.
    let range = ByteRange { start: 0, end: 64 };
    target.begin_host_access(range, false).unwrap();
    target.end_host_access(range, false).unwrap();
    control.release();
    assert!(control.wait_idle(LONG));
    let faults = control.take_faults();
    assert!(faults.len() == 1 && faults[0].contains("which `the CPU` reads"), "{faults:?}");
    // And the other way round: run, and the CPU has not waited.
    assert!(matches!(target.begin_host_access(range, false), Err(HalError::Race(_))));
}

#[test]
fn copies_and_fills_begin_and_end_anywhere() {
    let (device, control) = device();
    let (source, target) = (memory(&device, 100), memory(&device, 100));
    set_bytes(&source, 0, &(0..100).collect::<Vec<u8>>());
    set_bytes(&target, 0, &[0; 100]);
    let timeline = device.timeline().unwrap();
    submit(&device, Q0, "odd", &[], at(&timeline, 1), |recorder| {
        recorder.copy(&part(&source, 3, 40), &part(&target, 21, 58)).unwrap();
        recorder.copy(&part(&source, 0, 0), &part(&target, 5, 5)).unwrap();
        // Side by side with the copies, in the same sixteen bytes.
        recorder.fill(&part(&target, 60, 100), 0x0101_0101).unwrap();
        recorder.copy(&part(&source, 99, 100), &part(&target, 58, 59)).unwrap();
        assert_eq!(recorder.len(), 3);
    })
    .unwrap();
    assert!(timeline.wait(1, LONG).unwrap());
    let got = bytes(&target, 0, 100);
    assert!(got[..21].iter().all(|&byte| byte == 0) && got[59] == 0, "{got:?}");
    assert_eq!(got[21..58], (3..40).collect::<Vec<u8>>());
    assert_eq!(got[58], 99);
    assert!(got[60..].iter().all(|&byte| byte == 1), "{got:?}");
    no_faults(&control);
}

#[test]
fn parameters_of_a_kernel_do_not_stay_where_the_next_one_has_an_operand() {
    let (device, control) = device();
    let (source, target) = (memory(&device, 64), memory(&device, 64));
    let timeline = device.timeline().unwrap();
    submit(&device, Q0, "mixed", &[], at(&timeline, 1), |recorder| {
        recorder.fill(&whole(&source), 1).unwrap();
        // A fill has its parameters where a copy has its source.
        for _ in 0..3 {
            recorder.barrier().unwrap();
            recorder.copy(&whole(&source), &whole(&target)).unwrap();
            recorder.barrier().unwrap();
            recorder.fill(&part(&target, 0, 32), 2).unwrap();
        }
    })
    .unwrap();
    assert!(timeline.wait(1, LONG).unwrap());
    assert_eq!(words(&bytes(&target, 0, 64)), [[2; 8], [1; 8]].concat());
    no_faults(&control);
}

/// Writes the parameters into the operand, cut to what fits.
fn write_params(operands: &mut [&mut [u8]], params: &[u8], _groups: [u32; 3]) {
    let [target] = operands else { panic!("one operand") };
    let bytes = target.len().min(params.len());
    target[..bytes].copy_from_slice(&params[..bytes]);
}

#[test]
fn parameters_and_part_of_a_memory_reach_the_kernel() {
    let (device, control) = device();
    let target = memory(&device, 4096);
    set_bytes(&target, 0, &[0xff; 4096]);
    let desc = PipelineDesc {
        label: "params".to_owned(),
        source: PipelineSource::Host(write_params),
        bindings: 1,
        param_bytes: 8,
        workgroup: [64, 1, 1],
    };
    let kernel = device.pipeline(&desc).unwrap();
    let timeline = device.timeline().unwrap();
    submit(&device, Q0, "params", &[], at(&timeline, 1), |recorder| {
        for (index, start) in [1024, 1040, 2048].into_iter().enumerate() {
            let params = [7 + index as u8; 8];
            recorder
                .dispatch(&kernel, &[write(part(&target, start, start + 4))], &params, [1, 1, 1])
                .unwrap();
        }
    })
    .unwrap();
    assert!(timeline.wait(1, LONG).unwrap());
    let got = bytes(&target, 0, 4096);
    for (start, value) in [(1024, 7), (1040, 8), (2048, 9)] {
        assert_eq!(got[start..start + 8], [value, value, value, value, 255, 255, 255, 255]);
    }
    no_faults(&control);
}

#[test]
fn timestamps_rise_in_one_submission_of_several_command_buffers() {
    let (device, control) = device();
    let target = memory(&device, 64);
    let (gate, timeline) = (device.timeline().unwrap(), device.timeline().unwrap());
    let mut slots = Vec::new();
    let buffer = commands(&device, Q0, |recorder| {
        slots.push(recorder.timestamp().unwrap());
        recorder.fill(&whole(&target), 1).unwrap();
        slots.push(recorder.timestamp().unwrap());
        recorder.fill(&whole(&target), 2).unwrap();
        slots.push(recorder.timestamp().unwrap());
        recorder.fill(&whole(&target), 3).unwrap();
    });
    assert_eq!(buffer.timestamp(slots[0]), None);
    let work = Submission {
        commands: vec![Arc::clone(&buffer)],
        waits: vec![at(&gate, 1)],
        signal: at(&timeline, 1),
        label: "timed".to_owned(),
    };
    device.submit(Q0, vec![work]).unwrap();
    assert_eq!(buffer.timestamp(slots[2]), None);
    gate.signal(1).unwrap();
    assert!(timeline.wait(1, LONG).unwrap());
    assert!(control.wait_idle(LONG));
    let times: Vec<_> = slots.iter().map(|&slot| buffer.timestamp(slot).unwrap()).collect();
    assert!(times[0] > 0 && times.windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");
    assert_eq!(control.committed(), ["timed"; 4]);
    assert_eq!(words(&bytes(&target, 0, 64)), [3; 16]);
    no_faults(&control);
}

#[test]
fn a_submission_without_work_comes_after_the_one_before() {
    let (device, control) = device();
    let target = memory(&device, 64);
    let (gate, timeline) = (device.timeline().unwrap(), device.timeline().unwrap());
    submit(&device, Q0, "work", &[at(&gate, 1)], at(&timeline, 1), |recorder| {
        recorder.fill(&whole(&target), 1).unwrap();
    })
    .unwrap();
    let empty = |value| Submission {
        commands: vec![],
        waits: vec![],
        signal: at(&timeline, value),
        label: "empty".to_owned(),
    };
    device.submit(Q0, vec![empty(2), empty(3)]).unwrap();
    assert!(!timeline.wait(2, Duration::from_millis(20)).unwrap());
    gate.signal(1).unwrap();
    assert!(timeline.wait(3, LONG).unwrap());
    // Covered by the empty submission's value.
    assert_eq!(words(&bytes(&target, 0, 64)), [1; 16]);
    no_faults(&control);
}

#[test]
fn memory_and_kernels_let_go_at_the_signal_outlive_their_command_buffer() {
    // Handlers come late: what is dropped as soon as the value is reached is still named by a command buffer.
    let (device, control) = open(&ModelConfig { delay: Duration::from_millis(2), ..ModelConfig::default() });
    let timeline = device.timeline().unwrap();
    let idle = control.held_bytes();
    for value in 1..=50 {
        let target = memory(&device, 4096);
        let add = pipeline(&device, "add", 2, add_assign);
        let source = memory(&device, 4096);
        submit(&device, Q0, "add", &[], at(&timeline, value), |recorder| {
            recorder.fill(&whole(&source), 1).unwrap();
            recorder.fill(&whole(&target), 1).unwrap();
            recorder.barrier().unwrap();
            recorder.dispatch(&add, &[read(whole(&source)), write(whole(&target))], &[], [1, 1, 1]).unwrap();
        })
        .unwrap();
        assert!(timeline.wait(value, LONG).unwrap());
    }
    no_faults(&control);
    drop(device.allocate(64, MemoryUsage::Device).unwrap());
    assert_eq!(control.held_bytes(), idle);
}

#[test]
fn what_was_put_aside_is_waited_for_when_there_is_no_memory() {
    let (device, control) = open(&ModelConfig {
        delay: Duration::from_millis(20),
        memory_bytes: 1 << 20,
        ..ModelConfig::default()
    });
    let timeline = device.timeline().unwrap();
    for value in 1..=8 {
        let target = device.allocate(900 << 10, MemoryUsage::Device).unwrap();
        submit(&device, Q0, "fill", &[], at(&timeline, value), |recorder| {
            recorder.fill(&whole(&target), 1).unwrap();
        })
        .unwrap();
        assert!(timeline.wait(value, LONG).unwrap());
    }
    let error = device.allocate(2 << 20, MemoryUsage::Device).unwrap_err();
    assert!(matches!(error, HalError::OutOfMemory { requested, .. } if requested == 2 << 20), "{error}");
    no_faults(&control);
}

#[test]
fn a_queue_never_holds_more_command_buffers_than_metal_allows() {
    let (device, control) = open(&ModelConfig { delay: Duration::ZERO, ..ModelConfig::default() });
    let target = memory(&device, 64);
    let timeline = device.timeline().unwrap();
    control.hold();
    std::thread::scope(|scope| {
        let submitter = scope.spawn(|| {
            for value in 1..=1200 {
                submit(&device, Q0, "fill", &[], at(&timeline, value), |recorder| {
                    recorder.fill(&whole(&target), value as u32).unwrap();
                })
                .unwrap();
            }
        });
        std::thread::sleep(Duration::from_millis(300));
        assert!(!submitter.is_finished(), "1200 command buffers are more than a queue may hold");
        control.release();
    });
    assert!(timeline.wait(1200, LONG).unwrap());
    assert!((400..=512).contains(&control.most_in_flight()), "{}", control.most_in_flight());
    no_faults(&control);
}

fn failing(label: &str, code: usize) -> FailingCommands {
    FailingCommands { label: label.to_owned(), code, text: "the driver's words".to_owned() }
}

#[test]
fn a_failure_for_want_of_memory_concerns_its_timeline_and_those_that_waited() {
    let (device, control) = two_queues();
    let target = memory(&device, 64);
    let timelines: Vec<_> = (0..3).map(|_| device.timeline().unwrap()).collect();
    let fill = |queue, label: &str, waits: &[TimelinePoint], signal| {
        let other = memory(&device, 64);
        submit(&device, queue, label, waits, signal, |recorder| {
            recorder.fill(&whole(&other), 7).unwrap();
        })
        .unwrap();
    };
    fill(Q0, "good", &[], at(&timelines[0], 1));
    control.fail(failing("large", 8));
    fill(Q0, "large", &[], at(&timelines[0], 2));
    fill(Q0, "after", &[], at(&timelines[0], 3));
    fill(Q1, "waiter", &[at(&timelines[0], 2)], at(&timelines[1], 1));
    fill(Q1, "innocent", &[at(&timelines[0], 1)], at(&timelines[2], 1));
    assert!(timelines[2].wait(1, LONG).unwrap());
    for (timeline, value) in [(&timelines[0], 3), (&timelines[1], 1), (&timelines[0], 2)] {
        let error = timeline.wait(value, LONG).unwrap_err();
        assert!(matches!(error, HalError::OutOfMemory { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("`large`")
                && text.contains("OutOfMemory (8)")
                && text.contains("the driver's words")
        );
    }
    // The device goes on.
    submit(&device, Q1, "fill", &[], at(&timelines[2], 2), |recorder| {
        recorder.fill(&whole(&target), 5).unwrap();
    })
    .unwrap();
    assert!(timelines[2].wait(2, LONG).unwrap());
    assert_eq!(words(&bytes(&target, 0, 64)), [5; 16]);
    no_faults(&control);
}

#[test]
fn work_that_waited_for_failed_work_goes_on_and_never_counts_as_done() {
    // Handlers come long after signals here, and tell that what was signalled is not to be used.
    let options = Options { queues: Some(2), encoders: None };
    let (device, control) =
        open(&ModelConfig { options, delay: Duration::from_millis(30), ..ModelConfig::default() });
    let target = memory(&device, 64);
    for _ in 0..8 {
        let (first, second) = (device.timeline().unwrap(), device.timeline().unwrap());
        control.fail(failing("large", 8));
        submit(&device, Q0, "large", &[], at(&first, 1), |_| ()).unwrap();
        // Nothing else will ever signal the first timeline.
        submit(&device, Q1, "waiter", &[at(&first, 1)], at(&second, 1), |recorder| {
            recorder.fill(&whole(&target), 7).unwrap();
        })
        .unwrap();
        let start = Instant::now();
        let outcome = loop {
            match second.completed() {
                Ok(0) if start.elapsed() < LONG => std::thread::sleep(Duration::from_micros(50)),
                other => break other,
            }
        };
        assert!(matches!(outcome, Err(HalError::OutOfMemory { .. })), "{outcome:?}");
        assert!(matches!(first.wait(1, LONG), Err(HalError::OutOfMemory { .. })));
    }
    no_faults(&control);
}

#[test]
fn a_page_fault_loses_the_device_for_every_wait_within_two_seconds() {
    let (device, control) = two_queues();
    let target = memory(&device, 64);
    let (gate, one, other) =
        (device.timeline().unwrap(), device.timeline().unwrap(), device.timeline().unwrap());
    submit(&device, Q1, "blocked", &[at(&gate, 1)], at(&other, 1), |recorder| {
        recorder.fill(&whole(&target), 1).unwrap();
    })
    .unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| (other.wait(1, LONG), Instant::now()));
        std::thread::sleep(Duration::from_millis(20));
        control.fail(failing("wild", 3));
        let start = Instant::now();
        submit(&device, Q0, "wild", &[], at(&one, 1), |_| ()).unwrap();
        let error = one.wait(1, LONG).unwrap_err();
        assert!(matches!(&error, HalError::DeviceLost { reason } if reason.contains("`wild`")), "{error}");
        let (outcome, when) = waiter.join().unwrap();
        assert!(matches!(outcome, Err(HalError::DeviceLost { .. })), "{outcome:?}");
        assert!(when - start < Duration::from_secs(2));
    });
    assert!(matches!(device.allocate(64, MemoryUsage::Device), Err(HalError::DeviceLost { .. })));
    assert!(matches!(device.recorder(Q0), Err(HalError::DeviceLost { .. })));
    let work = Submission { commands: vec![], waits: vec![], signal: at(&one, 9), label: "late".to_owned() };
    let failure = device.submit(Q0, vec![work]).unwrap_err();
    assert!(failure.accepted == 0 && matches!(failure.error, HalError::DeviceLost { .. }), "{failure}");
}

#[test]
fn misuse_is_an_error_that_names_the_thing() {
    let (device, control) = device();
    let target = memory(&device, 64);
    let foreign = memory(&host::open(), 64);
    let (elsewhere, _) = self::device();
    let other_model = memory(&elsewhere, 64);
    let add = pipeline(&device, "add", 2, add_assign);
    let mut recorder = device.recorder(Q0).unwrap();
    let two = [read(whole(&target)), write(whole(&target))];
    let wide = memory(&device, 4096);
    let cases: Vec<(HalError, &str)> = vec![
        (device.allocate(0, MemoryUsage::Device).unwrap_err(), "0 bytes"),
        (device.allocate(1 << 60, MemoryUsage::Device).unwrap_err(), "1152921504606846976 bytes requested"),
        (device.recorder(QueueIndex(99)).unwrap_err(), "queue 99: the device has queues 0..1"),
        (recorder.fill(&part(&target, 2, 6), 0).unwrap_err(), "fill: bytes 2..6"),
        (recorder.fill(&part(&target, 0, 128), 0).unwrap_err(), "128"),
        (recorder.copy(&part(&target, 0, 8), &part(&target, 4, 12)).unwrap_err(), "share bytes"),
        (recorder.copy(&whole(&foreign), &whole(&target)).unwrap_err(), "another device"),
        (recorder.copy(&whole(&other_model), &whole(&target)).unwrap_err(), "another device"),
        (recorder.dispatch(&add, &two[..1], &[], [1, 1, 1]).unwrap_err(), "add: 1 operands; it takes 2"),
        (recorder.dispatch(&add, &two, &[0; 4], [1, 1, 1]).unwrap_err(), "4 bytes of parameters"),
        (
            recorder
                .dispatch(&add, &[read(part(&wide, 8, 32)), write(whole(&target))], &[], [1, 1, 1])
                .unwrap_err(),
            "operand 0 begins at byte 8; multiples of 16",
        ),
    ];
    for (error, words) in cases {
        assert!(error.to_string().contains(words), "{error} ({words})");
    }
    let desc = |bindings, param_bytes, workgroup, source| PipelineDesc {
        label: "large".to_owned(),
        source,
        bindings,
        param_bytes,
        workgroup,
    };
    let nothing = || PipelineSource::Host(|_, _, _| ());
    let msl =
        |threadgroup| PipelineSource::Msl { text: String::new(), entry: "main_".to_owned(), threadgroup };
    for (desc, words) in [
        (desc(30, 0, [1; 3], nothing()), "30 bindings; up to 29"),
        (desc(1, 4100, [1; 3], nothing()), "4100 bytes of parameters; multiples of 4 up to 4096"),
        (desc(1, 4, [64, 32, 1], nothing()), "1 to 1024"),
        (desc(1, 4, [64, 1, 1], msl(vec![20_000, 13_000])), "33008 bytes of threadgroup memory; up to 32768"),
        (desc(1, 4, [64, 1, 1], msl(vec![])), "runs Rust functions"),
    ] {
        let error = device.pipeline(&desc).unwrap_err();
        assert!(matches!(&error, HalError::Compile { label, .. } if label == "large"), "{error}");
        assert!(error.to_string().contains(words), "{error} ({words})");
    }
    // The recorder still works, and its commands run once.
    recorder.fill(&whole(&target), 4).unwrap();
    let (timeline, foreign) = (device.timeline().unwrap(), elsewhere.timeline().unwrap());
    let commands = vec![recorder.finish().unwrap()];
    let work =
        |signal| Submission { commands: commands.clone(), waits: vec![], signal, label: "fill".to_owned() };
    for (signal, words) in [(at(&foreign, 1), "another driver"), (at(&timeline, 0), "must rise")] {
        let failure = device.submit(Q0, vec![work(signal)]).unwrap_err();
        assert!(failure.accepted == 0 && failure.to_string().contains(words), "{failure}");
    }
    device.submit(Q0, vec![work(at(&timeline, 1))]).unwrap();
    let failure = device.submit(Q0, vec![work(at(&timeline, 2))]).unwrap_err();
    assert!(failure.accepted == 0 && failure.to_string().contains("twice"), "{failure}");
    assert!(timeline.wait(1, LONG).unwrap());
    assert_eq!(words(&bytes(&target, 0, 64)), [4; 16]);
    no_faults(&control);
}

/// Threads that record, submit, read back, make and drop memory, for themselves and through one shared weight.
fn threads_work(device: &Arc<dyn Device>, threads: u32, rounds: u64, queue_of: impl Fn(u32) -> usize + Sync) {
    let locks: Vec<_> = (0..2).map(|_| Mutex::new(Rank::COMBINER, ())).collect();
    let weight = memory(device, 256);
    set_bytes(&weight, 0, &[1; 256]);
    let add = pipeline(device, "add", 2, add_assign);
    std::thread::scope(|scope| {
        for index in 0..threads {
            let (add, weight, locks, queue_of) = (&add, &weight, &locks, &queue_of);
            scope.spawn(move || {
                let queue = queue_of(index);
                let timeline = device.timeline().unwrap();
                let target = memory(device, 256);
                set_bytes(&target, 0, &[0; 256]);
                for round in 1..=rounds {
                    let scratch: Arc<dyn Memory> = memory(device, 256);
                    let buffer = commands(device, QueueIndex(queue), |recorder| {
                        recorder.copy(&whole(weight), &whole(&scratch)).unwrap();
                        recorder.barrier().unwrap();
                        let operands = [read(whole(&scratch)), write(whole(&target))];
                        recorder.dispatch(add, &operands, &[], [1, 1, 1]).unwrap();
                    });
                    let label = format!("thread {index}");
                    let work = Submission {
                        commands: vec![buffer],
                        waits: vec![],
                        signal: at(&timeline, round),
                        label,
                    };
                    let held = locks[queue].lock();
                    device.submit(QueueIndex(queue), vec![work]).unwrap();
                    drop(held);
                    // The scratch memory may go only when its submission has completed.
                    assert!(timeline.wait(round, LONG).unwrap());
                }
                assert!(bytes(&target, 0, 256).iter().all(|&byte| u64::from(byte) == rounds));
            });
        }
    });
}

#[test]
fn eight_threads_share_one_queue() {
    let (device, control) = open(&ModelConfig { delay: Duration::from_micros(20), ..ModelConfig::default() });
    threads_work(&device, 8, 40, |_| 0);
    no_faults(&control);
}

#[test]
fn thirty_one_threads_share_two_queues_and_one_place_to_encode() {
    let options = Options { queues: Some(2), encoders: Some(1) };
    let (device, control) =
        open(&ModelConfig { options, delay: Duration::from_micros(20), ..ModelConfig::default() });
    threads_work(&device, 31, 20, |index| (index % 2) as usize);
    assert_eq!(control.most_encoding(), 1);
    no_faults(&control);
}

#[test]
fn a_device_outlives_nothing_that_was_made_from_it() {
    for _ in 0..5 {
        let (device, control) = device();
        let target = memory(&device, 4096);
        let timeline = device.timeline().unwrap();
        submit(&device, Q0, "fill", &[], at(&timeline, 1), |recorder| {
            recorder.fill(&whole(&target), 1).unwrap();
        })
        .unwrap();
        drop(device);
        assert_eq!(timeline.completed().unwrap(), 1, "closing a device ends its work");
        assert_eq!(words(&bytes(&target, 0, 4096)), [1; 1024]);
        no_faults(&control);
    }
}

#[test]
fn commands_that_are_never_submitted_call_nothing() {
    let (device, control) = device();
    let target = memory(&device, 64);
    // A thousand streams with an open recorder each would exhaust the queue, were they command buffers of Metal's.
    let open: Vec<_> = (0..1000)
        .map(|_| {
            let mut recorder = device.recorder(Q0).unwrap();
            recorder.fill(&whole(&target), 1).unwrap();
            recorder
        })
        .collect();
    drop(open);
    drop(target);
    assert_eq!(control.committed(), [""; 0]);
    assert_eq!(control.most_in_flight(), 0);
    no_faults(&control);
}
