//! The slots without threads' memory and without streams, for the models in `tests/loom_pool.rs`.

use super::Owner;
use super::slots::{Lease, Slots, Waiter};
use rivulet_hal::sync::Arc;
use std::time::Duration;

/// A slot that the caller owns.
#[derive(Clone, Copy, Debug)]
pub struct Held(Lease);

/// A place in the queue.
#[derive(Debug)]
pub struct Queued(Arc<Waiter>);

/// Slots and nothing else.
#[derive(Debug)]
pub struct Model(Slots);

fn owner() -> Owner {
    Owner { thread_id: 0, name: "".into() }
}

impl Model {
    /// `size` counts slot 0, which nobody takes.
    pub fn new(size: usize) -> Self {
        Self(Slots::new(size))
    }

    /// A free slot, in the state of an op.
    pub fn try_acquire(&self) -> Option<Held> {
        self.0.try_acquire(&owner(), None).map(Held)
    }

    /// A free slot or an idle one for which `complete` answers true.
    pub fn try_take_idle(&self, complete: &dyn Fn(usize) -> bool) -> Option<Held> {
        self.0.try_acquire(&owner(), Some(complete)).map(Held)
    }

    /// Begins an op.
    pub fn enter(&self, held: Held) -> bool {
        self.0.enter(held.0)
    }

    /// Ends an op.
    pub fn exit(&self, held: Held) {
        self.0.exit(held.0, false);
    }

    /// Gives the slot back.
    pub fn release(&self, held: Held) -> bool {
        self.0.release(held.0)
    }

    /// Joins the queue.
    pub fn enqueue(&self) -> Queued {
        Queued(self.0.enqueue(&owner()))
    }

    /// Waits once; no slot counts as idle.
    pub fn poll(&self, queued: &Queued) -> Option<Held> {
        self.0.poll(&queued.0, Duration::MAX, &|_| false).map(Held)
    }

    /// Leaves the queue.
    pub fn cancel(&self, queued: &Queued) -> Option<Held> {
        self.0.cancel(&queued.0).map(Held)
    }

    /// True where nothing is taken, promised or waited for.
    pub fn is_untouched(&self) -> bool {
        self.0.is_untouched()
    }
}
