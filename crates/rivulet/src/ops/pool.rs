use super::launch::{launch_once, word};
use super::view::View;
use super::{DType, gather, refuse};
use crate::Device;
use crate::error::Result;
use crate::ids::Access::{Read, Write};
use rivulet_kernels::params::PoolParams;
use rivulet_kernels::{Kernel, Pool, PoolOp};

/// Depth, height and width.
type Sizes = [u32; 3];

/// The windows of a pooling.
#[derive(Clone, Copy, Debug)]
pub enum Windows {
    /// Windows of one size, at equal distances.
    Regular {
        /// Size.
        kernel: Sizes,
        /// Places from one window to the next; not 0.
        stride: Sizes,
        /// Places before the first.
        padding: Sizes,
        /// Places from one element to the next; not 0, and 1 for averages.
        dilation: Sizes,
    },
    /// As many windows as there are places of the output, over all of the input.
    Adaptive,
}

/// What the sum over a window is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolDivisor {
    /// The number of its places inside the input.
    Inside,
    /// That number and the places of the padding.
    WithPadding,
    /// This, not 0.
    Fixed(i32),
}

fn four([depth, height, width]: Sizes) -> [u32; 4] {
    [depth, height, width, 1]
}

fn describe(
    op: &'static str,
    large: &View<'_>,
    pooled: &View<'_>,
    windows: &Windows,
    divisor: PoolDivisor,
) -> Result<PoolParams> {
    let (size, out) = (large.image(op, "the input")?, pooled.image(op, "the pooled side")?);
    if large.shape[0] != pooled.shape[0] {
        return refuse(op, format!("{} planes of {}; as many are allowed", pooled.shape[0], large.shape[0]));
    }
    let mut params = PoolParams {
        size,
        pooled: out,
        kernel: [1; 4],
        stride: [1; 4],
        dilation: [1; 4],
        ..PoolParams::default()
    };
    if let Windows::Regular { kernel, stride, padding, dilation } = *windows {
        if [kernel, stride, dilation].iter().flatten().any(|&value| value == 0 || value > i32::MAX as u32) {
            return refuse(
                op,
                format!("kernel {kernel:?}, stride {stride:?}, dilation {dilation:?}; none may be 0"),
            );
        }
        for dim in 0..3 {
            let last = u64::from(out[dim].saturating_sub(1)) * u64::from(stride[dim]);
            let inside = u64::from(size[dim]) + u64::from(padding[dim]);
            if padding[dim] > i32::MAX as u32 || (out[dim] != 0 && last >= inside) {
                return refuse(
                    op,
                    format!("{out:?} windows of {size:?} with stride {stride:?} and padding {padding:?}"),
                );
            }
        }
        params.kernel = four(kernel);
        params.stride = four(stride);
        params.padding = four(padding).map(u32::cast_signed);
        params.dilation = four(dilation);
    }
    match divisor {
        PoolDivisor::Inside => {}
        PoolDivisor::WithPadding => params.include_padding = 1,
        PoolDivisor::Fixed(value) => params.divisor = value,
    }
    Ok(params)
}

fn dispatch(
    device: &Device,
    label: &'static str,
    (op, windows): (PoolOp, &Windows),
    out: &View<'_>,
    x: &View<'_>,
    params: PoolParams,
) -> Result<()> {
    let params = PoolParams { offsets: [out.first(), x.first(), 0, 0], count: word(out.count()), ..params };
    let adaptive = matches!(windows, Windows::Adaptive);
    let dtype = if op == PoolOp::AverageBackward { out.dtype } else { x.dtype };
    let key = Pool::new(op, adaptive, dtype, out.first(), params.count);
    let groups = key.groups(out.first(), params.count);
    launch_once(
        device,
        label,
        &Kernel::Pool(key),
        &[(out, Write), (x, Read)],
        bytemuck::bytes_of(&params),
        groups,
    )
}

/// A dense view as planes of one dimension.
fn planes<'b>(view: &View<'b>) -> View<'b> {
    let inner = view.count() / view.shape[0];
    view.with(&[view.shape[0], inner], &[inner as i64, 1])
}

/// The largest element of each window of x, dense `[planes, depth, height, width]` of any type but bool, and its place
/// in the plane of x, int64 of the same shape: of equal ones the first, of NaNs the last, as PyTorch on the CPU.
///
/// Any thread.
///
/// # Errors
/// [`Error::BadOperand`](crate::Error::BadOperand) where shapes or types do not fit, a window lies beyond the input, or
/// something is not dense; [`Error::NoKernel`](crate::Error::NoKernel) where the device has no such kernel; what
/// [`Device::record`] says.
pub fn max_pool(
    device: &Device,
    out: &View<'_>,
    places: &View<'_>,
    x: &View<'_>,
    windows: &Windows,
) -> Result<()> {
    let op = "max_pool";
    let params = describe(op, x, out, windows, PoolDivisor::Inside)?;
    out.check_dtype(op, "the output", x.dtype)?;
    places.check_dense(op, "the places")?;
    places.check_shape(op, "the places", &out.shape)?;
    places.check_dtype(op, "the places", DType::I64)?;
    if x.dtype == DType::Bool {
        return refuse(op, "not defined for bool".to_owned());
    }
    if out.count() == 0 {
        return Ok(());
    }
    dispatch(device, op, (PoolOp::MaxPlace, windows), places, x, params)?;
    gather(device, &planes(out), &planes(x), 1, &planes(places))
}

/// The average over each window of x, dense `[planes, depth, height, width]` of any type but bool; integers round to 0,
/// floats are summed in float32.
///
/// Any thread.
///
/// # Errors
/// As [`max_pool`].
pub fn average_pool(
    device: &Device,
    out: &View<'_>,
    x: &View<'_>,
    windows: &Windows,
    divisor: PoolDivisor,
) -> Result<()> {
    let op = "average_pool";
    let params = describe(op, x, out, windows, divisor)?;
    out.check_dtype(op, "the output", x.dtype)?;
    if x.dtype == DType::Bool {
        return refuse(op, "not defined for bool".to_owned());
    }
    if out.count() == 0 {
        return Ok(());
    }
    dispatch(device, op, (PoolOp::Average, windows), out, x, params)
}

/// The gradient of the input of [`average_pool`], float32, float16 or bfloat16; sums in float32, in a fixed order.
///
/// Any thread.
///
/// # Errors
/// As [`max_pool`].
pub fn average_pool_backward(
    device: &Device,
    out: &View<'_>,
    gradient: &View<'_>,
    windows: &Windows,
    divisor: PoolDivisor,
) -> Result<()> {
    let op = "average_pool_backward";
    let params = describe(op, out, gradient, windows, divisor)?;
    gradient.check_dtype(op, "the gradient", out.dtype)?;
    if !out.dtype.is_float() {
        return refuse(op, format!("not defined for {}", out.dtype.name()));
    }
    if out.count() == 0 {
        return Ok(());
    }
    dispatch(device, op, (PoolOp::AverageBackward, windows), out, gradient, params)
}
