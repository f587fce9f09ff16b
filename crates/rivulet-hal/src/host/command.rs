use super::pipeline::HostPipeline;
use crate::cpu::{Command, Kernel, Recording, Span, Timestamps};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::{BufferRange, CommandBuffer, HalError, Memory, Operand, Pipeline, Recorder, TimestampSlot};
use std::sync::Arc;

type HostSpan = Span<Arc<dyn Memory>>;

/// Records for one submission.
#[derive(Debug)]
pub(super) struct HostRecorder(Recording<Arc<dyn Memory>>);

impl HostRecorder {
    pub(super) fn new() -> Self {
        Self(Recording::new())
    }
}

fn span(buffer: &BufferRange) -> Result<HostSpan, HalError> {
    let memory = &buffer.memory;
    let base = memory.host_ptr().ok_or_else(|| {
        HalError::Usage("command: the memory belongs to another device, the CPU cannot reach it".to_owned())
    })?;
    Span::new(Arc::clone(memory), base, memory.size(), buffer.range)
}

fn kernel(pipeline: &Arc<dyn Pipeline>) -> Result<&Kernel, HalError> {
    let own = pipeline.as_any().downcast_ref::<HostPipeline>().map(|pipeline| &pipeline.0);
    own.ok_or_else(|| HalError::Usage(format!("kernel {}: compiled by another driver", pipeline.label())))
}

impl Recorder for HostRecorder {
    fn copy(&mut self, src: &BufferRange, dst: &BufferRange) -> Result<(), HalError> {
        self.0.copy(span(src)?, span(dst)?)
    }

    fn fill(&mut self, dst: &BufferRange, word: u32) -> Result<(), HalError> {
        self.0.fill(span(dst)?, word)
    }

    fn dispatch_on(
        &mut self,
        pipeline: &Arc<dyn Pipeline>,
        operands: &[Operand<'_>],
        params: &[u8],
        groups: [u32; 3],
    ) -> Result<(), HalError> {
        let operands = operands.iter().map(|operand| Ok((span(&operand.buffer())?, operand.write)));
        self.0.dispatch(kernel(pipeline)?, operands.collect::<Result<_, HalError>>()?, params, groups)
    }

    fn barrier(&mut self) -> Result<(), HalError> {
        self.0.barrier();
        Ok(())
    }

    fn timestamp(&mut self) -> Result<TimestampSlot, HalError> {
        Ok(self.0.timestamp())
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn finish(self: Box<Self>) -> Result<Arc<dyn CommandBuffer>, HalError> {
        let timestamps = self.0.timestamps();
        Ok(Arc::new(HostCommands {
            commands: self.0.commands,
            timestamps,
            submitted: AtomicBool::new(false),
        }))
    }
}

/// Closed commands.
#[derive(Debug)]
pub(super) struct HostCommands {
    commands: Vec<Command<Arc<dyn Memory>>>,
    timestamps: Timestamps,
    submitted: AtomicBool,
}

impl HostCommands {
    /// The commands behind the trait object, which from now on count as submitted.
    pub(super) fn take(buffer: &Arc<dyn CommandBuffer>) -> Result<&Self, HalError> {
        let own = buffer.as_any().downcast_ref::<Self>();
        let own =
            own.ok_or_else(|| HalError::Usage("submit: a command buffer of another driver".to_owned()))?;
        if own.submitted.swap(true, Ordering::Relaxed) {
            return Err(HalError::Usage("submit: a command buffer was submitted twice".to_owned()));
        }
        Ok(own)
    }

    pub(super) fn run(&self) -> Result<(), HalError> {
        for command in &self.commands {
            match command {
                Command::Op(op) => op.run()?,
                // Commands run one after the other on one thread: already ordered.
                Command::Barrier => {}
                Command::Timestamp(slot) => self.timestamps.write(*slot),
            }
        }
        Ok(())
    }
}

impl CommandBuffer for HostCommands {
    fn timestamp(&self, slot: TimestampSlot) -> Option<u64> {
        self.timestamps.read(slot)
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
