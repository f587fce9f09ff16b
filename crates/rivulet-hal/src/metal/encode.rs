//! From recorded commands to the calls of a command buffer.

use super::api::{Api, Commands, Encoder, limits};
use super::builtin;
use super::command::{Bound, Code, Command, MetalCommands};
use super::shared::Shared;
use super::timeline::{Claim, MetalTimeline};
use crate::HalError;
use crate::sync::Arc;
use smallvec::SmallVec;

/// Commands of one `MTLCommandBuffer`: stretches of the submission's command buffers. A timestamp ends one, because
/// Metal's clock is read at the end of a command buffer.
#[derive(Debug)]
pub(super) struct Part<'s, A: Api> {
    pieces: SmallVec<[(&'s MetalCommands<A>, &'s [Command]); 2]>,
    /// The timestamp at the end: of which of the submission's command buffers, and its slot.
    pub(super) timestamp: Option<(usize, u32)>,
}

impl<A: Api> Part<'_, A> {
    fn new() -> Self {
        Self { pieces: SmallVec::new(), timestamp: None }
    }

    /// Whether anything runs.
    pub(super) fn dispatches(&self) -> bool {
        let runs = |command: &Command| matches!(command, Command::Dispatch { .. });
        self.pieces.iter().any(|(_, commands)| commands.iter().any(runs))
    }
}

/// Cuts a submission into parts, at least one.
pub(super) fn parts<'s, A: Api>(buffers: &[&'s MetalCommands<A>]) -> Vec<Part<'s, A>> {
    let mut parts = Vec::with_capacity(1);
    let mut part = Part::new();
    for (index, buffer) in buffers.iter().enumerate() {
        let mut rest = buffer.commands.as_slice();
        let stamp = |command: &Command| matches!(command, Command::Timestamp(_));
        while let Some(at) = rest.iter().position(stamp) {
            let (before, after) = rest.split_at(at);
            part.pieces.push((buffer, before));
            if let Some(Command::Timestamp(slot)) = after.first() {
                part.timestamp = Some((index, *slot));
            }
            parts.push(std::mem::replace(&mut part, Part::new()));
            rest = after.get(1..).unwrap_or_default();
        }
        if !rest.is_empty() {
            part.pieces.push((buffer, rest));
        }
    }
    if parts.is_empty() || !part.pieces.is_empty() {
        parts.push(part);
    }
    parts
}

/// What the parts of one submission have in common.
pub(super) struct Plan<'s, A: Api> {
    pub(super) shared: &'s Shared<A>,
    pub(super) waits: &'s [(&'s MetalTimeline<A>, u64)],
    pub(super) timeline: &'s MetalTimeline<A>,
    pub(super) claim: &'s Claim<A>,
    pub(super) value: u64,
}

impl<A: Api> Plan<'_, A> {
    /// Encodes a part. `updated` says whether an earlier pass has updated the fence, `last` whether the signal belongs
    /// here.
    pub(super) fn encode(
        &self,
        commands: &mut A::Commands,
        part: &Part<'_, A>,
        updated: &mut bool,
        last: bool,
    ) -> Result<(), HalError> {
        for (timeline, value) in self.waits {
            commands.wait(&timeline.event, *value);
        }
        let passes = part.dispatches();
        // A fence orders passes alone, and those of one queue.
        let by_event = self.claim.moved || !passes;
        if by_event && self.claim.previous > 0 {
            commands.wait(&self.timeline.event, self.claim.previous);
        }
        if passes {
            let encoder = commands.encoder().ok_or_else(|| super::timeline::refused("a compute encoder"))?;
            self.pass(encoder, part, *updated)?;
            *updated = true;
        }
        if last {
            commands.signal(&self.timeline.event, self.value);
        }
        Ok(())
    }

    fn pass<E: Encoder<A>>(&self, encoder: E, part: &Part<'_, A>, updated: bool) -> Result<(), HalError> {
        let mut pass = Pass::new(encoder);
        if updated {
            pass.encoder.wait_fence(&self.claim.fence);
        }
        for (buffer, commands) in &part.pieces {
            for command in *commands {
                match command {
                    // What was before the pass is ordered by the fence.
                    Command::Barrier => pass.barrier_before_next = pass.dispatched,
                    Command::Timestamp(_) => {}
                    Command::Dispatch { code, operands, params, groups } => {
                        pass.dispatch(
                            self.shared,
                            buffer,
                            *code,
                            buffer.operands(*operands),
                            buffer.params(*params),
                            *groups,
                        )?;
                    }
                }
            }
        }
        pass.encoder.update_fence(&self.claim.fence);
        pass.encoder.end();
        Ok(())
    }
}

