//! CPU accesses: operations of a stream that run on the calling thread.

use super::mirror;
use super::shared::StreamShared;
use crate::blocking;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::hazard::{OperandSet, Tracking, seeded};
use crate::ids::{Access, StreamId};
use crate::memory::Block;
use crate::memory::content::Side;
use crate::pool::thread::{Entry, Local};
use rivulet_hal::sync::atomic::Ordering;
use rivulet_hal::{BufferRange, ByteRange, HalError};
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
        note(engine, label, operands);
        engine.check_blocks(label, operands)?;
        let stream = op.stream;
        stream.check()?;
        op.take_ticket()?;
        let set = if engine.mirrored {
            mirror::acquire(engine, stream, operands, Side::Host)?
        } else {
            OperandSet::acquire(operands, stream.id, engine.tracking)?
        };
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
        if engine.mirrored {
            // The bytes are the CPU's own; whoever fetched them has waited.
            wait_for_floor(engine, self.op.stream)?;
            self.announced = true;
            return Ok(self);
        }
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
            if self.op.engine.mirrored {
                if access == Access::Write {
                    block.content().end_host_write();
                }
                continue;
            }
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

/// The bytes of a block from `offset` on, which have to be `bytes`.
fn range(label: &str, block: &Block, offset: u64, bytes: usize) -> Result<BufferRange> {
    let buffer =
        block.buffer().ok_or_else(|| Error::Memory(format!("{label}: adopted memory has no copy")))?;
    let end = offset.checked_add(bytes as u64).filter(|&end| end <= block.size());
    match end {
        Some(end) => {
            let start = buffer.range.start;
            Ok(BufferRange {
                memory: buffer.memory,
                range: ByteRange { start: start + offset, end: start + end },
            })
        }
        None => {
            let size = block.size();
            Err(Error::Memory(format!("{label}: {bytes} bytes from {offset} on of a block of {size} bytes")))
        }
    }
}

/// Tells the calling thread's noting, where it has one.
#[inline]
fn note(engine: &Engine, label: &'static str, operands: &[(&Block, Access)]) {
    #[cfg(not(loom))]
    if crate::plan::noting::is_open() {
        crate::plan::noting::host(engine, label, operands);
    }
    #[cfg(loom)]
    let _ = (engine, label, operands);
}

/// See [`crate::Device::read`].
pub(crate) fn read(
    engine: &Engine,
    label: &'static str,
    block: &Block,
    offset: u64,
    target: &mut [u8],
) -> Result<()> {
    let from = range(label, block, offset, target.len())?;
    let failed = |error| engine.failed(label, error);
    if !engine.mirrored {
        let access = HostAccess::begin(engine, None, label, &[(block, Access::Read)])?;
        rivulet_hal::read_bytes(&from, target).map_err(failed)?;
        return access.finish();
    }
    engine.check_blocks(label, &[(block, Access::Read)])?;
    note(engine, label, &[(block, Access::Read)]);
    let mut op = InOp::enter(engine, None)?;
    op.stream.check()?;
    op.take_ticket()?;
    let _set = OperandSet::acquire(&[(block, Access::Read)], op.stream.id, engine.tracking)?;
    wait_for_floor(engine, op.stream)?;
    if !block.content().is_stale(Side::Host) {
        return rivulet_hal::read_bytes(&from, target).map_err(failed);
    }
    mirror::fetch(engine, op.stream, block, offset, target.len() as u64, |at, piece| {
        let start = (at - offset) as usize;
        rivulet_hal::read_bytes(piece, &mut target[start..start + piece.range.len() as usize])
    })
}

/// See [`crate::Device::write`].
pub(crate) fn write(
    engine: &Engine,
    label: &'static str,
    block: &Block,
    offset: u64,
    source: &[u8],
) -> Result<()> {
    let to = range(label, block, offset, source.len())?;
    let failed = |error| engine.failed(label, error);
    if !engine.mirrored {
        let access = HostAccess::begin(engine, None, label, &[(block, Access::Write)])?;
        rivulet_hal::write_bytes(source, &to).map_err(failed)?;
        return access.finish();
    }
    engine.check_blocks(label, &[(block, Access::Write)])?;
    note(engine, label, &[(block, Access::Write)]);
    let mut op = InOp::enter(engine, None)?;
    op.stream.check()?;
    op.take_ticket()?;
    let _set = OperandSet::acquire(&[(block, Access::Write)], op.stream.id, engine.tracking)?;
    wait_for_floor(engine, op.stream)?;
    let whole = offset == 0 && source.len() as u64 >= block.requested();
    if !whole && block.content().is_stale(Side::Device) {
        return rivulet_hal::write_bytes(source, &to).map_err(failed);
    }
    mirror::send(engine, op.stream, block, offset, source.len() as u64, |at, piece| {
        let start = (at - offset) as usize;
        rivulet_hal::write_bytes(&source[start..start + piece.range.len() as usize], piece)
    })?;
    block.content().written(Side::Device);
    Ok(())
}

/// Makes a block that nobody else knows of ready for the CPU to write to.
pub(crate) fn settle(engine: &Engine, block: &Block) -> Result<()> {
    if engine.mirrored {
        // Only the device's copy is still in use, and what moves the bytes there waits for that.
        block.content().written(Side::Host);
        return Ok(());
    }
    if engine.info.inline_completion || !engine.device_was_used() {
        return Ok(());
    }
    let op = InOp::enter(engine, None)?;
    let operand = (block, Access::Write);
    let set = OperandSet::acquire(&[operand], op.stream.id, engine.tracking)?;
    wait_for_device(engine, op.stream, &set)?;
    host_access(block, Access::Write, true).map_err(|error| engine.failed("allocate", error))?;
    host_access(block, Access::Write, false).map_err(|error| engine.failed("allocate", error))
}

/// Waits for the events that the stream was told to wait for.
fn wait_for_floor(engine: &Engine, stream: &StreamShared) -> Result<()> {
    let floor = stream.host_floor.load(Ordering::Acquire);
    if floor > 0 && stream.completed() < floor {
        stream.wait_device(engine, floor)?;
    }
    Ok(())
}

/// Waits for the device work that an access conflicts with.
fn wait_for_device(engine: &Engine, stream: &StreamShared, set: &OperandSet<'_>) -> Result<()> {
    wait_for_floor(engine, stream)?;
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
