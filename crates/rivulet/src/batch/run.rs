//! A batch that somebody has to run.

use super::queue::Inner;
use super::request::{Phase, Request, wake_all};
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

    /// Ends the run: the members have their results. Passes the role on, then wakes them.
    pub fn finish(mut self) {
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
            wake_all(&members);
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
