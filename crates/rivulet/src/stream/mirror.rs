//! Devices whose memory the CPU cannot see: bytes move to the side that an op needs them on.
//!
//! An op takes its operands as always. Where the copy of its side is stale it takes those blocks alone, whatever it
//! does with them itself, and moves the bytes while it holds them: so of all threads that need a block one moves it,
//! and no kernel reads it meanwhile. A move is an op of the stream like any other, with the stamps and the barriers of
//! one.
//!
//! Between CPU and device the bytes go through [staging](crate::memory::staging), so a CPU access never waits for
//! kernels that use the device's copy, only for the bytes that it needs.

use super::record::{DeviceOp, Extra};
use super::shared::StreamShared;
use crate::blocking;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::hazard::OperandSet;
use crate::ids::{Access, Point};
use crate::memory::Block;
use crate::memory::content::Side;
use crate::memory::staging::{CHUNK, Slice, Staging};
use rivulet_hal::sync::Arc;
use rivulet_hal::sync::atomic::{AtomicU64, Ordering};
use rivulet_hal::{BufferRange, ByteRange, HalError, MemoryUsage};
use std::collections::VecDeque;
use std::time::Duration;

/// Mirrors of blocks from this size on are given back when the bytes have moved to the device and the CPU has not asked
/// for them again.
pub(crate) const LARGE: u64 = 1 << 20;
/// Copies from the device that are under way while the CPU copies the one before.
const AHEAD: usize = 2;
/// Times that an op is taken apart again because another thread moved or wrote a block in between; then it takes all
/// its operands alone.
const TRIES: usize = 3;
/// Estimated device time of a copy: bytes in a nanosecond.
const SPEED: u64 = 16;
/// How long a thread sleeps at a time that waits for others to fill their slices.
const NAP: Duration = Duration::from_millis(1);

/// What moves bytes between CPU and device, and how many it moved.
#[derive(Debug)]
pub(crate) struct Transfers {
    upload: Staging,
    readback: Staging,
    to_device: AtomicU64,
    to_host: AtomicU64,
}

impl Transfers {
    pub(crate) fn new() -> Self {
        Self {
            upload: Staging::new(MemoryUsage::Upload),
            readback: Staging::new(MemoryUsage::Readback),
            to_device: AtomicU64::new(0),
            to_host: AtomicU64::new(0),
        }
    }

    /// Bytes moved to the device and to the CPU so far.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.to_device.load(Ordering::Relaxed), self.to_host.load(Ordering::Relaxed))
    }
}

/// Locks the operands of an op of `side`, with their bytes where the op needs them; notes what it is going to write.
///
/// # Errors
/// As [`OperandSet::acquire`], and those of a move.
pub(super) fn acquire<'a>(
    engine: &Engine,
    stream: &StreamShared,
    operands: &[(&'a Block, Access)],
    side: Side,
) -> Result<OperandSet<'a>> {
    let mut tries = 0;
    loop {
        let last = tries >= TRIES;
        let alone = |block: &Block| last || block.content().is_stale(side);
        let set = OperandSet::acquire_alone(operands, stream.id, engine.tracking, alone)?;
        tries += 1;
        let stale = |&(block, _, _): &(&Block, Access, bool)| block.content().is_stale(side);
        if let Some((block, _, _)) = set.holds().filter(stale).find(|&(_, _, alone)| !alone) {
            // Only what an op around this one holds cannot be taken alone.
            if last {
                return Err(held_outside(block));
            }
            continue;
        }
        let mut moved = false;
        for (block, _, _) in set.holds().filter(stale) {
            match side {
                Side::Device => upload(engine, stream, block)?,
                Side::Host => download(engine, stream, block)?,
            }
            moved = true;
        }
        // A CPU access may last: other readers need not wait for it.
        if moved && side == Side::Host && !last && set.blocks().any(|(_, access)| access == Access::Read) {
            continue;
        }
        for (block, access) in set.blocks() {
            if access == Access::Write && block.memory().is_some() {
                block.content().written(side);
            }
        }
        return Ok(set);
    }
}

fn held_outside(block: &Block) -> Error {
    Error::Memory(format!(
        "the tensor memory at {:#x} ({} bytes) has to be moved between CPU and device, but an operation around this one \
         reads it; a callback inside an operation may use its tensors only where that does",
        block.address(),
        block.requested()
    ))
}

/// The part of a block that its user asked for.
fn part(block: &Block, at: u64, bytes: u64) -> Option<BufferRange> {
    let start = block.offset() + at;
    let range = ByteRange { start, end: start + bytes };
    block.memory().map(|memory| BufferRange { memory: Arc::clone(memory), range })
}

fn cost(bytes: u64) -> Option<Duration> {
    Some(Duration::from_nanos(bytes / SPEED))
}

/// Staging for `bytes`. The caller holds no slice and no engine lock.
fn take(engine: &Engine, staging: &Staging, bytes: u64) -> Result<Slice> {
    loop {
        let taken = staging.take(&*engine.hal, bytes, engine);
        let full = match taken.map_err(|error| engine.failed("staging memory", error))? {
            Ok(slice) => return Ok(slice),
            Err(full) => full,
        };
        if full.points.is_empty() {
            engine.check()?;
            let mut napped = false;
            blocking::wait_loop(|longest| {
                if !std::mem::replace(&mut napped, true) {
                    staging.wait_freed(longest.min(NAP));
                }
                true
            })?;
        }
        for &point in &full.points {
            match wait(engine, point) {
                // Work that failed on its way to the device is no reason for this op to fail.
                Err(Error::Poisoned { .. }) => staging.abandon(&full),
                other => other?,
            }
        }
    }
}

