//! The runtime on the Metal driver, on the model of Metal's rules: right by value, and no breach of a rule. Nothing here
//! has run on a Mac.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![cfg(not(loom))]

mod common;
#[path = "common/cross.rs"]
mod cross;

use common::{add, add_kernel, copy, fill, options, read, until, within, write};
use cross::{crossed, reachable, storm, streams};
use rivulet::hazard::Tracking;
use rivulet::ops::{DType, View, attention, matmul};
use rivulet::{Device, DeviceOptions, Error, Event};
use rivulet_hal::CaptureError;
use rivulet_hal::metal::Options;
use rivulet_hal::metal::model::{self, FailingCommands, ModelConfig, ModelControl};
use std::time::Duration;

const DELAY: Duration = Duration::from_micros(40);

/// The default policy of submission, so that threads submit when the runtime says so.
fn device(queues: usize, tracking: Tracking, delay: Duration) -> (Device, ModelControl) {
    let metal = Options { queues: Some(queues), encoders: None };
    opened(tracking, &ModelConfig { options: metal, delay, ..ModelConfig::default() })
}

fn opened(tracking: Tracking, config: &ModelConfig) -> (Device, ModelControl) {
    let (hal, control) = model::open(config).unwrap();
    let options = DeviceOptions { tracking, ..options(&common::TestEnv::new(&[])) };
    (Device::with(hal, options).unwrap(), control)
}

#[track_caller]
fn clean(control: &ModelControl) {
    assert_eq!(control.faults(), Vec::<String>::new());
}

#[test]
fn tensors_cross_streams_and_the_cpu_in_order() {
    for queues in [1, 2] {
        let (device, control) = device(queues, Tracking::On, DELAY);
        let [a, b] = streams(&device);
        let (x, y) = (device.allocate(256).unwrap(), device.allocate(256).unwrap());
        // Read after write, write after read, and the CPU after both.
        fill(&a, &x, 7).unwrap();
        copy(&b, &x, &y).unwrap();
        fill(&a, &x, 8).unwrap();
        assert_eq!((read(&a, &y).unwrap(), read(&b, &x).unwrap()), (7, 8));
        write(&b, &x, 5).unwrap();
        copy(&a, &x, &y).unwrap();
        write(&b, &x, 6).unwrap();
        assert_eq!(read(&b, &y).unwrap(), 5);
        clean(&control);
    }
}

#[test]
fn memory_freed_while_the_device_uses_it_is_safe_to_reuse_and_to_give_back() {
    let (device, control) = device(2, Tracking::On, Duration::from_millis(2));
    let [a, b] = streams(&device);
    for round in 0..20 {
        // Larger than any cache of small blocks: a segment of its own, given back by `empty_cache`.
        let x = device.allocate(32 << 20).unwrap();
        let y = device.allocate(256).unwrap();
        fill(&a, &x, round).unwrap();
        copy_first(&b, &x, &y);
        device.free(x);
        device.empty_cache().unwrap();
        assert_eq!(read(&a, &y).unwrap(), round);
        device.free(y);
    }
    device.synchronize().unwrap();
    device.empty_cache().unwrap();
    clean(&control);
}

/// The first 256 bytes of `from` to `to`.
fn copy_first(stream: &rivulet::Stream, from: &rivulet::memory::Block, to: &rivulet::memory::Block) {
    use rivulet::{Access, DeviceOp};
    let (mut source, target) = (common::buffer(from), common::buffer(to));
    source.range.end = source.range.start + target.range.len();
    let op = [(from, Access::Read), (to, Access::Write)];
    stream.record(&DeviceOp::new("copy", &op), |recorder| recorder.copy(&source, &target)).unwrap();
}

#[test]
fn crossed_in_place_ops_never_wait_in_a_circle() {
    for queues in [1, 2] {
        let control = within(Duration::from_secs(120), move || {
            let (device, control) = device(queues, Tracking::On, Duration::from_micros(5));
            for _ in 0..60 {
                let (x, y) = crossed(&device, 10);
                assert!(reachable(x, y, 10), "no order of the ops gives {x}, {y}");
            }
            control
        });
        clean(&control);
    }
}

