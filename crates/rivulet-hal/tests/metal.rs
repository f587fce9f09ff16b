//! The Metal driver on an Apple GPU. Not yet run: written where no Mac was at hand, and compiled to nothing elsewhere.
//! `RIVULET_REQUIRE_METAL=1` makes a missing GPU a failure; `MTL_DEBUG_LAYER=1` lets Metal check the calls.
#![cfg(all(target_os = "macos", not(loom)))]
#![allow(clippy::unwrap_used, reason = "a test says by a panic what is wrong")]

mod common;

use common::{Q0, at, bytes, commands, memory, part, read, set_bytes, submit, whole, write};
use rivulet_hal::metal::{self, Options};
use rivulet_hal::sync::{Mutex, Rank};
use rivulet_hal::{Backend, Device, Pipeline, PipelineDesc, PipelineSource, Submission};
use std::sync::Arc;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(20);

#[allow(clippy::disallowed_methods, reason = "a switch of the tests alone")]
fn device() -> Option<Arc<dyn Device>> {
    if metal::adapters().is_empty() {
        let required = std::env::var("RIVULET_REQUIRE_METAL").is_ok_and(|value| value == "1");
        assert!(!required, "no GPU with Metal 3");
        eprintln!("skipped: no GPU with Metal 3");
        return None;
    }
    Some(metal::open(0, &Options::default()).unwrap())
}

/// `target[i] += source[i]`, with as many groups as it is given, through threadgroup memory.
const ADD: &str = "
    #include <metal_stdlib>
    struct Shared { uint inner[64]; };
    struct Sizes { uint source; uint target; };
    kernel void add(uint at [[thread_position_in_grid]], uint local [[thread_index_in_threadgroup]],
                    device const uint* source [[buffer(0)]], device uint* target [[buffer(1)]],
                    constant Sizes& sizes [[buffer(3)]], threadgroup Shared& shared) {
        if (at * 4 < sizes.source) { shared.inner[63 - local] = source[at]; }
        metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
        if (at * 4 < sizes.target) { target[at] += shared.inner[63 - local]; }
    }";

fn add(device: &Arc<dyn Device>) -> Arc<dyn Pipeline> {
    let source =
        PipelineSource::Msl { text: ADD.to_owned(), entry: "add".to_owned(), threadgroup: vec![256] };
    let (label, workgroup) = ("add".to_owned(), [64, 1, 1]);
    device.pipeline(&PipelineDesc { label, source, bindings: 2, param_bytes: 0, workgroup }).unwrap()
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap())).collect()
}

#[test]
fn the_adapter_is_described() {
    let Some(device) = device() else { return };
    let info = device.info();
    assert!(info.backend == Backend::Metal && info.unified_memory && !info.float64, "{info:?}");
    assert!(info.name.contains("Apple") && info.memory_bytes > 1 << 30, "{info:?}");
}

#[test]
fn commands_run_in_order_and_the_cpu_sees_them() {
    let Some(device) = device() else { return };
    let (source, target) = (memory(&device, 1024), memory(&device, 1024));
    let add = add(&device);
    let timeline = device.timeline().unwrap();
    submit(&device, Q0, "work", &[], at(&timeline, 3), |recorder| {
        recorder.fill(&whole(&source), 7).unwrap();
        recorder.fill(&whole(&target), 0).unwrap();
        recorder.barrier().unwrap();
        recorder.copy(&part(&source, 0, 511), &part(&target, 513, 1024)).unwrap();
        recorder.barrier().unwrap();
        recorder.fill(&part(&target, 512, 1024), 7).unwrap();
        recorder.barrier().unwrap();
        for _ in 0..3 {
            recorder.dispatch(&add, &[read(whole(&source)), write(whole(&target))], &[], [4, 1, 1]).unwrap();
            recorder.barrier().unwrap();
        }
    })
    .unwrap();
    assert!(timeline.wait(3, LONG).unwrap());
    let got = words(&bytes(&target, 0, 1024));
    assert_eq!((&got[..128], &got[128..]), (&[21; 128][..], &[28; 128][..]));
}

#[test]
fn submissions_of_a_timeline_follow_one_another() {
    let Some(device) = device() else { return };
    let (one, target) = (memory(&device, 1024), memory(&device, 1024));
    set_bytes(&one, 0, &1_u32.to_ne_bytes().repeat(256));
    set_bytes(&target, 0, &[0; 1024]);
    let add = add(&device);
    let timeline = device.timeline().unwrap();
    for value in 1..=2000 {
        submit(&device, Q0, "add", &[], at(&timeline, value), |recorder| {
            recorder.dispatch(&add, &[read(whole(&one)), write(whole(&target))], &[], [4, 1, 1]).unwrap();
        })
        .unwrap();
    }
    assert!(timeline.wait(2000, LONG).unwrap());
    assert_eq!(words(&bytes(&target, 0, 1024)), [2000; 256]);
}

#[test]
fn a_submission_waits_for_the_cpu_and_timestamps_rise() {
    let Some(device) = device() else { return };
    let target = memory(&device, 1 << 20);
    let (gate, timeline) = (device.timeline().unwrap(), device.timeline().unwrap());
    let mut slots = Vec::new();
    let buffer = commands(&device, Q0, |recorder| {
        slots.push(recorder.timestamp().unwrap());
        recorder.fill(&whole(&target), 1).unwrap();
        slots.push(recorder.timestamp().unwrap());
    });
    let (commands, waits) = (vec![Arc::clone(&buffer)], vec![at(&gate, 1)]);
    let work = Submission { commands, waits, signal: at(&timeline, 1), label: "timed".to_owned() };
    device.submit(Q0, vec![work]).unwrap();
    assert!(!timeline.wait(1, Duration::from_millis(30)).unwrap());
    gate.signal(1).unwrap();
    assert!(timeline.wait(1, LONG).unwrap());
    // Handlers come a little after the signal.
    std::thread::sleep(Duration::from_millis(100));
    let times: Vec<_> = slots.iter().map(|&slot| buffer.timestamp(slot).unwrap()).collect();
    assert!(times[0] > 0 && times[0] < times[1], "{times:?}");
}

#[test]
fn eight_threads_make_and_drop_memory_beside_each_other() {
    let Some(device) = device() else { return };
    let add = add(&device);
    let queue = Mutex::new(Rank::COMBINER, ());
    std::thread::scope(|scope| {
        for index in 0..8_u32 {
            let (device, add, queue) = (&device, &add, &queue);
            scope.spawn(move || {
                let target = memory(device, 256);
                set_bytes(&target, 0, &[0; 256]);
                let timeline = device.timeline().unwrap();
                for round in 1..=200 {
                    let one = memory(device, 256);
                    set_bytes(&one, 0, &(index + 1).to_ne_bytes().repeat(64));
                    let buffer = commands(device, Q0, |recorder| {
                        let operands = [read(whole(&one)), write(whole(&target))];
                        recorder.dispatch(add, &operands, &[], [1, 1, 1]).unwrap();
                    });
                    let (commands, signal) = (vec![buffer], at(&timeline, round));
                    let work = Submission { commands, waits: vec![], signal, label: "add".to_owned() };
                    let held = queue.lock();
                    device.submit(Q0, vec![work]).unwrap();
                    drop(held);
                    assert!(timeline.wait(round, LONG).unwrap());
                }
                assert_eq!(words(&bytes(&target, 0, 256)), [200 * (index + 1); 64]);
            });
        }
    });
}
