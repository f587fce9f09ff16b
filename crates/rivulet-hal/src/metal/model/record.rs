//! Command buffers and encoders as Metal sees them: calls in any order from any thread, each checked.

use super::order::Touch;
use super::state::{Job, State, Storage, World};
use crate::ByteRange;
use crate::cpu::{Op, Span};
use crate::metal::api::{Access, Handler, limits};
use crate::sync::Arc;
use crate::sync::thread;
use std::cell::Cell;
use std::collections::HashSet;

/// A command buffer that is not committed.
pub(super) struct Recording {
    queue: u64,
    pub(super) label: Arc<str>,
    thread: thread::ThreadId,
    open: Option<Pass>,
    recorded: Vec<Recorded>,
    uses: HashSet<u64>,
    handlers: Vec<Handler>,
}

impl std::fmt::Debug for Recording {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recording").field("label", &self.label).finish_non_exhaustive()
    }
}

/// What a command buffer does, in order.
#[derive(Debug)]
pub(super) enum Recorded {
    Wait { event: u64, value: u64 },
    Signal { event: u64, value: u64 },
    Pass(Vec<Step>),
}

/// What a pass does, in order.
#[derive(Debug)]
pub(super) enum Step {
    WaitFence(u64),
    UpdateFence(u64),
    Barrier,
    Run { label: Arc<str>, op: Op<Arc<Storage>>, touches: Vec<Touch> },
}

/// An open encoder.
#[derive(Debug)]
struct Pass {
    id: u64,
    steps: Vec<Step>,
    kernel: Option<u64>,
    slots: Vec<Option<Slot>>,
    updated: bool,
}

#[derive(Clone, Debug)]
enum Slot {
    Buffer { id: u64, offset: u64, access: Access },
    Bytes(Vec<u8>),
}

thread_local! {
    /// Autorelease pools that the thread is inside of.
    static POOLS: Cell<usize> = const { Cell::new(0) };
}

pub(super) fn inside_pool<R>(body: impl FnOnce() -> R) -> R {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            POOLS.with(|pools| pools.set(pools.get() - 1));
        }
    }
    POOLS.with(|pools| pools.set(pools.get() + 1));
    let _leave = Leave;
    body()
}

impl World {
    pub(super) fn commands(&self, queue: u64, label: &str) -> u64 {
        self.change(|state| {
            check_pool(state, "a command buffer");
            let id = state.id();
            let Some(at) = state.queues.get_mut(&queue) else { return id };
            at.buffers += 1;
            let (now, most) = (at.buffers, at.most);
            state.most_in_flight = state.most_in_flight.max(now);
            if now > most {
                state.fault(format!(
                    "command buffer `{label}` is number {now} of a queue of {most}: Metal would block"
                ));
            }
            let recording = Recording {
                queue,
                label: label.into(),
                thread: thread::current().id(),
                open: None,
                recorded: Vec::new(),
                uses: HashSet::new(),
                handlers: Vec::new(),
            };
            state.recordings.insert(id, recording);
            let threads: HashSet<_> = state.recordings.values().map(|recording| recording.thread).collect();
            state.most_encoding = state.most_encoding.max(threads.len());
            id
        })
    }

    /// Runs `body` on a command buffer that may be recorded now by this thread; otherwise that is a fault.
    fn record<R>(
        &self,
        commands: u64,
        call: &str,
        body: impl FnOnce(&mut State, &mut Recording) -> Result<R, String>,
    ) -> Option<R> {
        self.change(|state| {
            let Some(mut recording) = state.recordings.remove(&commands) else {
                state.fault(format!("{call}: command buffer {commands} was committed before"));
                return None;
            };
            if recording.thread != thread::current().id() {
                let label = &recording.label;
                state
                    .faults
                    .push(format!("{call}: `{label}` is used by another thread than the one that made it"));
            }
            let result = body(state, &mut recording);
            let label = Arc::clone(&recording.label);
            state.recordings.insert(commands, recording);
            result.map_err(|text| state.fault(format!("{call}: {text}, in `{label}`"))).ok()
        })
    }

