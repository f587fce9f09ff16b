//! What the calls, the queues' threads and the control share.

use super::adapter::{Delay, SimConfig};
use super::command::Storage;
use super::control::FailingSubmission;
use super::order::{Order, Point, Refused};
use super::queue::{Executed, Gate, QueueState};
use crate::cpu::Budget;
use crate::sync::atomic::AtomicBool;
use crate::sync::{Condvar, Mutex, Rank};
use crate::{AdapterInfo, HalError, QueueIndex};
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) info: AdapterInfo,
    pub(super) budget: Arc<Budget>,
    pub(super) deadlock_after: Duration,
    /// True while a call hands work to the queue.
    pub(super) submitting: Box<[AtomicBool]>,
    pub(super) state: Mutex<State>,
    /// Something changed that lets a queue go on.
    pub(super) work: Condvar,
    /// Something changed that lets a caller go on.
    pub(super) done: Condvar,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) order: Order,
    pub(super) queues: Vec<QueueState>,
    pub(super) timelines: Vec<TimelineState>,
    /// By address.
    pub(super) memories: HashMap<usize, Weak<Storage>>,
    pub(super) delay: Delay,
    pub(super) faults: Vec<String>,
    pub(super) executed: Vec<Executed>,
    pub(super) next_id: u64,
    pub(super) failing_allocations: u64,
    pub(super) failing_submissions: Vec<(FailingSubmission, HalError)>,
    /// Why the device no longer answers.
    pub(super) lost: Option<String>,
    pub(super) shutdown: bool,
}

/// A timeline as far as values go; [`Order`] knows what they cover.
#[derive(Debug, Default)]
pub(super) struct TimelineState {
    pub(super) completed: u64,
    /// Highest value that a queue or the CPU has been asked to signal.
    pub(super) submitted: u64,
    /// From this value on the timeline answers with this error.
    pub(super) failed: Option<(u64, HalError)>,
}

impl Shared {
    pub(super) fn new(info: AdapterInfo, config: &SimConfig) -> Self {
        let gate = if config.manual { Gate::Held { permits: 0 } } else { Gate::Open };
        let queues = (0..info.queues as u64).map(|queue| QueueState::new(gate, config.seed, queue)).collect();
        let state = State {
            order: Order::new(info.queues),
            queues,
            timelines: Vec::new(),
            memories: HashMap::new(),
            delay: config.delay,
            faults: Vec::new(),
            executed: Vec::new(),
            next_id: 1,
            failing_allocations: 0,
            failing_submissions: Vec::new(),
            lost: None,
            shutdown: false,
        };
        Self {
            budget: Arc::new(Budget::new("the simulated device", info.memory_bytes)),
            deadlock_after: config.deadlock_after,
            submitting: (0..info.queues).map(|_| AtomicBool::new(false)).collect(),
            state: Mutex::new(Rank::DRIVER, state),
            work: Condvar::new(),
            done: Condvar::new(),
            info,
        }
    }

    /// Wakes everybody after a change of state.
    pub(super) fn wake_all(&self) {
        self.work.notify_all();
        self.done.notify_all();
    }

    pub(super) fn check_queue(&self, queue: QueueIndex) -> Result<(), HalError> {
        let queues = self.info.queues;
        if queue.0 < queues {
            return Ok(());
        }
        Err(HalError::Usage(format!("queue {}: the device has queues 0..{queues}", queue.0)))
    }
}

impl State {
    pub(super) fn check_lost(&self) -> Result<(), HalError> {
        match &self.lost {
            None => Ok(()),
            Some(reason) => Err(HalError::DeviceLost { reason: reason.clone() }),
        }
    }

    pub(super) fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    /// Drops all work. The first loss stays.
    pub(super) fn lose(&mut self, reason: &str) {
        if self.lost.is_some() {
            return;
        }
        let suspect =
            self.queues.iter().enumerate().find_map(|(queue, state)| Some((queue, state.front_label()?)));
        let suspect = suspect.map_or_else(String::new, |(queue, label)| {
            format!("; suspected submission: `{label}` on queue {queue}")
        });
        self.lost = Some(format!("{reason}{suspect}"));
        self.queues.iter_mut().for_each(QueueState::clear);
    }

    pub(super) fn fault(&mut self, text: String) -> HalError {
        self.faults.push(text.clone());
        HalError::Race(text)
    }

    /// Takes note of submissions that turned out to conflict after their call had returned.
    pub(super) fn refuse_late(&mut self, refused: Vec<Refused>) {
        for Refused { ticket, signal, text } in refused {
            let error = self.fault(text);
            self.queues.iter_mut().for_each(|queue| queue.skip(ticket));
            let Point { timeline, value } = signal;
            let failed = &mut self.timelines[timeline].failed;
            if failed.as_ref().is_none_or(|(first, _)| value < *first) {
                *failed = Some((value, error));
            }
        }
    }
}
