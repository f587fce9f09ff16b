//! Happens-before over everything that was handed to the device. Knows no thread and no byte; the module
//! documentation of [`super`] states the rules.

use super::clock::Clock;
use super::history::{Access, Conflict, History};
use crate::ByteRange;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::thread::ThreadId;

/// A value of a timeline.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub(super) timeline: usize,
    pub(super) value: u64,
}

/// Bytes of a memory that a command touches.
#[derive(Debug)]
pub(super) struct Touch {
    pub(super) memory: u64,
    pub(super) range: ByteRange,
    pub(super) write: bool,
}

/// A command as far as ordering is concerned.
#[derive(Debug)]
pub(super) enum Step {
    Barrier,
    Command { label: Arc<str>, touches: Vec<Touch> },
}

/// A submission on its way into the order.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) ticket: u64,
    pub(super) label: Arc<str>,
    pub(super) waits: Vec<Point>,
    pub(super) steps: Vec<Arc<[Step]>>,
    pub(super) signal: Point,
}

/// A submission that conflicts.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) ticket: u64,
    pub(super) signal: Point,
    pub(super) text: String,
}

/// Signals kept for one timeline before the older half is given up. A wait for a value given up counts as a wait for
/// the oldest kept, which can hide a fault, but never invents one.
const SIGNALS_KEPT: usize = 1 << 16;

#[derive(Debug)]
struct OpenAccess {
    thread: ThreadId,
    memory: u64,
    range: ByteRange,
    write: bool,
}

#[derive(Debug)]
pub(super) struct Order {
    /// What is ordered before the next command of each queue.
    queues: Vec<Clock>,
    /// Commands placed on each queue so far.
    placed: Vec<u64>,
    /// What the host did and knows.
    host: Clock,
    timelines: Vec<VecDeque<(u64, Clock)>>,
    memories: HashMap<u64, History>,
    open: Vec<OpenAccess>,
    /// Submissions with what the host did and knew when it handed them over, in order, until their waits' signals
    /// are known.
    pending: Vec<VecDeque<(Planned, Clock)>>,
}

impl Order {
    pub(super) fn new(queues: usize) -> Self {
        Self {
            queues: vec![Clock::new(queues + 1); queues],
            placed: vec![0; queues],
            host: Clock::new(queues + 1),
            timelines: Vec::new(),
            memories: HashMap::new(),
            open: Vec::new(),
            pending: (0..queues).map(|_| VecDeque::new()).collect(),
        }
    }

    pub(super) fn add_timeline(&mut self) -> usize {
        self.timelines.push(VecDeque::new());
        self.timelines.len() - 1
    }

    pub(super) fn add_memory(&mut self, id: u64) {
        self.memories.insert(id, History::default());
    }

    /// Forgets a memory; the use that the host does not know to be complete, if there is one.
    pub(super) fn remove_memory(&mut self, id: u64) -> Option<String> {
        let pending = self.pending.iter().flatten().find(|(planned, _)| {
            let touches = |step: &Step| match step {
                Step::Barrier => false,
                Step::Command { touches, .. } => touches.iter().any(|touch| touch.memory == id),
            };
            planned.steps.iter().any(|steps| steps.iter().any(touches))
        });
        let pending = pending.map(|(planned, _)| format!("submission `{}`", planned.label));
        let history = self.memories.remove(&id)?;
        let used_by = pending.or_else(|| Some(history.any_unordered(&self.host)?.who.to_string()))?;
        Some(format!("memory {id} was freed while its use by {used_by} was not known to be complete"))
    }

    /// Hands a submission over; those that could be placed now and conflict.
    pub(super) fn submit(&mut self, queue: usize, planned: Planned) -> Vec<Refused> {
        let ticket = planned.ticket;
        self.pending[queue].push_back((planned, self.host.clone()));
        self.place_all(Some(ticket))
    }

