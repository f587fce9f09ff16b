//! From what was noted to a program.

use super::arena::{Need, pack};
use super::command::{Bound, Command, SlotId, Work};
use super::fuse;
use super::noting::{GRAIN, Made, Shares, Slot, Span, State};
use super::program::{InputSlot, Layout, OutputAt, Part, Place, Program, Step, StepWork};
use super::report::{CommandReport, ProgramReport};
use super::schedule::{self, Levels};
use crate::device::Device;
use crate::error::Result;
use crate::ids::Access;
use rivulet_hal::ByteRange;
use std::collections::{HashMap, HashSet};

/// Commands after which a part ends with the next level, so that the device has begun before all is recorded.
const PART: usize = 32;
/// Commands after which it ends in the middle of a level: as many as a stream submits together.
const PART_MOST: usize = 64;

/// Whether commands are put together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fusion {
    /// Where that is known to give the same, up to roundings that no longer happen in 16-bit types.
    #[default]
    On,
    /// Every command as it was noted, but for those whose results nobody reads.
    Off,
}

/// A program in the making.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) device: Device,
    pub(super) commands: Vec<Command>,
    pub(super) slots: Vec<Slot>,
    /// Slots in which outputs lie.
    pub(super) kept: HashSet<SlotId>,
    /// What was put together or left out.
    pub(super) fusions: Vec<String>,
}

impl Draft {
    /// The memory of a slot that nobody sees from outside.
    pub(super) fn scratch(&self, slot: SlotId) -> Option<&Made> {
        match self.slots.get(slot as usize) {
            Some(Slot::Made(made)) if made.constant.is_none() && !self.kept.contains(&slot) => Some(made),
            _ => None,
        }
    }

    /// Leaves out commands whose results nobody reads.
    pub(super) fn drop_unread(&mut self) {
        let mut read: HashSet<SlotId> = HashSet::new();
        let mut needed = vec![false; self.commands.len()];
        for (at, command) in self.commands.iter().enumerate().rev() {
            let seen = |bound: &Bound| self.scratch(bound.slot).is_none() || read.contains(&bound.slot);
            needed[at] = command.writes().any(seen);
            if needed[at] {
                // What is written may be written in part, or added to.
                read.extend(command.bounds.iter().map(|bound| bound.slot));
            }
        }
        let dropped = self.commands.iter().zip(&needed).filter(|(_, needed)| !**needed);
        let notes: Vec<_> = dropped.map(|(own, _)| format!("dropped {}: unread", own.describe())).collect();
        self.fusions.extend(notes);
        let mut needed = needed.into_iter();
        self.commands.retain(|_| needed.next().unwrap_or(true));
    }
}

/// The index of the draw that makes the seed of each random group, in the order of the noted run.
fn draws(commands: &[Command]) -> HashMap<u32, usize> {
    let mut draws = HashMap::new();
    for command in commands.iter().filter(|command| command.seed().is_some()) {
        let next = draws.len();
        draws.entry(command.group).or_insert(next);
    }
    draws
}

/// Levels of the commands, places of the arena's slots, and the arena's bytes.
struct Plan {
    levels: Levels,
    places: HashMap<SlotId, u64>,
    bytes: u64,
}

impl Plan {
    fn new(draft: &Draft, levels: Levels) -> Self {
        let mut lives: HashMap<SlotId, (u32, u32)> = HashMap::new();
        let mut order = Vec::new();
        for (command, &level) in draft.commands.iter().zip(&levels) {
            for bound in command.bounds.iter().filter(|bound| draft.scratch(bound.slot).is_some()) {
                let life = lives.entry(bound.slot).or_insert_with(|| {
                    order.push(bound.slot);
                    (level, level)
                });
                *life = (life.0.min(level), life.1.max(level));
            }
        }
        let bytes = |slot: &SlotId| draft.scratch(*slot).map_or(0, |made| made.bytes);
        let needs: Vec<Need> = order
            .iter()
            .map(|slot| Need { bytes: bytes(slot), levels: lives[slot].0..=lives[slot].1 })
            .collect();
        let (places, bytes) = pack(&needs);
        Self { levels, places: order.into_iter().zip(places).collect(), bytes }
    }

