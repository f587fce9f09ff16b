//! Elements at places that a tensor of indices holds.

use super::{RawScalar, RawView, Temporaries, VIEWS, no_kernel, operand, optional, record, required, view};
use crate::ffi::error::Failure;
use rivulet::ops::{self, ScatterOp, ScatterSource, View};
use smallvec::SmallVec;

/// See `rivulet.h`.
///
/// # Safety
/// - The views are valid during the call.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_gather(
    out: *const RawView,
    x: *const RawView,
    dim: u32,
    index: *const RawView,
) -> i32 {
    record(|device, temporaries| {
        // SAFETY: by contract.
        let (out, x, index) = unsafe {
            (required(out, temporaries)?, required(x, temporaries)?, required(index, temporaries)?)
        };
        Ok(ops::gather(device, &out, &x, dim as usize, &index)?)
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - `out` and `count` views at `inputs` are valid during the call.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_join(out: *const RawView, inputs: *const RawView, count: usize) -> i32 {
    record(|device, temporaries| {
        // SAFETY: by contract.
        let out = unsafe { required(out, temporaries) }?;
        // SAFETY: by contract.
        let raw = if count == 0 { &[] } else { unsafe { std::slice::from_raw_parts(inputs, count) } };
        // SAFETY: by contract.
        let views = raw.iter().map(|raw| unsafe { view(raw) });
        let views = views.collect::<Result<SmallVec<[View<'_>; VIEWS]>, Failure>>()?;
        Ok(ops::join(device, &out, &views)?)
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - The views are null or valid during the call.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_scatter(
    kind: u32,
    out: *const RawView,
    dim: u32,
    index: *const RawView,
    source: *const RawView,
    value: RawScalar,
) -> i32 {
    record(|device, temporaries| {
        let kind = ScatterOp::ALL.get(kind as usize).copied().ok_or_else(|| no_kernel("no such scatter"))?;
        // SAFETY: by contract.
        let (out, index, source) = unsafe {
            (required(out, temporaries)?, required(index, temporaries)?, optional(source, temporaries)?)
        };
        let source = match &source {
            Some(view) => ScatterSource::View(view),
            None => ScatterSource::Scalar(value.of(out.dtype)),
        };
        Ok(ops::scatter(device, kind, &out, dim as usize, &index, source)?)
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - The views are valid during the call.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_index_select(
    out: *const RawView,
    x: *const RawView,
    dim: u32,
    index: *const RawView,
) -> i32 {
    record(|device, temporaries| {
        // SAFETY: by contract.
        let (out, x, index) = unsafe {
            (required(out, temporaries)?, required(x, temporaries)?, required(index, temporaries)?)
        };
        Ok(ops::index_select(device, &out, &x, dim as usize, &index)?)
    })
}

/// Operands of `rivulet_index` and `rivulet_index_put`: two tensors, the indices, sizes and strides of what they
/// index.
type Indexed<'b> = (View<'b>, View<'b>, SmallVec<[View<'b>; 4]>, SmallVec<[u64; 4]>, SmallVec<[i64; 4]>);

/// # Safety
/// - `views` points to `indices` + 2 views, `sizes` and `strides` to `indices` numbers, valid during the call.
unsafe fn indexed<'b>(
    views: *const RawView,
    indices: usize,
    sizes: *const i64,
    strides: *const i64,
    temporaries: &mut Temporaries<'b>,
) -> Result<Indexed<'b>, Failure> {
    if indices == 0 || indices + 2 > VIEWS {
        return Err(no_kernel("so many indices"));
    }
    // SAFETY: by contract.
    let (raws, sizes, strides) = unsafe {
        (
            std::slice::from_raw_parts(views, indices + 2),
            std::slice::from_raw_parts(sizes, indices),
            std::slice::from_raw_parts(strides, indices),
        )
    };
    let mut given = SmallVec::new();
    for raw in &raws[2..] {
        // SAFETY: by contract.
        given.push(unsafe { operand(raw, temporaries) }?);
    }
    // SAFETY: by contract.
    let (first, second) = unsafe { (view(&raws[0])?, operand(&raws[1], temporaries)?) };
    let sizes = sizes.iter().map(|&size| size.unsigned_abs()).collect();
    Ok((first, second, given, sizes, SmallVec::from_slice(strides)))
}

/// See `rivulet.h`.
///
/// # Safety
/// - As for [`indexed`].
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_index(
    views: *const RawView,
    indices: usize,
    sizes: *const i64,
    strides: *const i64,
) -> i32 {
    record(|device, temporaries| {
        // SAFETY: by contract.
        let (out, x, given, sizes, strides) =
            unsafe { indexed(views, indices, sizes, strides, temporaries) }?;
        Ok(ops::index(device, &out, &x, &given, &sizes, &strides)?)
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - As for [`indexed`].
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_index_put(
    views: *const RawView,
    indices: usize,
    sizes: *const i64,
    strides: *const i64,
    accumulate: i32,
) -> i32 {
    record(|device, temporaries| {
        // SAFETY: by contract.
        let (out, source, given, sizes, strides) =
            unsafe { indexed(views, indices, sizes, strides, temporaries) }?;
        Ok(ops::index_put(device, &out, &source, &given, &sizes, &strides, accumulate != 0)?)
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - The views are null or valid during the call.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_search(
    out: *const RawView,
    rows: *const RawView,
    values: *const RawView,
    order: *const RawView,
    right: i32,
) -> i32 {
    record(|device, temporaries| {
        // SAFETY: by contract.
        let (out, rows) = unsafe { (required(out, temporaries)?, required(rows, temporaries)?) };
        // SAFETY: by contract.
        let (values, order) = unsafe { (required(values, temporaries)?, optional(order, temporaries)?) };
        Ok(ops::search(device, &out, &rows, &values, order.as_ref(), right != 0)?)
    })
}
