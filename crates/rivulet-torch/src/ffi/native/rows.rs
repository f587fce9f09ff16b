//! What goes over a row as a whole.

use super::{RawView, optional, record, required};
use rivulet::ops;

/// See `rivulet.h`.
///
/// # Safety
/// - The views are valid during the call.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_softmax(
    logarithm: i32,
    out: *const RawView,
    x: *const RawView,
    dim: u32,
) -> i32 {
    record(|device, temporaries| {
        // SAFETY: by contract.
        let (out, x) = unsafe { (required(out, temporaries)?, required(x, temporaries)?) };
        Ok(ops::softmax(device, logarithm != 0, &out, &x, dim as usize)?)
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - The views are valid during the call.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_softmax_backward(
    logarithm: i32,
    out: *const RawView,
    grad: *const RawView,
    output: *const RawView,
    dim: u32,
) -> i32 {
    record(|device, temporaries| {
        // SAFETY: by contract.
        let (out, grad, output) = unsafe {
            (required(out, temporaries)?, required(grad, temporaries)?, required(output, temporaries)?)
        };
        Ok(ops::softmax_backward(device, logarithm != 0, &out, &grad, &output, dim as usize)?)
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - The views are null or valid during the call.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_layer_norm(
    out: *const RawView,
    mean: *const RawView,
    rstd: *const RawView,
    x: *const RawView,
    weight: *const RawView,
    bias: *const RawView,
    eps: f64,
) -> i32 {
    record(|device, temporaries| {
        // SAFETY: by contract.
        let (out, x) = unsafe { (required(out, temporaries)?, required(x, temporaries)?) };
        // SAFETY: by contract.
        let (mean, rstd) = unsafe { (optional(mean, temporaries)?, optional(rstd, temporaries)?) };
        // SAFETY: by contract.
        let (weight, bias) = unsafe { (optional(weight, temporaries)?, optional(bias, temporaries)?) };
        Ok(ops::layer_norm(
            device,
            &out,
            mean.as_ref(),
            rstd.as_ref(),
            &x,
            weight.as_ref(),
            bias.as_ref(),
            eps as f32,
        )?)
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - The views are null or valid during the call.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_layer_norm_backward(
    grad_x: *const RawView,
    grad_weight: *const RawView,
    grad_bias: *const RawView,
    grad: *const RawView,
    x: *const RawView,
    mean: *const RawView,
    rstd: *const RawView,
    weight: *const RawView,
) -> i32 {
    record(|device, temporaries| {
        // SAFETY: by contract.
        let (out, out_weight, out_bias) = unsafe {
            (
                optional(grad_x, temporaries)?,
                optional(grad_weight, temporaries)?,
                optional(grad_bias, temporaries)?,
            )
        };
        // SAFETY: by contract.
        let (gradient, x, rstd) = unsafe {
            (required(grad, temporaries)?, required(x, temporaries)?, required(rstd, temporaries)?)
        };
        // SAFETY: by contract.
        let (mean, weight) = unsafe { (optional(mean, temporaries)?, optional(weight, temporaries)?) };
        let operands = ops::NormGradient {
            gradient: &gradient,
            x: &x,
            mean: mean.as_ref(),
            rstd: &rstd,
            weight: weight.as_ref(),
        };
        Ok(ops::norm_backward(device, &operands, out.as_ref(), out_weight.as_ref(), out_bias.as_ref())?)
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - The views are null or valid during the call.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_group_norm(
    out: *const RawView,
    mean: *const RawView,
    rstd: *const RawView,
    x: *const RawView,
    weight: *const RawView,
    bias: *const RawView,
    groups: u32,
    eps: f64,
) -> i32 {
    record(|device, temporaries| {
        // SAFETY: by contract.
        let (out, x) = unsafe { (required(out, temporaries)?, required(x, temporaries)?) };
        // SAFETY: by contract.
        let (mean, rstd) = unsafe { (optional(mean, temporaries)?, optional(rstd, temporaries)?) };
        // SAFETY: by contract.
        let (weight, bias) = unsafe { (optional(weight, temporaries)?, optional(bias, temporaries)?) };
        let stats = mean.as_ref().zip(rstd.as_ref()).map(|(mean, rstd)| [mean, rstd]);
        let affine = [weight.as_ref(), bias.as_ref()];
        Ok(ops::group_norm(device, &out, &x, affine, stats, groups, eps as f32)?)
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - The views are valid during the call.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_sort(
    values: *const RawView,
    indices: *const RawView,
    x: *const RawView,
    dim: u32,
    descending: i32,
) -> i32 {
    record(|device, temporaries| {
        // SAFETY: by contract.
        let (values, indices, x) = unsafe {
            (required(values, temporaries)?, required(indices, temporaries)?, required(x, temporaries)?)
        };
        Ok(ops::sort(device, &values, &indices, &x, dim as usize, descending != 0)?)
    })
}
