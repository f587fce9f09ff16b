//! The Vulkan driver through the public interface, under the validation layer where it is installed: on Mesa's
//! llvmpipe, or on the adapter whose name contains `RIVULET_TEST_ADAPTER`. Without it nothing runs here and the tests
//! say so; with `RIVULET_REQUIRE_VULKAN=1` they fail.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a test says by a panic what is wrong")]

#[path = "common/adapter.rs"]
mod adapter;
mod common;

use common::{Q0, at, commands, memory, part, read, submit, whole, write};
use rivulet_hal::sync::{Mutex, Rank};
use rivulet_hal::vulkan::{self, Options};
use rivulet_hal::{
    Backend, BufferRange, Device, HalError, Memory, MemoryUsage, Pipeline, PipelineDesc, PipelineSource,
    QueueIndex, Submission, TimelinePoint, host,
};
use std::sync::Arc;
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(30);

/// Reads bytes through memory that the CPU can see.
fn bytes(device: &Arc<dyn Device>, memory: &Arc<dyn Memory>, start: u64, end: u64) -> Vec<u8> {
    if memory.host_ptr().is_some() {
        return common::bytes(memory, start, end);
    }
    let back = device.allocate(end - start, MemoryUsage::Readback).unwrap();
    copy(device, &part(memory, start, end), &whole(&back));
    common::bytes(&back, 0, end - start)
}

/// Writes bytes through memory that the CPU can see.
fn set_bytes(device: &Arc<dyn Device>, memory: &Arc<dyn Memory>, start: u64, values: &[u8]) {
    if memory.host_ptr().is_some() {
        return common::set_bytes(memory, start, values);
    }
    let up = device.allocate(values.len() as u64, MemoryUsage::Upload).unwrap();
    common::set_bytes(&up, 0, values);
    copy(device, &whole(&up), &part(memory, start, start + values.len() as u64));
}

fn copy(device: &Arc<dyn Device>, from: &BufferRange, to: &BufferRange) {
    let done = device.timeline().unwrap();
    let held = QUEUE.lock();
    submit(device, Q0, "copy", &[], at(&done, 1), |recorder| recorder.copy(from, to).unwrap()).unwrap();
    drop(held);
    assert!(done.wait(1, LONG).unwrap());
}

rivulet_hal::sync::global! {
    /// Calls for one queue must not overlap; the runtime's combiner sees to that, here a lock does.
    static QUEUE: Mutex<()> = Mutex::new(Rank::COMBINER, ());
}

/// A device, validated where that is possible.
fn device() -> Option<Arc<dyn Device>> {
    adapter::open(&Options::default())
}

macro_rules! device_or_skip {
    () => {
        match device() {
            Some(device) => device,
            None => return,
        }
    };
}

/// Messages of the layer, but for those about itself.
fn complaints() -> Vec<String> {
    vulkan::validation_messages()
}

fn compile(
    device: &Arc<dyn Device>,
    label: &str,
    bindings: u32,
    param_bytes: u32,
    wgsl: &str,
) -> Arc<dyn Pipeline> {
    let module = naga::front::wgsl::parse_str(wgsl).unwrap();
    let info =
        naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::all())
            .validate(&module)
            .unwrap();
    let options = naga::back::spv::Options { lang_version: (1, 3), ..Default::default() };
    let words = naga::back::spv::write_vec(&module, &info, &options, None).unwrap();
    let desc = PipelineDesc {
        label: label.to_owned(),
        source: PipelineSource::SpirV(words),
        bindings,
        param_bytes,
        workgroup: [64, 1, 1],
    };
    device.pipeline(&desc).unwrap()
}

const ADD: &str = "
    @group(0) @binding(0) var<storage, read> source: array<u32>;
    @group(0) @binding(1) var<storage, read_write> target_: array<u32>;
    @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
        if id.x < arrayLength(&target_) { target_[id.x] += source[id.x]; }
    }";

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap())).collect()
}

#[test]
fn the_adapter_is_described() {
    let device = device_or_skip!();
    let info = device.info();
    assert_eq!(info.backend, Backend::Vulkan);
    assert!(
        info.name.contains(&adapter::wanted()) && !info.driver.is_empty() && !info.inline_completion,
        "{info:?}"
    );
    if info.name.contains("llvmpipe") {
        assert!(info.unified_memory && info.queues == 1 && info.driver.contains("Mesa"), "{info:?}");
    }
    assert!(info.memory_bytes > 64 << 20 && info.max_binding >= 128 << 20, "{info:?}");
}

