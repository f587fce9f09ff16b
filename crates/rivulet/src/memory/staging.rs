//! Memory through which bytes move between the CPU and the device, in chunks that are used again.
//!
//! A chunk is handed out in slices from its start to its end. When it is full and the device is done with every slice
//! of it, it starts anew. There are at most [`CHUNKS`]; who finds none waits for the device.

use crate::ids::{Point, Progress};
use rivulet_hal::sync::{Arc, Condvar, Mutex, Rank};
use rivulet_hal::{BufferRange, ByteRange, Device, HalError, Memory, MemoryUsage};
use smallvec::SmallVec;
use std::time::Duration;

/// Bytes of a chunk, and of the largest slice.
pub const CHUNK: u64 = 4 << 20;
/// Chunks of a direction.
pub const CHUNKS: usize = 16;
/// Slices begin on multiples of this: no two share a line of the CPU's cache.
const ALIGN: u64 = 64;

#[derive(Debug)]
struct Chunk {
    id: u64,
    memory: Arc<dyn Memory>,
    used: u64,
    /// Slices that were handed out and not given back.
    open: usize,
    /// What the device has to reach before the bytes may be used again; of each stream the highest value.
    points: SmallVec<[Point; 4]>,
}

#[derive(Debug, Default)]
struct State {
    /// Least recently filled first; the last one is being filled.
    chunks: Vec<Chunk>,
    /// Being made.
    making: usize,
    next_id: u64,
}

/// The chunks of one direction. All methods may be called from any thread.
#[derive(Debug)]
pub(crate) struct Staging {
    usage: MemoryUsage,
    state: Mutex<State>,
    /// A slice was given back.
    freed: Condvar,
}

/// Bytes for one copy; goes back with [`Staging::give`].
#[derive(Debug)]
#[must_use = "a slice that is not given back blocks its chunk"]
pub(crate) struct Slice {
    chunk: u64,
    pub(crate) buffer: BufferRange,
}

/// What [`Staging::take`] answers where every chunk is in use.
#[derive(Debug)]
pub(crate) struct Full {
    /// Of the chunk that comes free first: wait for them. Empty where other threads still fill slices.
    pub(crate) points: SmallVec<[Point; 4]>,
    chunk: u64,
}

impl Staging {
    pub(crate) fn new(usage: MemoryUsage) -> Self {
        Self { usage, state: Mutex::new(Rank::ALLOCATOR, State::default()), freed: Condvar::new() }
    }

    /// A slice of `bytes` (1 to [`CHUNK`]). Never waits.
    ///
    /// # Errors
    /// What the driver says to a further chunk, where there is none to fall back on.
    pub(crate) fn take(
        &self,
        device: &dyn Device,
        bytes: u64,
        progress: &dyn Progress,
    ) -> Result<Result<Slice, Full>, HalError> {
        let mut state = self.state.lock();
        if let Some(slice) = state.cut(bytes, progress) {
            return Ok(Ok(slice));
        }
        let mut refusal = None;
        if state.chunks.len() + state.making < CHUNKS {
            state.making += 1;
            drop(state);
            let made = device.allocate(CHUNK, self.usage);
            state = self.state.lock();
            state.making -= 1;
            match made {
                Ok(memory) => {
                    let id = state.next_id;
                    state.next_id += 1;
                    state.chunks.push(Chunk { id, memory, used: 0, open: 0, points: SmallVec::new() });
                }
                Err(error) => refusal = Some(error),
            }
            if let Some(slice) = state.cut(bytes, progress) {
                return Ok(Ok(slice));
            }
        }
        let next = state.chunks.iter().find(|chunk| chunk.open == 0).or(state.chunks.first());
        match (next, refusal) {
            (Some(chunk), _) => {
                let points = if chunk.open == 0 { chunk.points.clone() } else { SmallVec::new() };
                Ok(Err(Full { points, chunk: chunk.id }))
            }
            (None, Some(error)) => Err(error),
            // Others are making the first.
            (None, None) => Ok(Err(Full { points: SmallVec::new(), chunk: u64::MAX })),
        }
    }

