//! A picture of a device at one moment, for people.

use crate::config::VARIABLES;
use crate::engine::Engine;
use crate::ids::{Cursor, StreamId};
use crate::memory::MemoryStats;
use crate::pool::Owner;
use rivulet_hal::AdapterInfo;

/// A slot of the pool.
#[derive(Clone, Debug)]
pub struct SlotReport {
    /// Its stream.
    pub stream: StreamId,
    /// The thread that holds it.
    pub owner: Option<Owner>,
    /// Threads that share it beside the owner.
    pub sharers: u32,
}

/// The pool.
#[derive(Clone, Debug)]
pub struct PoolReport {
    /// Slots, the main thread's included.
    pub size: usize,
    /// Slots with an owner or sharers.
    pub used: Vec<SlotReport>,
    /// Threads that wait for a slot.
    pub waiting: usize,
}

/// A stream.
#[derive(Clone, Debug)]
pub struct StreamReport {
    /// Its number.
    pub id: StreamId,
    /// 0, or -1 where it goes first.
    pub priority: i32,
    /// Hardware queue that it submits to.
    pub queue: usize,
    /// What it was given.
    pub given: Cursor,
    /// What is complete.
    pub complete: Cursor,
    /// Its failure, in words.
    pub failure: Option<String>,
}

/// A picture of a device.
#[derive(Clone, Debug)]
pub struct Report {
    /// The adapter.
    pub adapter: AdapterInfo,
    /// Hardware queues in use.
    pub queues: usize,
    /// The pool; `None` before its first use.
    pub pool: Option<PoolReport>,
    /// Streams that were used.
    pub streams: Vec<StreamReport>,
    /// Bytes moved to the device so far, where the CPU cannot see its memory; 0 elsewhere. Ops without a kernel of
    /// their own show here.
    pub bytes_to_device: u64,
    /// Bytes moved to the CPU.
    pub bytes_to_host: u64,
    /// Memory; `None` in a forked child.
    pub memory: Option<MemoryStats>,
    /// Every variable that settings are read from, with its value where it is set.
    pub settings: Vec<(&'static str, Option<String>)>,
    /// Why the device cannot be used, in words.
    pub failure: Option<String>,
}

impl Report {
    pub(crate) fn of(engine: &Engine) -> Self {
        let failure = engine.check().err().map(|error| error.to_string());
        let (bytes_to_device, bytes_to_host) = engine.transfers.counts();
        let mut report = Self {
            adapter: engine.info.clone(),
            queues: engine.queues,
            pool: None,
            streams: Vec::new(),
            bytes_to_device,
            bytes_to_host,
            memory: None,
            settings: VARIABLES.iter().map(|&name| (name, engine.env().get(name))).collect(),
            failure,
        };
        // A child's copies of the locks may be held by threads that it does not have.
        if engine.is_forked() {
            return report;
        }
        report.memory = Some(engine.allocator.stats());
        let Some(table) = engine.table_if_made() else { return report };
        let (owners, sharers, waiting) = table.slots.census();
        let slots = owners.into_iter().zip(sharers).enumerate();
        let used = slots
            .filter(|(_, (owner, sharers))| owner.is_some() || *sharers > 0)
            .filter_map(|(slot, (owner, sharers))| {
                Some(SlotReport { stream: StreamId(u32::try_from(slot).ok()?), owner, sharers })
            })
            .collect();
        report.pool = Some(PoolReport { size: table.slots.size(), used, waiting });
        report.streams = table
            .all()
            .map(|stream| StreamReport {
                id: stream.id,
                priority: stream.priority,
                queue: stream.queue.0,
                given: stream.cursor(),
                complete: Cursor { device: stream.completed(), host: stream.tickets.ended() },
                failure: stream.check().err().map(|error| error.to_string()),
            })
            .collect();
        report
    }
}
