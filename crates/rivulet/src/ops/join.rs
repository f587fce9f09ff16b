//! Dense tensors one after another.

use super::launch::pipeline;
use super::view::View;
use super::{dtype_bytes, has_kernels, no_kernel, refuse};
use crate::error::Result;
use crate::ids::Access;
use crate::memory::Block;
use crate::plan::noting;
use crate::{Device, DeviceOp};
use rivulet_hal::sync::Arc;
use rivulet_hal::{BufferRange, ByteRange, HalError, Memory, Operand, Recorder};
use rivulet_kernels::params::JoinRowsParams;
use rivulet_kernels::{JoinRows, Kernel};
use smallvec::SmallVec;

const OP: &str = "join";
/// Inputs that are held without allocating.
const INLINE: usize = 32;
/// What a driver's copies and the kernel's rows count in.
const WORD: u64 = 4;
/// Fewer inputs than this are copied one by one: a copy costs a driver about as much as a dispatch.
const FEW: usize = 3;
/// Rows for which one kernel is worth it.
const MOST_ROWS: u64 = 8 * JoinRows::MOST as u64;

/// Copies the elements of dense `inputs` one after another into dense `out`, which has as many as they have together and
/// their type: what `torch.cat` does along the first dimension. One op: a kernel for up to 28 inputs of up to eight memories,
/// where those are small, else a copy for each of them. Any thread.
///
/// # Errors
/// [`Error::BadOperand`](crate::Error::BadOperand) where types or numbers of elements differ or a view is not dense;
/// [`Error::NoKernel`](crate::Error::NoKernel) where an input lies in the block of `out` or does not begin and end with
/// a 4-byte word of it; what [`Device::record`] says.
pub fn join(device: &Device, out: &View<'_>, inputs: &[View<'_>]) -> Result<()> {
    out.check_dense(OP, "the output")?;
    let mut total = 0;
    for input in inputs {
        input.check_dense(OP, "an input")?;
        input.check_dtype(OP, "an input", out.dtype)?;
        total += input.count();
    }
    if total != out.count() {
        return refuse(OP, format!("the inputs have {total} elements together, the output {}", out.count()));
    }
    let size = u64::from(out.dtype.size());
    let mut to = out.offset * size;
    let mut copies: SmallVec<[(BufferRange, BufferRange); INLINE]> = SmallVec::new();
    let mut blocks: SmallVec<[(&Block, Access); INLINE]> = SmallVec::new();
    blocks.push((out.block, Access::Write));
    for input in inputs.iter().filter(|input| input.count() > 0) {
        let (from, bytes) = (input.offset * size, dtype_bytes(input.dtype, input.count()));
        if std::ptr::eq(input.block, out.block) {
            return no_kernel(OP, "an input lies in the output's block".to_owned());
        }
        if [from, to, bytes].iter().any(|place| !place.is_multiple_of(WORD)) {
            return no_kernel(OP, format!("{bytes} bytes from byte {from} to byte {to} are not whole words"));
        }
        copies.push((part(input, from, bytes)?, part(out, to, bytes)?));
        blocks.push((input.block, Access::Read));
        to += bytes;
    }
    if copies.is_empty() {
        return Ok(());
    }
    let op = DeviceOp::new(OP, &blocks);
    if let Some(rows) = Rows::of(device, &copies) {
        let kernel = JoinRows { several: rows.sources.len() > 1 };
        let pipeline = pipeline(device, OP, &Kernel::JoinRows(kernel))?;
        return device.record(&op, |recorder| rows.dispatch(recorder, pipeline, kernel)).map(|_| ());
    }
    device.record(&op, |recorder| copies.iter().try_for_each(|(from, to)| recorder.copy(from, to)))?;
    Ok(())
}

/// A memory that rows lie in, and the bytes that a kernel is bound to; what lies between the rows is not touched.
type Source<'c> = (&'c Arc<dyn Memory>, ByteRange);

/// Inputs as rows of the same size.
struct Rows<'c> {
    copies: &'c [(BufferRange, BufferRange)],
    sources: SmallVec<[Source<'c>; INLINE]>,
    /// Which of them each input lies in.
    places: SmallVec<[usize; INLINE]>,
    /// Bytes of a row.
    size: u64,
    /// Bytes of all.
    bytes: u64,
}