#[test]
fn commands_run_in_order_and_the_cpu_sees_them() {
    let device = device_or_skip!();
    let (source, target) = (memory(&device, 1024), memory(&device, 1024));
    let add = compile(&device, "add", 2, 0, ADD);
    let timeline = device.timeline().unwrap();
    submit(&device, Q0, "work", &[], at(&timeline, 3), |recorder| {
        recorder.fill(&whole(&source), 7).unwrap();
        recorder.fill(&whole(&target), 0).unwrap();
        recorder.barrier().unwrap();
        recorder.copy(&part(&source, 0, 512), &part(&target, 512, 1024)).unwrap();
        recorder.barrier().unwrap();
        for _ in 0..3 {
            recorder.dispatch(&add, &[read(whole(&source)), write(whole(&target))], &[], [4, 1, 1]).unwrap();
            recorder.barrier().unwrap();
        }
        assert_eq!(recorder.len(), 6);
    })
    .unwrap();
    assert!(timeline.wait(3, LONG).unwrap());
    assert_eq!(timeline.completed().unwrap(), 3);
    let got = words(&bytes(&device, &target, 0, 1024));
    assert_eq!(got[..128], [21; 128]);
    assert_eq!(got[128..], [28; 128]);
    assert_eq!(complaints(), [""; 0]);
}

#[test]
fn parameters_and_part_of_a_memory_reach_the_kernel() {
    let device = device_or_skip!();
    let target = memory(&device, 4096);
    set_bytes(&device, &target, 0, &[0xff; 4096]);
    let affine = compile(
        &device,
        "affine",
        1,
        8,
        "struct Params { scale: u32, shift: u32 }
        var<immediate> params: Params;
        @group(0) @binding(0) var<storage, read_write> x: array<u32>;
        @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
            if id.x < arrayLength(&x) { x[id.x] = id.x * params.scale + params.shift; }
        }",
    );
    let timeline = device.timeline().unwrap();
    let params = [3_u32.to_ne_bytes(), 5_u32.to_ne_bytes()].concat();
    submit(&device, Q0, "affine", &[], at(&timeline, 1), |recorder| {
        recorder.dispatch(&affine, &[write(part(&target, 1024, 1424))], &params, [8, 1, 1]).unwrap();
    })
    .unwrap();
    assert!(timeline.wait(1, LONG).unwrap());
    let got = words(&bytes(&device, &target, 0, 4096));
    assert!(got[..256].iter().chain(&got[356..]).all(|&word| word == u32::MAX), "beyond the bound range");
    assert!(got[256..356].iter().enumerate().all(|(index, &word)| word == 3 * index as u32 + 5));
    assert_eq!(complaints(), [""; 0]);
}

#[test]
fn a_submission_waits_for_what_it_names_and_for_the_cpu() {
    let device = device_or_skip!();
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
    assert_eq!(words(&bytes(&device, &target, 0, 256)), [9; 64]);
    let error = gate.signal(5).unwrap_err();
    assert!(error.to_string().contains("signalled 5, but it is at 5"), "{error}");
}

#[test]
fn many_submissions_in_one_call_run_in_order_and_are_let_go() {
    let device = device_or_skip!();
    let target = memory(&device, 64);
    set_bytes(&device, &target, 0, &[0; 64]);
    let one = memory(&device, 64);
    set_bytes(&device, &one, 0, &1_u32.to_ne_bytes().repeat(16));
    let add = compile(&device, "add", 2, 0, ADD);
    let timeline = device.timeline().unwrap();
    let mut value = 0;
    for _ in 0..20 {
        let work: Vec<_> = (0..10)
            .map(|_| {
                let waits = vec![at(&timeline, value)];
                value += 1;
                let commands = vec![commands(&device, Q0, |recorder| {
                    let operands = [read(whole(&one)), write(whole(&target))];
                    recorder.dispatch(&add, &operands, &[], [1, 1, 1]).unwrap();
                })];
                Submission { commands, waits, signal: at(&timeline, value), label: "add".to_owned() }
            })
            .collect();
        device.submit(Q0, work).unwrap();
    }
    assert!(timeline.wait(value, LONG).unwrap());
    assert_eq!(words(&bytes(&device, &target, 0, 64)), [200; 16]);
    // The queue's list lets go of what has completed when the next work comes.
    drop(device.submit(Q0, vec![empty(at(&timeline, value + 1))]));
    assert!(timeline.wait(value + 1, LONG).unwrap());
    drop(device.submit(Q0, vec![empty(at(&timeline, value + 2))]));
    assert!(Arc::strong_count(&timeline) <= 3, "{}", Arc::strong_count(&timeline));
    assert!(timeline.wait(value + 2, LONG).unwrap());
    assert_eq!(complaints(), [""; 0]);
}

