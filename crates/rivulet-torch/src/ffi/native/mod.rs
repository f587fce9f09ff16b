//! Native ops: tensors as C views, handed on to [`rivulet::ops`].

mod elements;
mod images;
mod indexing;
mod losses;
mod products;
mod rows;

use super::error::{Failure, INVALID, NO_KERNEL, enter};
use crate::python;
use rivulet::Device;
use rivulet::memory::Block;
use rivulet::ops::{self, DType, Op, Scalar, View};
use rivulet_hal::sync::Arc;
use smallvec::SmallVec;
use std::ffi::c_void;

/// `rivulet_scalar`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct RawScalar {
    real: f64,
    integer: i64,
    is_float: u32,
}

/// `rivulet_view`.
#[repr(C)]
#[derive(Debug)]
struct RawView {
    block: *const Block,
    data: *const c_void,
    sizes: *const i64,
    strides: *const i64,
    scalar: RawScalar,
    rank: u32,
    dtype: u32,
}

/// `RIVULET_NO_OP`.
const NO_OP: u32 = u32::MAX;

/// In the order of `enum rivulet_dtype`.
const DTYPES: [DType; 9] = DType::ALL;

/// Views of one call.
const VIEWS: usize = 8;

fn no_kernel(reason: &str) -> Failure {
    Failure::new(NO_KERNEL, reason)
}

fn dtype(number: u32) -> Result<DType, Failure> {
    DTYPES.get(number as usize).copied().ok_or_else(|| no_kernel("no kernels for this element type"))
}

fn pointwise_op(number: u32) -> Result<Op, Failure> {
    Op::ALL.get(number as usize).copied().ok_or_else(|| no_kernel("no such pointwise op"))
}

impl RawScalar {
    /// The number in the type that kernels compute elements of `common` in.
    fn of(self, common: DType) -> Scalar {
        if common.is_float() {
            return Scalar::F32(self.real as f32);
        }
        // Saturates, so that the limits of a clamp stay limits.
        let integer = if self.is_float != 0 { self.real as i64 } else { self.integer };
        if common == DType::I64 {
            Scalar::I64(integer)
        } else {
            Scalar::I32(integer.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32)
        }
    }
}

/// Blocks that live as long as the call that records their use; the runtime keeps their memory until that is done.
struct Temporaries<'d> {
    device: &'d Device,
    blocks: SmallVec<[Arc<Block>; 2]>,
}

impl Drop for Temporaries<'_> {
    fn drop(&mut self) {
        for block in self.blocks.drain(..) {
            self.device.free(block);
        }
    }
}

/// Sizes and strides of a view.
///
/// # Safety
/// - `raw.sizes` and `raw.strides` point to `raw.rank` numbers, or `raw.rank` is 0.
unsafe fn shape<'a>(raw: &RawView) -> (&'a [i64], &'a [i64]) {
    if raw.rank == 0 {
        return (&[], &[]);
    }
    let rank = raw.rank as usize;
    // SAFETY: by contract.
    unsafe { (std::slice::from_raw_parts(raw.sizes, rank), std::slice::from_raw_parts(raw.strides, rank)) }
}

/// A tensor over a block.
///
/// # Safety
/// - As for [`shape`]; the block lives while the view does.
unsafe fn view<'b>(raw: &RawView) -> Result<View<'b>, Failure> {
    // SAFETY: by contract.
    let block = unsafe { raw.block.as_ref() }.ok_or_else(|| no_kernel("an operand is a number"))?;
    // SAFETY: by contract.
    let (sizes, strides) = unsafe { shape(raw) };
    let dtype = dtype(raw.dtype)?;
    let bytes = (raw.data as usize).wrapping_sub(block.address()) as u64;
    if !bytes.is_multiple_of(u64::from(dtype.size())) {
        return Err(no_kernel("an operand does not begin with an element"));
    }
    Ok(View {
        block,
        dtype,
        offset: bytes / u64::from(dtype.size()),
        shape: sizes.iter().map(|&size| size.unsigned_abs()).collect(),
        strides: SmallVec::from_slice(strides),
    })
}

/// A tensor over a block, or a number written into a block of its own.
///
/// # Safety
/// - As for [`view`].
unsafe fn operand<'b>(raw: &RawView, temporaries: &mut Temporaries<'b>) -> Result<View<'b>, Failure> {
    if !raw.block.is_null() {
        // SAFETY: by contract.
        return unsafe { view(raw) };
    }
    let dtype = dtype(raw.dtype)?;
    let device = temporaries.device;
    let block = device.allocate(u64::from(dtype.size()))?;
    // SAFETY: the handle in `temporaries` outlives the view, which is used in this call alone.
    let lasting: &'b Block = unsafe { &*Arc::as_ptr(&block) };
    temporaries.blocks.push(block);
    let mut element = View::dense(lasting, dtype, &[]);
    ops::fill(device, &element, raw.scalar.of(dtype))?;
    // SAFETY: by contract.
    let (sizes, _) = unsafe { shape(raw) };
    element.shape = sizes.iter().map(|&size| size.unsigned_abs()).collect();
    element.strides = sizes.iter().map(|_| 0).collect();
    Ok(element)
}

/// An operand that may be missing.
///
/// # Safety
/// - `raw` is null or as for [`view`].
unsafe fn optional<'b>(
    raw: *const RawView,
    temporaries: &mut Temporaries<'b>,
) -> Result<Option<View<'b>>, Failure> {
    // SAFETY: by contract.
    match unsafe { raw.as_ref() } {
        // SAFETY: by contract.
        Some(raw) => unsafe { operand(raw, temporaries) }.map(Some),
        None => Ok(None),
    }
}

/// An operand that the header requires.
///
/// # Safety
/// - `raw` is null or as for [`view`].
unsafe fn required<'b>(raw: *const RawView, temporaries: &mut Temporaries<'b>) -> Result<View<'b>, Failure> {
    // SAFETY: by contract.
    unsafe { optional(raw, temporaries) }?.ok_or_else(|| Failure::new(INVALID, "a view is null"))
}

/// Numbers of a C array.
///
/// # Safety
/// - `scalars` points to `count` scalars; null comes with 0.
unsafe fn numbers<'a>(scalars: *const RawScalar, count: usize) -> &'a [RawScalar] {
    // SAFETY: by contract.
    if count == 0 { &[] } else { unsafe { std::slice::from_raw_parts(scalars, count) } }
}

/// Runs `body` with the process's device.
fn record(body: impl FnOnce(&Device, &mut Temporaries<'_>) -> Result<(), Failure>) -> i32 {
    enter(|| {
        python::stay_if_exiting();
        let device = Device::global()?;
        body(device, &mut Temporaries { device, blocks: SmallVec::new() })
    })
}