impl<'c> Rows<'c> {
    /// `None` where copies are better, or the only way: a layer that looks for conflicts takes all that a kernel is bound
    /// to for touched, and a program knows memory by its blocks.
    fn of(device: &Device, copies: &'c [(BufferRange, BufferRange)]) -> Option<Self> {
        if copies.len() < FEW || !has_kernels(device) || device.hal().is_validated() || noting::is_open() {
            return None;
        }
        let (mut sources, mut places): (SmallVec<[Source<'c>; INLINE]>, SmallVec<_>) = Default::default();
        let mut size = 0;
        for (from, _) in copies {
            let known = sources.iter().position(|(memory, _)| Arc::ptr_eq(memory, &from.memory));
            let place = known.unwrap_or(sources.len());
            match sources.get_mut(place) {
                Some((_, span)) => {
                    span.start = span.start.min(from.range.start);
                    span.end = span.end.max(from.range.end);
                }
                None => sources.push((&from.memory, from.range)),
            }
            places.push(place);
            size = greatest_common_divisor(from.range.len(), size);
        }
        for (_, span) in &mut sources {
            // As far as blocks are aligned, a binding may begin.
            span.start -= span.start % ALIGNMENT;
        }
        let most = if sources.len() > 1 { WORD * u64::from(JoinRows::REACH) } else { u64::from(u32::MAX) };
        let reach = device.info().max_binding.min(most);
        let near = sources.iter().all(|(_, span)| span.len() <= reach);
        let bytes: u64 = copies.iter().map(|(from, _)| from.range.len()).sum();
        (near && bytes / size <= MOST_ROWS).then_some(Self { copies, sources, places, size, bytes })
    }

    fn dispatch(
        &self,
        recorder: &mut dyn Recorder,
        pipeline: &Arc<dyn rivulet_hal::Pipeline>,
        kernel: JoinRows,
    ) -> std::result::Result<(), HalError> {
        let first_to = &self.copies[0].1;
        let start = first_to.range.start;
        let bound = ByteRange { start: start - start % ALIGNMENT, end: start + self.bytes };
        let word = |bytes: u64| (bytes / WORD) as u32;
        let mut params = JoinRowsParams {
            out: word(start - bound.start),
            words: word(self.size),
            ..JoinRowsParams::default()
        };
        let most = if kernel.several { JoinRows::SOURCES } else { 1 };
        // Those that the next dispatch reads.
        let mut open: SmallVec<[usize; JoinRows::SOURCES]> = SmallVec::new();
        let mut run = |params: &mut JoinRowsParams, open: &mut SmallVec<[usize; JoinRows::SOURCES]>| {
            open.resize(most, open[0]);
            let mut operands: SmallVec<[Operand<'_>; 1 + JoinRows::SOURCES]> = SmallVec::new();
            operands.push(Operand { memory: &first_to.memory, range: bound, write: true });
            for &source in &*open {
                let (memory, range) = self.sources[source];
                operands.push(Operand { memory, range, write: false });
            }
            let groups = kernel.groups(params.words, params.rows);
            let done = recorder.dispatch_on(pipeline, &operands, bytemuck::bytes_of(params), groups);
            params.out += params.rows * params.words;
            params.rows = 0;
            open.clear();
            done
        };
        for ((from, _), &source) in self.copies.iter().zip(&self.places) {
            for row in (from.range.start..from.range.end).step_by(self.size as usize) {
                if params.rows as usize == JoinRows::MOST || (open.len() == most && !open.contains(&source)) {
                    run(&mut params, &mut open)?;
                }
                let known = open.iter().position(|&other| other == source);
                let at = known.unwrap_or_else(|| {
                    open.push(source);
                    open.len() - 1
                });
                let first = word(row - self.sources[source].1.start);
                params.first[params.rows as usize] = kernel.first(at, first);
                params.rows += 1;
            }
        }
        if params.rows > 0 { run(&mut params, &mut open) } else { Ok(()) }
    }
}

/// Where bindings may begin; blocks do.
const ALIGNMENT: u64 = 256;

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Bytes of a view's block.
fn part(view: &View<'_>, start: u64, bytes: u64) -> Result<BufferRange> {
    let Some(mut buffer) = view.block.buffer() else {
        return no_kernel(OP, "an operand is memory that only the CPU can reach".to_owned());
    };
    buffer.range.start += start;
    buffer.range.end = buffer.range.start + bytes;
    Ok(buffer)
}
