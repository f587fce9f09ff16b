//! A program, and its runs.

use super::noting::{Shares, Span};
use super::report::ProgramReport;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::ids::Access;
use crate::memory::Block;
use crate::rng::Generator;
use crate::stream::record::DeviceOp;
use rivulet_hal::sync::Arc;
use rivulet_hal::{BufferRange, ByteRange, HalError, Memory, Operand, Pipeline, Recorder};
use rivulet_kernels::params::MAX_PARAM_BYTES;
use smallvec::SmallVec;
use std::ops::Range;

const OP: &str = "program";
/// Slots, operands and blocks that a run holds without allocating.
const INLINE: usize = 8;
const BLOCKS: usize = 24;

/// Blocks that a run made for outputs. Each is the caller's, to be given back with [`Device::free`].
pub type Fresh = SmallVec<[Arc<Block>; 4]>;

/// Where an output lies after a run.
#[derive(Clone, Copy, Debug)]
pub enum OutputPlace<'p> {
    /// In a block that the run made.
    Fresh {
        /// Its place in [`Fresh`].
        index: usize,
        /// First byte in it.
        offset: u64,
    },
    /// In an input.
    Input {
        /// Its number.
        index: usize,
        /// First byte, counted from the input's.
        offset: u64,
    },
    /// In a block that all runs share.
    Shared {
        /// The block.
        block: &'p Arc<Block>,
        /// First byte in it.
        offset: u64,
    },
}

#[derive(Clone, Copy, Debug)]
pub(super) enum OutputAt {
    Fresh(usize, u64),
    Input(usize, u64),
    Shared(usize, u64),
}

/// Bytes of a slot: inputs, then fresh blocks, the arena, and shared blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) slot: u32,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) write: bool,
}

#[derive(Debug)]
pub(super) enum StepWork {
    Dispatch {
        pipeline: Arc<dyn Pipeline>,
        params: Range<u32>,
        groups: [u32; 3],
        /// First byte of a seed among the parameters, and the draw that makes it.
        seed: Option<(usize, usize)>,
    },
    Copy,
    Fill(u32),
}

#[derive(Debug)]
pub(super) struct Step {
    /// Whether it comes after everything before it.
    pub(super) barrier: bool,
    pub(super) places: Range<u32>,
    pub(super) work: StepWork,
}

/// Steps that are recorded as one op.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) steps: Range<u32>,
    /// Slots that are other blocks at each run.
    pub(super) uses: Vec<(u32, Access)>,
    /// Places among the shared blocks.
    pub(super) shared: Vec<(u32, Access)>,
}

#[derive(Debug)]
pub(super) struct InputSlot {
    /// Bytes before the input's first one that its places count from.
    pub(super) lead: u64,
    pub(super) bytes: u64,
    pub(super) written: bool,
}

#[derive(Debug, Default)]
pub(super) struct Layout {
    pub(super) inputs: Vec<InputSlot>,
    /// Bytes of each.
    pub(super) fresh: Vec<u64>,
    pub(super) arena: u64,
    pub(super) outputs: Vec<OutputAt>,
    pub(super) steps: Vec<Step>,
    pub(super) parts: Vec<Part>,
    pub(super) places: Vec<Place>,
    pub(super) params: Vec<u8>,
    pub(super) draws: usize,
}

/// Work that was noted once and can be run any number of times, from any threads at the same time. See [the
/// module](super).
#[derive(Debug)]
pub struct Program {
    layout: Layout,
    shared: Shares,
    report: ProgramReport,
    alignment: u64,
    /// A shared block or an input is written, so that inputs may not overlap with those.
    writes: bool,
}

/// Blocks of a run that go back when it is recorded.
struct Held<'d> {
    device: &'d Device,
    blocks: SmallVec<[Arc<Block>; 4]>,
}

impl Held<'_> {
    fn allocate(&mut self, bytes: u64) -> Result<()> {
        self.blocks.push(self.device.allocate(bytes)?);
        Ok(())
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        for block in self.blocks.drain(..) {
            self.device.free(block);
        }
    }
}

/// Where a slot's bytes are.
#[derive(Clone, Copy)]
struct Base<'b> {
    memory: &'b Arc<dyn Memory>,
    start: u64,
    end: u64,
}

impl<'b> Base<'b> {
    fn of(block: &'b Block) -> Result<Self> {
        let memory = block.memory().ok_or_else(|| adopted(OP))?;
        let start = block.offset();
        Ok(Self { memory, start, end: start + block.size() })
    }
}

