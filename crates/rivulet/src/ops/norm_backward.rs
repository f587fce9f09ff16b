use super::launch::{FILL, Operands, launch_once, word};
use super::temporary::Temporary;
use super::view::View;
use super::{DType, refuse};
use crate::Device;
use crate::error::Result;
use crate::ids::Access::{Read, Write};
use rivulet_kernels::params::{NormColumnsParams, ReduceParams, RowParams};
use rivulet_kernels::{
    Kernel, NormBackward, NormColumns, Reduce, ReduceOp, ReduceOutput, ReduceThreads, Row, RowOp,
};

/// Operands of the gradient of a normalisation over rows. Everything is dense; x and its gradients are `[rows, size]`.
#[derive(Clone, Debug)]
pub struct NormGradient<'v, 'b> {
    /// Gradient of the output: float32, float16 or bfloat16.
    pub gradient: &'v View<'b>,
    /// The input, of the gradient's type.
    pub x: &'v View<'b>,
    /// `[rows]`, for a layer norm; none for an RMS norm, which does not centre.
    pub mean: Option<&'v View<'b>>,
    /// `[rows]`, of the type of the mean.
    pub rstd: &'v View<'b>,
    /// `[size]`, of the gradient's type.
    pub weight: Option<&'v View<'b>>,
}

impl NormGradient<'_, '_> {
    fn check(&self, op: &'static str) -> Result<(u32, u32)> {
        let dtype = self.gradient.dtype;
        if !dtype.is_float() {
            return refuse(op, format!("not defined for {}", dtype.name()));
        }
        let &[rows, size] = self.gradient.shape.as_slice() else {
            let shape = &self.gradient.shape;
            return refuse(op, format!("the gradient has shape {shape:?}; it must be [rows, size]"));
        };
        self.gradient.check_dense(op, "the gradient")?;
        self.x.check_dense(op, "x")?;
        self.x.check_shape(op, "x", &[rows, size])?;
        self.x.check_dtype(op, "x", dtype)?;
        let stats = self.rstd.dtype;
        if !stats.is_float() {
            return refuse(op, format!("rstd is {}; it must be a floating-point type", stats.name()));
        }
        for (view, name) in [(self.mean, "the mean"), (Some(self.rstd), "rstd")] {
            if let Some(view) = view {
                view.check_dense(op, name)?;
                view.check_shape(op, name, &[rows])?;
                view.check_dtype(op, name, stats)?;
            }
        }
        if let Some(weight) = self.weight {
            weight.check_dense(op, "the weight")?;
            weight.check_shape(op, "the weight", &[size])?;
            weight.check_dtype(op, "the weight", dtype)?;
        }
        Ok((word(rows), word(size)))
    }

    fn label(&self) -> &'static str {
        if self.mean.is_some() { "layer_norm_backward" } else { "rms_norm_backward" }
    }
}

/// Gradients of a layer norm (with a mean) or an RMS norm (without): of x (`[rows, size]`), of the weight and of the
/// bias (`[size]`), each where it is wanted and of the input's type or float32. Sums are in float32, in a fixed order.
///
/// Any thread.
///
/// # Errors
/// [`Error::BadOperand`](crate::Error::BadOperand) where shapes or types do not fit, something is not dense, or the
/// device has no such kernel; what [`Device::record`] and [`Device::allocate`] say.
pub fn norm_backward(
    device: &Device,
    operands: &NormGradient<'_, '_>,
    out: Option<&View<'_>>,
    out_weight: Option<&View<'_>>,
    out_bias: Option<&View<'_>>,
) -> Result<()> {
    let op = operands.label();
    let (rows, size) = operands.check(op)?;
    let wanted = [(out, "the gradient of x"), (out_weight, "the gradient of the weight")];
    for (view, name) in wanted.into_iter().chain([(out_bias, "the gradient of the bias")]) {
        if let Some(view) = view {
            view.check_dense(op, name)?;
            if !view.dtype.is_float() {
                return refuse(op, format!("{name} is {}; it must be a float", view.dtype.name()));
            }
        }
    }
    if let Some(out) = out {
        out.check_shape(op, "the gradient of x", &operands.gradient.shape)?;
        if rows > 0 && size > 0 {
            input_gradient(device, op, operands, out, rows, size)?;
        }
    }
    for (view, name) in [(out_weight, "the gradient of the weight"), (out_bias, "the gradient of the bias")] {
        if let Some(view) = view {
            view.check_shape(op, name, &[u64::from(size)])?;
        }
    }
    if size > 0 && (out_weight.is_some() || out_bias.is_some()) {
        column_sums(device, op, operands, out_weight, out_bias, rows, size)?;
    }
    Ok(())
}

