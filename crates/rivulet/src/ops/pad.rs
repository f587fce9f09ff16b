use super::launch::{launch_once, word};
use super::refuse;
use super::view::View;
use crate::Device;
use crate::error::Result;
use crate::ids::Access::{Read, Write};
pub use rivulet_kernels::PadMode;
use rivulet_kernels::params::PadParams;
use rivulet_kernels::{Kernel, Pad};

/// Places before and after a dimension.
type Edges = [i64; 2];

/// Sizes of both sides; `padding` holds the edges of the last dimension first.
fn describe(
    op: &'static str,
    x: &View<'_>,
    padded: &View<'_>,
    padding: &[Edges],
    mode: PadMode,
) -> Result<PadParams> {
    let rank = x.shape.len();
    if padding.is_empty() || padding.len() > 3 || padding.len() > rank {
        return refuse(op, format!("{} padded dimensions of {rank}; kernels pad 1 to 3", padding.len()));
    }
    let mut wanted = x.shape.clone();
    let mut params = PadParams { size: [1; 4], padded: [1; 4], ..PadParams::default() };
    for (k, &[before, after]) in padding.iter().enumerate() {
        let (dim, place) = (rank - 1 - k, 2 - k);
        let size = i64::try_from(x.shape[dim]).unwrap_or(i64::MAX);
        let reach = match mode {
            PadMode::Reflect => size - 1,
            PadMode::Replicate => i64::MAX,
        };
        let total = size.saturating_add(before).saturating_add(after);
        if before > reach || after > reach || total < 0 || (size == 0 && total > 0) {
            return refuse(op, format!("padding [{before}, {after}] of a dimension of {size}"));
        }
        wanted[dim] = total.unsigned_abs();
        params.size[place] = word(x.shape[dim]);
        params.padded[place] = word(total.unsigned_abs());
        params.before[place] = i32::try_from(before).unwrap_or(i32::MAX);
    }
    x.check_dense(op, "the smaller side")?;
    padded.check_dense(op, "the padded side")?;
    padded.check_shape(op, "the padded side", &wanted)?;
    padded.check_dtype(op, "the padded side", x.dtype)?;
    Ok(params)
}

fn dispatch(
    device: &Device,
    op: &'static str,
    key: Pad,
    out: &View<'_>,
    x: &View<'_>,
    params: PadParams,
) -> Result<()> {
    let params = PadParams { offsets: [out.first(), x.first(), 0, 0], count: word(out.count()), ..params };
    if params.count == 0 {
        return Ok(());
    }
    let groups = key.groups(out.first(), params.count);
    launch_once(
        device,
        op,
        &Kernel::Pad(key),
        &[(out, Write), (x, Read)],
        bytemuck::bytes_of(&params),
        groups,
    )
}

/// Pads the last dimensions of x by what is there: `padding` holds places before and after, of the last dimension
/// first, for one to three dimensions; negative ones cut off. Any type, dense on both sides.
///
/// Any thread.
///
/// # Errors
/// [`Error::BadOperand`](crate::Error::BadOperand) where shapes or types do not fit, a reflection reaches beyond the
/// other edge, or something is not dense; [`Error::NoKernel`](crate::Error::NoKernel) where the device has no such
/// kernel; what [`Device::record`] says.
pub fn pad(device: &Device, out: &View<'_>, x: &View<'_>, padding: &[Edges], mode: PadMode) -> Result<()> {
    let op = "pad";
    let params = describe(op, x, out, padding, mode)?;
    let key = Pad::new(mode, false, x.dtype, out.first(), word(out.count()));
    dispatch(device, op, key, out, x, params)
}

/// The gradient of the input of [`pad`], float32, float16 or bfloat16; sums in float32, in a fixed order.
///
/// Any thread.
///
/// # Errors
/// As [`pad`].
pub fn pad_backward(
    device: &Device,
    out: &View<'_>,
    gradient: &View<'_>,
    padding: &[Edges],
    mode: PadMode,
) -> Result<()> {
    let op = "pad_backward";
    if !out.dtype.is_float() {
        return refuse(op, format!("not defined for {}", out.dtype.name()));
    }
    let params = describe(op, out, gradient, padding, mode)?;
    let key = Pad::new(mode, true, out.dtype, out.first(), word(out.count()));
    dispatch(device, op, key, out, gradient, params)
}
