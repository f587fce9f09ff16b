//! What comes before what: vector clocks over passes and the host.

use crate::ByteRange;
use std::collections::HashMap;
use std::sync::Arc;

/// The CPU, as one agent.
pub(super) const HOST: u64 = 0;

/// For each agent, the first of its epochs that is not known to be over. An agent is a pass or the host; a pass begins
/// an epoch with each barrier, the host with each commit.
pub(super) type Clock = HashMap<u64, u64>;

pub(super) fn join(clock: &mut Clock, other: &Clock) {
    for (&agent, &epoch) in other {
        let known = clock.entry(agent).or_insert(epoch);
        *known = (*known).max(epoch);
    }
}

/// An access to memory.
#[derive(Clone, Debug)]
pub(super) struct Touch {
    pub(super) memory: u64,
    pub(super) range: ByteRange,
    pub(super) write: bool,
}

/// An access that has been placed.
#[derive(Debug)]
struct Placed {
    range: ByteRange,
    write: bool,
    agent: u64,
    epoch: u64,
    label: Arc<str>,
}

#[derive(Debug, Default)]
pub(super) struct Order {
    history: HashMap<u64, Vec<Placed>>,
    /// What the CPU knows to be over.
    host: Clock,
    host_epoch: u64,
    /// Accesses of the CPU that have not ended.
    open: Vec<Touch>,
}

impl Order {
    /// The clock of a command buffer that is committed now.
    pub(super) fn commit(&mut self) -> Clock {
        self.host_epoch += 1;
        let mut clock = self.host.clone();
        clock.insert(HOST, self.host_epoch);
        clock
    }

    /// The CPU has seen a signal.
    pub(super) fn host_learns(&mut self, clock: &Clock) {
        join(&mut self.host, clock);
    }

    /// What of `touches` conflicts with an access of the CPU that is going on.
    pub(super) fn open_conflict(&self, touches: &[Touch], label: &str) -> Option<String> {
        touches.iter().find_map(|touch| {
            let clash = self.open.iter().find(|open| {
                open.memory == touch.memory && open.range.overlaps(touch.range) && (open.write || touch.write)
            })?;
            let ByteRange { start, end } = clash.range;
            Some(format!("`{label}` is committed while the CPU has bytes {start}..{end} that it uses"))
        })
    }

    /// Places the accesses of one command. A text says what they race with.
    pub(super) fn place(
        &mut self,
        touches: &[Touch],
        (agent, epoch): (u64, u64),
        clock: &Clock,
        label: &Arc<str>,
    ) -> Option<String> {
        let race = touches.iter().find_map(|touch| self.race(touch, clock, label));
        for touch in touches {
            self.add(touch, (agent, epoch), clock, label);
        }
        race
    }

    fn race(&self, touch: &Touch, clock: &Clock, label: &str) -> Option<String> {
        let placed = self.history.get(&touch.memory)?;
        let clash = placed.iter().find(|placed| {
            placed.range.overlaps(touch.range)
                && (placed.write || touch.write)
                && !is_over(clock, placed.agent, placed.epoch)
        })?;
        let verb = |write| if write { "writes" } else { "reads" };
        Some(format!(
            "race: `{label}` {} bytes {}..{} of memory {}, which `{}` {}; nothing orders the two",
            verb(touch.write),
            touch.range.start,
            touch.range.end,
            touch.memory,
            clash.label,
            verb(clash.write)
        ))
    }

    fn add(&mut self, touch: &Touch, (agent, epoch): (u64, u64), clock: &Clock, label: &Arc<str>) {
        let placed = self.history.entry(touch.memory).or_default();
        // An access that the new one covers and comes after has nothing more to say.
        placed.retain(|old| {
            let covered = touch.range.start <= old.range.start && old.range.end <= touch.range.end;
            !(covered && (touch.write || !old.write) && is_over(clock, old.agent, old.epoch))
        });
        placed.push(Placed {
            range: touch.range,
            write: touch.write,
            agent,
            epoch,
            label: Arc::clone(label),
        });
    }

    /// The CPU begins an access.
    pub(super) fn begin_host(&mut self, touch: Touch) -> Option<String> {
        let label: Arc<str> = "the CPU".into();
        let clock = clock_with_host(self.host.clone(), u64::MAX);
        let race = self.race(&touch, &clock, &label);
        self.add(&touch, (HOST, self.host_epoch), &clock, &label);
        self.open.push(touch);
        race
    }

    /// False where no such access was begun.
    pub(super) fn end_host(&mut self, touch: &Touch) -> bool {
        let found = self.open.iter().position(|open| {
            open.memory == touch.memory && open.range == touch.range && open.write == touch.write
        });
        found.map(|index| self.open.swap_remove(index)).is_some()
    }

    pub(super) fn forget_memory(&mut self, memory: u64) {
        self.history.remove(&memory);
    }

    /// Agents that an access is still known of. What clocks say of others can be forgotten.
    pub(super) fn agents(&self) -> impl Fn(u64) -> bool + use<> {
        let live: std::collections::HashSet<u64> =
            self.history.values().flatten().map(|placed| placed.agent).chain([HOST]).collect();
        move |agent| live.contains(&agent)
    }

    pub(super) fn forget(&mut self, live: &impl Fn(u64) -> bool) {
        self.host.retain(|&agent, _| live(agent));
    }
}

/// The CPU's accesses come one after the other.
fn clock_with_host(mut clock: Clock, epoch: u64) -> Clock {
    clock.insert(HOST, epoch);
    clock
}

fn is_over(clock: &Clock, agent: u64, epoch: u64) -> bool {
    clock.get(&agent).is_some_and(|&known| known > epoch)
}