    /// The CPU signals a timeline; those submissions that could be placed now and conflict.
    pub(super) fn host_signal(&mut self, point: Point) -> Vec<Refused> {
        self.note_signal(point, self.host.clone());
        self.place_all(None)
    }

    /// The host has learnt that a value is reached.
    pub(super) fn host_learns(&mut self, point: Point) {
        if let Some(covered) = covered_by(&self.timelines, point) {
            self.host.join(covered);
        }
    }

    pub(super) fn begin_host_access(
        &mut self,
        memory: u64,
        range: ByteRange,
        write: bool,
    ) -> Result<(), String> {
        let thread = std::thread::current().id();
        let verb = verb(write);
        let clash = self.open.iter().find(|open| {
            open.thread != thread
                && open.memory == memory
                && open.range.overlaps(range)
                && (open.write || write)
        });
        if let Some(open) = clash {
            let ByteRange { start, end } = open.range;
            return Err(format!(
                "the host {verb} memory {memory} bytes {}..{} on one thread while another {} bytes {start}..{end}",
                range.start,
                range.end,
                self::verb(open.write)
            ));
        }
        let agent = self.queues.len();
        let by = Access { agent, index: self.host.get(agent) + 1, who: "the host".into() };
        let history = self.memories.entry(memory).or_default();
        let conflict = history.conflict(range, write, &by, &self.host);
        if let Some(conflict) = conflict {
            let ByteRange { start, end } = conflict.range;
            let (earlier, does) = (&conflict.earlier.who, self::verb(conflict.earlier_writes));
            return Err(format!(
                "the host {verb} memory {memory} bytes {start}..{end}, which {earlier} {does}, and the host has not \
                 seen that complete"
            ));
        }
        history.note(range, write, &by);
        self.host.set(agent, by.index);
        self.open.push(OpenAccess { thread, memory, range, write });
        Ok(())
    }

    /// False where no such access is open.
    pub(super) fn end_host_access(&mut self, memory: u64, range: ByteRange, write: bool) -> bool {
        let same = |open: &OpenAccess| (open.memory, open.range, open.write) == (memory, range, write);
        let own = self.open.iter().rposition(|open| same(open) && open.thread == std::thread::current().id());
        match own.or_else(|| self.open.iter().rposition(same)) {
            Some(index) => {
                self.open.remove(index);
                true
            }
            None => false,
        }
    }

    /// Places what can be placed. `refusable` is the submission whose call can still fail: where it conflicts, it
    /// leaves no trace. Others leave their signal, which other queues may wait for.
    fn place_all(&mut self, refusable: Option<u64>) -> Vec<Refused> {
        let mut refused = Vec::new();
        loop {
            let mut progress = false;
            for queue in 0..self.queues.len() {
                while let Some((planned, known)) = self.pop_placeable(queue) {
                    progress = true;
                    let Planned { ticket, signal, .. } = planned;
                    let conflict = self.place(queue, &planned, known, refusable == Some(ticket));
                    refused.extend(conflict.map(|text| Refused { ticket, signal, text }));
                }
            }
            if !progress {
                return refused;
            }
        }
    }

    /// The queue's next submission where all its waits' signals are known, with what precedes it.
    fn pop_placeable(&mut self, queue: usize) -> Option<(Planned, Clock)> {
        let (planned, host) = self.pending[queue].front()?;
        let mut known = self.queues[queue].clone();
        known.join(host);
        for &wait in planned.waits.iter().filter(|wait| wait.value > 0) {
            known.join(covered_by(&self.timelines, wait)?);
        }
        let (planned, _) = self.pending[queue].pop_front()?;
        Some((planned, known))
    }