    pub(super) fn encoder(&self, commands: u64) -> Option<u64> {
        self.record(commands, "computeCommandEncoder", |state, recording| {
            check_pool(state, "an encoder");
            if recording.open.is_some() {
                return Err("an encoder is open already".to_owned());
            }
            let id = state.id();
            let slots = vec![None; limits::BUFFERS as usize];
            recording.open = Some(Pass { id, steps: Vec::new(), kernel: None, slots, updated: false });
            Ok(id)
        })
    }

    pub(super) fn wait_event(&self, commands: u64, event: u64, value: u64) {
        self.record(commands, "encodeWaitForEvent", |state, recording| {
            closed(recording)?;
            known(state.events.contains_key(&event), "an event")?;
            recording.uses.insert(event);
            recording.recorded.push(Recorded::Wait { event, value });
            Ok(())
        });
    }

    pub(super) fn signal_event(&self, commands: u64, event: u64, value: u64) {
        self.record(commands, "encodeSignalEvent", |state, recording| {
            closed(recording)?;
            let encoded = state.events.get_mut(&event).map(|event| &mut event.encoded);
            let encoded = encoded.ok_or("an event that was released")?;
            if value <= *encoded {
                return Err(format!("value {value}, but {encoded} was asked for before"));
            }
            *encoded = value;
            recording.uses.insert(event);
            recording.recorded.push(Recorded::Signal { event, value });
            Ok(())
        });
    }

    pub(super) fn on_completed(&self, commands: u64, handler: Handler) {
        self.record(commands, "addCompletedHandler", |_, recording| {
            recording.handlers.push(handler);
            Ok(())
        });
    }

    pub(super) fn commit(&self, commands: u64) {
        self.record(commands, "commit", |_, recording| closed(recording));
        self.change(|state| {
            let Some(recording) = state.recordings.remove(&commands) else { return };
            let Recording { queue, label, recorded, uses, handlers, .. } = recording;
            for id in &uses {
                if !state.lives(*id) {
                    state.fault(format!("commit: `{label}` names an object that was released"));
                }
            }
            let conflict = steps(&recorded).find_map(|step| match step {
                Step::Run { label, touches, .. } => state.order.open_conflict(touches, label),
                _ => None,
            });
            if let Some(text) = conflict {
                state.fault(text);
            }
            state.hold(&uses, &label);
            state.committed.push(Arc::clone(&label));
            if let Some(capture) = &mut state.capture {
                capture.commands.push(label.to_string());
            }
            let clock = state.order.commit();
            let job = Job { label, clock, recorded, uses, handlers };
            if let Some(queue) = state.queues.get_mut(&queue) {
                queue.jobs.push_back(job);
            }
        });
    }

    /// The handle of a command buffer is gone.
    pub(super) fn drop_commands(&self, commands: u64) {
        let recording = self.change(|state| {
            let recording = state.recordings.remove(&commands)?;
            if recording.open.is_some() {
                state.fault(format!("`{}` released with an open encoder", recording.label));
            }
            if let Some(queue) = state.queues.get_mut(&recording.queue) {
                queue.buffers -= 1;
            }
            Some(recording)
        });
        drop(recording);
    }

    /// Runs `body` on an open encoder.
    fn encode(
        &self,
        commands: u64,
        encoder: u64,
        call: &str,
        body: impl FnOnce(&mut State, &mut Pass, &mut HashSet<u64>) -> Result<(), String>,
    ) {
        self.record(commands, call, |state, recording| {
            let Recording { open, uses, .. } = recording;
            match open.as_mut().filter(|pass| pass.id == encoder) {
                Some(pass) => body(state, pass, uses),
                None => Err("the encoder was ended before".to_owned()),
            }
        });
    }