fn adopted(op: &'static str) -> Error {
    Error::NoKernel { op, reason: "an operand is memory that only the CPU can reach".to_owned() }
}

fn refuse<T>(reason: String) -> Result<T> {
    Err(Error::BadOperand { op: OP, reason })
}

/// What one run binds.
struct Bindings<'r> {
    layout: &'r Layout,
    shared: &'r [Arc<Block>],
    /// Inputs, fresh blocks, the arena.
    bases: SmallVec<[Base<'r>; INLINE]>,
    seeds: SmallVec<[u64; INLINE]>,
}

impl Bindings<'_> {
    #[inline]
    fn operand(&self, place: &Place) -> Result<Operand<'_>, HalError> {
        let (slot, Place { start, end, write, .. }) = (place.slot as usize, *place);
        if let Some(base) = self.bases.get(slot) {
            let range = ByteRange { start: base.start + start, end: (base.start + end).min(base.end) };
            return Ok(Operand { memory: base.memory, range, write });
        }
        let block = self.shared.get(slot - self.bases.len());
        match block.and_then(|block| Some((block.memory()?, block.offset()))) {
            Some((memory, base)) => {
                Ok(Operand { memory, range: ByteRange { start: base + start, end: base + end }, write })
            }
            None => Err(HalError::Usage("program: a shared block without memory".to_owned())),
        }
    }

    fn record(&self, recorder: &mut dyn Recorder, part: &Part) -> Result<(), HalError> {
        let steps = &self.layout.steps[part.steps.start as usize..part.steps.end as usize];
        for (at, step) in steps.iter().enumerate() {
            // Before the first of a part there is one wherever the blocks ask for it.
            if step.barrier && at > 0 {
                recorder.barrier()?;
            }
            let places = &self.layout.places[step.places.start as usize..step.places.end as usize];
            let mut operands: SmallVec<[Operand<'_>; INLINE]> = SmallVec::new();
            for place in places {
                operands.push(self.operand(place)?);
            }
            match &step.work {
                StepWork::Dispatch { pipeline, params, groups, seed } => {
                    let params = &self.layout.params[params.start as usize..params.end as usize];
                    match seed {
                        None => recorder.dispatch_on(pipeline, &operands, params, *groups)?,
                        Some((byte, draw)) => {
                            let mut seeded: SmallVec<[u8; MAX_PARAM_BYTES]> = SmallVec::from_slice(params);
                            let seed = self.seeds.get(*draw).copied().unwrap_or(0);
                            if let Some(words) = seeded.get_mut(*byte..*byte + 8) {
                                // The low word first, each as the device reads it.
                                words[..4].copy_from_slice(&(seed as u32).to_ne_bytes());
                                words[4..].copy_from_slice(&((seed >> 32) as u32).to_ne_bytes());
                            }
                            recorder.dispatch_on(pipeline, &operands, &seeded, *groups)?;
                        }
                    }
                }
                StepWork::Copy => {
                    if let [to, from] = operands.as_slice() {
                        recorder.copy(&from.buffer(), &to.buffer())?;
                    }
                }
                StepWork::Fill(word) => {
                    if let [to] = operands.as_slice() {
                        recorder.fill(&to.buffer(), *word)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// An input that a kernel cannot read where it lies, and the number of the block it is copied to.
struct Moved {
    input: usize,
    block: usize,
}

impl Program {
    pub(super) fn new(layout: Layout, shared: Shares, report: ProgramReport) -> Self {
        let alignment = shared.device.hal().operand_alignment();
        let writes = layout.inputs.iter().any(|input| input.written)
            || layout.parts.iter().any(|part| part.shared.iter().any(|&(_, access)| access == Access::Write));
        Self { layout, shared, report, alignment, writes }
    }

    /// The device that it runs on.
    pub fn device(&self) -> &Device {
        &self.shared.device
    }

    /// What it is made of.
    pub fn report(&self) -> &ProgramReport {
        &self.report
    }

    /// Number of outputs.
    pub fn outputs(&self) -> usize {
        self.layout.outputs.len()
    }

    /// Where output `index` lies after a run.
    pub fn output(&self, index: usize) -> Option<OutputPlace<'_>> {
        Some(match *self.layout.outputs.get(index)? {
            OutputAt::Fresh(index, offset) => OutputPlace::Fresh { index, offset },
            OutputAt::Input(index, offset) => OutputPlace::Input { index, offset },
            OutputAt::Shared(place, offset) => {
                OutputPlace::Shared { block: self.shared.blocks.get(place)?, offset }
            }
        })
    }

    /// Bytes of each block that a run makes for outputs.
    pub fn fresh(&self) -> &[u64] {
        &self.layout.fresh
    }

    /// Records a run on the calling thread's stream and returns at once. `inputs` as at [`Noting::begin`]: as many, each
    /// of as many bytes, anywhere in their blocks. `rng` makes the seeds of random ops, in the order in which the noted run
    /// drew them.
    ///
    /// An input that is not aligned as the device's kernels need it is copied first, on the device, and copied back where
    /// the program writes it.
    ///
    /// Any thread, any number at a time.
    ///
    /// # Errors
    /// [`Error::BadOperand`] for inputs that do not fit, and where the program writes an input that overlaps with
    /// another one or with a shared block; [`Error::OutOfMemory`]; what [`Device::record`] says. Nothing was recorded
    /// then, except where a program of several parts failed after the first: what was recorded stays.
    ///
    /// [`Noting::begin`]: super::Noting::begin
    pub fn run(&self, inputs: &[Span<'_>], rng: Option<&Generator>) -> Result<Fresh> {
        let (layout, device) = (&self.layout, self.device());
        self.check(inputs)?;
        let mut held = Held { device, blocks: SmallVec::new() };
        let moved = self.make_room(inputs, &mut held)?;
        let seeds = self.seeds(rng)?;
        for &bytes in &layout.fresh {
            held.allocate(bytes)?;
        }
        if layout.arena > 0 {
            held.allocate(layout.arena)?;
        }
        self.record(inputs, &held.blocks, &moved, seeds)?;
        // The blocks for copied inputs come first, the arena last; the rest is the caller's.
        let fresh = held.blocks.drain(moved.len()..moved.len() + layout.fresh.len()).collect();
        Ok(fresh)
    }

    fn record(
        &self,
        inputs: &[Span<'_>],
        blocks: &[Arc<Block>],
        moved: &[Moved],
        seeds: SmallVec<[u64; INLINE]>,
    ) -> Result<()> {
        let (layout, device) = (&self.layout, self.device());
        let own = &blocks[moved.len()..];
        let mut bases: SmallVec<[Base<'_>; INLINE]> = SmallVec::new();
        let mut slots: SmallVec<[&Block; INLINE]> = SmallVec::new();
        for (index, (span, slot)) in inputs.iter().zip(&layout.inputs).enumerate() {
            match moved.iter().find(|moved| moved.input == index) {
                Some(moved) => {
                    bases.push(Base::of(&blocks[moved.block])?);
                    slots.push(&blocks[moved.block]);
                }
                None => {
                    let base = Base::of(span.block)?;
                    // Only an input without bytes can begin too early for its lead.
                    let start = (base.start + span.offset).saturating_sub(slot.lead);
                    bases.push(Base { start, ..base });
                    slots.push(span.block);
                }
            }
        }
        for block in own {
            bases.push(Base::of(block)?);
            slots.push(block);
        }
        if layout.arena == 0 {
            // Nothing lies in it, but shared blocks are counted from behind it.
            match slots.first().copied().or_else(|| self.shared.blocks.first().map(|block| &**block)) {
                Some(any) => {
                    bases.push(Base::of(any)?);
                    slots.push(any);
                }
                None => return Ok(()),
            }
        }
        let bindings = Bindings { layout, shared: &self.shared.blocks, bases, seeds };
        let last = layout.parts.len().saturating_sub(1);
        for (at, part) in layout.parts.iter().enumerate() {
            let mut operands: SmallVec<[(&Block, Access); BLOCKS]> = SmallVec::new();
            operands.extend(part.uses.iter().map(|&(slot, access)| (slots[slot as usize], access)));
            let shared = part.shared.iter();
            operands.extend(shared.map(|&(place, access)| (&*self.shared.blocks[place as usize], access)));
            if moved.is_empty() {
                device.record(&DeviceOp::new(OP, &operands), |recorder| bindings.record(recorder, part))?;
                continue;
            }
            for moved in moved {
                let written = layout.inputs[moved.input].written && at == last;
                operands
                    .push((inputs[moved.input].block, if written { Access::Write } else { Access::Read }));
                operands.push((&blocks[moved.block], Access::Write));
            }
            device.record(&DeviceOp::new(OP, &operands), |recorder| {
                if at == 0 {
                    self.move_inputs(recorder, inputs, blocks, moved, true)?;
                }
                bindings.record(recorder, part)?;
                if at == last {
                    self.move_inputs(recorder, inputs, blocks, moved, false)?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Copies inputs to where kernels can read them, or back.
    fn move_inputs(
        &self,
        recorder: &mut dyn Recorder,
        inputs: &[Span<'_>],
        blocks: &[Arc<Block>],
        moved: &[Moved],
        there: bool,
    ) -> Result<(), HalError> {
        if !there {
            recorder.barrier()?;
        }
        for moved in moved {
            let (span, slot) = (&inputs[moved.input], &self.layout.inputs[moved.input]);
            let part = |block: &Block, offset: u64| {
                let buffer = block.buffer().ok_or_else(|| HalError::Usage(adopted(OP).to_string()))?;
                let start = buffer.range.start + offset;
                let range = ByteRange { start, end: start + span.bytes };
                Ok::<_, HalError>(BufferRange { memory: buffer.memory, range })
            };
            let (given, copy) = (part(span.block, span.offset)?, part(&blocks[moved.block], slot.lead)?);
            match there {
                true => recorder.copy(&given, &copy)?,
                false if slot.written => recorder.copy(&copy, &given)?,
                false => {}
            }
        }
        if there { recorder.barrier() } else { Ok(()) }
    }

    fn seeds(&self, rng: Option<&Generator>) -> Result<SmallVec<[u64; INLINE]>> {
        match (self.layout.draws, rng) {
            (0, _) => Ok(SmallVec::new()),
            (draws, Some(rng)) => Ok((0..draws).map(|_| rng.draw()).collect()),
            (draws, None) => refuse(format!("{draws} of its ops draw random numbers; it needs a generator")),
        }
    }

    /// Blocks for inputs that kernels cannot read where they lie.
    fn make_room(&self, inputs: &[Span<'_>], held: &mut Held<'_>) -> Result<SmallVec<[Moved; 2]>> {
        let mut moved = SmallVec::new();
        for (input, (span, slot)) in inputs.iter().zip(&self.layout.inputs).enumerate() {
            let block = span.block;
            let base = (block.offset() + span.offset).checked_sub(slot.lead);
            let aligned =
                base.is_some_and(|base| base >= block.offset() && base.is_multiple_of(self.alignment));
            // Who writes narrow elements may write whole words, the last one to its end.
            let end = span.offset + span.bytes;
            let owns_tail = !slot.written || end.is_multiple_of(4) || end >= block.requested();
            if span.bytes > 0 && !(aligned && owns_tail) {
                held.allocate((slot.lead + slot.bytes).next_multiple_of(16))?;
                moved.push(Moved { input, block: held.blocks.len() - 1 });
            }
        }
        Ok(moved)
    }

    fn check(&self, inputs: &[Span<'_>]) -> Result<()> {
        let wanted = &self.layout.inputs;
        if inputs.len() != wanted.len() {
            return refuse(format!("{} inputs; it takes {}", inputs.len(), wanted.len()));
        }
        for (index, (span, slot)) in inputs.iter().zip(wanted).enumerate() {
            let (bytes, size) = (span.bytes, span.block.size());
            if bytes != slot.bytes {
                return refuse(format!("input {index} has {bytes} bytes; it must have {}", slot.bytes));
            }
            if span.offset.checked_add(bytes).is_none_or(|end| end > size) {
                let offset = span.offset;
                return refuse(format!(
                    "input {index} has {bytes} bytes from {offset} on, in a block of {size}"
                ));
            }
        }
        if self.writes { self.check_overlaps(inputs) } else { Ok(()) }
    }

    #[cold]
    fn check_overlaps(&self, inputs: &[Span<'_>]) -> Result<()> {
        let shared_written = |place: usize| {
            self.layout
                .parts
                .iter()
                .flat_map(|part| &part.shared)
                .any(|&(own, access)| own as usize == place && access == Access::Write)
        };
        for (index, (span, slot)) in inputs.iter().zip(&self.layout.inputs).enumerate() {
            for (other, before) in inputs.iter().enumerate().take(index) {
                let written = slot.written || self.layout.inputs[other].written;
                if written && std::ptr::eq(before.block, span.block) && before.range().overlaps(span.range())
                {
                    return refuse(format!("inputs {other} and {index} share memory, which it writes"));
                }
            }
            for (place, block) in self.shared.blocks.iter().enumerate() {
                if std::ptr::eq(&**block, span.block) && (slot.written || shared_written(place)) {
                    return refuse(format!("input {index} lies in memory of its own, which it writes"));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "program_tests.rs"]
mod tests;
