//! Matrix products, convolutions, attention.

use super::{NO_OP, RawView, optional, pointwise_op, record, required};
use crate::ffi::error::{Failure, INVALID};
use rivulet::ops;

/// See `rivulet.h`.
///
/// # Safety
/// - The views are null or valid during the call.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_matmul(
    out: *const RawView,
    a: *const RawView,
    b: *const RawView,
    bias: *const RawView,
    alpha: f64,
    beta: f64,
    activation: u32,
) -> i32 {
    record(|device, temporaries| {
        let activation = if activation == NO_OP { None } else { Some(pointwise_op(activation)?) };
        // SAFETY: by contract.
        let (out, a, b, bias) = unsafe {
            (
                required(out, temporaries)?,
                required(a, temporaries)?,
                required(b, temporaries)?,
                optional(bias, temporaries)?,
            )
        };
        Ok(ops::matmul(device, &out, &a, &b, bias.as_ref(), alpha as f32, beta as f32, activation)?)
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - The views are valid during the call.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_int_matmul(out: *const RawView, a: *const RawView, b: *const RawView) -> i32 {
    record(|device, temporaries| {
        // SAFETY: by contract.
        let (out, a, b) =
            unsafe { (required(out, temporaries)?, required(a, temporaries)?, required(b, temporaries)?) };
        Ok(ops::int_matmul(device, &out, &a, &b)?)
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - The views are null or valid during the call; `geometry` points to seven numbers.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_convolution(
    kind: u32,
    out: *const RawView,
    x: *const RawView,
    weight: *const RawView,
    bias: *const RawView,
    geometry: *const [u32; 7],
) -> i32 {
    record(|device, temporaries| {
        // SAFETY: by contract.
        let (out, x, weight, bias) = unsafe {
            (
                required(out, temporaries)?,
                required(x, temporaries)?,
                required(weight, temporaries)?,
                optional(bias, temporaries)?,
            )
        };
        // SAFETY: by contract.
        let &[s0, s1, p0, p1, d0, d1, groups] =
            unsafe { geometry.as_ref() }.ok_or_else(|| Failure::new(INVALID, "geometry is null"))?;
        let geometry = ops::ConvGeometry { stride: [s0, s1], padding: [p0, p1], dilation: [d0, d1], groups };
        let bias = bias.as_ref();
        match kind {
            0 => ops::conv2d(device, &out, &x, &weight, bias, &geometry)?,
            1 => ops::conv2d_transposed(device, &out, &x, &weight, bias, &geometry)?,
            _ => ops::conv2d_weight_gradient(device, &out, &x, &weight, &geometry)?,
        }
        Ok(())
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - The views are null or valid during the call.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_attention(
    out: *const RawView,
    logsumexp: *const RawView,
    q: *const RawView,
    k: *const RawView,
    v: *const RawView,
    mask: *const RawView,
    causal: i32,
    scale: f64,
) -> i32 {
    record(|device, temporaries| {
        // SAFETY: by contract.
        let (out, logsumexp, q) = unsafe {
            (required(out, temporaries)?, optional(logsumexp, temporaries)?, required(q, temporaries)?)
        };
        // SAFETY: by contract.
        let (k, v, mask) =
            unsafe { (required(k, temporaries)?, required(v, temporaries)?, optional(mask, temporaries)?) };
        let (logsumexp, mask) = (logsumexp.as_ref(), mask.as_ref());
        Ok(ops::attention(device, &out, logsumexp, &q, &k, &v, mask, causal != 0, scale as f32)?)
    })
}