    pub(super) fn wait_fence(&self, commands: u64, encoder: u64, fence: u64) {
        self.encode(commands, encoder, "waitForFence", |state, pass, uses| {
            known(state.fences.contains_key(&fence), "a fence")?;
            if pass.dispatched() || pass.updated {
                return Err("the pass has begun; a driver may wait at its start alone".to_owned());
            }
            uses.insert(fence);
            pass.steps.push(Step::WaitFence(fence));
            Ok(())
        });
    }

    pub(super) fn update_fence(&self, commands: u64, encoder: u64, fence: u64) {
        self.encode(commands, encoder, "updateFence", |state, pass, uses| {
            known(state.fences.contains_key(&fence), "a fence")?;
            uses.insert(fence);
            pass.updated = true;
            pass.steps.push(Step::UpdateFence(fence));
            Ok(())
        });
    }

    pub(super) fn set_kernel(&self, commands: u64, encoder: u64, kernel: u64) {
        self.encode(commands, encoder, "setComputePipelineState", |state, pass, uses| {
            known(state.kernels.contains_key(&kernel), "a kernel")?;
            uses.insert(kernel);
            pass.kernel = Some(kernel);
            Ok(())
        });
    }

    pub(super) fn set_buffer(
        &self,
        commands: u64,
        encoder: u64,
        index: u32,
        (id, offset, access): (u64, u64, Access),
    ) {
        self.encode(commands, encoder, "setBuffer", |state, pass, uses| {
            let storage = state.buffers.get(&id).ok_or("a buffer that was released")?;
            if offset + access.skip + access.bytes > storage.0.len() || offset % limits::OFFSET_ALIGNMENT != 0
            {
                return Err(format!(
                    "offset {offset} and {} bytes of a buffer of {}; offsets are multiples of {}",
                    access.skip + access.bytes,
                    storage.0.len(),
                    limits::OFFSET_ALIGNMENT
                ));
            }
            uses.insert(id);
            *slot(pass, index)? = Some(Slot::Buffer { id, offset, access });
            Ok(())
        });
    }

    pub(super) fn set_bytes(&self, commands: u64, encoder: u64, index: u32, bytes: &[u8]) {
        self.encode(commands, encoder, "setBytes", |_, pass, _| {
            if bytes.is_empty() || bytes.len() > limits::INLINE_BYTES as usize {
                return Err(format!("{} bytes; 1 to {} are allowed", bytes.len(), limits::INLINE_BYTES));
            }
            *slot(pass, index)? = Some(Slot::Bytes(bytes.to_vec()));
            Ok(())
        });
    }

    pub(super) fn set_threadgroup_memory(&self, commands: u64, encoder: u64, index: u32, bytes: u32) {
        self.encode(commands, encoder, "setThreadgroupMemoryLength", |_, pass, _| {
            if index >= limits::BUFFERS
                || !bytes.is_multiple_of(limits::THREADGROUP_ALIGNMENT)
                || bytes > limits::THREADGROUP_BYTES
            {
                return Err(format!("{bytes} bytes at {index}"));
            }
            let _ = pass;
            Ok(())
        });
    }

    pub(super) fn barrier(&self, commands: u64, encoder: u64) {
        self.encode(commands, encoder, "memoryBarrier", |_, pass, _| {
            pass.steps.push(Step::Barrier);
            Ok(())
        });
    }

    pub(super) fn dispatch(&self, commands: u64, encoder: u64, groups: [u32; 3], threads: [u32; 3]) {
        self.encode(commands, encoder, "dispatchThreadgroups", |state, pass, _| {
            let step = dispatched(state, pass, groups, threads)?;
            pass.steps.push(step);
            Ok(())
        });
    }

    pub(super) fn end(&self, commands: u64, encoder: u64) {
        self.record(commands, "endEncoding", |_, recording| {
            match recording.open.take_if(|pass| pass.id == encoder) {
                Some(pass) => {
                    recording.recorded.push(Recorded::Pass(pass.steps));
                    Ok(())
                }
                None => Err("the encoder was ended before".to_owned()),
            }
        });
    }
}