    /// Gives a slice back. The device uses it up to `point`; not at all, or no longer, where `None`.
    pub(crate) fn give(&self, slice: Slice, point: Option<Point>) {
        let mut state = self.state.lock();
        if let Some(chunk) = state.chunks.iter_mut().find(|chunk| chunk.id == slice.chunk) {
            chunk.open -= 1;
            if let Some(point) = point {
                match chunk.points.iter_mut().find(|other| other.stream == point.stream) {
                    Some(other) => other.value = other.value.max(point.value),
                    None => chunk.points.push(point),
                }
            }
        }
        drop(state);
        self.freed.notify_all();
    }

    /// Waits for at most `longest` for a slice to be given back.
    pub(crate) fn wait_freed(&self, longest: Duration) {
        let state = self.state.lock();
        drop(self.freed.wait_timeout(state, longest));
    }

    /// Lets go of a chunk whose points will never be reached because their stream failed. Submissions keep the memory.
    pub(crate) fn abandon(&self, full: &Full) {
        let mut state = self.state.lock();
        let place = state.chunks.iter().position(|chunk| chunk.id == full.chunk && chunk.open == 0);
        let abandoned = place.map(|place| state.chunks.remove(place));
        drop(state);
        drop(abandoned);
    }
}

impl State {
    fn cut(&mut self, bytes: u64, progress: &dyn Progress) -> Option<Slice> {
        if self.chunks.last().is_none_or(|chunk| CHUNK - chunk.used < bytes) {
            let idle = self.chunks.iter_mut().position(|chunk| {
                chunk.points.retain(|point| progress.completed(point.stream) < point.value);
                chunk.open == 0 && chunk.points.is_empty()
            })?;
            let mut chunk = self.chunks.remove(idle);
            chunk.used = 0;
            self.chunks.push(chunk);
        }
        let chunk = self.chunks.last_mut()?;
        let range = ByteRange { start: chunk.used, end: chunk.used + bytes };
        chunk.used = range.end.next_multiple_of(ALIGN).min(CHUNK);
        chunk.open += 1;
        Some(Slice { chunk: chunk.id, buffer: BufferRange { memory: Arc::clone(&chunk.memory), range } })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::ids::StreamId;
    use rivulet_hal::sync::atomic::{AtomicU64, Ordering};

    struct Upto(AtomicU64);

    impl Progress for Upto {
        fn completed(&self, _: StreamId) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    fn at(value: u64) -> Option<Point> {
        Some(Point { stream: StreamId(1), value })
    }

    #[test]
    fn a_chunk_is_used_again_when_the_device_is_done_with_it_and_not_before() {
        let (device, done) = (rivulet_hal::host::open(), Upto(AtomicU64::new(0)));
        let staging = Staging::new(MemoryUsage::Upload);
        let take = |bytes| staging.take(&*device, bytes, &done).unwrap();
        let small: Vec<Slice> = (0..3).map(|_| take(10).unwrap()).collect();
        let starts: Vec<u64> = small.iter().map(|slice| slice.buffer.range.start).collect();
        assert_eq!(starts, [0, 64, 128], "slices of one chunk");
        small.into_iter().enumerate().for_each(|(index, slice)| staging.give(slice, at(index as u64)));
        // The other chunks, each filled by one slice.
        let whole: Vec<Slice> = (1..CHUNKS).map(|_| take(CHUNK).unwrap()).collect();
        let full = take(CHUNK).unwrap_err();
        assert_eq!(full.points.as_slice(), [at(2).unwrap()]);
        done.0.store(1, Ordering::Relaxed);
        assert!(take(CHUNK).is_err());
        done.0.store(2, Ordering::Relaxed);
        let again = take(CHUNK).unwrap();
        assert!(take(1).unwrap_err().points.is_empty(), "all are open");
        whole.into_iter().for_each(|slice| staging.give(slice, None));
        assert_eq!(take(1).unwrap().buffer.range.start, 0);
        staging.give(again, at(9));
    }

    #[test]
    fn a_chunk_of_a_failed_stream_is_replaced() {
        let (device, done) = (rivulet_hal::host::open(), Upto(AtomicU64::new(0)));
        let staging = Staging::new(MemoryUsage::Readback);
        for value in 1..=CHUNKS as u64 {
            let slice = staging.take(&*device, CHUNK, &done).unwrap().unwrap();
            staging.give(slice, at(value));
        }
        let full = staging.take(&*device, 1, &done).unwrap().unwrap_err();
        staging.abandon(&full);
        assert!(staging.take(&*device, 1, &done).unwrap().is_ok());
    }
}
