use super::order::{Step, Touch};
use super::pipeline::SimPipeline;
use super::state::Shared;
use crate::cpu::{Allocation, Command, Recording, Span, Timestamps};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::{BufferRange, CommandBuffer, HalError, Operand, Pipeline, QueueIndex, Recorder, TimestampSlot};
use std::ptr::NonNull;
use std::sync::Arc;

/// The bytes of a memory, alive as long as a handle or a command needs them.
#[derive(Debug)]
pub(super) struct Storage {
    id: u64,
    allocation: Allocation,
}

impl Storage {
    pub(super) fn new(id: u64, allocation: Allocation) -> Self {
        Self { id, allocation }
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        self.allocation.start()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.allocation.len()
    }
}

/// Records for one queue.
#[derive(Debug)]
pub(super) struct SimRecorder {
    shared: Arc<Shared>,
    queue: QueueIndex,
    recording: Recording<Arc<Storage>>,
}

impl SimRecorder {
    pub(super) fn new(shared: Arc<Shared>, queue: QueueIndex) -> Self {
        Self { shared, queue, recording: Recording::new() }
    }

    fn span(&self, buffer: &BufferRange) -> Result<Span<Arc<Storage>>, HalError> {
        let state = self.shared.state.lock();
        state.check_lost()?;
        let storage = state.memories.get(&buffer.memory.address()).and_then(std::sync::Weak::upgrade);
        drop(state);
        let storage = storage
            .ok_or_else(|| HalError::Usage("command: the memory belongs to another device".to_owned()))?;
        let (start, bytes) = (storage.start(), storage.bytes());
        Span::new(storage, start, bytes, buffer.range)
    }
}

impl Recorder for SimRecorder {
    fn copy(&mut self, src: &BufferRange, dst: &BufferRange) -> Result<(), HalError> {
        let (src, dst) = (self.span(src)?, self.span(dst)?);
        self.recording.copy(src, dst)
    }

    fn fill(&mut self, dst: &BufferRange, word: u32) -> Result<(), HalError> {
        let dst = self.span(dst)?;
        self.recording.fill(dst, word)
    }

    fn dispatch_on(
        &mut self,
        pipeline: &Arc<dyn Pipeline>,
        operands: &[Operand<'_>],
        params: &[u8],
        groups: [u32; 3],
    ) -> Result<(), HalError> {
        let own = pipeline.as_any().downcast_ref::<SimPipeline>();
        let own = own.ok_or_else(|| {
            HalError::Usage(format!("kernel {}: compiled by another driver", pipeline.label()))
        })?;
        let operands = operands.iter().map(|operand| Ok((self.span(&operand.buffer())?, operand.write)));
        let operands = operands.collect::<Result<_, HalError>>()?;
        self.recording.dispatch(&own.0, operands, params, groups)
    }

    fn barrier(&mut self) -> Result<(), HalError> {
        self.recording.barrier();
        Ok(())
    }

    fn timestamp(&mut self) -> Result<TimestampSlot, HalError> {
        Ok(self.recording.timestamp())
    }

    fn len(&self) -> usize {
        self.recording.len()
    }

    fn finish(self: Box<Self>) -> Result<Arc<dyn CommandBuffer>, HalError> {
        self.shared.state.lock().check_lost()?;
        let timestamps = self.recording.timestamps();
        let commands = self.recording.commands;
        let steps = commands.iter().filter_map(step).collect();
        Ok(Arc::new(SimCommandBuffer {
            commands: Arc::new(SimCommands { commands, timestamps, steps, queue: self.queue }),
            submitted: AtomicBool::new(false),
        }))
    }
}

/// What the order has to know of a command.
fn step(command: &Command<Arc<Storage>>) -> Option<Step> {
    match command {
        Command::Barrier => Some(Step::Barrier),
        Command::Timestamp(_) => None,
        Command::Op(op) => {
            let mut touches = Vec::new();
            op.for_each_access(|span, write| {
                touches.push(Touch { memory: span.owner.id, range: span.range, write });
            });
            Some(Step::Command { label: op.label().into(), touches })
        }
    }
}

/// Closed commands, shared between the caller's handle and the queue.
#[derive(Debug)]
pub(super) struct SimCommands {
    commands: Vec<Command<Arc<Storage>>>,
    timestamps: Timestamps,
    pub(super) steps: Arc<[Step]>,
    pub(super) queue: QueueIndex,
}

impl SimCommands {
    pub(super) fn commands(&self) -> &[Command<Arc<Storage>>] {
        &self.commands
    }

    pub(super) fn timestamps(&self) -> &Timestamps {
        &self.timestamps
    }
}

/// The caller's handle on closed commands.
#[derive(Debug)]
pub(super) struct SimCommandBuffer {
    pub(super) commands: Arc<SimCommands>,
    submitted: AtomicBool,
}

impl SimCommandBuffer {
    /// The commands behind the trait object, which from now on count as submitted.
    pub(super) fn take(
        buffer: &Arc<dyn CommandBuffer>,
        queue: QueueIndex,
    ) -> Result<Arc<SimCommands>, HalError> {
        let own = buffer.as_any().downcast_ref::<Self>();
        let own =
            own.ok_or_else(|| HalError::Usage("submit: a command buffer of another driver".to_owned()))?;
        let recorded_for = own.commands.queue;
        if recorded_for != queue {
            let text =
                format!("submit: recorded for queue {}, submitted to queue {}", recorded_for.0, queue.0);
            return Err(HalError::Usage(text));
        }
        if own.submitted.swap(true, Ordering::Relaxed) {
            return Err(HalError::Usage("submit: a command buffer was submitted twice".to_owned()));
        }
        Ok(Arc::clone(&own.commands))
    }
}

impl CommandBuffer for SimCommandBuffer {
    fn timestamp(&self, slot: TimestampSlot) -> Option<u64> {
        self.commands.timestamps.read(slot)
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
