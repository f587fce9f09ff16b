//! What a thread records, noted while it runs.
//!
//! A thread has at most one noting. Its state lies in a thread-local, beside a flag that the ordinary paths look at: where
//! no noting is open they pay for one load.

use super::command::{Bound, Command, Dispatch, SlotId, Work};
use super::compile::{self, Fusion};
use super::program::Program;
use super::tap::{self, Tapped};
use crate::device::Device;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::ids::Access;
use crate::memory::Block;
use crate::ops::View;
use crate::stream::record::DeviceOp;
use rivulet_hal::sync::{self, Arc};
use rivulet_hal::{Backend, ByteRange, Memory};
use rivulet_kernels::Kernel;
use smallvec::SmallVec;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;

/// Alignment of every block, and what eager memory is counted in.
pub(super) const GRAIN: u64 = 256;
/// Most bytes before an input in its block that a run may have to copy along.
const LEAD: u64 = 64 << 10;
const OP: &str = "program";

sync::thread_local! {
    static OPEN: Cell<bool> = const { Cell::new(false) };
    static STATE: RefCell<Option<Box<State>>> = const { RefCell::new(None) };
}

/// True where the calling thread has a noting.
#[inline]
pub(crate) fn is_open() -> bool {
    OPEN.try_with(Cell::get).unwrap_or(false)
}

/// Bytes of a block that a tensor covers.
#[derive(Clone, Copy, Debug)]
pub struct Span<'b> {
    /// The memory.
    pub block: &'b Block,
    /// The tensor's first byte.
    pub offset: u64,
    /// Bytes from its first to its last.
    pub bytes: u64,
}

impl<'b> Span<'b> {
    /// The first `bytes` bytes of a block.
    pub fn new(block: &'b Block, bytes: u64) -> Self {
        Self { block, offset: 0, bytes }
    }

    pub(super) fn range(&self) -> ByteRange {
        ByteRange { start: self.offset, end: self.offset.saturating_add(self.bytes) }
    }
}

pub(super) fn no_program<T>(op: &'static str, reason: String) -> Result<T> {
    Err(Error::NoKernel { op, reason })
}

/// References to blocks that are given back when this is dropped.
#[derive(Debug)]
pub(super) struct Shares {
    pub(super) device: Device,
    pub(super) blocks: Vec<Arc<Block>>,
}

impl Drop for Shares {
    fn drop(&mut self) {
        for block in self.blocks.drain(..) {
            self.device.free(block);
        }
    }
}

impl Shares {
    fn new(device: &Device) -> Self {
        Self { device: device.clone(), blocks: Vec::new() }
    }

    /// One more owner of a block; where it lies in the list. `None` where the block is not live.
    fn add(&mut self, block: &Block) -> Option<usize> {
        let allocator = self.device.allocator();
        let found = allocator.find(block.address()).filter(|found| std::ptr::eq(&**found, block))?;
        allocator.share(&found, Box::new(|| ())).then(|| {
            self.blocks.push(found);
            self.blocks.len() - 1
        })
    }
}

/// A block that the noting thread allocated.
#[derive(Clone, Debug)]
pub(super) struct Made {
    /// Bytes asked for, in whole grains.
    pub(super) bytes: u64,
    live: bool,
    /// Place among the shared blocks, where the CPU wrote it.
    pub(super) constant: Option<usize>,
    pub(super) read: bool,
    pub(super) written: bool,
}

/// What a slot is.
#[derive(Clone, Debug)]
pub(super) enum Slot {
    /// The input of that number.
    Input(usize),
    Made(Made),
    /// Place among the shared blocks.
    Shared {
        place: usize,
        written: bool,
    },
}