fn wait(engine: &Engine, point: Point) -> Result<()> {
    match engine.stream_if_made(point.stream) {
        Some(stream) => stream.wait_device(engine, point.value),
        None => Ok(()),
    }
}

/// Moves a block's bytes to the device. The calling thread holds it alone.
fn upload(engine: &Engine, stream: &StreamShared, block: &Block) -> Result<()> {
    send(engine, stream, block, 0, block.requested(), |at, slice| {
        let from = part(block, at, slice.range.len());
        from.map_or(Ok(()), |from| rivulet_hal::copy_bytes(&from, slice))
    })?;
    block.content().moved_to(Side::Device);
    if block.requested() >= LARGE && !block.content().was_read_back() {
        block.release_mirror();
    }
    Ok(())
}

/// Copies `bytes` to the block from its byte `start` on, piece by piece; `fill` puts the piece that begins at its first
/// argument into staging. Returns when the copies are recorded. The calling thread holds the block alone.
pub(super) fn send(
    engine: &Engine,
    stream: &StreamShared,
    block: &Block,
    start: u64,
    bytes: u64,
    mut fill: impl FnMut(u64, &BufferRange) -> Result<(), HalError>,
) -> Result<()> {
    let staging = &engine.transfers.upload;
    let mut done = 0;
    while done < bytes {
        let length = (bytes - done).min(CHUNK);
        let slice = take(engine, staging, length)?;
        let from = slice.buffer.clone();
        let recorded = fill(start + done, &from)
            .and_then(|()| from.memory.end_host_access(from.range, true))
            .map_err(|error| engine.failed("copy to the device", error))
            .and_then(|()| {
                let Some(to) = part(block, start + done, length) else { return Ok(None) };
                let operands = [(block, Access::Write)];
                let op = DeviceOp { label: "copy to the device", operands: &operands, cost: cost(length) };
                let extra = Extra { keep: Some(&from.memory), ..Extra::default() };
                stream.record_as_is(engine, &op, &extra, |recorder| recorder.copy(&from, &to)).map(Some)
            });
        match recorded {
            Ok(point) => staging.give(slice, point),
            Err(error) => {
                staging.give(slice, None);
                return Err(error);
            }
        }
        engine.transfers.to_device.fetch_add(length, Ordering::Relaxed);
        done += length;
        if done < bytes {
            // The device copies this piece while the CPU copies the next.
            stream.flush(engine);
        }
    }
    Ok(())
}

/// Moves a block's bytes to the CPU and waits for them. The calling thread holds it alone.
fn download(engine: &Engine, stream: &StreamShared, block: &Block) -> Result<()> {
    fetch(engine, stream, block, 0, block.requested(), |at, slice| {
        let to = part(block, at, slice.range.len());
        to.map_or(Ok(()), |to| rivulet_hal::copy_bytes(slice, &to))
    })?;
    block.content().moved_to(Side::Host);
    Ok(())
}

/// Copies `bytes` of the block from its byte `start` on, piece by piece; `drain` takes the piece that begins at its first
/// argument out of staging. The calling thread holds the block.
pub(super) fn fetch(
    engine: &Engine,
    stream: &StreamShared,
    block: &Block,
    start: u64,
    bytes: u64,
    mut drain: impl FnMut(u64, &BufferRange) -> Result<(), HalError>,
) -> Result<()> {
    let staging = &engine.transfers.readback;
    let mut flying: VecDeque<(u64, Slice, Point)> = VecDeque::new();
    let (mut asked, mut done) = (0, 0);
    let mut step = || -> Result<bool> {
        while asked < bytes && flying.len() < AHEAD {
            let length = (bytes - asked).min(CHUNK);
            let slice = if flying.is_empty() {
                take(engine, staging, length)?
            } else {
                // Never waits for others with slices in hand.
                match staging.take(&*engine.hal, length, engine) {
                    Ok(Ok(slice)) => slice,
                    _ => break,
                }
            };
            let to = slice.buffer.clone();
            let Some(from) = part(block, start + asked, length) else { return Ok(false) };
            let operands = [(block, Access::Read)];
            let op = DeviceOp { label: "copy to the CPU", operands: &operands, cost: cost(length) };
            let extra = Extra { keep: Some(&to.memory), ..Extra::default() };
            match stream.record_as_is(engine, &op, &extra, |recorder| recorder.copy(&from, &to)) {
                Ok(point) => flying.push_back((start + asked, slice, point)),
                Err(error) => {
                    staging.give(slice, None);
                    return Err(error);
                }
            }
            asked += length;
            stream.flush(engine);
        }
        let Some((at, slice, point)) = flying.front() else { return Ok(false) };
        wait(engine, *point)?;
        let range = slice.buffer.range;
        let drained = slice.buffer.memory.begin_host_access(range, false);
        drained
            .and_then(|()| drain(*at, &slice.buffer))
            .map_err(|error| engine.failed("copy to the CPU", error))?;
        done += range.len();
        engine.transfers.to_host.fetch_add(range.len(), Ordering::Relaxed);
        if let Some((_, slice, _)) = flying.pop_front() {
            staging.give(slice, None);
        }
        Ok(done < bytes)
    };
    let result = loop {
        match step() {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    for (_, slice, point) in flying {
        staging.give(slice, Some(point));
    }
    result
}
