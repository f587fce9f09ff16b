//! Runs a kernel on a Vulkan device: operands in, operands out.

#[path = "../../../rivulet-hal/tests/common/adapter.rs"]
mod adapter;
#[path = "memory.rs"]
mod memory;

use memory::{bytes, set_bytes};
use rivulet_hal::vulkan::{self, Options};
use rivulet_hal::{
    Binding, BufferRange, ByteRange, Device, Memory, MemoryUsage, Pipeline, PipelineDesc, PipelineSource,
    QueueIndex, Submission, TimelinePoint,
};
use rivulet_kernels::{FloatControls, Kernel, Target, Translated, translate};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

/// The device of all tests.
pub fn device() -> Option<&'static Arc<dyn Device>> {
    static DEVICE: OnceLock<Option<Arc<dyn Device>>> = OnceLock::new();
    DEVICE.get_or_init(|| adapter::open(&Options::default())).as_ref()
}

/// An operand of a run: little-endian bytes, and whether the kernel writes them.
pub struct Operand<'a> {
    bytes: &'a mut Vec<u8>,
    write: bool,
}

pub fn input(bytes: &mut Vec<u8>) -> Operand<'_> {
    Operand { bytes, write: false }
}

pub fn output(bytes: &mut Vec<u8>) -> Operand<'_> {
    Operand { bytes, write: true }
}

/// Runs `kernel` once. Operands in binding order; what it wrote is in them afterwards.
pub fn run(kernel: Kernel, params: &[u8], groups: [u32; 3], operands: &mut [Operand<'_>]) {
    // Submissions to a queue may not overlap, and a complaint must be this kernel's own. Kernels are compiled once.
    #[allow(clippy::disallowed_types, reason = "a lock of these tests alone")]
    static ONE_AT_A_TIME: LazyLock<std::sync::Mutex<HashMap<Kernel, Arc<dyn Pipeline>>>> =
        LazyLock::new(std::sync::Mutex::default);
    let mut compiled = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let device = device().unwrap();
    let earlier = vulkan::validation_messages().len();
    assert_eq!(params.len(), kernel.param_bytes() as usize, "{}", kernel.label());
    assert_eq!(operands.len(), kernel.bindings() as usize, "{}", kernel.label());
    let pipeline = Arc::clone(compiled.entry(kernel).or_insert_with(|| compile(device, &kernel)));
    let size = |operand: &Operand<'_>| (operand.bytes.len().max(4) as u64).next_multiple_of(4);
    let allocate = |usage| -> Vec<Arc<dyn Memory>> {
        operands.iter().map(|operand| device.allocate(size(operand), usage).unwrap()).collect()
    };
    let (uploads, buffers, readbacks) =
        (allocate(MemoryUsage::Upload), allocate(MemoryUsage::Device), allocate(MemoryUsage::Readback));
    let mut recorder = device.recorder(QueueIndex(0)).unwrap();
    let part = |memory: &Arc<dyn Memory>, operand: &Operand<'_>| BufferRange {
        memory: Arc::clone(memory),
        range: ByteRange { start: 0, end: size(operand) },
    };
    for (k, operand) in operands.iter().enumerate() {
        set_bytes(&uploads[k], operand.bytes);
        recorder.copy(&part(&uploads[k], operand), &part(&buffers[k], operand)).unwrap();
    }
    recorder.barrier().unwrap();
    let bindings: Vec<_> = operands
        .iter()
        .zip(&buffers)
        .map(|(operand, memory)| Binding { buffer: part(memory, operand), write: operand.write })
        .collect();
    recorder.dispatch(&pipeline, &bindings, params, groups).unwrap();
    recorder.barrier().unwrap();
    for (k, operand) in operands.iter().enumerate() {
        recorder.copy(&part(&buffers[k], operand), &part(&readbacks[k], operand)).unwrap();
    }
    let commands = vec![recorder.finish().unwrap()];
    let timeline = device.timeline().unwrap();
    let signal = TimelinePoint { timeline: Arc::clone(&timeline), value: 1 };
    device
        .submit(QueueIndex(0), vec![Submission { commands, waits: vec![], signal, label: kernel.label() }])
        .unwrap();
    assert!(timeline.wait(1, Duration::from_secs(60)).unwrap(), "{} hangs", kernel.label());
    for (operand, memory) in operands.iter_mut().zip(&readbacks) {
        let before = std::mem::take(operand.bytes);
        *operand.bytes = bytes(memory, before.len());
        // What an input holds may not have changed.
        assert!(operand.write || *operand.bytes == before, "{} wrote to an input", kernel.label());
    }
    let complaints = vulkan::validation_messages();
    assert!(complaints.len() == earlier, "{}: {:?}", kernel.label(), complaints.get(earlier));
}

fn compile(device: &Arc<dyn Device>, kernel: &Kernel) -> Arc<dyn Pipeline> {
    let shader = device.info().shader;
    let controls = FloatControls {
        preserve_nan_f32: shader.preserve_nan_f32,
        preserve_subnormals_f32: shader.preserve_subnormals_f32,
        round_even_f16: shader.round_even_f16,
    };
    let words = match translate(kernel, Target::SpirV(controls)) {
        Ok(Translated::SpirV(words)) => words,
        other => panic!("{other:?}"),
    };
    let desc = PipelineDesc {
        label: kernel.label(),
        source: PipelineSource::SpirV(words),
        bindings: kernel.bindings(),
        param_bytes: kernel.param_bytes(),
        workgroup: kernel.workgroup(),
    };
    device.pipeline(&desc).unwrap()
}

/// Skips a test where there is no device.
#[macro_export]
macro_rules! need_device {
    () => {
        if $crate::gpu::device().is_none() {
            return;
        }
    };
}
