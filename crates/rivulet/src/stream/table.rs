//! All streams of a device: the slots', the reserve stream, and the explicit ones.

use super::shared::StreamShared;
use crate::error::{Error, Result};
use crate::ids::StreamId;
use crate::pool::slots::Slots;
use rivulet_hal::QueueIndex;
use rivulet_hal::sync::atomic::{AtomicU32, Ordering};
use std::sync::OnceLock;

/// Explicit streams of a priority; further ones are the same again, in turn.
pub const EXPLICIT_STREAMS: u32 = 32;

/// ```text
/// 0 .. size          slots
/// size               reserve stream of service threads
/// then 32 + 32       explicit streams of priority 0 and -1
/// ```
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) slots: Slots,
    /// Each made at its first use; never removed, so that a reference lives as long as the device.
    streams: Box<[OnceLock<Box<StreamShared>>]>,
    next: [AtomicU32; 2],
    queues: usize,
}

impl Table {
    pub(crate) fn new(size: usize, queues: usize) -> Self {
        let count = size + 1 + 2 * EXPLICIT_STREAMS as usize;
        let table = Self {
            slots: Slots::new(size),
            streams: (0..count).map(|_| OnceLock::new()).collect(),
            next: [AtomicU32::new(0), AtomicU32::new(0)],
            queues,
        };
        table.make(StreamId::DEFAULT);
        table
    }

    fn slot_count(&self) -> u32 {
        // At most 1024.
        u32::try_from(self.slots.size()).unwrap_or(u32::MAX)
    }

    pub(crate) fn reserve(&self) -> StreamId {
        StreamId(self.slot_count())
    }

    fn last(&self) -> u32 {
        self.slot_count() + 2 * EXPLICIT_STREAMS
    }

    #[inline]
    pub(crate) fn get(&self, id: StreamId) -> Option<&StreamShared> {
        self.streams.get(id.index())?.get().map(|stream| &**stream)
    }

    /// The stream, made where it is the first use.
    #[inline]
    pub(crate) fn make(&self, id: StreamId) -> Option<&StreamShared> {
        if let Some(stream) = self.get(id) {
            return Some(stream);
        }
        let priority = if id.0 > self.slot_count() + EXPLICIT_STREAMS { -1 } else { 0 };
        let queue = QueueIndex(id.index() % self.queues);
        let place = self.streams.get(id.index())?;
        Some(place.get_or_init(|| Box::new(StreamShared::new(id, priority, queue))))
    }

    /// # Errors
    /// [`Error::NoSuchStream`].
    pub(crate) fn check(&self, id: StreamId) -> Result<&StreamShared> {
        self.get(id).ok_or(Error::NoSuchStream { id: id.0, last: self.last() })
    }

    /// The next explicit stream of a priority.
    ///
    /// # Errors
    /// [`Error::NoSuchPriority`].
    pub(crate) fn explicit(&self, priority: i32) -> Result<&StreamShared> {
        let (turn, base) = match priority {
            0 => (&self.next[0], self.slot_count() + 1),
            -1 => (&self.next[1], self.slot_count() + 1 + EXPLICIT_STREAMS),
            given => return Err(Error::NoSuchPriority { given }),
        };
        let id = StreamId(base + turn.fetch_add(1, Ordering::Relaxed) % EXPLICIT_STREAMS);
        self.make(id).ok_or(Error::NoSuchStream { id: id.0, last: self.last() })
    }

    /// Every stream made so far.
    pub(crate) fn all(&self) -> impl Iterator<Item = &StreamShared> {
        self.streams.iter().filter_map(|stream| stream.get().map(|stream| &**stream))
    }
}
