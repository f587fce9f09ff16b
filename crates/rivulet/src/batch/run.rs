//! A batch that somebody has to run.

use super::queue::{Inner, LOOK};
use super::request::{Phase, Request, announce, wake_all, wake_in_turn};
use super::seeded;
use rivulet_hal::sync::Arc;
use std::time::Instant;

/// The members of a batch, in the hands of their runner, and the role that goes with them.
///
/// Run them, leave each member's result where its owner finds it, then call [`Run::finish`]. A run that is dropped
/// instead goes back: its members are queued again at their places, but for the one whose thread runs them, and the role
/// is passed on.
#[derive(Debug)]
#[must_use = "a run that is dropped goes back to the queue"]
pub struct Run<T> {
    queue: Arc<Inner<T>>,
    members: Vec<Arc<Request<T>>>,
    began: Instant,
    /// The first member's owner is the runner.
    own: bool,
}

impl<T> Run<T> {
    pub(super) fn new(
        queue: Arc<Inner<T>>,
        members: Vec<Arc<Request<T>>>,
        began: Instant,
        own: bool,
    ) -> Self {
        Self { queue, members, began, own }
    }

    /// Those whose results are wanted: in the order of arrival, but that the request of the runner, where it has one,
    /// comes first. Never empty.
    pub fn members(&self) -> &[Arc<Request<T>>] {
        &self.members
    }

    /// Called before what takes most of the time. Where runs usually end so soon that waking the members takes longer, some of
    /// those that sleep come awake and look for their results: half as many as there are cores, with
    /// [`Options::spin`](super::Options::spin) above 0. Does not wait.
    pub fn announce(&self) {
        let queue = &self.queue;
        if queue.check().is_err() || (queue.options.spin.is_zero() && !cfg!(loom)) {
            return;
        }
        let usual = queue.state.lock().usual_run();
        let soon = usual.is_some_and(|usual| usual.saturating_sub(self.began.elapsed()) <= LOOK);
        // A model has no clock.
        if soon || cfg!(loom) {
            announce(&self.members, crate::blocking::cores() / 2);
        }
    }

    /// Ends the run: the members have their results. Passes the role on, then wakes them.
    pub fn finish(self) {
        self.end(wake_all);
    }

    /// The same, but those that sleep are woken one by one, in the order of arrival: each when `admit` returns, which gets
    /// the number of members that know by then. For members that can go on only one after the other.
    pub fn finish_in_turn(self, admit: impl FnMut(usize)) {
        self.end(|members| wake_in_turn(members, admit));
    }

    fn end(mut self, wake: impl FnOnce(&[Arc<Request<T>>])) {
        let members = std::mem::take(&mut self.members);
        // In a forked child the lock may be held by a thread that is not there, and nobody waits.
        if self.queue.check().is_err() {
            return;
        }
        let now = Instant::now();
        let (next, serve) = {
            let mut state = self.queue.state.lock();
            state.count_run(&members, self.began, now);
            let (next, serve) = state.pass_on(&self.queue.options);
            (next, serve || state.is_drained())
        };
        // The next runner first: the device has nothing to do until it has begun.
        next.wake();
        self.queue.wake_servers(serve);
        if !seeded::is("batch: members are not woken") {
            wake(&members);
        }
    }
}

impl<T> Drop for Run<T> {
    fn drop(&mut self) {
        if self.members.is_empty() || self.queue.check().is_err() {
            return;
        }
        let members = std::mem::take(&mut self.members);
        if self.own {
            members[0].set_phase(Phase::Gone);
        }
        let (next, serve) = {
            let mut state = self.queue.state.lock();
            state.give_back(&members);
            let (next, serve) = state.pass_on(&self.queue.options);
            (next, serve || state.is_drained())
        };
        next.wake();
        self.queue.wake_servers(serve);
    }
}
