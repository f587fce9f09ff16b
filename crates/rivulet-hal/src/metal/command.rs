use super::api::{Access, Api, limits};
use super::builtin;
use super::memory::MetalMemory;
use super::pipeline::MetalPipeline;
use super::shared::Shared;
use crate::cpu::{check_copy, check_fill, check_range};
use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::{
    BufferRange, ByteRange, CommandBuffer, HalError, Memory, Operand, Pipeline, Recorder, TimestampSlot,
};

/// Timestamps of one command buffer.
const TIMESTAMPS: u32 = 64;
/// Pipelines among which one in use is looked for.
const RECENT: usize = 8;

/// A buffer as a command names it.
#[derive(Debug)]
pub(super) struct Bound<A: Api> {
    pub(super) buffer: A::BufferRef,
    pub(super) offset: u64,
    pub(super) access: Access,
}

// Derived, they would ask the same of the whole `Api`.
impl<A: Api> Clone for Bound<A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A: Api> Copy for Bound<A> {}

impl<A: Api> PartialEq for Bound<A> {
    fn eq(&self, other: &Self) -> bool {
        self.buffer == other.buffer && self.offset == other.offset && self.access == other.access
    }
}

/// What a dispatch runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    /// A pipeline, by its place in [`MetalCommands::pipelines`].
    Pipeline(usize),
    Copy,
    Fill,
}

/// One recorded command. Operands and parameters are stretches of the recording's lists.
#[derive(Clone, Copy, Debug)]
pub(super) enum Command {
    Dispatch { code: Code, operands: (usize, usize), params: (usize, usize), groups: [u32; 3] },
    Barrier,
    Timestamp(u32),
}

/// Commands as plain data: recording calls no driver.
#[derive(Debug)]
pub(super) struct MetalRecorder<A: Api> {
    shared: Arc<Shared<A>>,
    commands: Vec<Command>,
    bound: Vec<Bound<A>>,
    params: Vec<u8>,
    /// Pipelines in use, kept until the commands have run.
    pipelines: Vec<Arc<dyn Pipeline>>,
    count: usize,
    timestamps: u32,
}

impl<A: Api> MetalRecorder<A> {
    pub(super) fn new(shared: &Arc<Shared<A>>) -> Self {
        Self {
            shared: Arc::clone(shared),
            commands: Vec::new(),
            bound: Vec::new(),
            params: Vec::new(),
            pipelines: Vec::new(),
            count: 0,
            timestamps: 0,
        }
    }

    /// The buffer behind an operand of ours, with its range checked.
    fn operand(&self, memory: &Arc<dyn Memory>, range: ByteRange) -> Result<A::BufferRef, HalError> {
        let own = memory.as_any().downcast_ref::<MetalMemory<A>>().filter(|own| own.is_of(&self.shared));
        let own =
            own.ok_or_else(|| HalError::Usage("command: the memory belongs to another device".to_owned()))?;
        check_range(range, own.size(), "command")?;
        Ok(own.refer)
    }

    /// Binds bytes that may begin anywhere; gives the bytes to skip.
    fn bind_anywhere(&mut self, buffer: A::BufferRef, range: ByteRange, write: bool) -> u64 {
        let skip = range.start % limits::OFFSET_ALIGNMENT;
        let access = Access { skip, bytes: range.len(), write };
        self.bound.push(Bound { buffer, offset: range.start - skip, access });
        skip
    }

    fn push(&mut self, code: Code, operands: usize, params: &[u8], groups: [u32; 3]) {
        let operands = (operands, self.bound.len());
        let first = self.params.len();
        self.params.extend_from_slice(params);
        let params = (first, self.params.len());
        self.commands.push(Command::Dispatch { code, operands, params, groups });
        self.count += 1;
    }