/// Everything noted so far.
#[derive(Debug)]
pub(super) struct State {
    pub(super) device: Device,
    /// In the order of the slots, of which they are the first.
    pub(super) inputs: Shares,
    pub(super) ranges: Vec<ByteRange>,
    pub(super) shared: Shares,
    pub(super) slots: Vec<Slot>,
    /// By the block's header: its allocation, and its slot.
    current: HashMap<usize, (u64, SlotId)>,
    pub(super) commands: Vec<Command>,
    pub(super) groups: u32,
    live: u64,
    pub(super) peak: u64,
    failure: Option<(&'static str, String)>,
}

fn key(block: &Block) -> usize {
    std::ptr::from_ref(block).addr()
}

impl State {
    fn new(device: &Device, inputs: &[Span<'_>]) -> Result<Self> {
        let mut state = Self {
            device: device.clone(),
            inputs: Shares::new(device),
            ranges: Vec::new(),
            shared: Shares::new(device),
            slots: Vec::new(),
            current: HashMap::new(),
            commands: Vec::new(),
            groups: 0,
            live: 0,
            peak: 0,
            failure: None,
        };
        for (index, span) in inputs.iter().enumerate() {
            let range = span.range();
            if range.end > span.block.size() || span.block.memory().is_none() {
                let size = span.block.size();
                return no_program(
                    OP,
                    format!("input {index} ends at byte {} of a block of {size}", range.end),
                );
            }
            if span.offset >= LEAD {
                return no_program(
                    OP,
                    format!(
                        "input {index} begins at byte {} of its block; below {LEAD} is allowed",
                        span.offset
                    ),
                );
            }
            let same = |other: usize| {
                state.inputs.blocks.get(other).is_some_and(|block| key(block) == key(span.block))
            };
            if let Some(other) = (0..index).find(|&other| same(other) && state.ranges[other].overlaps(range))
            {
                return no_program(
                    OP,
                    format!("inputs {other} and {index} share memory; which of them is used cannot be told"),
                );
            }
            if state.inputs.add(span.block).is_none() {
                return no_program(OP, format!("the memory of input {index} was freed"));
            }
            state.ranges.push(range);
            state.slots.push(Slot::Input(index));
        }
        Ok(state)
    }

    pub(super) fn fail(&mut self, op: &'static str, reason: String) {
        self.failure.get_or_insert((op, reason));
    }

    /// The inputs that lie in a block.
    fn inputs_in(&self, block: &Block) -> impl Iterator<Item = usize> + '_ {
        let wanted = key(block);
        self.inputs.blocks.iter().enumerate().filter(move |(_, own)| key(own) == wanted).map(|(at, _)| at)
    }

    /// The slot of a block that is no input, where it has one.
    fn known(&self, block: &Block) -> Option<SlotId> {
        let &(serial, slot) = self.current.get(&key(block))?;
        (serial == block.serial()).then_some(slot)
    }

    /// The slot of bytes of a block.
    pub(super) fn resolve(&mut self, op: &'static str, block: &Block, touched: ByteRange) -> Option<SlotId> {
        let mut partly = None;
        for input in self.inputs_in(block) {
            let range = self.ranges[input];
            if range.start <= touched.start && touched.end <= range.end {
                return Some(input as SlotId);
            }
            if range.overlaps(touched) {
                partly = Some(input);
            }
        }
        if let Some(input) = partly {
            let Self { ranges, .. } = self;
            let range = ranges[input];
            let (from, to) = (touched.start, touched.end);
            self.fail(
                op,
                format!(
                    "touches bytes {from}..{to} of a block, of which input {input} is {}..{}",
                    range.start, range.end
                ),
            );
            return None;
        }
        if let Some(slot) = self.known(block) {
            return Some(slot);
        }
        let Some(place) = self.shared.add(block) else {
            self.fail(op, format!("uses freed memory at {:#x}", block.address()));
            return None;
        };
        let slot = self.slots.len() as SlotId;
        self.slots.push(Slot::Shared { place, written: false });
        self.current.insert(key(block), (block.serial(), slot));
        Some(slot)
    }

    fn made(&mut self, block: &Block) {
        if let Some(&(_, earlier)) = self.current.get(&key(block)) {
            self.died(earlier);
        }
        let bytes = block.requested().next_multiple_of(GRAIN);
        let made = Made { bytes, live: true, constant: None, read: false, written: false };
        self.current.insert(key(block), (block.serial(), self.slots.len() as SlotId));
        self.slots.push(Slot::Made(made));
        self.live += bytes;
        self.peak = self.peak.max(self.live);
    }

    fn died(&mut self, slot: SlotId) {
        if let Some(Slot::Made(made)) = self.slots.get_mut(slot as usize)
            && std::mem::take(&mut made.live)
        {
            self.live -= made.bytes;
        }
    }

