//! Buffers dropped while command buffers may still name them.

use super::api::Api;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex, Rank};
use smallvec::SmallVec;
use std::time::{Duration, Instant};

/// How far a queue is, in submissions.
#[derive(Debug, Default)]
struct Progress {
    committed: AtomicU64,
    /// All up to this one have completed.
    completed: AtomicU64,
}

/// A timeline's value is reached when the GPU says so, a little before Metal is done with the command buffer, which
/// retains nothing. So a buffer dropped in between waits here until every command buffer committed before has completed.
#[derive(Debug)]
pub(super) struct Retired<A: Api> {
    progress: Box<[Progress]>,
    buffers: Mutex<Vec<Waiting<A>>>,
    released: Condvar,
}

#[derive(Debug)]
struct Waiting<A: Api> {
    _buffer: A::Buffer,
    /// By queue: the submission that has to complete first.
    after: SmallVec<[u64; 4]>,
}

impl<A: Api> Retired<A> {
    pub(super) fn new(queues: usize) -> Self {
        Self {
            progress: (0..queues).map(|_| Progress::default()).collect(),
            buffers: Mutex::new(Rank::DRIVER, Vec::new()),
            released: Condvar::new(),
        }
    }

    /// One more submission goes to the queue. Before it is committed.
    pub(super) fn committed(&self, queue: usize) {
        if let Some(progress) = self.progress.get(queue) {
            progress.committed.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// The `count` oldest submissions of the queue have completed.
    pub(super) fn completed(&self, queue: usize, count: u64) {
        if let Some(progress) = self.progress.get(queue) {
            progress.completed.fetch_add(count, Ordering::SeqCst);
        }
        self.release();
    }

    fn reached(&self, after: &[u64]) -> bool {
        // SeqCst, as the writes: who adds a buffer and who completes the last submission before it must not miss each
        // other.
        self.progress
            .iter()
            .zip(after)
            .all(|(progress, &after)| progress.completed.load(Ordering::SeqCst) >= after)
    }

    /// Takes a buffer that nobody can name any more in a new command.
    pub(super) fn retire(&self, buffer: A::Buffer) {
        let after: SmallVec<[u64; 4]> =
            self.progress.iter().map(|progress| progress.committed.load(Ordering::SeqCst)).collect();
        if self.reached(&after) {
            drop(buffer);
            return;
        }
        self.buffers.lock().push(Waiting { _buffer: buffer, after });
        self.release();
    }

    fn release(&self) {
        let mut buffers = self.buffers.lock();
        let (free, kept) =
            std::mem::take(&mut *buffers).into_iter().partition(|waiting| self.reached(&waiting.after));
        *buffers = kept;
        drop(buffers);
        let free: Vec<_> = free;
        if !free.is_empty() {
            // Outside the lock: releasing is a call of Metal's.
            drop(free);
            self.released.notify_all();
        }
    }

    /// Waits until nothing is put aside, at most `longest`.
    pub(super) fn wait(&self, longest: Duration) {
        let start = Instant::now();
        let mut buffers = self.buffers.lock();
        while !buffers.is_empty() {
            let left = longest.saturating_sub(start.elapsed());
            if left.is_zero() {
                return;
            }
            (buffers, _) = self.released.wait_timeout(buffers, left);
        }
    }
}
