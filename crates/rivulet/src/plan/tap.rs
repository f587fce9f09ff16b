//! A recorder that keeps a copy of what goes through it.

use rivulet_hal::sync::Arc;
use rivulet_hal::{
    BufferRange, ByteRange, CommandBuffer, HalError, Memory, Operand, Pipeline, Recorder, TimestampSlot,
};

/// A command as the driver got it.
#[derive(Debug)]
pub(crate) enum Tapped {
    Dispatch {
        pipeline: Arc<dyn Pipeline>,
        operands: Vec<(Arc<dyn Memory>, ByteRange, bool)>,
        params: Vec<u8>,
        groups: [u32; 3],
    },
    Copy {
        from: BufferRange,
        to: BufferRange,
    },
    Fill {
        to: BufferRange,
        word: u32,
    },
    Barrier,
}

/// Commands of one op.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(super) commands: Vec<Tapped>,
}

/// Hands every command on.
#[derive(Debug)]
pub(crate) struct Tap<'r> {
    recorder: &'r mut dyn Recorder,
    log: &'r mut Log,
}

impl<'r> Tap<'r> {
    pub(crate) fn new(recorder: &'r mut dyn Recorder, log: &'r mut Log) -> Self {
        Self { recorder, log }
    }
}

impl Recorder for Tap<'_> {
    fn copy(&mut self, src: &BufferRange, dst: &BufferRange) -> Result<(), HalError> {
        self.recorder.copy(src, dst)?;
        if !src.range.is_empty() {
            self.log.commands.push(Tapped::Copy { from: src.clone(), to: dst.clone() });
        }
        Ok(())
    }

    fn fill(&mut self, dst: &BufferRange, word: u32) -> Result<(), HalError> {
        self.recorder.fill(dst, word)?;
        if !dst.range.is_empty() {
            self.log.commands.push(Tapped::Fill { to: dst.clone(), word });
        }
        Ok(())
    }

    fn dispatch_on(
        &mut self,
        pipeline: &Arc<dyn Pipeline>,
        operands: &[Operand<'_>],
        params: &[u8],
        groups: [u32; 3],
    ) -> Result<(), HalError> {
        self.recorder.dispatch_on(pipeline, operands, params, groups)?;
        if !groups.contains(&0) {
            let operands = operands.iter();
            self.log.commands.push(Tapped::Dispatch {
                pipeline: Arc::clone(pipeline),
                operands: operands.map(|own| (Arc::clone(own.memory), own.range, own.write)).collect(),
                params: params.to_vec(),
                groups,
            });
        }
        Ok(())
    }

    fn barrier(&mut self) -> Result<(), HalError> {
        self.log.commands.push(Tapped::Barrier);
        self.recorder.barrier()
    }

    fn timestamp(&mut self) -> Result<TimestampSlot, HalError> {
        self.recorder.timestamp()
    }

    fn len(&self) -> usize {
        self.recorder.len()
    }

    fn finish(self: Box<Self>) -> Result<Arc<dyn CommandBuffer>, HalError> {
        Err(HalError::Usage("recorder: an op closes none".to_owned()))
    }
}