    /// Puts a submission into the order where it conflicts with nothing, else gives the first conflict.
    fn place(&mut self, queue: usize, planned: &Planned, known: Clock, refusable: bool) -> Option<String> {
        let mut start = Position { queue, known, placed: self.placed[queue] };
        // All is looked at before anything is noted. What the submission itself has done so far is noted aside.
        let mut own: HashMap<u64, History> = HashMap::new();
        let mut ahead = start.clone();
        let conflict = ahead.walk(planned, |touch, by, known| {
            let earlier = own.entry(touch.memory).or_default().access(touch.range, touch.write, by, known);
            let earlier = earlier
                .or_else(|| self.memories.get(&touch.memory)?.conflict(touch.range, touch.write, by, known));
            self.open_conflict(touch, by).or_else(|| Some(describe(touch, by, &earlier?)))
        });
        if conflict.is_none() {
            start.walk(planned, |touch, by, _| {
                self.memories.get_mut(&touch.memory)?.note(touch.range, touch.write, by);
                None
            });
        }
        let after = match conflict {
            None => ahead,
            Some(_) if refusable => return conflict,
            Some(_) => start,
        };
        self.placed[queue] = after.placed;
        let mut covered = after.known.clone();
        covered.set(queue, after.placed);
        self.queues[queue] = after.known;
        self.note_signal(planned.signal, covered);
        conflict
    }

    fn open_conflict(&self, touch: &Touch, by: &Access) -> Option<String> {
        let &Touch { memory, range, write } = touch;
        let clashes =
            |open: &&OpenAccess| open.memory == memory && open.range.overlaps(range) && (open.write || write);
        let open = self.open.iter().find(clashes)?;
        let (start, end) = (open.range.start.max(range.start), open.range.end.min(range.end));
        let (who, does, host) = (&by.who, verb(write), verb(open.write));
        Some(format!("{who} {does} memory {memory} bytes {start}..{end} while the host {host} them"))
    }

    fn note_signal(&mut self, point: Point, covered: Clock) {
        let signals = &mut self.timelines[point.timeline];
        if signals.len() >= SIGNALS_KEPT {
            signals.drain(..SIGNALS_KEPT / 2);
        }
        // By value: signals of one timeline from several queues may be placed in another order.
        let place = signals.partition_point(|(value, _)| *value < point.value);
        signals.insert(place, (point.value, covered));
    }
}

/// Where a queue stands in the order.
#[derive(Clone, Debug)]
struct Position {
    queue: usize,
    /// What is ordered before the next command.
    known: Clock,
    /// Commands so far.
    placed: u64,
}

impl Position {
    /// Goes through the commands of a submission until `visit` finds something.
    fn walk(
        &mut self,
        planned: &Planned,
        mut visit: impl FnMut(&Touch, &Access, &Clock) -> Option<String>,
    ) -> Option<String> {
        let queue = self.queue;
        for step in planned.steps.iter().flat_map(|steps| steps.iter()) {
            match step {
                Step::Barrier => self.known.set(queue, self.placed),
                Step::Command { label, touches } => {
                    self.placed += 1;
                    let who = format!("`{label}` in submission `{}` on queue {queue}", planned.label);
                    let by = Access { agent: queue, index: self.placed, who: who.into() };
                    let found = touches.iter().find_map(|touch| visit(touch, &by, &self.known));
                    if found.is_some() {
                        return found;
                    }
                }
            }
        }
        None
    }
}

fn describe(touch: &Touch, by: &Access, conflict: &Conflict) -> String {
    let ByteRange { start, end } = conflict.range;
    let (who, does, memory) = (&by.who, verb(touch.write), touch.memory);
    let (earlier, did) = (&conflict.earlier.who, verb(conflict.earlier_writes));
    format!(
        "{who} {does} memory {memory} bytes {start}..{end}, which {earlier} {did}, and nothing orders the two"
    )
}

/// What the signal covers that first reached `point`, once it is known.
fn covered_by(timelines: &[VecDeque<(u64, Clock)>], point: Point) -> Option<&Clock> {
    let signals = &timelines[point.timeline];
    let first = signals.partition_point(|(value, _)| *value < point.value);
    signals.get(first).map(|(_, covered)| covered)
}

fn verb(write: bool) -> &'static str {
    if write { "writes" } else { "reads" }
}