fn input_gradient(
    device: &Device,
    op: &'static str,
    operands: &NormGradient<'_, '_>,
    out: &View<'_>,
    rows: u32,
    size: u32,
) -> Result<()> {
    let NormGradient { gradient, x, mean, rstd, weight } = operands;
    let norm = NormBackward { weight: weight.is_some(), stats: rstd.dtype };
    let operation =
        if mean.is_some() { RowOp::LayerNormBackward(norm) } else { RowOp::RmsNormBackward(norm) };
    let key = Row::new(operation, x.dtype, out.dtype, out.first(), size, 1);
    let params = RowParams {
        offsets: [out.first(), gradient.first(), x.first(), weight.map_or(0, View::first)],
        rows,
        size,
        inner: 1,
        stats: [mean.map_or(0, View::first), rstd.first()],
        ..RowParams::default()
    };
    let mut bound = Operands::new();
    bound.extend([(out, Write), (*gradient, Read), (*x, Read)]);
    bound.extend(weight.map(|weight| (weight, Read)));
    bound.extend(mean.map(|mean| (mean, Read)));
    bound.push((*rstd, Read));
    launch_once(device, op, &Kernel::Row(key), &bound, bytemuck::bytes_of(&params), key.groups(rows))
}

fn column_sums(
    device: &Device,
    op: &'static str,
    operands: &NormGradient<'_, '_>,
    out_weight: Option<&View<'_>>,
    out_bias: Option<&View<'_>>,
    rows: u32,
    size: u32,
) -> Result<()> {
    let NormGradient { gradient, x, mean, rstd, .. } = operands;
    let chunk = NormColumns::chunk(rows, size, FILL);
    let chunks = rows.div_ceil(chunk).max(1);
    let shape = [u64::from(chunks), u64::from(size)];
    let parts = |out: Option<&View<'_>>| {
        out.map(|_| Temporary::new(device, DType::F32, shape[0] * shape[1])).transpose()
    };
    let (weight_parts, bias_parts) = (parts(out_weight)?, parts(out_bias)?);
    let weight = weight_parts.as_ref().map(|parts| parts.view(DType::F32, &shape));
    let bias = bias_parts.as_ref().map(|parts| parts.view(DType::F32, &shape));
    let key = NormColumns {
        weight: weight.is_some(),
        bias: bias.is_some(),
        centered: mean.is_some(),
        input: x.dtype,
        stats: rstd.dtype,
        output: DType::F32,
    };
    let params = NormColumnsParams {
        offsets: [0, 0, gradient.first(), x.first()],
        stats: [mean.map_or(0, View::first), rstd.first()],
        rows,
        size,
        chunk,
        ..NormColumnsParams::default()
    };
    let mut bound = Operands::new();
    bound.extend(weight.iter().chain(&bias).map(|view| (view, Write)));
    bound.push((*gradient, Read));
    if weight.is_some() {
        bound.push((*x, Read));
        bound.extend(mean.map(|mean| (mean, Read)));
        bound.push((*rstd, Read));
    }
    let groups = key.groups(size, chunks);
    launch_once(device, op, &Kernel::NormColumns(key), &bound, bytemuck::bytes_of(&params), groups)?;
    for (parts, out) in [(&weight, out_weight), (&bias, out_bias)] {
        if let (Some(parts), Some(out)) = (parts, out) {
            sum_chunks(device, op, parts, out, chunks, size)?;
        }
    }
    Ok(())
}

/// Adds up `[chunks, size]` along the chunks.
fn sum_chunks(
    device: &Device,
    op: &'static str,
    parts: &View<'_>,
    out: &View<'_>,
    chunks: u32,
    size: u32,
) -> Result<()> {
    let key = Reduce {
        output: out.dtype,
        ..Reduce::new(ReduceOp::Sum, DType::F32, ReduceOutput::Values, ReduceThreads::One)
    };
    let params = ReduceParams {
        kept_shape: [size, 1, 1, 1],
        kept_strides: [1, 0, 0, 0],
        shape: [chunks, 1, 1, 1],
        strides: [size.cast_signed(), 0, 0, 0],
        offsets: [out.first(), 0, 0, 0],
        kept: size,
        count: chunks,
        chunk: chunks,
        chunks: 1,
        kept_rank: 1,
        rank: 1,
        scale: 1.0,
        ..ReduceParams::default()
    };
    let bound = [(out, Write), (parts, Read)];
    launch_once(device, op, &Kernel::Reduce(key), &bound, bytemuck::bytes_of(&params), key.groups(size, 1))
}
