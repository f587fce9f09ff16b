//! Everything that the model knows.

use super::ModelConfig;
use super::control::{CaptureDocument, FailingCommands};
use super::order::{Clock, Order};
use super::record::{Recorded, Recording};
use crate::cpu::{Allocation, Budget, Kernel};
use crate::metal::api::Handler;
use crate::sync::{Arc, Condvar, Mutex, Rank};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

/// The device and all its objects, by number.
#[derive(Debug)]
pub(super) struct World {
    pub(super) state: Mutex<State>,
    /// Something changed.
    pub(super) changed: Condvar,
    pub(super) budget: Arc<Budget>,
    pub(super) delay: Duration,
    pub(super) deadlock_after: Duration,
    pub(super) seed: u64,
    pub(super) captures: bool,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) faults: Vec<String>,
    last_id: u64,
    pub(super) queues: HashMap<u64, Queue>,
    pub(super) buffers: HashMap<u64, Arc<Storage>>,
    pub(super) kernels: HashMap<u64, KernelInfo>,
    pub(super) events: HashMap<u64, Event>,
    pub(super) fences: HashMap<u64, Fence>,
    /// Command buffers that are not committed.
    pub(super) recordings: HashMap<u64, Recording>,
    /// Objects that command buffers name which have not completed: how many, and the label of one.
    in_use: HashMap<u64, (usize, Arc<str>)>,
    pub(super) order: Order,
    pub(super) failing: Vec<FailingCommands>,
    /// Labels of command buffers, in the order of their commits.
    pub(super) committed: Vec<Arc<str>>,
    pub(super) most_in_flight: usize,
    /// Most threads that had command buffers open at a time.
    pub(super) most_encoding: usize,
    /// Command buffers being run, until their handlers have returned.
    pub(super) running: usize,
    pub(super) held: bool,
    pub(super) shutdown: bool,
    /// The capture that is recorded.
    pub(super) capture: Option<CaptureDocument>,
    /// Those that were ended, in order.
    pub(super) documents: Vec<CaptureDocument>,
    /// Passes since clocks were last tidied.
    pub(super) passes: usize,
}

/// The bytes of a buffer, alive as long as the handle or a command needs them.
#[derive(Debug)]
pub(super) struct Storage(pub(super) Allocation);

#[derive(Clone, Debug)]
pub(super) struct KernelInfo {
    pub(super) kernel: Kernel,
    pub(super) bindings: u32,
    pub(super) param_bytes: u32,
}

#[derive(Debug, Default)]
pub(super) struct Event {
    pub(super) value: u64,
    /// Highest value that a signal was encoded for, or that the CPU set.
    pub(super) encoded: u64,
    /// What each signal covers, the newest ones.
    pub(super) clocks: BTreeMap<u64, Clock>,
}

/// Signals of an event whose clocks are kept. An older value counts as covering what the oldest of them does, which
/// finds fewer races, never more.
const CLOCKS: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Fence {
    /// Where it was updated; a fence works within one queue.
    pub(super) queue: Option<u64>,
    /// What the last update covers; only that counts.
    pub(super) clock: Option<Clock>,
}

#[derive(Debug)]
pub(super) struct Queue {
    pub(super) most: usize,
    /// Command buffers that have not completed, committed or not.
    pub(super) buffers: usize,
    pub(super) jobs: VecDeque<Job>,
}

/// A committed command buffer.
pub(super) struct Job {
    pub(super) label: Arc<str>,
    pub(super) clock: Clock,
    pub(super) recorded: Vec<Recorded>,
    pub(super) uses: HashSet<u64>,
    pub(super) handlers: Vec<Handler>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("label", &self.label).finish_non_exhaustive()
    }
}

impl World {
    pub(super) fn new(config: &ModelConfig) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(Rank::DRIVER, State::default()),
            changed: Condvar::new(),
            budget: Arc::new(Budget::new("the model of Metal", config.memory_bytes)),
            delay: config.delay,
            deadlock_after: config.deadlock_after,
            seed: config.seed,
            captures: config.captures,
        })
    }

    /// Runs under the lock and wakes who waits for a change.
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let result = change(&mut self.state.lock());
        self.changed.notify_all();
        result
    }

    /// An object is gone. Its bytes, where it has any, stay for commands that still name them.
    pub(super) fn release(&self, kind: &str, id: u64) {
        let storage = self.change(|state| {
            if let Some((_, label)) = state.in_use.get(&id) {
                let text = format!(
                    "{kind} released while command buffer `{label}`, which names it, has not completed"
                );
                state.faults.push(text);
            }
            state.events.remove(&id);
            state.fences.remove(&id);
            state.kernels.remove(&id);
            state.order.forget_memory(id);
            state.buffers.remove(&id)
        });
        drop(storage);
    }
}

impl State {
    pub(super) fn id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub(super) fn fault(&mut self, text: String) {
        self.faults.push(text);
    }

    pub(super) fn hold(&mut self, uses: &HashSet<u64>, label: &Arc<str>) {
        for &id in uses {
            self.in_use.entry(id).or_insert_with(|| (0, Arc::clone(label))).0 += 1;
        }
    }

    pub(super) fn let_go(&mut self, uses: &HashSet<u64>) {
        for id in uses {
            if let Some((count, _)) = self.in_use.get_mut(id) {
                *count -= 1;
                if *count == 0 {
                    self.in_use.remove(id);
                }
            }
        }
    }

    /// The event reaches `value`; `clock` is what its signal covers.
    pub(super) fn signal(&mut self, event: u64, value: u64, clock: Clock) {
        let Some(event) = self.events.get_mut(&event) else { return };
        event.value = value;
        event.clocks.insert(value, clock);
        if event.clocks.len() > CLOCKS {
            event.clocks.pop_first();
        }
    }

    /// What is known with the event at `value`.
    pub(super) fn covered(&self, event: u64, value: u64) -> Clock {
        let event = self.events.get(&event);
        event
            .and_then(|event| event.clocks.range(value..).next())
            .map(|(_, clock)| clock.clone())
            .unwrap_or_default()
    }

    /// Forgets of clocks what no access refers to any more.
    pub(super) fn tidy(&mut self) {
        let live = self.order.agents();
        self.order.forget(&live);
        let events = self.events.values_mut().flat_map(|event| event.clocks.values_mut());
        let fences = self.fences.values_mut().filter_map(|fence| fence.clock.as_mut());
        let jobs = self.queues.values_mut().flat_map(|queue| queue.jobs.iter_mut().map(|job| &mut job.clock));
        events.chain(fences).chain(jobs).for_each(|clock| clock.retain(|&agent, _| live(agent)));
    }
}
