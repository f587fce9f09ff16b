//! Identifiers shared by all modules.

/// A stream of a device. 0 is the main thread's default stream; 1 to pool size - 1 belong to worker threads;
/// above come explicit streams and the reserve stream of service threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u32);

impl StreamId {
    /// The main thread's stream.
    pub const DEFAULT: Self = Self(0);

    /// As an index into per-stream tables.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl std::fmt::Display for StreamId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "mps stream {}", self.0)
    }
}

/// A point on a stream's device timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Point {
    /// The stream.
    pub stream: StreamId,
    /// Its device value; work up to and including it.
    pub value: u64,
}

/// A point of a stream in both its counters; what events and synchronisation wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Cursor {
    /// Device value.
    pub device: u64,
    /// Host ticket.
    pub host: u64,
}

/// How an operand is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Access {
    /// Only read.
    Read,
    /// Written, perhaps read too.
    Write,
}

/// How far the streams of a device have come. Implemented by the stream table; asked by the allocator and the
/// hazard code, which know nothing else of streams.
pub trait Progress: Send + Sync {
    /// Highest device value of `stream` that is complete (Acquire). Never blocks.
    fn completed(&self, stream: StreamId) -> u64;

    /// True where `point` is known to be complete. Never waits.
    fn reached(&self, point: Point) -> bool {
        self.completed(point.stream) >= point.value
    }
}
