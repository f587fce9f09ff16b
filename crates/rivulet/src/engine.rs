//! What all parts of a device share.

use crate::config::{DEFAULT_POOL_SIZE, EnvSource, PoolSettings};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::hazard::Tracking;
use crate::ids::{Access, Point, Progress, StreamId};
use crate::memory::{Allocator, Block};
use crate::pool::Streams;
use crate::stream::combiner::Combiner;
use crate::stream::mirror::Transfers;
use crate::stream::record::FlushPolicy;
use crate::stream::shared::StreamShared;
use crate::stream::table::Table;
use rivulet_hal::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use rivulet_hal::sync::{self, Arc, Weak};
use rivulet_hal::{AdapterInfo, HalError, QueueIndex};
use std::sync::OnceLock;

sync::global! {
    static SERIALS: AtomicU64 = AtomicU64::new(0);
}

#[derive(Clone, Debug)]
struct Lost {
    op: String,
    reason: String,
}

/// One open device.
#[derive(Debug)]
pub(crate) struct Engine {
    /// Tells devices apart in thread-locals.
    pub(crate) serial: u64,
    pub(crate) hal: Arc<dyn rivulet_hal::Device>,
    pub(crate) info: AdapterInfo,
    pub(crate) queues: usize,
    pub(crate) tracking: Tracking,
    pub(crate) flush_policy: FlushPolicy,
    /// The CPU has copies of the device's memory and never sees it itself.
    pub(crate) mirrored: bool,
    pub(crate) allocator: Allocator,
    #[cfg(not(loom))]
    pub(crate) pipelines: crate::pipelines::Pipelines<rivulet_kernels::Kernel>,
    // After the allocator, with which the driver's device goes: that waits for the device.
    pub(crate) transfers: Transfers,
    env: EnvBox,
    own: Weak<Engine>,
    table: OnceLock<Table>,
    combiners: Box<[Combiner]>,
    /// Fork generation of the process that opened the device.
    forks: u32,
    /// Raised with `shut_down` and `lost`, so that an entry looks at one flag.
    closed: AtomicBool,
    shut_down: AtomicBool,
    lost: OnceLock<Lost>,
    main_adopted: AtomicBool,
    device_used: AtomicBool,
}

/// Only for `Debug`.
struct EnvBox(Arc<dyn EnvSource>);

impl std::fmt::Debug for EnvBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EnvSource")
    }
}

impl Engine {
    pub(crate) fn new(
        hal: Arc<dyn rivulet_hal::Device>,
        queues: usize,
        env: Arc<dyn EnvSource>,
        tracking: Tracking,
        flush_policy: FlushPolicy,
    ) -> Arc<Self> {
        rivulet_hal::thread::watch_forks();
        Arc::new_cyclic(|own| Self {
            serial: SERIALS.fetch_add(1, Ordering::Relaxed),
            info: hal.info().clone(),
            queues,
            tracking,
            flush_policy,
            mirrored: !hal.info().unified_memory && tracking == Tracking::On,
            allocator: Allocator::new(Arc::clone(&hal)),
            hal,
            #[cfg(not(loom))]
            pipelines: crate::pipelines::Pipelines::default(),
            transfers: Transfers::new(),
            env: EnvBox(env),
            own: own.clone(),
            table: OnceLock::new(),
            combiners: (0..queues).map(|queue| Combiner::new(QueueIndex(queue))).collect(),
            forks: rivulet_hal::thread::fork_generation(),
            closed: AtomicBool::new(false),
            shut_down: AtomicBool::new(false),
            lost: OnceLock::new(),
            main_adopted: AtomicBool::new(false),
            device_used: AtomicBool::new(false),
        })
    }

    pub(crate) fn weak(&self) -> Weak<Self> {
        self.own.clone()
    }

    pub(crate) fn env(&self) -> &dyn EnvSource {
        &*self.env.0
    }

    /// True in a child of the process that opened the device. No lock of the device may be touched there: threads
    /// that are gone may hold it for ever.
    #[inline]
    pub(crate) fn is_forked(&self) -> bool {
        rivulet_hal::thread::fork_generation() != self.forks
    }