    fn check_dispatch(
        &self,
        pipeline: &MetalPipeline<A>,
        label: &str,
        operands: &[Operand<'_>],
        params: &[u8],
    ) -> Result<(), HalError> {
        let wrong = |what: String| Err(HalError::Usage(format!("kernel {label}: {what}")));
        if operands.len() != pipeline.bindings as usize {
            return wrong(format!("{} operands; it takes {}", operands.len(), pipeline.bindings));
        }
        if params.len() != pipeline.param_bytes as usize {
            return wrong(format!("{} bytes of parameters; it takes {}", params.len(), pipeline.param_bytes));
        }
        for (index, Operand { range, .. }) in operands.iter().enumerate() {
            if range.start % limits::OFFSET_ALIGNMENT != 0 {
                return wrong(format!(
                    "operand {index} begins at byte {}; multiples of {} are allowed",
                    range.start,
                    limits::OFFSET_ALIGNMENT
                ));
            }
            if range.is_empty() || range.len() > self.shared.max_binding {
                let most = self.shared.max_binding;
                return wrong(format!("operand {index} has {} bytes; 1 to {most} are allowed", range.len()));
            }
        }
        Ok(())
    }

    /// The place of a pipeline among those in use.
    fn place(&mut self, pipeline: &Arc<dyn Pipeline>) -> usize {
        // All threads share the count of references: it is left alone where a recent command has one.
        let recent = self.pipelines.iter().rev().take(RECENT).position(|kept| Arc::ptr_eq(kept, pipeline));
        if let Some(back) = recent {
            return self.pipelines.len() - 1 - back;
        }
        self.pipelines.push(Arc::clone(pipeline));
        self.pipelines.len() - 1
    }
}

/// Four words as the builtin kernels take them.
fn words(words: [u32; 4]) -> [u8; builtin::PARAM_BYTES as usize] {
    let mut bytes = [0; builtin::PARAM_BYTES as usize];
    bytes.chunks_exact_mut(4).zip(words).for_each(|(chunk, word)| chunk.copy_from_slice(&word.to_ne_bytes()));
    bytes
}

impl<A: Api> Recorder for MetalRecorder<A> {
    fn copy(&mut self, src: &BufferRange, dst: &BufferRange) -> Result<(), HalError> {
        let (from, to) = (self.operand(&src.memory, src.range)?, self.operand(&dst.memory, dst.range)?);
        check_copy(src.range, dst.range, from == to && src.range.overlaps(dst.range))?;
        let bytes = src.range.len();
        if bytes == 0 {
            return Ok(());
        }
        let groups = builtin::groups(bytes)?;
        let first = self.bound.len();
        let to_skip = self.bind_anywhere(to, dst.range, true);
        let from_skip = self.bind_anywhere(from, src.range, false);
        let params = words([to_skip as u32, from_skip as u32, bytes as u32, (bytes >> 32) as u32]);
        self.push(Code::Copy, first, &params, groups);
        Ok(())
    }

    fn fill(&mut self, dst: &BufferRange, word: u32) -> Result<(), HalError> {
        let buffer = self.operand(&dst.memory, dst.range)?;
        check_fill(dst.range)?;
        let bytes = dst.range.len();
        if bytes == 0 {
            return Ok(());
        }
        let groups = builtin::groups(bytes)?;
        let first = self.bound.len();
        let skip = self.bind_anywhere(buffer, dst.range, true);
        let count = bytes / 4;
        let params = words([word, skip as u32, count as u32, (count >> 32) as u32]);
        self.push(Code::Fill, first, &params, groups);
        Ok(())
    }

