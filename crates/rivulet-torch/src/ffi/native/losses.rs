//! Losses, gradients of embeddings, padding, extremes so far.

use super::{RawView, no_kernel, optional, record, required};
use crate::ffi::error::{Failure, INVALID};
use rivulet::ops::{self, LossReduction, NllOperands, PadMode, ScanOp};
use smallvec::SmallVec;

fn reduction(number: u32) -> Result<LossReduction, Failure> {
    const REDUCTIONS: [LossReduction; 3] = [LossReduction::None, LossReduction::Mean, LossReduction::Sum];
    REDUCTIONS.get(number as usize).copied().ok_or_else(|| no_kernel("no such reduction"))
}

/// See `rivulet.h`.
///
/// # Safety
/// - The views are null or valid during the call.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_nll_loss(
    backward: i32,
    out: *const RawView,
    total: *const RawView,
    x: *const RawView,
    target: *const RawView,
    weight: *const RawView,
    kind: u32,
    ignored: i64,
) -> i32 {
    record(|device, temporaries| {
        // SAFETY: by contract.
        let (out, total, x) = unsafe {
            (required(out, temporaries)?, optional(total, temporaries)?, required(x, temporaries)?)
        };
        // SAFETY: by contract.
        let (target, weight) = unsafe { (required(target, temporaries)?, optional(weight, temporaries)?) };
        let operands = NllOperands {
            target: &target,
            weight: weight.as_ref(),
            reduction: reduction(kind)?,
            ignored: i32::try_from(ignored).map_err(|_| no_kernel("so large a class to ignore"))?,
        };
        if backward == 0 {
            Ok(ops::nll_loss(device, &out, total.as_ref(), &x, &operands)?)
        } else {
            Ok(ops::nll_loss_backward(device, &out, &x, total.as_ref(), &operands)?)
        }
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - The views are valid during the call.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_embedding_backward(
    out: *const RawView,
    grad: *const RawView,
    indices: *const RawView,
    padding: i64,
    by_frequency: i32,
) -> i32 {
    record(|device, temporaries| {
        // SAFETY: by contract.
        let (out, grad, indices) = unsafe {
            (required(out, temporaries)?, required(grad, temporaries)?, required(indices, temporaries)?)
        };
        let padding = u32::try_from(padding).ok();
        Ok(ops::embedding_backward(device, &out, &grad, &indices, padding, by_frequency != 0)?)
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - The views are valid during the call; `edges` points to `2 * dims` numbers.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_pad(
    replicate: i32,
    backward: i32,
    out: *const RawView,
    x: *const RawView,
    edges: *const i64,
    dims: usize,
) -> i32 {
    record(|device, temporaries| {
        if edges.is_null() || dims == 0 || dims > 3 {
            return Err(Failure::new(INVALID, format!("{dims} padded dimensions; 1 to 3 are allowed")));
        }
        // SAFETY: by contract.
        let (out, x) = unsafe { (required(out, temporaries)?, required(x, temporaries)?) };
        // SAFETY: by contract.
        let edges = unsafe { std::slice::from_raw_parts(edges, 2 * dims) };
        let padding: SmallVec<[[i64; 2]; 3]> = edges.chunks_exact(2).map(|pair| [pair[0], pair[1]]).collect();
        let mode = if replicate != 0 { PadMode::Replicate } else { PadMode::Reflect };
        if backward == 0 {
            Ok(ops::pad(device, &out, &x, &padding, mode)?)
        } else {
            Ok(ops::pad_backward(device, &out, &x, &padding, mode)?)
        }
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - The views are valid during the call.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_scan_places(
    largest: i32,
    out: *const RawView,
    places: *const RawView,
    x: *const RawView,
    dim: u32,
) -> i32 {
    record(|device, temporaries| {
        // SAFETY: by contract.
        let (out, places, x) = unsafe {
            (required(out, temporaries)?, required(places, temporaries)?, required(x, temporaries)?)
        };
        let op = if largest != 0 { ScanOp::Max } else { ScanOp::Min };
        Ok(ops::scan_with_places(device, op, &out, &places, &x, dim as usize)?)
    })
}