    /// Every entry begins here.
    ///
    /// # Errors
    /// [`Error::Forked`], [`Error::ShutDown`], [`Error::DeviceLost`].
    #[inline]
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_forked() || self.closed.load(Ordering::Acquire) { Err(self.refusal()) } else { Ok(()) }
    }

    #[cold]
    fn refusal(&self) -> Error {
        if self.is_forked() {
            return Error::Forked;
        }
        match self.lost.get() {
            Some(Lost { op, reason }) => Error::DeviceLost { op: op.clone(), reason: reason.clone() },
            None => Error::ShutDown,
        }
    }

    pub(crate) fn shut_down(&self) {
        self.shut_down.store(true, Ordering::Release);
        self.closed.store(true, Ordering::Release);
    }

    /// The process is about to end: no thread of the runtime is inside the driver when this returns, and compiled kernels
    /// are kept for the next process.
    pub(crate) fn prepare_exit(&self) {
        if !self.is_forked() {
            self.combiners.iter().for_each(|combiner| {
                combiner.stop_pump();
                combiner.drive(self);
            });
            self.hal.save_pipelines();
        }
    }

    pub(crate) fn is_shut_down(&self) -> bool {
        self.shut_down.load(Ordering::Acquire)
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost.get().is_some()
    }

    /// Remembers a driver failure that means the end of the device, and ends every wait.
    pub(crate) fn note_failure(&self, op: &str, error: &HalError) {
        let HalError::DeviceLost { reason } = error else { return };
        let _ = self.lost.set(Lost { op: op.to_owned(), reason: reason.clone() });
        self.closed.store(true, Ordering::Release);
        if let Some(table) = self.table.get() {
            for stream in table.all() {
                stream.submitted.disturb();
                stream.tickets.counter().disturb();
            }
        }
    }

    /// A driver failure as an error of this crate, noted where it means that the device is lost.
    pub(crate) fn failed(&self, op: &str, error: HalError) -> Error {
        self.note_failure(op, &error);
        match self.lost.get() {
            Some(_) => self.refusal(),
            None => Error::driver(op, error),
        }
    }

    /// Refuses blocks of a device that was lost and replaced by this one.
    #[inline]
    pub(crate) fn check_blocks(&self, label: &str, operands: &[(&Block, Access)]) -> Result<()> {
        if Device::was_reset() && operands.iter().any(|(block, _)| !self.allocator.owns(block)) {
            let reason = "a tensor of it was used with the device opened since".to_owned();
            return Err(Error::DeviceLost { op: label.to_owned(), reason });
        }
        Ok(())
    }

    /// The table of streams. The first call fixes the size of the pool.
    ///
    /// # Errors
    /// A bad setting.
    pub(crate) fn table(&self) -> Result<&Table> {
        if let Some(table) = self.table.get() {
            return Ok(table);
        }
        let size = PoolSettings::read(self.env())?.size.unwrap_or(DEFAULT_POOL_SIZE);
        Ok(self.table.get_or_init(|| Table::new(size, self.queues)))
    }

    #[inline]
    pub(crate) fn table_if_made(&self) -> Option<&Table> {
        self.table.get()
    }

    /// A stream of the table, made where this is its first use.
    #[inline]
    pub(crate) fn stream(&self, id: StreamId) -> Result<&StreamShared> {
        let table = match self.table.get() {
            Some(table) => table,
            None => self.table()?,
        };
        match table.make(id) {
            Some(stream) => Ok(stream),
            None => table.check(id),
        }
    }

    #[inline]
    pub(crate) fn stream_if_made(&self, id: StreamId) -> Option<&StreamShared> {
        self.table.get()?.get(id)
    }

    pub(crate) fn combiner(&self, queue: QueueIndex) -> &Combiner {
        // Streams are spread modulo the number of queues, so the index is always inside.
        &self.combiners[queue.0 % self.combiners.len()]
    }

    /// True on the thread whose stream is the default one.
    pub(crate) fn is_main_thread(&self) -> bool {
        !self.main_adopted.load(Ordering::Relaxed) && rivulet_hal::thread::is_main_thread()
    }

    pub(crate) fn adopt_main_thread(&self) {
        self.main_adopted.store(true, Ordering::Relaxed);
    }

    /// Device work exists from now on. Called before the first stamp; whoever holds a stamped block sees it.
    #[inline]
    pub(crate) fn note_device_use(&self) {
        if !self.device_used.load(Ordering::Relaxed) {
            self.device_used.store(true, Ordering::Relaxed);
        }
    }

    /// True where a block may have stamps.
    #[inline]
    pub(crate) fn device_was_used(&self) -> bool {
        self.device_used.load(Ordering::Relaxed)
    }

    /// A thread gives its slot up: what it recorded goes with the next submission.
    pub(crate) fn leave_open_work(&self, id: StreamId) {
        if let Some(stream) = self.stream_if_made(id)
            && stream.has_unsubmitted()
        {
            self.combiner(stream.queue).leave(id);
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if !self.is_forked() {
            self.combiners.iter().for_each(Combiner::stop_pump);
        }
    }
}

impl Progress for Engine {
    #[inline]
    fn completed(&self, stream: StreamId) -> u64 {
        self.stream_if_made(stream).map_or(0, StreamShared::completed)
    }

    #[inline]
    fn reached(&self, point: Point) -> bool {
        self.stream_if_made(point.stream).is_some_and(|stream| stream.has_completed(point.value))
    }
}

impl Streams for Engine {
    fn is_complete(&self, slot: usize) -> bool {
        let id = u32::try_from(slot).map(StreamId);
        id.ok().and_then(|id| self.stream_if_made(id)).is_none_or(StreamShared::is_complete)
    }

    fn submit_recorded(&self) {
        if !self.device_was_used() {
            return;
        }
        if let Some(table) = self.table.get() {
            for slot in 1..table.slots.size() {
                let id = u32::try_from(slot).map(StreamId);
                if let Some(stream) = id.ok().and_then(|id| table.get(id))
                    && stream.has_unsubmitted()
                {
                    stream.flush(self);
                }
            }
        }
    }
}