#[test]
fn random_rounds_of_threads_are_right_by_value_without_a_fault() {
    for (queues, seed) in [(1, 10), (2, 20)] {
        let control = within(Duration::from_secs(120), move || {
            let (device, control) = device(queues, Tracking::On, Duration::from_micros(5));
            assert_eq!(storm(&device, 4, 150, seed).unwrap(), [0; 4], "{queues} queues");
            control
        });
        clean(&control);
    }
}

#[test]
fn without_tracking_the_same_rounds_break_metals_rules() {
    let faults = within(Duration::from_secs(120), || {
        let (device, control) = device(2, Tracking::Off, Duration::from_micros(5));
        let _ = storm(&device, 4, 100, 20);
        control.faults()
    });
    assert!(faults.iter().any(|fault| fault.contains("nothing orders the two")), "{faults:?}");
}

#[test]
fn thirty_threads_read_one_weight() {
    let control = within(Duration::from_secs(120), || {
        let (device, control) = device(2, Tracking::On, Duration::from_micros(5));
        let kernel = add_kernel(&device);
        let weight = device.allocate(256).unwrap();
        let home = device.new_stream(0).unwrap();
        write(&home, &weight, 3).unwrap();
        std::thread::scope(|scope| {
            // With the test's own thread as many as there are slots for workers.
            for _ in 0..30 {
                scope.spawn(|| {
                    let stream = device.current_stream().unwrap();
                    let sum = device.allocate(256).unwrap();
                    write(&stream, &sum, 0).unwrap();
                    for _ in 0..20 {
                        add(&stream, &kernel, &weight, &sum).unwrap();
                    }
                    assert_eq!(read(&stream, &sum).unwrap(), 60);
                    device.free(sum);
                });
            }
        });
        control
    });
    clean(&control);
}

#[test]
fn a_thousand_streams_with_open_recorders_take_no_command_buffer() {
    let (device, control) = device(1, Tracking::On, Duration::ZERO);
    control.hold();
    let streams: Vec<_> = (0..1000).map(|_| device.new_stream(0).unwrap()).collect();
    let blocks: Vec<_> = streams.iter().map(|_| device.allocate(64).unwrap()).collect();
    for (value, (stream, block)) in (0..).zip(streams.iter().zip(&blocks)) {
        fill(stream, block, value).unwrap();
    }
    control.release();
    for (value, (stream, block)) in (0..).zip(streams.iter().zip(&blocks)) {
        assert_eq!(read(stream, block).unwrap(), value);
    }
    assert!(control.most_in_flight() <= 512);
    clean(&control);
}

#[test]
fn an_event_is_reached_when_what_was_recorded_before_it_is_done() {
    let (device, control) = device(1, Tracking::On, DELAY);
    let stream = device.new_stream(0).unwrap();
    let block = device.allocate(64).unwrap();
    let (start, end) = (Event::new(true), Event::new(true));
    control.hold();
    start.record(&stream).unwrap();
    fill(&stream, &block, 1).unwrap();
    end.record(&stream).unwrap();
    assert!(!end.query().unwrap());
    control.release();
    end.synchronize().unwrap();
    assert!(control.wait_idle(Duration::from_secs(10)));
    assert!(start.elapsed_time(&end).unwrap() >= 0.0);
    clean(&control);
}

#[test]
fn a_command_buffer_that_finds_no_memory_poisons_its_stream_and_no_other() {
    let (device, control) = device(1, Tracking::On, DELAY);
    let [a, b] = streams(&device);
    let (x, y, z) =
        (device.allocate(64).unwrap(), device.allocate(64).unwrap(), device.allocate(64).unwrap());
    fill(&b, &y, 2).unwrap();
    fill(&b, &z, 3).unwrap();
    b.synchronize().unwrap();
    control.fail(FailingCommands { label: "fill".to_owned(), code: 8, text: "no room".to_owned() });
    fill(&a, &x, 1).unwrap();
    let error = a.synchronize().unwrap_err();
    assert!(error.to_string().contains("no room"), "{error}");
    assert!(!matches!(error, Error::DeviceLost { .. }), "{error}");
    assert_eq!((read(&b, &y).unwrap(), read(&b, &z).unwrap()), (2, 3));
    clean(&control);
}

