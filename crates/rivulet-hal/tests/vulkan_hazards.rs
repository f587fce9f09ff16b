//! The validation layer sees what a missing barrier does, so its silence elsewhere means something. Needs a layer that
//! looks at what kernels access (1.4.309 does, 1.3.239 does not) with that switched on, as `tests/gpu/validated.sh` has
//! it; elsewhere the test says that it did not run. Alone in its file: the layer's messages belong to the process.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a test says by a panic what is wrong")]

#[path = "common/adapter.rs"]
mod adapter;
mod common;

use common::{Q0, at, memory, read, submit, whole, write};
use rivulet_hal::vulkan::{self, Options};
use rivulet_hal::{Device, Pipeline, PipelineDesc, PipelineSource};
use std::sync::Arc;
use std::time::Duration;

const SWITCH: &str = "VK_LAYER_SYNCVAL_SHADER_ACCESSES_HEURISTIC";

const COPY: &str = "
    @group(0) @binding(0) var<storage, read> source: array<u32>;
    @group(0) @binding(1) var<storage, read_write> target_: array<u32>;
    @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
        if id.x < arrayLength(&target_) { target_[id.x] = source[id.x]; }
    }";

fn kernel(device: &Arc<dyn Device>) -> Arc<dyn Pipeline> {
    let module = naga::front::wgsl::parse_str(COPY).unwrap();
    let capabilities = naga::valid::Capabilities::all();
    let info = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), capabilities)
        .validate(&module)
        .unwrap();
    let options = naga::back::spv::Options { lang_version: (1, 3), ..Default::default() };
    let words = naga::back::spv::write_vec(&module, &info, &options, None).unwrap();
    let desc = PipelineDesc {
        label: "copy".to_owned(),
        source: PipelineSource::SpirV(words),
        bindings: 2,
        param_bytes: 0,
        workgroup: [64, 1, 1],
    };
    device.pipeline(&desc).unwrap()
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a switch of the layer, not of the library")]
fn a_missing_barrier_between_two_kernels_is_reported() {
    if std::env::var(SWITCH).is_err() {
        eprintln!(
            "skipped: {SWITCH} is not set; tests/gpu/validated.sh runs this with a layer that knows it"
        );
        return;
    }
    let Some(index) = adapter::find() else { return };
    // Not `adapter::validated`: without the layer there is nothing to see.
    let device = vulkan::open(index, Options { validation: true, ..Options::default() }).unwrap();
    let copy = kernel(&device);
    let [first, second, third] = [0; 3].map(|_| memory(&device, 256));
    let timeline = device.timeline().unwrap();
    let run = |value: u64, barrier: bool| {
        submit(&device, Q0, "two kernels", &[], at(&timeline, value), |recorder| {
            recorder.barrier().unwrap();
            recorder.fill(&whole(&first), 7).unwrap();
            recorder.barrier().unwrap();
            recorder.dispatch(&copy, &[read(whole(&first)), write(whole(&second))], &[], [1, 1, 1]).unwrap();
            if barrier {
                recorder.barrier().unwrap();
            }
            recorder.dispatch(&copy, &[read(whole(&second)), write(whole(&third))], &[], [1, 1, 1]).unwrap();
        })
        .unwrap();
        assert!(timeline.wait(value, Duration::from_secs(30)).unwrap());
    };
    run(1, true);
    assert_eq!(vulkan::validation_messages(), [""; 0]);
    run(2, false);
    let messages = vulkan::validation_messages();
    assert!(messages.iter().any(|text| text.contains("READ_AFTER_WRITE")), "{messages:?}");
}