    /// The plan with the fewest barriers among those that need no more memory than is allowed, else the smallest.
    fn best(draft: &Draft, allowed: u64) -> Self {
        let ways = [schedule::earliest, schedule::in_order, schedule::one_by_one];
        let mut smallest: Option<Self> = None;
        for way in ways {
            let plan = Self::new(draft, way(&draft.commands));
            if plan.bytes <= allowed {
                return plan;
            }
            if smallest.as_ref().is_none_or(|other| plan.bytes < other.bytes) {
                smallest = Some(plan);
            }
        }
        smallest.unwrap_or_else(|| Self::new(draft, Levels::new()))
    }
}

/// The numbers that slots have in a program.
struct Numbers<'d> {
    draft: &'d Draft,
    plan: &'d Plan,
    inputs: usize,
    fresh: HashMap<SlotId, usize>,
    fresh_bytes: Vec<u64>,
    /// Place among the noting's shared blocks, to the program's.
    shared: HashMap<usize, usize>,
    shared_places: Vec<usize>,
}

impl Numbers<'_> {
    fn arena(&self) -> usize {
        self.inputs + self.fresh_bytes.len()
    }

    fn shared(&mut self, place: usize) -> usize {
        let next = self.shared.len();
        *self.shared.entry(place).or_insert_with(|| {
            self.shared_places.push(place);
            next
        })
    }

    /// A bound as the run resolves it.
    fn place(&mut self, bound: &Bound, ranges: &[ByteRange]) -> Place {
        let ByteRange { start, end } = bound.range;
        let write = bound.write;
        let number = |slot: usize| slot as u32;
        match &self.draft.slots[bound.slot as usize] {
            Slot::Input(index) => {
                // Kernels read whole words, up to vectors of four.
                let end = end.min(ranges[*index].end.next_multiple_of(16));
                Place { slot: number(*index), start, end, write }
            }
            Slot::Made(Made { constant: Some(place), .. }) | Slot::Shared { place, .. } => {
                let shared = self.shared(*place);
                Place { slot: number(self.arena() + 1 + shared), start, end, write }
            }
            Slot::Made(made) => {
                let end = end.min(made.bytes);
                match (self.fresh.get(&bound.slot), self.plan.places.get(&bound.slot)) {
                    (Some(&fresh), _) => Place { slot: number(self.inputs + fresh), start, end, write },
                    (None, place) => {
                        let base = place.copied().unwrap_or(0);
                        Place { slot: number(self.arena()), start: base + start, end: base + end, write }
                    }
                }
            }
        }
    }
}