#[test]
fn a_page_fault_loses_the_device_for_all() {
    let (device, control) = device(1, Tracking::On, DELAY);
    let [a, b] = streams(&device);
    let (x, y) = (device.allocate(64).unwrap(), device.allocate(64).unwrap());
    control.fail(FailingCommands { label: "fill".to_owned(), code: 3, text: "address 0".to_owned() });
    fill(&a, &x, 1).unwrap();
    let error = a.synchronize().unwrap_err();
    assert!(matches!(&error, Error::DeviceLost { .. }) && error.to_string().contains("PageFault"), "{error}");
    until("others hear of it", || {
        matches!(fill(&b, &y, 1).and_then(|_| b.synchronize()), Err(Error::DeviceLost { .. }))
    });
}

#[test]
fn a_capture_holds_what_streams_were_given_between_its_begin_and_its_end() {
    let folder = std::env::temp_dir().join(format!("rivulet-runtime-captures-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let config = ModelConfig { captures: true, delay: DELAY, ..ModelConfig::default() };
    let (device, control) = opened(Tracking::On, &config);
    let [a, b] = streams(&device);
    let (x, y) = (device.allocate(256).unwrap(), device.allocate(256).unwrap());
    assert!(device.can_capture() && !device.is_capturing());
    assert_eq!(device.stop_capture().unwrap(), None);
    // While the device is busy, what comes after the first op is recorded and not submitted.
    let released = |call: &(dyn Fn() -> Option<std::path::PathBuf> + Sync)| {
        std::thread::scope(|scope| {
            let called = scope.spawn(call);
            std::thread::sleep(Duration::from_millis(20));
            control.release();
            called.join().unwrap()
        })
    };
    control.hold();
    fill(&a, &x, 1).unwrap();
    fill(&a, &x, 2).unwrap();
    let start = || device.start_capture(&folder.join("run").to_string_lossy()).ok();
    let document = released(&start).unwrap();
    assert_eq!(document, folder.join("0000-run.gputrace"));
    assert!(device.is_capturing());
    let error = device.start_capture(&folder.join("other").to_string_lossy()).unwrap_err();
    assert!(matches!(error, Error::Capture(CaptureError::Running { .. })), "{error}");
    // Recorded, and submitted by the end of the capture.
    control.hold();
    copy(&a, &x, &y).unwrap();
    copy(&b, &y, &x).unwrap();
    fill(&b, &x, 3).unwrap();
    assert_eq!(released(&|| device.stop_capture().unwrap()), Some(document));
    assert!(!device.is_capturing());
    fill(&b, &x, 2).unwrap();
    device.synchronize().unwrap();
    let captures = control.captures();
    assert_eq!(captures.len(), 1);
    assert_eq!(captures[0].commands, ["copy", "copy", "fill"]);
    // The next one has a number of its own, so the same name is no error.
    let second = device.start_capture(&folder.join("run").to_string_lossy()).unwrap();
    assert_eq!(second, folder.join("0001-run.gputrace"));
    device.stop_capture().unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    clean(&control);
}

#[test]
fn a_failed_stream_does_not_keep_a_capture_from_ending() {
    let folder = std::env::temp_dir().join(format!("rivulet-failed-captures-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let config = ModelConfig { captures: true, ..ModelConfig::default() };
    let (device, control) = opened(Tracking::On, &config);
    let [a, b] = streams(&device);
    let [x, y, z] = std::array::from_fn(|_| device.allocate(64).unwrap());
    let document = device.start_capture(&folder.join("run").to_string_lossy()).unwrap();
    control.fail(FailingCommands { label: "fill".to_owned(), code: 8, text: "no room".to_owned() });
    fill(&a, &x, 1).unwrap();
    copy(&b, &y, &z).unwrap();
    assert_eq!(device.stop_capture().unwrap(), Some(document));
    assert_eq!(control.captures()[0].commands.len(), 2, "the other stream's work is in it");
    assert!(a.synchronize().unwrap_err().to_string().contains("no room"));
    std::fs::remove_dir_all(&folder).unwrap();
    clean(&control);
}

#[test]
fn without_captures_a_device_says_so() {
    let (metal, control) = device(1, Tracking::On, DELAY);
    assert!(!metal.can_capture() && !metal.is_capturing());
    let error = metal.start_capture("run").unwrap_err().to_string();
    assert!(error.contains("MTL_CAPTURE_ENABLED=1"), "{error}");
    let host = Device::host();
    assert!(!host.can_capture() && !host.is_capturing());
    let error = host.start_capture("run").unwrap_err().to_string();
    assert!(error.contains("needs Apple's Metal") && error.contains(&host.info().name), "{error}");
    assert_eq!(host.stop_capture().unwrap(), None);
    clean(&control);
}

#[test]
fn products_of_floats_take_simdgroup_matrices_and_small_ones_do_not() {
    let (device, control) = device(1, Tracking::On, Duration::ZERO);
    // The model does not run Metal's language; its refusal names the kernel that was chosen.
    let kernel = |dtype: DType, m: u64, n: u64, k: u64| {
        let shapes = [[m, n], [m, k], [k, n]];
        let blocks = shapes.map(|[m, n]| device.allocate(m * n * u64::from(dtype.size())).unwrap());
        let view = |at: usize| View {
            block: &blocks[at],
            dtype,
            offset: 0,
            shape: shapes[at].into_iter().collect(),
            strides: [shapes[at][1].cast_signed(), 1].into_iter().collect(),
        };
        match matmul(&device, &view(0), &view(1), &view(2), None, 1.0, 0.0, None) {
            Err(Error::NoKernel { reason, .. }) => reason,
            other => panic!("{other:?}"),
        }
    };
    for dtype in [DType::F32, DType::F16] {
        let large = kernel(dtype, 64, 96, 32);
        assert!(large.contains(&format!("matmul_simd_{}", dtype.name())), "{large}");
        let small = kernel(dtype, 4, 96, 32);
        assert!(small.contains("skinny4"), "{small}");
    }
    let other = kernel(DType::BF16, 64, 96, 32);
    assert!(other.contains("matmul_bf16"), "{other}");
    clean(&control);
}

#[test]
fn attention_takes_simdgroup_matrices_and_keeps_the_plain_kernel_for_what_they_do_not_suit() {
    let (device, control) = device(1, Tracking::On, Duration::ZERO);
    // The model does not run Metal's language; its refusal names the kernel that was chosen.
    let kernel = |dtype: DType, queries: u64, keys: u64, dim: u64, logsumexp: bool| {
        let shapes = [[2, 4, queries, dim], [2, 4, queries, dim], [2, 2, keys, dim], [2, 2, keys, dim]];
        let bytes = |shape: &[u64], dtype: DType| shape.iter().product::<u64>() * u64::from(dtype.size());
        let blocks = shapes.map(|shape| device.allocate(bytes(&shape, dtype)).unwrap());
        let [out, q, k, v] = std::array::from_fn(|at| View::dense(&blocks[at], dtype, &shapes[at]));
        let kept = device.allocate(bytes(&shapes[0][..3], DType::F32)).unwrap();
        let kept = View::dense(&kept, DType::F32, &shapes[0][..3]);
        match attention(&device, &out, logsumexp.then_some(&kept), &q, &k, &v, None, true, 0.125) {
            Err(Error::NoKernel { reason, .. }) => reason,
            other => panic!("{other:?}"),
        }
    };
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for (queries, keys, dim) in [(16, 16, 8), (70, 300, 64), (128, 128, 128), (200, 33, 80)] {
            let taken = kernel(dtype, queries, keys, dim, false);
            let wanted = format!("attention_simd_{}_{dim}_causal", dtype.name());
            assert!(taken.contains(&wanted), "{taken}");
        }
        // Few queries, few keys, heads that are no multiple of 8, and large ones.
        for (queries, keys, dim) in [(15, 64, 64), (64, 15, 64), (64, 64, 20), (64, 64, 136)] {
            let plain = kernel(dtype, queries, keys, dim, false);
            assert!(plain.contains(&format!("attention_{}_", dtype.name())), "{plain}");
        }
    }
    let kept = kernel(DType::F32, 64, 64, 64, true);
    assert!(kept.contains("attention_simd_f32_64_causal_logsumexp"), "{kept}");
    clean(&control);
}
