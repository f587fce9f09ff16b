use super::launch::{Operands, launch_once, word};
use super::view::View;
use super::{DType, refuse};
use crate::Device;
use crate::error::Result;
use crate::ids::Access::{Read, Write};
use rivulet_kernels::params::{ChannelNormParams, RowParams};
use rivulet_kernels::{ChannelNorm, Kernel, Norm, Row, RowOp, RowStore};

/// Sizes of `[samples, channels, ...]`.
fn channels(op: &'static str, x: &View<'_>) -> Result<(u64, u64, u64)> {
    match x.shape.as_slice() {
        [samples, channels, places @ ..] => Ok((*samples, *channels, places.iter().product())),
        shape => refuse(op, format!("x has shape {shape:?}; it must be [samples, channels, ...]")),
    }
}

fn check_vector(
    op: &'static str,
    name: &str,
    view: Option<&View<'_>>,
    size: u64,
    dtype: DType,
) -> Result<()> {
    let Some(view) = view else { return Ok(()) };
    view.check_dense(op, name)?;
    view.check_dtype(op, name, dtype)?;
    if view.count() == size { Ok(()) } else { view.check_shape(op, name, &[size]) }
}

/// Normalises each group of channels of each sample: x and out are dense `[samples, channels, ...]` of one type
/// (float32, float16, bfloat16), weight and bias `[channels]` of that type, `stats` the mean and rstd that are kept,
/// `[samples, groups]` of one type (float32 or that of x).
///
/// Any thread.
///
/// # Errors
/// [`Error::BadOperand`](crate::Error::BadOperand) where shapes or types do not fit, something is not dense, or the
/// device has no such kernel; what [`Device::record`] says.
pub fn group_norm(
    device: &Device,
    out: &View<'_>,
    x: &View<'_>,
    affine: [Option<&View<'_>>; 2],
    stats: Option<[&View<'_>; 2]>,
    groups: u32,
    eps: f32,
) -> Result<()> {
    let op = "group_norm";
    let (samples, channels, places) = channels(op, x)?;
    if !x.dtype.is_float() {
        return refuse(op, format!("not defined for {}", x.dtype.name()));
    }
    if groups == 0 || channels % u64::from(groups) != 0 {
        return refuse(op, format!("{channels} channels cannot be cut into {groups} groups"));
    }
    x.check_dense(op, "x")?;
    out.check_dense(op, "the output")?;
    out.check_shape(op, "the output", &x.shape)?;
    out.check_dtype(op, "the output", x.dtype)?;
    let [weight, bias] = affine;
    check_vector(op, "the weight", weight, channels, x.dtype)?;
    check_vector(op, "the bias", bias, channels, x.dtype)?;
    let rows = samples * u64::from(groups);
    if let Some([mean, rstd]) = stats {
        check_vector(op, "the mean", Some(mean), rows, rstd.dtype)?;
        check_vector(op, "rstd", Some(rstd), rows, mean.dtype)?;
    }
    if x.count() == 0 {
        return Ok(());
    }
    let size = word(channels / u64::from(groups) * places);
    let norm =
        Norm { weight: weight.is_some(), bias: bias.is_some(), stats: stats.map(|[mean, _]| mean.dtype) };
    let key = Row::new(RowOp::GroupNorm(norm), x.dtype, out.dtype, out.first(), size, 1);
    let params = RowParams {
        offsets: [out.first(), x.first(), weight.map_or(0, View::first), bias.map_or(0, View::first)],
        rows: word(rows),
        size,
        inner: 1,
        eps,
        stats: stats.map_or([0, 0], |stats| stats.map(View::first)),
        groups,
        places: word(places),
    };
    let mut bound = Operands::new();
    bound.extend([(out, Write), (x, Read)]);
    bound.extend(affine.into_iter().flatten().map(|view| (view, Read)));
    bound.extend(stats.into_iter().flatten().map(|view| (view, Write)));
    launch_once(device, op, &Kernel::Row(key), &bound, bytemuck::bytes_of(&params), key.groups(word(rows)))
}

/// How the statistics of [`batch_norm`] are spread.
#[derive(Clone, Copy, Debug)]
pub enum Spread<'v, 'b> {
    /// The variance, to which this is added before the root is taken.
    Variance(&'v View<'b>, f32),
    /// 1 / sqrt(variance + eps).
    Rstd(&'v View<'b>),
}

/// `(x - mean) rstd weight + bias` for each channel, by statistics that are given: x and out are dense
/// `[samples, channels, ...]` of one type (float32, float16, bfloat16), the rest `[channels]`; mean and spread are of
/// one type, weight and bias of one.
///
/// Any thread.
///
/// # Errors
/// As [`group_norm`].
pub fn batch_norm(
    device: &Device,
    out: &View<'_>,
    x: &View<'_>,
    mean: &View<'_>,
    spread: Spread<'_, '_>,
    affine: [Option<&View<'_>>; 2],
) -> Result<()> {
    let op = "batch_norm";
    let (_, channels, places) = channels(op, x)?;
    let (spread, variance, eps) = match spread {
        Spread::Variance(view, eps) => (view, true, eps),
        Spread::Rstd(view) => (view, false, 0.0),
    };
    let [weight, bias] = affine;
    let affine_dtype = weight.or(bias).map_or(x.dtype, |view| view.dtype);
    for dtype in [x.dtype, mean.dtype, affine_dtype] {
        if !dtype.is_float() {
            return refuse(op, format!("not defined for {}", dtype.name()));
        }
    }
    x.check_dense(op, "x")?;
    out.check_dense(op, "the output")?;
    out.check_shape(op, "the output", &x.shape)?;
    out.check_dtype(op, "the output", x.dtype)?;
    check_vector(op, "the mean", Some(mean), channels, mean.dtype)?;
    check_vector(op, "the variance", Some(spread), channels, mean.dtype)?;
    check_vector(op, "the weight", weight, channels, affine_dtype)?;
    check_vector(op, "the bias", bias, channels, affine_dtype)?;
    let count = word(x.count());
    if count == 0 {
        return Ok(());
    }
    let key = ChannelNorm {
        dtype: x.dtype,
        stats: mean.dtype,
        affine: affine_dtype,
        variance,
        weight: weight.is_some(),
        bias: bias.is_some(),
        store: RowStore::choose(out.dtype, out.first(), count, 1),
    };
    let params = ChannelNormParams {
        offsets: [out.first(), x.first(), weight.map_or(0, View::first), bias.map_or(0, View::first)],
        stats: [mean.first(), spread.first()],
        count,
        channels: word(channels),
        places: word(places),
        eps,
        ..ChannelNormParams::default()
    };
    let mut bound = Operands::new();
    bound.extend([(out, Write), (x, Read), (mean, Read), (spread, Read)]);
    bound.extend(affine.into_iter().flatten().map(|view| (view, Read)));
    let groups = key.groups(out.first(), count);
    launch_once(device, op, &Kernel::ChannelNorm(key), &bound, bytemuck::bytes_of(&params), groups)
}
