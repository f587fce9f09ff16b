//! Dense tensors one after another.

use super::view::View;
use super::{dtype_bytes, no_kernel, refuse};
use crate::error::Result;
use crate::ids::Access;
use crate::memory::Block;
use crate::{Device, DeviceOp};
use rivulet_hal::BufferRange;
use smallvec::SmallVec;

const OP: &str = "join";
/// Inputs that are held without allocating.
const INLINE: usize = 32;
/// What a driver's copies count in.
const WORD: u64 = 4;

/// Copies the elements of dense `inputs` one after another into dense `out`, which has as many as they have together and
/// their type: what `torch.cat` does along the first dimension. One op with a copy for each input, in no order among each
/// other. Any thread.
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
    device.record(&DeviceOp::new(OP, &blocks), |recorder| {
        copies.iter().try_for_each(|(from, to)| recorder.copy(from, to))
    })?;
    Ok(())
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
