//! The threads behind the queues.

use super::control::FailingCommands;
use super::order::{Clock, join};
use super::record::{Recorded, Step};
use super::state::{Job, State, World};
use crate::cpu::now_ns;
use crate::metal::api::{Fault, Outcome};
use crate::sync::{Arc, MutexGuard, thread};
use std::time::{Duration, Instant};

/// Passes after which clocks are tidied.
const TIDY_AFTER: usize = 256;

/// Body of the thread of a queue; returns when the device is closed.
pub(super) fn run(world: &World, queue: u64) {
    let mut random = world.seed ^ queue.wrapping_mul(0xD1B5_4A32_D192_ED03);
    let mut state = world.state.lock();
    while !state.shutdown {
        let ready = !state.held;
        let job = state.queues.get_mut(&queue).filter(|_| ready).and_then(|queue| queue.jobs.pop_front());
        let Some(job) = job else {
            state = world.changed.wait(state);
            continue;
        };
        state.running += 1;
        drop(state);
        pause(world.delay, &mut random);
        let failing = take_failing(&mut world.state.lock(), &job.label);
        let Some(()) = execute(world, queue, &job, failing.is_some()) else { return };
        // A handler comes when it comes: the signal may have been seen long before.
        pause(world.delay, &mut random);
        let Job { uses, handlers, recorded, .. } = job;
        world.change(|state| {
            state.let_go(&uses);
            if let Some(queue) = state.queues.get_mut(&queue) {
                queue.buffers -= 1;
            }
        });
        drop(recorded);
        let fault = failing.map(|FailingCommands { code, text, .. }| Fault { code, text });
        for handler in handlers {
            handler(Outcome { fault: fault.clone(), ended_ns: now_ns() });
        }
        world.change(|state| state.running -= 1);
        state = world.state.lock();
    }
}

/// SplitMix64.
fn pause(longest: Duration, random: &mut u64) {
    *random = random.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut bits = *random;
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits ^= bits >> 27;
    let longest = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
    if longest > 0 {
        thread::sleep(Duration::from_nanos(bits % longest));
    }
}

fn take_failing(state: &mut State, label: &str) -> Option<FailingCommands> {
    let index = state.failing.iter().position(|failing| failing.label == label)?;
    Some(state.failing.remove(index))
}

/// Does what the command buffer says. `None` where the device was closed meanwhile.
fn execute(world: &World, queue: u64, job: &Job, fails: bool) -> Option<()> {
    // What the command buffer's next pass comes after, and what it has done itself.
    let (mut clock, mut done) = (job.clock.clone(), Clock::new());
    let mut state = world.state.lock();
    for recorded in &job.recorded {
        match recorded {
            Recorded::Wait { event, value } => {
                if fails {
                    continue;
                }
                state = wait(world, state, job, *event, *value)?;
                let covered = state.covered(*event, *value);
                join(&mut clock, &covered);
            }
            Recorded::Signal { event, value } => {
                if !fails {
                    let mut covers = clock.clone();
                    join(&mut covers, &done);
                    state.signal(*event, *value, covers);
                    world.changed.notify_all();
                }
            }
            Recorded::Pass(steps) => {
                state = pass(world, state, (queue, job), steps, (&clock, &mut done), fails)
            }
        }
        if state.shutdown {
            return None;
        }
    }
    Some(())
}

fn wait<'w>(
    world: &'w World,
    mut state: MutexGuard<'w, State>,
    job: &Job,
    event: u64,
    value: u64,
) -> Option<MutexGuard<'w, State>> {
    let start = Instant::now();
    let mut reported = false;
    loop {
        if state.shutdown {
            return None;
        }
        if state.events.get(&event).is_none_or(|event| event.value >= value) {
            return Some(state);
        }
        let left = world.deadlock_after.saturating_sub(start.elapsed());
        if left.is_zero() && !reported {
            reported = true;
            state
                .fault(format!("deadlock: `{}` waits for value {value} of an event for too long", job.label));
        }
        let left = if left.is_zero() { world.deadlock_after } else { left };
        (state, _) = world.changed.wait_timeout(state, left.max(Duration::from_millis(1)));
    }
}

/// Runs a pass, one command at a time under the lock: two queues interleave but never touch bytes at the same time, so
/// that a missing order is a report and not a data race of the test process.
fn pass<'w>(
    world: &'w World,
    mut state: MutexGuard<'w, State>,
    (queue, job): (u64, &Job),
    steps: &[Step],
    (before, done): (&Clock, &mut Clock),
    fails: bool,
) -> MutexGuard<'w, State> {
    let agent = state.id();
    let mut epoch = 0;
    let mut clock = before.clone();
    let mut updates = Vec::new();
    for step in steps {
        match step {
            Step::WaitFence(fence) => {
                let (at, covered) = match state.fences.get(fence) {
                    Some(fence) => (fence.queue, fence.clock.clone()),
                    None => (None, None),
                };
                match covered {
                    None => {
                        state.fault(format!("`{}` waits for a fence that no pass has updated", job.label))
                    }
                    Some(_) if at != Some(queue) => {
                        state.fault(format!("`{}` waits for a fence of another queue", job.label));
                    }
                    Some(covered) => join(&mut clock, &covered),
                }
            }
            Step::UpdateFence(fence) => updates.push(*fence),
            Step::Barrier => {
                epoch += 1;
                clock.insert(agent, epoch);
            }
            Step::Run { label, op, touches } => {
                if fails {
                    continue;
                }
                if let Some(text) = state.order.place(touches, (agent, epoch), &clock, label) {
                    state.fault(format!("{text} (in `{}`)", job.label));
                }
                if let Err(error) = op.run() {
                    state.fault(error.to_string());
                }
                drop(state);
                thread::yield_now();
                state = world.state.lock();
            }
        }
    }
    clock.insert(agent, epoch + 1);
    for fence in updates {
        if let Some(fence) = state.fences.get_mut(&fence) {
            (fence.queue, fence.clock) = (Some(queue), Some(clock.clone()));
        }
    }
    join(done, &clock);
    state.passes += 1;
    if state.passes >= TIDY_AFTER {
        state.passes = 0;
        state.tidy();
    }
    state
}

/// Starts the thread of a queue.
pub(super) fn start(world: &Arc<World>, queue: u64) -> std::io::Result<thread::JoinHandle<()>> {
    let world = Arc::clone(world);
    thread::Builder::new().name("metal-model".to_owned()).spawn(move || run(&world, queue))
}