    fn host(&mut self, op: &'static str, block: &Block, access: Access) {
        let input = self.inputs_in(block).next();
        if let Some(input) = input {
            return self.fail(op, format!("ran on the CPU over the memory of input {input}"));
        }
        let slot = self.known(block);
        let Some(Slot::Made(made)) = slot.and_then(|slot| self.slots.get_mut(slot as usize)) else {
            return self.fail(
                op,
                "ran on the CPU over memory that was there before: what it saw may be another at the next run"
                    .to_owned(),
            );
        };
        if made.written {
            return self.fail(op, "ran on the CPU over what the device made".to_owned());
        }
        if access == Access::Write {
            if made.read {
                return self.fail(op, "wrote on the CPU what the device had read".to_owned());
            }
            if made.constant.is_none() {
                let place = self.shared.add(block);
                if let Some(Slot::Made(made)) = slot.and_then(|slot| self.slots.get_mut(slot as usize)) {
                    made.constant = place;
                }
            }
        }
    }

    /// Notes that a command names the slot.
    fn mark(&mut self, op: &'static str, slot: SlotId, write: bool) {
        let constant = match self.slots.get_mut(slot as usize) {
            Some(Slot::Made(made)) => {
                made.read |= !write;
                made.written |= write;
                made.constant.is_some() && made.written
            }
            Some(Slot::Shared { written, .. }) => {
                *written |= write;
                false
            }
            _ => false,
        };
        if constant {
            self.fail(op, "writes what the CPU had written before: a run could not restore it".to_owned());
        }
    }

    /// A driver's range as a part of one of the op's blocks.
    fn bound(
        &mut self,
        op: &DeviceOp<'_>,
        memory: &Arc<dyn Memory>,
        range: ByteRange,
        write: bool,
        view: Option<&View<'_>>,
    ) -> Option<Bound> {
        let holds = |block: &&Block| {
            block.memory().is_some_and(|own| Arc::ptr_eq(own, memory))
                && block.offset() <= range.start
                && range.end <= block.offset() + block.size()
        };
        let mut blocks = op.operands.iter().map(|&(block, _)| block);
        let Some(block) = blocks.find(holds) else {
            self.fail(op.label, "uses memory that is none of its operands".to_owned());
            return None;
        };
        let base = block.offset();
        let range = ByteRange { start: range.start - base, end: range.end - base };
        let touched = view.map_or(range, |view| view.bytes());
        let slot = self.resolve(op.label, block, touched)?;
        self.mark(op.label, slot, write);
        Some(Bound { slot, range, touched, write, dtype: view.map(|view| view.dtype) })
    }

