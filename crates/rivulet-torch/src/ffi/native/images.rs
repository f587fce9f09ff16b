//! Channels and their places: batch normalisation, pooling, changes of resolution, columns of blocks.

use super::{RawView, no_kernel, optional, record, required};
use crate::ffi::error::{Failure, INVALID};
use rivulet::ops::{self, Blocks, PoolDivisor, ResampleMode, Spread, Windows};

/// See `rivulet.h`.
///
/// # Safety
/// - The views are null or valid during the call.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_batch_norm(
    out: *const RawView,
    x: *const RawView,
    mean: *const RawView,
    spread: *const RawView,
    is_variance: i32,
    weight: *const RawView,
    bias: *const RawView,
    eps: f64,
) -> i32 {
    record(|device, temporaries| {
        // SAFETY: by contract.
        let (out, x, mean) =
            unsafe { (required(out, temporaries)?, required(x, temporaries)?, required(mean, temporaries)?) };
        // SAFETY: by contract.
        let (spread, weight, bias) = unsafe {
            (required(spread, temporaries)?, optional(weight, temporaries)?, optional(bias, temporaries)?)
        };
        let spread =
            if is_variance != 0 { Spread::Variance(&spread, eps as f32) } else { Spread::Rstd(&spread) };
        Ok(ops::batch_norm(device, &out, &x, &mean, spread, [weight.as_ref(), bias.as_ref()])?)
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - The views are null or valid during the call; `geometry` is null or points to twelve numbers.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_pool(
    kind: u32,
    out: *const RawView,
    places: *const RawView,
    x: *const RawView,
    geometry: *const [u32; 12],
    include_padding: i32,
    divisor: i64,
) -> i32 {
    record(|device, temporaries| {
        // SAFETY: by contract.
        let (out, places, x) = unsafe {
            (required(out, temporaries)?, optional(places, temporaries)?, required(x, temporaries)?)
        };
        // SAFETY: by contract.
        let windows = match unsafe { geometry.as_ref() } {
            None => Windows::Adaptive,
            Some(&[k0, k1, k2, s0, s1, s2, p0, p1, p2, d0, d1, d2]) => Windows::Regular {
                kernel: [k0, k1, k2],
                stride: [s0, s1, s2],
                padding: [p0, p1, p2],
                dilation: [d0, d1, d2],
            },
        };
        let divisor = match i32::try_from(divisor) {
            Ok(0) if include_padding != 0 => PoolDivisor::WithPadding,
            Ok(0) => PoolDivisor::Inside,
            Ok(value) => PoolDivisor::Fixed(value),
            Err(_) => return Err(no_kernel("so large a divisor")),
        };
        match (kind, places) {
            (0, Some(places)) => ops::max_pool(device, &out, &places, &x, &windows)?,
            (0, None) => return Err(Failure::new(INVALID, "a maximum needs a view for its places")),
            (1, _) => ops::average_pool(device, &out, &x, &windows, divisor)?,
            (2, _) => ops::average_pool_backward(device, &out, &x, &windows, divisor)?,
            _ => return Err(no_kernel("no such pooling")),
        }
        Ok(())
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - The views are valid during the call; `scale` points to three numbers.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_resample(
    mode: u32,
    backward: i32,
    out: *const RawView,
    x: *const RawView,
    scale: *const [f32; 3],
) -> i32 {
    record(|device, temporaries| {
        const MODES: [ResampleMode; 4] = [
            ResampleMode::Nearest,
            ResampleMode::NearestExact,
            ResampleMode::Linear,
            ResampleMode::LinearAligned,
        ];
        let mode =
            MODES.get(mode as usize).copied().ok_or_else(|| no_kernel("no such change of resolution"))?;
        // SAFETY: by contract.
        let (out, x) = unsafe { (required(out, temporaries)?, required(x, temporaries)?) };
        // SAFETY: by contract.
        let scale = unsafe { scale.as_ref() }.ok_or_else(|| Failure::new(INVALID, "the scale is null"))?;
        if backward == 0 {
            Ok(ops::resample(device, &out, &x, *scale, mode)?)
        } else {
            Ok(ops::resample_backward(device, &out, &x, *scale, mode)?)
        }
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - The views are valid during the call; `geometry` points to eight numbers.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_unfold(
    fold: i32,
    out: *const RawView,
    x: *const RawView,
    geometry: *const [u32; 8],
) -> i32 {
    record(|device, temporaries| {
        // SAFETY: by contract.
        let (out, x) = unsafe { (required(out, temporaries)?, required(x, temporaries)?) };
        // SAFETY: by contract.
        let &[k0, k1, s0, s1, p0, p1, d0, d1] =
            unsafe { geometry.as_ref() }.ok_or_else(|| Failure::new(INVALID, "geometry is null"))?;
        let blocks = Blocks { kernel: [k0, k1], stride: [s0, s1], padding: [p0, p1], dilation: [d0, d1] };
        if fold == 0 {
            Ok(ops::unfold(device, &out, &x, &blocks)?)
        } else {
            Ok(ops::fold(device, &out, &x, &blocks)?)
        }
    })
}