fn empty(signal: TimelinePoint) -> Submission {
    Submission { commands: vec![], waits: vec![], signal, label: "empty".to_owned() }
}

#[test]
fn eight_threads_record_and_submit_at_once() {
    let device = device_or_skip!();
    let add = compile(&device, "add", 2, 0, ADD);
    std::thread::scope(|scope| {
        for index in 0..8_u32 {
            let (device, add) = (&device, &add);
            scope.spawn(move || {
                let (one, target) = (memory(device, 256), memory(device, 256));
                set_bytes(device, &one, 0, &(index + 1).to_ne_bytes().repeat(64));
                set_bytes(device, &target, 0, &[0; 256]);
                let timeline = device.timeline().unwrap();
                for round in 1..=50 {
                    let commands = vec![commands(device, Q0, |recorder| {
                        let operands = [read(whole(&one)), write(whole(&target))];
                        recorder.dispatch(add, &operands, &[], [1, 1, 1]).unwrap();
                    })];
                    let waits = vec![at(&timeline, round - 1)];
                    let work = vec![Submission {
                        commands,
                        waits,
                        signal: at(&timeline, round),
                        label: "add".to_owned(),
                    }];
                    let held = QUEUE.lock();
                    device.submit(Q0, work).unwrap();
                    drop(held);
                    if round % 10 == 0 {
                        assert!(timeline.wait(round, LONG).unwrap());
                    }
                }
                assert_eq!(words(&bytes(device, &target, 0, 256)), [50 * (index + 1); 64]);
            });
        }
    });
    assert_eq!(complaints(), [""; 0]);
}

#[test]
fn timestamps_rise_and_are_there_after_completion() {
    let device = device_or_skip!();
    let target = memory(&device, 1 << 20);
    let timeline = device.timeline().unwrap();
    let gate = device.timeline().unwrap();
    let mut slots = Vec::new();
    let buffer = commands(&device, Q0, |recorder| {
        slots.push(recorder.timestamp().unwrap());
        recorder.fill(&whole(&target), 1).unwrap();
        slots.push(recorder.timestamp().unwrap());
    });
    let work = Submission {
        commands: vec![Arc::clone(&buffer)],
        waits: vec![at(&gate, 1)],
        signal: at(&timeline, 1),
        label: "timed".to_owned(),
    };
    assert_eq!(buffer.timestamp(slots[0]), None);
    device.submit(Q0, vec![work]).unwrap();
    gate.signal(1).unwrap();
    assert!(timeline.wait(1, LONG).unwrap());
    let times: Vec<_> = slots.iter().map(|&slot| buffer.timestamp(slot).unwrap()).collect();
    assert!(times[0] > 0 && times[1] > times[0], "{times:?}");
    assert_eq!(complaints(), [""; 0]);
}

#[test]
fn every_kind_of_memory_has_an_address_of_its_own() {
    let device = device_or_skip!();
    let mut seen = Vec::new();
    for usage in [MemoryUsage::Device, MemoryUsage::Upload, MemoryUsage::Readback] {
        for size in [1, 63, 4096, 1 << 20] {
            let memory = device.allocate(size, usage).unwrap();
            assert_eq!(memory.size(), size);
            assert_eq!(memory.address() % 64, 0);
            let mapped = usage != MemoryUsage::Device || device.info().unified_memory;
            assert_eq!(memory.host_ptr().map(|start| start.addr().get()), mapped.then(|| memory.address()));
            assert_eq!(memory.mirror().map(|start| start.addr().get()), (!mapped).then(|| memory.address()));
            set_bytes(&device, &memory, 0, &vec![3; size as usize]);
            assert!(bytes(&device, &memory, 0, size).iter().all(|&byte| byte == 3));
            seen.push(memory);
        }
    }
    let mut ranges: Vec<_> = seen.iter().map(|memory| (memory.address(), memory.size() as usize)).collect();
    ranges.sort_unstable();
    assert!(ranges.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0));
}