impl State {
    fn lives(&self, id: u64) -> bool {
        self.buffers.contains_key(&id)
            || self.kernels.contains_key(&id)
            || self.events.contains_key(&id)
            || self.fences.contains_key(&id)
    }
}

impl Pass {
    fn dispatched(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Run { .. }))
    }
}

/// Steps of all passes.
fn steps(recorded: &[Recorded]) -> impl Iterator<Item = &Step> {
    recorded.iter().flat_map(|recorded| match recorded {
        Recorded::Pass(steps) => steps.as_slice(),
        _ => &[],
    })
}

pub(super) fn check_pool(state: &mut State, what: &str) {
    if POOLS.with(Cell::get) == 0 {
        state.fault(format!("{what} is made outside an autorelease pool"));
    }
}

fn closed(recording: &Recording) -> Result<(), String> {
    if recording.open.is_some() { Err("an encoder is open".to_owned()) } else { Ok(()) }
}

fn known(lives: bool, what: &str) -> Result<(), String> {
    if lives { Ok(()) } else { Err(format!("{what} that was released")) }
}

fn slot(pass: &mut Pass, index: u32) -> Result<&mut Option<Slot>, String> {
    let most = pass.slots.len();
    pass.slots.get_mut(index as usize).ok_or_else(|| format!("index {index}; 0 to {} are allowed", most - 1))
}

fn dispatched(state: &State, pass: &Pass, groups: [u32; 3], threads: [u32; 3]) -> Result<Step, String> {
    let kernel = pass.kernel.and_then(|kernel| state.kernels.get(&kernel)).ok_or("no kernel is set")?;
    let count: u64 = threads.iter().map(|&side| u64::from(side)).product();
    if groups.contains(&0) || count == 0 || count > u64::from(limits::THREADS) {
        return Err(format!("{groups:?} groups of {threads:?} threads"));
    }
    let label = &kernel.kernel.label;
    let at = |index: u32| pass.slots.get(index as usize).and_then(Option::as_ref);
    let (mut operands, mut touches, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
    for index in 0..kernel.bindings {
        let Some(Slot::Buffer { id, offset, access }) = at(index) else {
            return Err(format!("kernel {label} has no buffer at {index}"));
        };
        let storage = state.buffers.get(id).ok_or("a buffer that was released")?;
        let start = offset + access.skip;
        let range = ByteRange { start, end: start + access.bytes };
        let span = Span::new(Arc::clone(storage), storage.0.start(), storage.0.len(), range);
        operands.push((span.map_err(|error| error.to_string())?, access.write));
        touches.push(Touch { memory: *id, range, write: access.write });
        lengths.extend_from_slice(&((access.skip + access.bytes) as u32).to_ne_bytes());
    }
    for (index, first) in touches.iter().enumerate() {
        let clash = |second: &&Touch| {
            first.write && second.write && first.memory == second.memory && first.range.overlaps(second.range)
        };
        if touches.get(index + 1..).unwrap_or_default().iter().any(|second| clash(&second)) {
            return Err(format!("kernel {label} writes one memory through two bindings"));
        }
    }
    let params = match at(kernel.bindings) {
        Some(Slot::Bytes(bytes)) if bytes.len() == kernel.param_bytes as usize => bytes.clone(),
        _ if kernel.param_bytes == 0 => Vec::new(),
        _ => return Err(format!("kernel {label} has no parameters at {}", kernel.bindings)),
    };
    let given = matches!(at(kernel.bindings + 1), Some(Slot::Bytes(bytes)) if *bytes == lengths);
    if kernel.bindings > 0 && !given {
        return Err(format!("kernel {label} has not the lengths of its bindings at {}", kernel.bindings + 1));
    }
    let op =
        Op::Dispatch { kernel: kernel.kernel.clone(), operands, params: params.into_boxed_slice(), groups };
    Ok(Step::Run { label: Arc::clone(label), op, touches })
}