    fn dispatch_on(
        &mut self,
        pipeline: &Arc<dyn Pipeline>,
        operands: &[Operand<'_>],
        params: &[u8],
        groups: [u32; 3],
    ) -> Result<(), HalError> {
        let label = pipeline.label();
        let kernel = pipeline.as_any().downcast_ref::<MetalPipeline<A>>();
        let kernel = kernel
            .filter(|kernel| kernel.is_of(&self.shared))
            .ok_or_else(|| HalError::Usage(format!("kernel {label}: compiled by another device")))?;
        self.check_dispatch(kernel, label, operands, params)?;
        // The position of a thread in the grid has 32 bits a side.
        let sides = groups.iter().zip(kernel.threads);
        if sides.map(|(&groups, threads)| groups.checked_mul(threads)).any(|side| side.is_none()) {
            return Err(HalError::Usage(format!(
                "kernel {label}: {groups:?} workgroups; up to 2^32 threads a side are allowed"
            )));
        }
        if groups.contains(&0) {
            return Ok(());
        }
        let first = self.bound.len();
        for Operand { memory, range, write } in operands {
            let buffer = match self.operand(memory, *range) {
                Ok(buffer) => buffer,
                Err(error) => {
                    self.bound.truncate(first);
                    return Err(error);
                }
            };
            let access = Access { skip: 0, bytes: range.len(), write: *write };
            self.bound.push(Bound { buffer, offset: range.start, access });
        }
        let code = Code::Pipeline(self.place(pipeline));
        self.push(code, first, params, groups);
        Ok(())
    }

    fn barrier(&mut self) -> Result<(), HalError> {
        self.commands.push(Command::Barrier);
        Ok(())
    }

    fn timestamp(&mut self) -> Result<TimestampSlot, HalError> {
        if self.timestamps == TIMESTAMPS {
            return Err(HalError::Usage(format!("timestamp: a command buffer holds {TIMESTAMPS}")));
        }
        let slot = self.timestamps;
        self.commands.push(Command::Timestamp(slot));
        self.timestamps += 1;
        self.count += 1;
        Ok(TimestampSlot(slot))
    }

    fn len(&self) -> usize {
        self.count
    }

    fn finish(self: Box<Self>) -> Result<Arc<dyn CommandBuffer>, HalError> {
        self.shared.check()?;
        let Self { shared, commands, bound, params, pipelines, timestamps, .. } = *self;
        let times = (0..timestamps).map(|_| AtomicU64::new(0)).collect();
        let submitted = AtomicBool::new(false);
        Ok(Arc::new(MetalCommands { shared, commands, bound, params, pipelines, times, submitted }))
    }
}

/// Closed commands, still plain data.
#[derive(Debug)]
pub(super) struct MetalCommands<A: Api> {
    shared: Arc<Shared<A>>,
    pub(super) commands: Vec<Command>,
    bound: Vec<Bound<A>>,
    params: Vec<u8>,
    pipelines: Vec<Arc<dyn Pipeline>>,
    /// Nanoseconds; 0 until the command buffer that a timestamp ends has completed.
    times: Box<[AtomicU64]>,
    submitted: AtomicBool,
}

impl<A: Api> MetalCommands<A> {
    /// The commands behind the trait object.
    pub(super) fn of<'b>(
        buffer: &'b Arc<dyn CommandBuffer>,
        shared: &Arc<Shared<A>>,
    ) -> Result<&'b Self, HalError> {
        let own = buffer.as_any().downcast_ref::<Self>().filter(|own| Arc::ptr_eq(&own.shared, shared));
        own.ok_or_else(|| HalError::Usage("submit: a command buffer of another driver".to_owned()))
    }

    /// From now on they count as submitted.
    pub(super) fn take(&self) -> Result<(), HalError> {
        if self.submitted.swap(true, Ordering::Relaxed) {
            return Err(HalError::Usage("submit: a command buffer was submitted twice".to_owned()));
        }
        Ok(())
    }

    /// Takes `take` back after a submission that was refused.
    pub(super) fn untake(&self) {
        self.submitted.store(false, Ordering::Relaxed);
    }

    pub(super) fn operands(&self, (first, end): (usize, usize)) -> &[Bound<A>] {
        self.bound.get(first..end).unwrap_or_default()
    }

    pub(super) fn params(&self, (first, end): (usize, usize)) -> &[u8] {
        self.params.get(first..end).unwrap_or_default()
    }

    pub(super) fn pipeline(&self, place: usize) -> Option<&MetalPipeline<A>> {
        self.pipelines.get(place)?.as_any().downcast_ref()
    }

    pub(super) fn note_time(&self, slot: u32, ended_ns: u64) {
        if let Some(time) = self.times.get(slot as usize) {
            time.store(ended_ns.max(1), Ordering::Release);
        }
    }
}

impl<A: Api> CommandBuffer for MetalCommands<A> {
    fn timestamp(&self, slot: TimestampSlot) -> Option<u64> {
        let time = self.times.get(slot.0 as usize)?.load(Ordering::Acquire);
        (time != 0).then_some(time)
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
