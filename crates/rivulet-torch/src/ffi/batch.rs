//! Queues of calls that are joined. What a request brings along is a number that Python knows it by.

use super::answer;
use super::error::{ERROR, Failure, INTERRUPTED, INVALID, enter, enter_or};
use super::life::give_text;
use crate::python;
use rivulet::batch::{Options, Queue, Refused, Run, Stats, Summary, Ticket, Turn, WhenFull};
use serde_json::{Value, json};
use std::ffi::c_char;
use std::time::{Duration, Instant};

const DONE: u32 = 0;
const RUN: u32 = 1;
const QUEUED: u32 = 2;
const FULL: u32 = 3;
const CLOSED: u32 = 4;
const TIMED_OUT: u32 = 5;

/// A run, with its members' numbers in a list that C can read.
pub(crate) struct OpenRun {
    run: Run<u64>,
    tokens: Vec<u64>,
}

/// `rivulet_batch_turn`.
#[repr(C)]
pub(crate) struct BatchTurn {
    run: *mut OpenRun,
    tokens: *const u64,
    count: u64,
    verdict: u32,
}

impl BatchTurn {
    fn set(&mut self, verdict: u32) {
        (self.run, self.tokens, self.count) = (std::ptr::null_mut(), std::ptr::null(), 0);
        self.verdict = verdict;
    }

    fn set_run(&mut self, run: Run<u64>) {
        let tokens = run.members().iter().map(|member| *member.work()).collect();
        let open = Box::new(OpenRun { run, tokens });
        (self.tokens, self.count, self.verdict) = (open.tokens.as_ptr(), open.tokens.len() as u64, RUN);
        self.run = Box::into_raw(open);
    }

    /// Refusals that callers have an exception of their own for are verdicts, the others failures.
    fn set_refused(&mut self, refused: Refused) -> Result<(), Failure> {
        let verdict = match refused {
            Refused::Full { .. } => FULL,
            Refused::Closed => CLOSED,
            Refused::TimedOut => TIMED_OUT,
            Refused::Interrupted(_) => return Err(Failure::new(INTERRUPTED, refused.to_string())),
            Refused::Forked => return Err(Failure::new(ERROR, refused.to_string())),
        };
        self.set(verdict);
        Ok(())
    }
}

fn queue_of<'a>(queue: *const Queue<u64>) -> Result<&'a Queue<u64>, Failure> {
    // SAFETY: the callers' contract: null, or from rivulet_batch_new and not freed during this call.
    unsafe { queue.as_ref() }.ok_or_else(|| Failure::new(INVALID, "queue is null"))
}

fn deadline(timeout_us: i64) -> Option<Instant> {
    let timeout = u64::try_from(timeout_us).ok()?;
    Instant::now().checked_add(Duration::from_micros(timeout))
}

fn when_full(refuse: i32) -> WhenFull {
    if refuse == 0 { WhenFull::Wait } else { WhenFull::Refuse }
}