/// An open encoder, and what is set in it.
struct Pass<A: Api, E> {
    encoder: E,
    dispatched: bool,
    barrier_before_next: bool,
    /// The kernel that is set: its code, and of which commands where it is a pipeline's.
    kernel: Option<(Code, usize)>,
    bound: [Option<Bound<A>>; limits::BUFFERS as usize],
    threadgroup: SmallVec<[u32; 4]>,
}

impl<A: Api, E: Encoder<A>> Pass<A, E> {
    fn new(encoder: E) -> Self {
        Self {
            encoder,
            dispatched: false,
            barrier_before_next: false,
            kernel: None,
            bound: [const { None }; limits::BUFFERS as usize],
            threadgroup: SmallVec::new(),
        }
    }

    fn dispatch(
        &mut self,
        shared: &Shared<A>,
        buffer: &MetalCommands<A>,
        code: Code,
        operands: &[Bound<A>],
        params: &[u8],
        groups: [u32; 3],
    ) -> Result<(), HalError> {
        if std::mem::take(&mut self.barrier_before_next) {
            self.encoder.barrier();
        }
        let same = (code, std::ptr::from_ref(buffer).addr());
        let changed = self.kernel.replace(same) != Some(same);
        let threads = match code {
            Code::Pipeline(place) => {
                let pipeline = buffer.pipeline(place);
                let pipeline = pipeline
                    .ok_or_else(|| HalError::Usage("submit: a kernel of another driver".to_owned()))?;
                if changed {
                    self.encoder.kernel(&pipeline.kernel);
                    self.threadgroup(&pipeline.threadgroup);
                }
                pipeline.threads
            }
            Code::Copy | Code::Fill => {
                if changed {
                    let builtins = &shared.builtins;
                    self.encoder.kernel(if code == Code::Copy { &builtins.copy } else { &builtins.fill });
                }
                [builtin::THREADS, 1, 1]
            }
        };
        let mut lengths = SmallVec::<[u8; 32]>::new();
        for (index, bound) in (0..).zip(operands) {
            self.bind(index, bound);
            // Bytes from the start of the binding; kernels count elements by them in 32 bits.
            let length = u32::try_from(bound.access.skip + bound.access.bytes).unwrap_or(u32::MAX);
            lengths.extend_from_slice(&length.to_ne_bytes());
        }
        let count = operands.len() as u32;
        if !params.is_empty() {
            self.bytes(count, params);
        }
        if !lengths.is_empty() {
            self.bytes(count + 1, &lengths);
        }
        self.encoder.dispatch(groups, threads);
        self.dispatched = true;
        Ok(())
    }

    fn bind(&mut self, index: u32, bound: &Bound<A>) {
        let Some(kept) = self.bound.get_mut(index as usize) else { return };
        if kept.as_ref() == Some(bound) {
            return;
        }
        *kept = Some(*bound);
        self.encoder.buffer(index, bound.buffer, bound.offset, bound.access);
    }

    fn bytes(&mut self, index: u32, bytes: &[u8]) {
        if let Some(kept) = self.bound.get_mut(index as usize) {
            *kept = None;
        }
        self.encoder.bytes(index, bytes);
    }

    fn threadgroup(&mut self, lengths: &[u32]) {
        for (index, length) in lengths.iter().enumerate() {
            let length = length.next_multiple_of(limits::THREADGROUP_ALIGNMENT);
            match self.threadgroup.get_mut(index) {
                Some(kept) if *kept == length => continue,
                Some(kept) => *kept = length,
                None => self.threadgroup.push(length),
            }
            self.encoder.threadgroup_memory(index as u32, length);
        }
    }
}

/// The commands of a submission, marked as submitted; all or none.
pub(super) fn take<'s, A: Api>(
    buffers: &'s [Arc<dyn crate::CommandBuffer>],
    shared: &Arc<Shared<A>>,
) -> Result<SmallVec<[&'s MetalCommands<A>; 2]>, HalError> {
    let mut taken = SmallVec::<[&MetalCommands<A>; 2]>::new();
    for buffer in buffers {
        let own = MetalCommands::of(buffer, shared).and_then(|own| own.take().map(|()| own));
        match own {
            Ok(own) => taken.push(own),
            Err(error) => {
                taken.iter().for_each(|own| own.untake());
                return Err(error);
            }
        }
    }
    Ok(taken)
}