#[test]
fn misuse_is_an_error_that_names_the_thing() {
    let device = device_or_skip!();
    let target = memory(&device, 64);
    let foreign = memory(&host::open(), 64);
    let add = compile(&device, "add", 2, 0, ADD);
    let mut recorder = device.recorder(Q0).unwrap();
    let two = [read(whole(&target)), write(whole(&target))];
    let cases: Vec<(HalError, &str)> = vec![
        (device.allocate(0, MemoryUsage::Device).unwrap_err(), "0 bytes"),
        (device.allocate(1 << 60, MemoryUsage::Device).unwrap_err(), "1152921504606846976 bytes requested"),
        (device.recorder(QueueIndex(99)).unwrap_err(), "queue 99: the device has queues 0.."),
        (recorder.fill(&part(&target, 2, 6), 0).unwrap_err(), "fill: bytes 2..6"),
        (recorder.fill(&part(&target, 0, 128), 0).unwrap_err(), "128"),
        (recorder.copy(&part(&target, 0, 8), &part(&target, 4, 12)).unwrap_err(), "share bytes"),
        (recorder.copy(&whole(&foreign), &whole(&target)).unwrap_err(), "another device"),
        (recorder.dispatch(&add, &two[..1], &[], [1, 1, 1]).unwrap_err(), "add: 1 operands; it takes 2"),
        (recorder.dispatch(&add, &two, &[0; 4], [1, 1, 1]).unwrap_err(), "4 bytes of parameters"),
        (recorder.dispatch(&add, &two, &[], [u32::MAX, 1, 1]).unwrap_err(), "workgroups"),
    ];
    for (error, words) in cases {
        assert!(error.to_string().contains(words), "{error} ({words})");
    }
    let host_kernel = PipelineDesc {
        label: "double".to_owned(),
        source: PipelineSource::Host(|_, _, _| ()),
        bindings: 0,
        param_bytes: 0,
        workgroup: [1; 3],
    };
    let error = device.pipeline(&host_kernel).unwrap_err();
    assert!(matches!(&error, HalError::Compile { label, .. } if label == "double"), "{error}");
    // The recorder still works.
    recorder.fill(&whole(&target), 4).unwrap();
    let timeline = device.timeline().unwrap();
    let commands = vec![recorder.finish().unwrap()];
    let work = |label: &str, commands| Submission {
        commands,
        waits: vec![],
        signal: at(&timeline, 1),
        label: label.to_owned(),
    };
    device.submit(Q0, vec![work("fill", commands.clone())]).unwrap();
    let failure = device.submit(Q0, vec![work("again", commands)]).unwrap_err();
    assert!(failure.accepted == 0 && failure.to_string().contains("twice"), "{failure}");
    assert!(timeline.wait(1, LONG).unwrap());
    assert_eq!(words(&bytes(&device, &target, 0, 64)), [4; 16]);
}

#[test]
fn an_unknown_adapter_and_impossible_queues_are_refused_by_name() {
    let Some(index) = adapter::find() else { return };
    let error = vulkan::open(99, Options::default()).unwrap_err().to_string();
    assert!(error.contains("no adapter 99") && error.contains(&adapter::wanted()), "{error}");
    let error =
        vulkan::open(index, Options { queues: Some(700), ..Options::default() }).unwrap_err().to_string();
    assert!(error.contains("700 queues") && error.contains("1 to "), "{error}");
}

#[test]
fn a_device_outlives_nothing_that_was_made_from_it() {
    let Some(index) = adapter::find() else { return };
    for _ in 0..3 {
        let device = vulkan::open(index, Options::default()).unwrap();
        let target = memory(&device, 4096);
        let timeline = device.timeline().unwrap();
        submit(&device, Q0, "fill", &[], at(&timeline, 1), |recorder| {
            recorder.fill(&whole(&target), 1).unwrap();
        })
        .unwrap();
        let unified = device.info().unified_memory;
        drop(device);
        assert_eq!(timeline.completed().unwrap(), 1, "closing a device ends its work");
        assert!(!unified || words(&common::bytes(&target, 0, 4096)) == [1; 1024]);
    }
}