/// See `rivulet.h`.
///
/// # Safety
/// - `queue` is valid for writes.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_batch_new(
    max_batch: u64,
    max_in_flight: u64,
    max_queue: u64,
    max_wait_us: u64,
    regroup: i32,
    spin_us: u64,
    queue: *mut *mut Queue<u64>,
) -> i32 {
    enter(|| {
        // SAFETY: by contract.
        let out = unsafe { answer(queue, "queue") }?;
        let limit = |value| usize::try_from(value).unwrap_or(usize::MAX);
        let options = Options {
            max_batch: limit(max_batch),
            max_in_flight: limit(max_in_flight),
            max_queue: limit(max_queue),
            max_wait: Duration::from_micros(max_wait_us),
            regroup: regroup != 0,
            spin: Duration::from_micros(spin_us),
        };
        let made = Queue::new(options).map_err(|error| Failure::new(INVALID, error.to_string()))?;
        *out = Box::into_raw(Box::new(made));
        Ok(())
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - `queue` came from `rivulet_batch_new` and was not freed, or is null; nobody uses it any more.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_batch_free(queue: *mut Queue<u64>) {
    enter_or((), || {
        if !queue.is_null() {
            // SAFETY: by contract; it came from Box::into_raw.
            drop(unsafe { Box::from_raw(queue) });
        }
    });
}

/// See `rivulet.h`.
///
/// # Safety
/// - `queue` came from `rivulet_batch_new` and is not freed during the call, or is null; `turn` is valid for writes.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_batch_call(
    queue: *const Queue<u64>,
    token: u64,
    key: u64,
    rows: u64,
    refuse: i32,
    timeout_us: i64,
    turn: *mut BatchTurn,
) -> i32 {
    enter(|| {
        // SAFETY: by contract.
        let turn = unsafe { answer(turn, "turn") }?;
        let rows = usize::try_from(rows).unwrap_or(usize::MAX);
        match queue_of(queue)?.call(key, rows, token, when_full(refuse), deadline(timeout_us)) {
            Ok(Turn::Done(_)) => turn.set(DONE),
            Ok(Turn::Run(run)) => turn.set_run(run),
            Err(refused) => turn.set_refused(refused)?,
        }
        Ok(())
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - `queue` as for `rivulet_batch_call`; `ticket` and `turn` are valid for writes.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_batch_submit(
    queue: *const Queue<u64>,
    token: u64,
    key: u64,
    rows: u64,
    refuse: i32,
    wait: i32,
    timeout_us: i64,
    ticket: *mut *mut Ticket<u64>,
    turn: *mut BatchTurn,
) -> i32 {
    enter(|| {
        // SAFETY: by contract.
        let (turn, out) = unsafe { (answer(turn, "turn")?, answer(ticket, "ticket")?) };
        let rows = usize::try_from(rows).unwrap_or(usize::MAX);
        let full = when_full(refuse);
        match queue_of(queue)?.submit(key, rows, token, full, wait != 0, deadline(timeout_us)) {
            Ok(ticket) => {
                *out = Box::into_raw(Box::new(ticket));
                turn.set(QUEUED);
            }
            Err(refused) => turn.set_refused(refused)?,
        }
        Ok(())
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - `queue` and `turn` as for `rivulet_batch_call`.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_batch_serve(queue: *const Queue<u64>, turn: *mut BatchTurn) -> i32 {
    enter(|| {
        // SAFETY: by contract.
        let turn = unsafe { answer(turn, "turn") }?;
        match queue_of(queue)?.serve() {
            Ok(Some(run)) => turn.set_run(run),
            Ok(None) => turn.set(CLOSED),
            Err(refused) => turn.set_refused(refused)?,
        }
        Ok(())
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - `turn` was filled by a call of this module and is not aliased, or is null; its run was not ended by other means.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_batch_announce(turn: *const BatchTurn) {
    enter_or((), || {
        // SAFETY: by contract.
        let open = unsafe { turn.as_ref().and_then(|turn| turn.run.as_ref()) };
        if let Some(open) = open {
            open.run.announce();
        }
    });
}

/// See `rivulet.h`.
///
/// # Safety
/// - As for `rivulet_batch_announce`.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_batch_end(turn: *mut BatchTurn, served: i32, in_turn: i32) {
    enter_or((), || {
        // SAFETY: by contract.
        let Some(turn) = (unsafe { turn.as_mut() }) else { return };
        if turn.run.is_null() {
            return;
        }
        // SAFETY: by contract; it came from Box::into_raw, and is taken out before anything else can see it.
        let open = unsafe { Box::from_raw(std::mem::replace(&mut turn.run, std::ptr::null_mut())) };
        (turn.tokens, turn.count) = (std::ptr::null(), 0);
        if served == 0 {
            drop(open);
        } else if let Some(admit) = python::turns_taken().filter(|_| in_turn != 0) {
            open.run.finish_in_turn(admit);
        } else {
            open.run.finish();
        }
    });
}

/// See `rivulet.h`.
///
/// # Safety
/// - `ticket` came from `rivulet_batch_submit` and is not freed during the call, or is null.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_batch_cancel(ticket: *const Ticket<u64>) -> i32 {
    // SAFETY: by contract.
    enter_or(0, || unsafe { ticket.as_ref() }.map_or(0, |ticket| i32::from(ticket.cancel())))
}

/// See `rivulet.h`.
///
/// # Safety
/// - `ticket` came from `rivulet_batch_submit` and was not freed, or is null.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_batch_ticket_free(ticket: *mut Ticket<u64>) {
    enter_or((), || {
        if !ticket.is_null() {
            // SAFETY: by contract; it came from Box::into_raw.
            drop(unsafe { Box::from_raw(ticket) });
        }
    });
}

/// See `rivulet.h`.
///
/// # Safety
/// - `queue` as for `rivulet_batch_call`.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_batch_close(queue: *const Queue<u64>) {
    enter_or((), || {
        if let Ok(queue) = queue_of(queue) {
            queue.close();
        }
    });
}

/// See `rivulet.h`.
///
/// # Safety
/// - `queue` as for `rivulet_batch_call`; `out` is valid for writes.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_batch_stats_json(queue: *const Queue<u64>, out: *mut *mut c_char) -> i32 {
    enter(|| {
        let stats = stats(&queue_of(queue)?.stats());
        // SAFETY: by contract.
        unsafe { give_text(out, &stats) }
    })
}

fn stats(stats: &Stats) -> Value {
    let sizes: serde_json::Map<String, Value> =
        stats.sizes.iter().map(|(size, count)| (size.to_string(), json!(count))).collect();
    json!({
        "requests": stats.requests,
        "rows": stats.rows,
        "batches": stats.batches,
        "sizes": sizes,
        "at_once": stats.at_once,
        "regrouped": stats.regrouped,
        "timed_out": stats.timed_out,
        "cancelled": stats.cancelled,
        "refused": stats.refused,
        "requeued": stats.requeued,
        "queued": stats.queued,
        "running": stats.running,
        "queue_time": summary(&stats.queue_time),
        "latency": summary(&stats.latency),
    })
}

/// Times in seconds, as Python's clocks count.
fn summary(summary: &Summary) -> Value {
    json!({
        "count": summary.count,
        "p50": summary.p50.as_secs_f64(),
        "p90": summary.p90.as_secs_f64(),
        "p99": summary.p99.as_secs_f64(),
        "max": summary.max.as_secs_f64(),
    })
}
