//! What the driver tests share.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use rivulet_hal::{
    Binding, BufferRange, ByteRange, CommandBuffer, Device, HostKernel, Memory, MemoryUsage, Pipeline,
    PipelineDesc, PipelineSource, QueueIndex, Recorder, Submission, SubmitFailure, Timeline, TimelinePoint,
};
use std::sync::Arc;

pub const Q0: QueueIndex = QueueIndex(0);
pub const Q1: QueueIndex = QueueIndex(1);

/// Bytes `start..end` of a memory.
pub fn part(memory: &Arc<dyn Memory>, start: u64, end: u64) -> BufferRange {
    BufferRange { memory: Arc::clone(memory), range: ByteRange { start, end } }
}

pub fn whole(memory: &Arc<dyn Memory>) -> BufferRange {
    part(memory, 0, memory.size())
}

pub fn memory(device: &Arc<dyn Device>, bytes: u64) -> Arc<dyn Memory> {
    device.allocate(bytes, MemoryUsage::Device).unwrap()
}

pub fn read(buffer: BufferRange) -> Binding {
    Binding { buffer, write: false }
}

pub fn write(buffer: BufferRange) -> Binding {
    Binding { buffer, write: true }
}

pub fn pipeline(
    device: &Arc<dyn Device>,
    label: &str,
    bindings: u32,
    kernel: HostKernel,
) -> Arc<dyn Pipeline> {
    let desc = PipelineDesc {
        label: label.to_owned(),
        source: PipelineSource::Host(kernel),
        bindings,
        param_bytes: 0,
        workgroup: [1, 1, 1],
    };
    device.pipeline(&desc).unwrap()
}

/// `operands[1] += operands[0]`, byte by byte.
pub fn add_assign(operands: &mut [&mut [u8]], _params: &[u8], _groups: [u32; 3]) {
    let [source, target] = operands else { panic!("two operands") };
    for (target, source) in target.iter_mut().zip(source.iter()) {
        *target = target.wrapping_add(*source);
    }
}

/// Records with `body` and closes.
pub fn commands(
    device: &Arc<dyn Device>,
    queue: QueueIndex,
    body: impl FnOnce(&mut dyn Recorder),
) -> Arc<dyn CommandBuffer> {
    let mut recorder = device.recorder(queue).unwrap();
    body(&mut *recorder);
    recorder.finish().unwrap()
}

pub fn at(timeline: &Arc<dyn Timeline>, value: u64) -> TimelinePoint {
    TimelinePoint { timeline: Arc::clone(timeline), value }
}

/// Records with `body` and submits with the given waits and signal.
pub fn submit(
    device: &Arc<dyn Device>,
    queue: QueueIndex,
    label: &str,
    waits: &[TimelinePoint],
    signal: TimelinePoint,
    body: impl FnOnce(&mut dyn Recorder),
) -> Result<(), SubmitFailure> {
    let commands = vec![commands(device, queue, body)];
    device
        .submit(queue, vec![Submission { commands, waits: waits.to_vec(), signal, label: label.to_owned() }])
}

/// Reads bytes the way the runtime does: announced, through the host pointer.
pub fn bytes(memory: &Arc<dyn Memory>, start: u64, end: u64) -> Vec<u8> {
    let range = ByteRange { start, end };
    memory.begin_host_access(range, false).unwrap();
    let base = memory.host_ptr().unwrap();
    // SAFETY: the range was accepted as lying inside the memory, and the access is announced.
    let copy = unsafe { std::slice::from_raw_parts(base.as_ptr().add(start as usize), range.len() as usize) }
        .to_vec();
    memory.end_host_access(range, false).unwrap();
    copy
}

/// Writes bytes the way the runtime does.
pub fn set_bytes(memory: &Arc<dyn Memory>, start: u64, values: &[u8]) {
    let range = ByteRange { start, end: start + values.len() as u64 };
    memory.begin_host_access(range, true).unwrap();
    let base = memory.host_ptr().unwrap();
    // SAFETY: as in `bytes`; the source is a slice of our own.
    unsafe { std::ptr::copy(values.as_ptr(), base.as_ptr().add(start as usize), values.len()) };
    memory.end_host_access(range, true).unwrap();
}
