//! The stream pool: which thread runs on which stream.
//!
//! Slot 0 is the main thread's. Every other thread takes the lowest free slot at its first op and keeps it until
//! it ends. What happens when none is free is the user's choice ([`PoolMode`]); where the choice is to wait or to
//! share, an idle thread's slot may be taken too, and that thread takes another one at its next op.
//!
//! - `slots`: the slots' states and the queue of those who wait; no thread-locals, no streams.
//! - `thread`: what a thread remembers, and what happens when it ends.

#[cfg(loom)]
#[doc(hidden)]
pub mod model;
pub(crate) mod slots;
pub(crate) mod thread;

use crate::blocking;
use crate::config::{EnvSource, PoolMode, PoolSettings};
use crate::error::{Error, Result};
use rivulet_hal::sync::Arc;
use slots::{Lease, Slots};
use std::fmt::Write;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// What a bridge knows of threads.
pub trait ThreadHooks: Send + Sync {
    /// True on threads that serve others, such as autograd's: they run on the reserve stream and take no slot.
    /// Asked once a thread, when it would take one.
    fn is_service_thread(&self) -> bool;
    /// The calling thread has taken a slot; time to hook its end. No engine lock is held.
    fn slot_taken(&self);
}

static HOOKS: OnceLock<&'static dyn ThreadHooks> = OnceLock::new();

/// Installs the hooks of this process. The first call decides: false where hooks were installed before.
pub fn install_hooks(hooks: &'static dyn ThreadHooks) -> bool {
    HOOKS.set(hooks).is_ok()
}

pub(crate) fn hooks() -> Option<&'static dyn ThreadHooks> {
    HOOKS.get().copied()
}

/// The thread that holds a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The kernel's number of the thread.
    pub thread_id: u64,
    /// Its name; empty where it has none.
    pub name: Arc<str>,
}

impl Owner {
    /// The calling thread.
    pub(crate) fn current() -> Self {
        Self { thread_id: rivulet_hal::thread::id(), name: rivulet_hal::thread::name().into() }
    }
}

/// Threads that an error names before it only counts.
const NAMED_THREADS: usize = 8;

fn describe(owners: &[Option<Owner>]) -> String {
    let live: Vec<&Owner> = owners.iter().flatten().collect();
    let mut text = format!("{} of them: ", live.len());
    for (place, owner) in live.iter().take(NAMED_THREADS).enumerate() {
        let comma = if place > 0 { ", " } else { "" };
        // Writing to a string cannot fail.
        let _ = write!(text, "{comma}{:?} (thread {})", owner.name, owner.thread_id);
    }
    if live.len() > NAMED_THREADS {
        let _ = write!(text, " and {} more", live.len() - NAMED_THREADS);
    }
    text
}

/// How a worker thread came by its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It owns the slot.
    Owned(Lease),
    /// It uses the stream of a slot that another thread may own.
    Shared(usize),
}

/// What the pool has to know of the streams behind its slots.
pub(crate) trait Streams {
    /// True where the slot's stream has nothing left to do. Called under the pool's lock; never waits.
    fn is_complete(&self, slot: usize) -> bool;
    /// Submits what the slots' streams have recorded, so that idle ones become complete. No lock is held.
    fn submit_recorded(&self);
}

/// Finds a place for the calling thread, which waits where the settings say so. An owned slot comes in the state
/// of an op.
pub(crate) fn take(slots: &Slots, env: &dyn EnvSource, streams: &dyn Streams) -> Result<Place> {
    let settings = PoolSettings::read(env)?;
    if let Some(wanted) = settings.size
        && wanted != slots.size()
    {
        return Err(Error::PoolSizeFixed { wanted, size: slots.size() });
    }
    let owner = Owner::current();
    if let Some(lease) = slots.try_acquire(&owner, None) {
        return Ok(Place::Owned(lease));
    }
    if settings.mode.may_take_idle() {
        streams.submit_recorded();
        if let Some(lease) = slots.try_acquire(&owner, Some(&|slot| streams.is_complete(slot))) {
            return Ok(Place::Owned(lease));
        }
    }
    match settings.mode {
        PoolMode::Raise => {
            let threads = describe(&slots.census().0);
            Err(Error::PoolExhausted { size: slots.size(), workers: slots.size() - 1, threads })
        }
        PoolMode::Share => Ok(Place::Shared(slots.share())),
        PoolMode::Wait { timeout, variable } => {
            wait(slots, &owner, timeout, variable, streams).map(Place::Owned)
        }
    }
}

fn wait(
    slots: &Slots,
    owner: &Owner,
    timeout: Option<Duration>,
    variable: &'static str,
    streams: &dyn Streams,
) -> Result<Lease> {
    let start = Instant::now();
    let waiter = slots.enqueue(owner);
    let mut came = None;
    let waited = blocking::wait_loop(|longest| {
        let left = timeout.map_or(longest, |timeout| timeout.saturating_sub(start.elapsed()));
        if left.is_zero() {
            return true;
        }
        streams.submit_recorded();
        came = slots.poll(&waiter, longest.min(left), &|slot| streams.is_complete(slot));
        came.is_some()
    });
    // Also after a success: the queue must not keep a waiter that nobody polls.
    let came = came.or_else(|| slots.cancel(&waiter));
    match (came, waited) {
        (Some(lease), Ok(())) => Ok(lease),
        (Some(lease), Err(interrupted)) => {
            slots.release(lease);
            Err(interrupted.into())
        }
        (None, Err(interrupted)) => Err(interrupted.into()),
        (None, Ok(())) => Err(Error::PoolTimeout {
            timeout: timeout.unwrap_or_default(),
            variable,
            size: slots.size(),
            workers: slots.size() - 1,
            threads: describe(&slots.census().0),
        }),
    }
}
