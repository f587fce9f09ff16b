//! CPU accesses: operations of a stream that run on the calling thread.

use super::shared::StreamShared;
use crate::blocking;
use crate::engine::Engine;
use crate::error::Result;
use crate::hazard::{OperandSet, Tracking, seeded};
use crate::ids::{Access, StreamId};
use crate::memory::Block;
use crate::pool::thread::{Entry, Local};
use rivulet_hal::sync::atomic::Ordering;
use rivulet_hal::{ByteRange, HalError};
use std::rc::Rc;

/// The calling thread is inside an op until this is dropped.
pub(crate) struct InOp<'d> {
    engine: &'d Engine,
    local: Option<Rc<Local>>,
    stream: &'d StreamShared,
    outermost: bool,
    /// 0 where the op around this one has the ticket.
    ticket: u64,
}

impl<'d> InOp<'d> {
    /// Enters an op on the calling thread's stream, or on `given`.
    #[inline]
    pub(crate) fn enter(engine: &'d Engine, given: Option<StreamId>) -> Result<Self> {
        engine.check()?;
        let local = crate::pool::thread::local(engine);
        let entry = match &local {
            Some(local) => local.enter(engine, given)?,
            // The thread is ending and its locals are gone.
            None => Entry { stream: given.unwrap_or(engine.table()?.reserve()), outermost: true },
        };
        // From here on the entry is undone by drop; `stream` cannot fail after `enter` gave a stream.
        match engine.stream(entry.stream) {
            Ok(stream) => Ok(Self { engine, local, stream, outermost: entry.outermost, ticket: 0 }),
            Err(error) => {
                if let Some(local) = &local {
                    local.exit(engine);
                }
                Err(error)
            }
        }
    }

    pub(crate) fn stream(&self) -> &'d StreamShared {
        self.stream
    }

    /// Takes the stream's next host ticket and waits for its turn.
    #[inline]
    fn take_ticket(&mut self) -> Result<()> {
        if !self.outermost {
            return Ok(());
        }
        let tickets = &self.stream.tickets;
        let ticket = tickets.take();
        let wait = !seeded::is("tickets: no turns");
        if wait && !tickets.is_turn(ticket) && !blocking::spin(|| tickets.is_turn(ticket)) {
            let waited = blocking::wait_loop(|longest| tickets.wait_step(ticket - 1, longest));
            if let Err(interrupted) = waited {
                tickets.give_up(ticket);
                return Err(interrupted.into());
            }
        }
        self.ticket = ticket;
        Ok(())
    }
}

impl Drop for InOp<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.ticket != 0 && self.stream.tickets.end(self.ticket) {
            self.stream.note_times();
        }
        if let Some(local) = &self.local {
            local.exit(self.engine);
        }
    }
}

/// A CPU access in progress: the operands' bytes are the calling thread's to use until this is dropped or
/// [finished](HostAccess::finish). Belongs to the thread that began it.
///
/// Reads see all device writes and CPU accesses that came before; conflicting ops of other threads wait.
#[must_use = "the access ends when this is dropped"]
pub struct HostAccess<'d> {
    // Fields drop in this order: the operands are let go before the ticket ends.
    set: OperandSet<'d>,
    op: InOp<'d>,
    announced: bool,
}

impl std::fmt::Debug for HostAccess<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostAccess").field("stream", &self.op.stream.id).finish_non_exhaustive()
    }
}

impl<'d> HostAccess<'d> {
    #[inline]
    pub(crate) fn begin(
        engine: &'d Engine,
        given: Option<StreamId>,
        label: &'static str,
        operands: &[(&'d Block, Access)],
    ) -> Result<Self> {
        let mut op = InOp::enter(engine, given)?;
        let stream = op.stream;
        stream.check()?;
        op.take_ticket()?;
        let set = OperandSet::acquire(operands, stream.id, engine.tracking)?;
        let access = Self { set, op, announced: false };
        if engine.device_was_used() || !engine.info.inline_completion {
            return access.meet_device(label, operands);
        }
        Ok(access)
    }

    /// Waits for the device and tells the driver of the access.
    #[cold]
    fn meet_device(mut self, label: &str, operands: &[(&'d Block, Access)]) -> Result<Self> {
        let engine = self.op.engine;
        wait_for_device(engine, self.op.stream, &self.set)?;
        if !engine.info.inline_completion {
            self.announce(label, operands)?;
        }
        Ok(self)
    }

    /// The stream that the access is an operation of.
    pub fn stream(&self) -> StreamId {
        self.op.stream.id
    }

    /// Makes device writes visible to the CPU and tells the driver.
    fn announce(&mut self, label: &str, operands: &[(&'d Block, Access)]) -> Result<()> {
        let engine = self.op.engine;
        // Without tracking the set is empty, but the driver is told all the same: the simulated one then reports
        // what tracking would have prevented.
        if engine.tracking == Tracking::Off {
            for &(block, access) in operands {
                host_access(block, access, true)
                    .and_then(|()| host_access(block, access, false))
                    .map_err(|error| engine.failed(label, error))?;
            }
            return Ok(());
        }
        self.announced = true;
        for (block, access) in self.set.blocks() {
            host_access(block, access, true).map_err(|error| engine.failed(label, error))?;
        }
        Ok(())
    }

    /// Ends the access and tells what the driver says to it; dropping it does the same but for the answer.
    ///
    /// # Errors
    /// Where the driver could not make the CPU's writes visible to the device.
    pub fn finish(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.announced) {
            return Ok(());
        }
        let mut result = Ok(());
        for (block, access) in self.set.blocks() {
            if let Err(error) = host_access(block, access, false) {
                result = Err(self.op.engine.failed("end of a CPU access", error));
            }
        }
        result
    }
}

impl Drop for HostAccess<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.announced {
            // Nobody to tell; whoever uses the bytes next asks the driver again.
            let _ = self.end();
        }
    }
}

/// Waits for the device work that an access conflicts with.
fn wait_for_device(engine: &Engine, stream: &StreamShared, set: &OperandSet<'_>) -> Result<()> {
    let floor = stream.host_floor.load(Ordering::Acquire);
    if floor > 0 && stream.completed() < floor {
        stream.wait_device(engine, floor)?;
    }
    let mut waits = set.waits(engine);
    if !waits.is_empty() {
        // The own stream first: what others wait for may stand behind it.
        waits.sort_by_key(|point| point.stream != stream.id);
        for point in &waits {
            if let Some(other) = engine.stream_if_made(point.stream) {
                other.ensure_submitted(engine, point.value)?;
            }
        }
        for point in &waits {
            if let Some(other) = engine.stream_if_made(point.stream) {
                other.wait_device(engine, point.value)?;
            }
        }
    }
    set.clear_waited();
    Ok(())
}

fn host_access(block: &Block, access: Access, begin: bool) -> Result<(), HalError> {
    let Some(memory) = block.memory() else { return Ok(()) };
    let range = ByteRange { start: block.offset(), end: block.offset() + block.size() };
    let write = access == Access::Write;
    if begin { memory.begin_host_access(range, write) } else { memory.end_host_access(range, write) }
}