/// Makes the program of a noting that ended well.
pub(super) fn compile(mut state: State, outputs: &[Span<'_>], fusion: Fusion) -> Result<Program> {
    state.failure()?;
    let slots = outputs.iter().enumerate().map(|(index, span)| state.output(index, span));
    let slots = slots.collect::<Result<Vec<SlotId>>>()?;
    let noted = state.commands.len();
    let draws = draws(&state.commands);
    let mut draft = Draft {
        device: state.device.clone(),
        commands: std::mem::take(&mut state.commands),
        slots: std::mem::take(&mut state.slots),
        kept: slots.iter().copied().collect(),
        fusions: Vec::new(),
    };
    draft.drop_unread();
    let allowed = state.peak / 10 * 11;
    let mut plan = None;
    if fusion == Fusion::On {
        let mut fused = draft.clone();
        fuse::fuse(&mut fused)?;
        let found = Plan::best(&fused, allowed);
        // What is read later lives longer, so that fewer commands can need more memory.
        if found.bytes <= allowed {
            draft = fused;
            plan = Some(found);
        }
    }
    let plan = plan.unwrap_or_else(|| Plan::best(&draft, allowed));
    let mut numbers = Numbers {
        draft: &draft,
        plan: &plan,
        inputs: state.ranges.len(),
        fresh: HashMap::new(),
        fresh_bytes: Vec::new(),
        shared: HashMap::new(),
        shared_places: Vec::new(),
    };
    for &slot in &slots {
        if let Slot::Made(Made { bytes, constant: None, .. }) = &draft.slots[slot as usize]
            && !numbers.fresh.contains_key(&slot)
        {
            numbers.fresh.insert(slot, numbers.fresh_bytes.len());
            numbers.fresh_bytes.push(*bytes);
        }
    }
    let mut order: Vec<usize> = (0..draft.commands.len()).collect();
    order.sort_by_key(|&command| plan.levels[command]);

    let mut layout = Layout::default();
    let mut commands = Vec::with_capacity(order.len());
    let mut before = None;
    for &at in &order {
        let (command, level) = (&draft.commands[at], plan.levels[at]);
        let barrier = before.is_some_and(|before| before != level);
        before = Some(level);
        let places = layout.places.len() as u32;
        layout.places.extend(command.bounds.iter().map(|bound| numbers.place(bound, &state.ranges)));
        let work = match &command.work {
            Work::Dispatch(dispatch) => {
                let params = layout.params.len() as u32;
                layout.params.extend_from_slice(&dispatch.params);
                StepWork::Dispatch {
                    pipeline: dispatch.pipeline.clone(),
                    params: params..layout.params.len() as u32,
                    groups: dispatch.groups,
                    seed: command.seed().zip(draws.get(&command.group).copied()),
                }
            }
            Work::Copy => StepWork::Copy,
            Work::Fill(word) => StepWork::Fill(*word),
        };
        layout.steps.push(Step { barrier, places: places..layout.places.len() as u32, work });
        commands.push(CommandReport { label: command.label, kernel: command.describe(), level });
    }
    let outputs = slots.iter().zip(outputs).map(|(&slot, span)| match &draft.slots[slot as usize] {
        Slot::Input(index) => OutputAt::Input(*index, span.offset - state.ranges[*index].start),
        Slot::Made(Made { constant: Some(place), .. }) | Slot::Shared { place, .. } => {
            OutputAt::Shared(numbers.shared(*place), span.offset)
        }
        Slot::Made(_) => OutputAt::Fresh(numbers.fresh[&slot], span.offset),
    });
    layout.outputs = outputs.collect();
    let (arena, fresh_bytes) = (numbers.arena(), std::mem::take(&mut numbers.fresh_bytes));
    let shared_places = std::mem::take(&mut numbers.shared_places);
    layout.parts = cut(&layout, arena + 1);
    let written =
        |input: usize| layout.places.iter().any(|place| place.write && place.slot as usize == input);
    layout.inputs = state
        .ranges
        .iter()
        .enumerate()
        .map(|(index, range)| InputSlot {
            lead: range.start,
            bytes: range.end - range.start,
            written: written(index),
        })
        .collect();

    let barriers = layout.steps.iter().filter(|step| step.barrier).count();
    let report = ProgramReport {
        commands,
        noted,
        fusions: std::mem::take(&mut draft.fusions),
        barriers,
        parts: layout.parts.len(),
        arena_bytes: plan.bytes,
        fresh_bytes: fresh_bytes.iter().sum(),
        eager_peak_bytes: state.peak,
        shared_blocks: shared_places.len(),
    };
    layout.fresh = fresh_bytes;
    layout.arena = plan.bytes.next_multiple_of(GRAIN);
    layout.draws = draws.len();
    // Blocks that no command names any more go back with the rest of the noting.
    let mut shared = Shares { device: draft.device.clone(), blocks: Vec::new() };
    let mut noted_blocks: Vec<_> = std::mem::take(&mut state.shared.blocks).into_iter().map(Some).collect();
    for place in shared_places {
        shared.blocks.extend(noted_blocks.get_mut(place).and_then(Option::take));
    }
    state.shared.blocks.extend(noted_blocks.into_iter().flatten());
    Ok(Program::new(layout, shared, report))
}

/// Cuts the steps into parts of about as many commands as are submitted together.
fn cut(layout: &Layout, shared: usize) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut first = 0;
    for at in 1..=layout.steps.len() {
        let length = at - first;
        let ends =
            layout.steps.get(at).is_none_or(|next| (next.barrier && length >= PART) || length >= PART_MOST);
        if ends {
            parts.push(part(layout, first..at, shared));
            first = at;
        }
    }
    parts
}

fn part(layout: &Layout, steps: std::ops::Range<usize>, shared: usize) -> Part {
    let mut uses: HashMap<u32, Access> = HashMap::new();
    for step in &layout.steps[steps.clone()] {
        for place in &layout.places[step.places.start as usize..step.places.end as usize] {
            let access = if place.write { Access::Write } else { Access::Read };
            let known = uses.entry(place.slot).or_insert(access);
            *known = access.max(*known);
        }
    }
    let mut uses: Vec<_> = uses.into_iter().collect();
    uses.sort_unstable_by_key(|&(slot, _)| slot);
    let split = uses.partition_point(|&(slot, _)| (slot as usize) < shared);
    let fixed = uses.split_off(split);
    let shared = fixed.into_iter().map(|(slot, access)| (slot - shared as u32, access)).collect();
    Part { steps: steps.start as u32..steps.end as u32, uses, shared }
}