    /// Notes what an op recorded. `views`: the operands of its dispatches.
    pub(super) fn note(
        &mut self,
        op: &DeviceOp<'_>,
        kernel: Option<&Kernel>,
        views: &[(&View<'_>, Access)],
        tapped: Vec<Tapped>,
    ) {
        self.groups += 1;
        for command in tapped {
            let (parts, work): (SmallVec<[_; 6]>, _) = match command {
                Tapped::Barrier => {
                    self.groups += 1;
                    continue;
                }
                Tapped::Dispatch { pipeline, operands, params, groups } => {
                    let dispatch = Dispatch { pipeline, kernel: kernel.copied(), params, groups };
                    (operands.into_iter().collect(), Work::Dispatch(Box::new(dispatch)))
                }
                Tapped::Copy { from, to } => {
                    let parts = [(to.memory, to.range, true), (from.memory, from.range, false)];
                    (parts.into_iter().collect(), Work::Copy)
                }
                Tapped::Fill { to, word } => {
                    (std::iter::once((to.memory, to.range, true)).collect(), Work::Fill(word))
                }
            };
            let views = if matches!(work, Work::Dispatch(_)) { views } else { &[] };
            let mut bounds = SmallVec::new();
            for (place, (memory, range, write)) in parts.into_iter().enumerate() {
                let view = views.get(place).map(|(view, _)| *view);
                match self.bound(op, &memory, range, write, view) {
                    Some(bound) => bounds.push(bound),
                    None => return,
                }
            }
            self.commands.push(Command { label: op.label, group: self.groups, bounds, work });
        }
    }

    pub(super) fn failure(&mut self) -> Result<()> {
        match self.failure.take() {
            Some((op, reason)) => no_program(op, reason),
            None => Ok(()),
        }
    }

    /// Where a block is that the caller keeps: its slot.
    pub(super) fn output(&mut self, index: usize, span: &Span<'_>) -> Result<SlotId> {
        if span.range().end > span.block.size() {
            return no_program(OP, format!("output {index} lies outside its block"));
        }
        let slot = self.resolve(OP, span.block, span.range());
        self.failure()?;
        slot.map_or_else(|| no_program(OP, format!("output {index} has no memory")), Ok)
    }
}

/// Runs `body` on the calling thread's noting where it is one of this device.
fn with(engine: &Engine, body: impl FnOnce(&mut State)) {
    // The state is gone only while the thread ends.
    let _ = STATE.try_with(|state| {
        if let Some(state) = state.borrow_mut().as_deref_mut()
            && std::ptr::eq(state.device.engine(), engine)
        {
            body(state);
        }
    });
}

/// Notes what an op recorded on the calling thread, or that it failed.
#[cold]
pub(crate) fn note(
    engine: &Engine,
    op: &DeviceOp<'_>,
    kernel: Option<&Kernel>,
    views: &[(&View<'_>, Access)],
    outcome: Result<tap::Log, &Error>,
) {
    with(engine, |state| match outcome {
        Ok(log) => state.note(op, kernel, views, log.commands),
        Err(error) => state.fail(op.label, format!("failed: {error}")),
    });
}

/// Notes that the calling thread allocated a block.
#[cold]
pub(crate) fn made(engine: &Engine, block: &Block) {
    with(engine, |state| state.made(block));
}

/// Notes that the calling thread gave a block back.
#[cold]
pub(crate) fn freed(engine: &Engine, block: &Block) {
    with(engine, |state| {
        if let Some(slot) = state.known(block) {
            state.died(slot);
        }
    });
}

/// Notes that the CPU touches blocks.
#[cold]
pub(crate) fn host(engine: &Engine, op: &'static str, operands: &[(&Block, Access)]) {
    with(engine, |state| operands.iter().for_each(|&(block, access)| state.host(op, block, access)));
}

fn take() -> Option<Box<State>> {
    let _ = OPEN.try_with(|open| open.set(false));
    STATE.try_with(|state| state.borrow_mut().take()).ok().flatten()
}

/// A noting in progress. What the thread records meanwhile runs as always. Belongs to the thread that began it; dropping
/// it ends it without a program.
///
/// Blocks that the thread allocates are activations: each run has its own. Inputs are bound anew at each run. All other
/// blocks are shared by all runs: a run sees what is in them then, and writes to them as the noted work did.
///
/// The CPU may write memory that the thread allocated and the device has not touched (a constant, which the program
/// keeps), and read it. Any other CPU access while a noting is open makes [`Noting::end`] fail: what the CPU saw of an
/// input, a weight or a result, the next run would not see.
#[derive(Debug)]
#[must_use = "a noting that is dropped ends without a program"]
pub struct Noting {
    not_send: std::marker::PhantomData<*const ()>,
}

impl Noting {
    /// Begins to note what the calling thread records.
    ///
    /// # Errors
    /// [`Error::NoKernel`] on the host adapter, where a noting is open already, and for inputs that share memory, lie
    /// outside their blocks or begin more than 64 KiB into them.
    pub fn begin(device: &Device, inputs: &[Span<'_>]) -> Result<Self> {
        device.check()?;
        if device.info().backend == Backend::Host {
            return no_program(OP, format!("{} runs ops on the CPU", device.info().name));
        }
        if is_open() {
            return no_program(OP, "this thread is noting one already".to_owned());
        }
        let state = Box::new(State::new(device, inputs)?);
        let set = STATE.try_with(|place| *place.borrow_mut() = Some(state));
        if set.is_err() {
            return no_program(OP, "the thread is ending".to_owned());
        }
        let _ = OPEN.try_with(|open| open.set(true));
        Ok(Self { not_send: std::marker::PhantomData })
    }

    /// Ends the noting. The memory of `outputs` is made anew at each run, except where they lie in an input or a shared
    /// block.
    ///
    /// # Errors
    /// [`Error::NoKernel`] with the name of the op that cannot be run again; what compiling a kernel says.
    pub fn end(self, outputs: &[Span<'_>]) -> Result<Program> {
        self.end_with(outputs, Fusion::On)
    }

    /// As [`Noting::end`], with or without fusion.
    ///
    /// # Errors
    /// As [`Noting::end`].
    pub fn end_with(self, outputs: &[Span<'_>], fusion: Fusion) -> Result<Program> {
        let state = take();
        std::mem::forget(self);
        match state {
            Some(state) => compile::compile(*state, outputs, fusion),
            None => no_program(OP, "no noting is open".to_owned()),
        }
    }
}

impl Drop for Noting {
    fn drop(&mut self) {
        drop(take());
    }
}
