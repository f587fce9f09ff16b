//! Element by element, random numbers, reductions, running totals.

use super::{
    NO_OP, RawScalar, RawView, VIEWS, dtype, no_kernel, numbers, operand, optional, pointwise_op, record,
    required, view,
};
use crate::ffi::answer;
use crate::ffi::error::{Failure, INVALID, enter, enter_or};
use rivulet::Device;
use rivulet::ops::{self, DType, Op, ReduceOp, Scalar, ScanOp, View};
use smallvec::SmallVec;
use std::ffi::{CStr, c_char};

/// See `rivulet.h`.
///
/// # Safety
/// - `answer_at` is valid for writes.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_has_kernels(answer_at: *mut i32) -> i32 {
    enter(|| {
        // SAFETY: by contract.
        let out = unsafe { answer(answer_at, "answer") }?;
        *out = i32::from(ops::has_kernels(Device::global()?));
        Ok(())
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - `name` is a C string.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_pointwise_op(name: *const c_char) -> u32 {
    // SAFETY: by contract.
    enter_or(NO_OP, || position(unsafe { CStr::from_ptr(name) }, Op::ALL.iter().map(|op| op.label())))
}

/// See `rivulet.h`.
///
/// # Safety
/// - `name` is a C string.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_reduce_op(name: *const c_char) -> u32 {
    // SAFETY: by contract.
    enter_or(NO_OP, || position(unsafe { CStr::from_ptr(name) }, ReduceOp::ALL.iter().map(|op| op.label())))
}

fn position<'n>(name: &CStr, mut labels: impl Iterator<Item = &'n str>) -> u32 {
    labels
        .position(|label| label.as_bytes() == name.to_bytes())
        .and_then(|at| u32::try_from(at).ok())
        .unwrap_or(NO_OP)
}

/// See `rivulet.h`.
///
/// # Safety
/// - `views` points to `count` views and `scalars` to `scalar_count` scalars, valid during the call.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_pointwise(
    op: u32,
    common: u32,
    views: *const RawView,
    count: usize,
    scalars: *const RawScalar,
    scalar_count: usize,
) -> i32 {
    record(|device, temporaries| {
        let (op, common) = (pointwise_op(op)?, dtype(common)?);
        if count == 0 || count > VIEWS {
            return Err(Failure::new(INVALID, format!("{count} views; 1 to {VIEWS} are allowed")));
        }
        // SAFETY: by contract.
        let raws = unsafe { std::slice::from_raw_parts(views, count) };
        // SAFETY: by contract.
        let out = unsafe { view(&raws[0]) }?;
        let mut inputs = SmallVec::<[View<'_>; 3]>::new();
        let mut values = SmallVec::<[Scalar; 4]>::new();
        let mut scalar = None;
        // The first scalar of an op with several inputs is the input that is a number, its own come after it.
        let several = op.arity() > 1;
        for (index, raw) in raws[1..].iter().enumerate() {
            if raw.block.is_null() && several && scalar.is_none() {
                scalar = u8::try_from(index).ok();
                values.push(raw.scalar.of(common));
            } else {
                // SAFETY: by contract.
                inputs.push(unsafe { operand(raw, temporaries) }?);
            }
        }
        // SAFETY: by contract.
        let own = unsafe { numbers(scalars, scalar_count) };
        if several && scalar.is_none() && !own.is_empty() {
            values.push(RawScalar { real: 0.0, integer: 0, is_float: 0 }.of(common));
        }
        // A diagonal is an int32 whatever is computed in.
        let is_matrix = matches!(op, Op::Tril | Op::Triu | Op::Eye);
        let kind = if is_matrix { DType::I32 } else { common };
        values.extend(own.iter().map(|number| number.of(kind)));
        match inputs.as_slice() {
            [input] if op == Op::Copy => Ok(ops::copy(device, &out, input)?),
            inputs => Ok(ops::pointwise(device, op, common, &out, inputs, scalar, &values)?),
        }
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - `out` is a view and `scalars` points to `scalar_count` scalars, valid during the call.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_random(
    op: u32,
    out: *const RawView,
    scalars: *const RawScalar,
    scalar_count: usize,
    seed: u64,
) -> i32 {
    record(|device, temporaries| {
        let op = pointwise_op(op)?;
        // SAFETY: by contract.
        let (out, own) = unsafe { (required(out, temporaries)?, numbers(scalars, scalar_count)) };
        let common = if op == Op::Randint { DType::I64 } else { DType::F32 };
        let values: SmallVec<[Scalar; 4]> = own.iter().map(|number| number.of(common)).collect();
        Ok(ops::random(device, op, &out, &values, seed)?)
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - The views are null or valid during the call.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_reduce(
    op: u32,
    values: *const RawView,
    places: *const RawView,
    x: *const RawView,
    reduced: u64,
    factor: f64,
) -> i32 {
    record(|device, temporaries| {
        let op = ReduceOp::ALL.get(op as usize).copied().ok_or_else(|| no_kernel("no such reduction"))?;
        // SAFETY: by contract.
        let (values, places, x) = unsafe {
            (optional(values, temporaries)?, optional(places, temporaries)?, required(x, temporaries)?)
        };
        Ok(ops::reduce(device, op, values.as_ref(), places.as_ref(), &x, reduced, factor as f32)?)
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - The views are valid during the call.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_scan(kind: u32, out: *const RawView, x: *const RawView, dim: u32) -> i32 {
    record(|device, temporaries| {
        const KINDS: [ScanOp; 5] = [ScanOp::Sum, ScanOp::Prod, ScanOp::Max, ScanOp::Min, ScanOp::LogSumExp];
        let kind = KINDS.get(kind as usize).copied().ok_or_else(|| no_kernel("no such scan"))?;
        // SAFETY: by contract.
        let (out, x) = unsafe { (required(out, temporaries)?, required(x, temporaries)?) };
        Ok(ops::scan(device, kind, &out, &x, dim as usize)?)
    })
}
