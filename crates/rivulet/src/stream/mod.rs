//! Streams: in-order timelines, any number of them over a few hardware queues.
//!
//! - `shared`: one stream's state and the order of its counters.
//! - `record`: device ops, with their automatic waits and barriers.
//! - `host`: CPU accesses.
//! - `mirror`: where the CPU cannot see the device's memory, moving bytes to the side that needs them.
//! - `submit`, `combiner`, `pump`: from an open recorder to the driver, and waiting for completion.
//! - `table`: which streams a device has.
//! - `tickets`, `counter`: the order of CPU accesses, and what threads wait on.

pub(crate) mod combiner;
pub(crate) mod counter;
pub(crate) mod host;
pub(crate) mod mirror;
pub(crate) mod pump;
pub(crate) mod record;
pub(crate) mod shared;
pub(crate) mod submit;
pub(crate) mod table;
pub(crate) mod tickets;

pub use combiner::CALL_COST;
pub use host::HostAccess;
pub use record::{COMMAND_COST, DeviceOp, FlushPolicy};
pub use table::EXPLICIT_STREAMS;

use crate::engine::Engine;
use crate::error::Result;
use crate::ids::{Access, Cursor, Point, StreamId};
use crate::memory::Block;
use record::Extra;
use rivulet_hal::sync::Arc;
use rivulet_hal::{HalError, Recorder};
use shared::StreamShared;

/// A handle of a stream. Cheap to clone; any thread may use any stream, whose ops then run in the order in which they
/// were given.
///
/// ```
/// use rivulet::{Access, Device, DeviceOp};
///
/// let device = Device::host();
/// let stream = device.new_stream(0)?;
/// let block = device.allocate(1024)?;
/// let operands = [(&*block, Access::Write)];
/// let target = block.buffer().expect("not adopted");
/// stream.record(&DeviceOp::new("fill", &operands), |recorder| recorder.fill(&target, 7))?;
/// stream.synchronize()?;
/// assert!(stream.query()?);
/// # drop(operands);
/// device.free(block);
/// # Ok::<(), rivulet::Error>(())
/// ```
#[derive(Clone)]
pub struct Stream {
    engine: Arc<Engine>,
    id: StreamId,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Stream").field(&self.id.0).finish()
    }
}

impl PartialEq for Stream {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.same_device(other)
    }
}

impl Eq for Stream {}

impl Stream {
    /// The stream has been made.
    pub(crate) fn new(engine: Arc<Engine>, id: StreamId) -> Self {
        Self { engine, id }
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(crate) fn same_device(&self, other: &Self) -> bool {
        self.engine.serial == other.engine.serial
    }

    #[allow(
        clippy::expect_used,
        reason = "handles are only made of streams in the table, which never shrinks"
    )]
    pub(crate) fn shared(&self) -> &StreamShared {
        self.engine.stream_if_made(self.id).expect("the stream of a handle exists")
    }

    /// Its number.
    pub fn id(&self) -> StreamId {
        self.id
    }

    /// 0, or -1 where its submissions go first.
    pub fn priority(&self) -> i32 {
        self.shared().priority
    }

    /// Everything the stream was given so far.
    pub fn cursor(&self) -> Cursor {
        self.shared().cursor()
    }

    /// As [`Stream::cursor`], but inside an op without the CPU accesses that are still running: one of them is the
    /// caller's own, and another may be waiting for it.
    pub(crate) fn cursor_from_here(&self) -> Cursor {
        let cursor = self.cursor();
        let in_op = crate::pool::thread::existing(&self.engine).is_some_and(|local| local.in_op());
        if in_op { Cursor { host: cursor.host.min(self.shared().tickets.ended()), ..cursor } } else { cursor }
    }

    /// Waits for a point of this stream.
    pub(crate) fn wait_cursor(&self, cursor: Cursor) -> Result<()> {
        self.engine.check()?;
        self.shared().wait_cursor(&self.engine, cursor)
    }

    /// True where everything the stream was given is complete. Submits what it has recorded, so that asking again and
    /// again comes to an end.
    ///
    /// # Errors
    /// The stream's or the device's failure.
    pub fn query(&self) -> Result<bool> {
        self.engine.check()?;
        let shared = self.shared();
        shared.check()?;
        if shared.has_unsubmitted() {
            shared.flush(&self.engine);
        }
        Ok(shared.reached(self.cursor_from_here()))
    }

    /// Waits until everything that the stream was given before this call is complete, and for nothing else.
    ///
    /// # Errors
    /// The stream's or the device's failure, or a signal.
    pub fn synchronize(&self) -> Result<()> {
        self.engine.check()?;
        self.shared().check()?;
        self.wait_cursor(self.cursor_from_here())
    }

    /// Submits what is recorded. Does not wait.
    ///
    /// # Errors
    /// The stream's or the device's failure.
    pub fn flush(&self) -> Result<()> {
        self.engine.check()?;
        self.shared().flush(&self.engine);
        self.shared().check()
    }

    /// Records an op for the device. Waits for conflicting ops of other streams and barriers inside this one are put
    /// where the operands need them; `commands` records the op's own commands (and barriers between them). Operands'
    /// memory stays alive until the op is complete.
    ///
    /// Waits on the CPU only where another thread's CPU access holds an operand.
    ///
    /// # Errors
    /// The stream's or the device's failure, a signal, or what `commands` answered. Commands that were recorded before
    /// an error poison the stream.
    pub fn record(
        &self,
        op: &DeviceOp<'_>,
        commands: impl FnOnce(&mut dyn Recorder) -> Result<(), HalError>,
    ) -> Result<Point> {
        let in_op = host::InOp::enter(&self.engine, Some(self.id))?;
        #[cfg(not(loom))]
        if crate::plan::noting::is_open() {
            return self.engine.record_noted(in_op.stream(), op, None, &[], commands);
        }
        in_op.stream().record(&self.engine, op, &Extra::default(), commands)
    }

    /// Begins a CPU access as an operation of this stream; see [`crate::Device::host_access`].
    ///
    /// # Errors
    /// As [`crate::Device::host_access`].
    pub fn host_access<'a>(
        &'a self,
        label: &'static str,
        operands: &[(&'a Block, Access)],
    ) -> Result<HostAccess<'a>> {
        HostAccess::begin(&self.engine, Some(self.id), label, operands)
    }

    /// Makes a failed stream usable again. Waits for what was submitted before the failure; what failed counts as
    /// complete, and the bytes it was to write are undefined. Nothing where the stream has not failed.
    ///
    /// # Errors
    /// The device's failure, or a signal.
    pub fn clear_error(&self) -> Result<()> {
        self.engine.check()?;
        self.shared().clear_error(&self.engine)
    }
}
