use super::launch::{Operands, launch_once, word};
use super::temporary::Temporary;
use super::view::View;
use super::{DType, Op, Scalar, pointwise, refuse, sort};
use crate::Device;
use crate::error::Result;
use crate::ids::Access::{Read, Write};
pub use rivulet_kernels::LossReduction;
use rivulet_kernels::params::{EmbeddingGradientParams, NllParams};
use rivulet_kernels::{EmbeddingGradient, Kernel, Nll, NllPass, RowStore};

/// What a negative log likelihood and its gradient are made from. Everything is dense.
#[derive(Clone, Debug)]
pub struct NllOperands<'v, 'b> {
    /// `[samples, ...]` or nothing: int64, int32 or uint8. A class outside the classes gives a NaN.
    pub target: &'v View<'b>,
    /// `[classes]`, of the type of the input.
    pub weight: Option<&'v View<'b>>,
    /// How losses are reduced.
    pub reduction: LossReduction,
    /// The target that counts for nothing.
    pub ignored: i32,
}

impl NllOperands<'_, '_> {
    /// `x` is the input or its gradient, `[samples, classes, ...]` or `[classes]`; `loss` the loss or its gradient.
    fn check(
        &self,
        op: &'static str,
        x: &View<'_>,
        loss: &View<'_>,
        total: Option<&View<'_>>,
    ) -> Result<NllParams> {
        if !x.dtype.is_float() {
            return refuse(op, format!("not defined for {}", x.dtype.name()));
        }
        let (rows_shape, classes) = match x.shape.as_slice() {
            [classes] => (vec![], *classes),
            [samples, classes, rest @ ..] => ([&[*samples], rest].concat(), *classes),
            [] => return refuse(op, "x is a scalar; it must be [samples, classes, ...]".to_owned()),
        };
        let inner: u64 = x.shape.iter().skip(2).product();
        x.check_dense(op, "x")?;
        self.target.check_dense(op, "the target")?;
        self.target.check_shape(op, "the target", &rows_shape)?;
        if !matches!(self.target.dtype, DType::I64 | DType::I32 | DType::U8) {
            let dtype = self.target.dtype.name();
            return refuse(op, format!("the target is {dtype}; it must be i64, i32 or u8"));
        }
        if let Some(weight) = self.weight {
            weight.check_dense(op, "the weight")?;
            weight.check_shape(op, "the weight", &[classes])?;
            weight.check_dtype(op, "the weight", x.dtype)?;
        }
        loss.check_dense(op, "the loss")?;
        loss.check_dtype(op, "the loss", x.dtype)?;
        match self.reduction {
            LossReduction::None => loss.check_shape(op, "the loss", &rows_shape)?,
            _ => loss.check_shape(op, "the loss", &[])?,
        }
        if let Some(total) = total {
            total.check_dense(op, "the sum of the weights")?;
            total.check_dtype(op, "the sum of the weights", x.dtype)?;
            total.check_shape(op, "the sum of the weights", &[])?;
        }
        Ok(NllParams {
            offsets: [0, 0, self.target.first(), self.weight.map_or(0, View::first)],
            total: total.map_or(0, View::first),
            rows: word(self.target.count()),
            classes: word(classes),
            inner: word(inner.max(1)),
            ignored: self.ignored,
            ..NllParams::default()
        })
    }
}

/// Negative log likelihood of x, `[samples, classes, ...]` or `[classes]`, float32, float16 or bfloat16. `out` has the
/// target's shape or, reduced, is a scalar; then `total` is a scalar for the sum of the weights. Sums are in float32,
/// in a fixed order. A mean over nothing is a NaN.
///
/// Any thread.
///
/// # Errors
/// [`Error::BadOperand`](crate::Error::BadOperand) where shapes or types do not fit, something is not dense, or the
/// device has no such kernel; what [`Device::record`] says.
pub fn nll_loss(
    device: &Device,
    out: &View<'_>,
    total: Option<&View<'_>>,
    x: &View<'_>,
    operands: &NllOperands<'_, '_>,
) -> Result<()> {
    let op = "nll_loss";
    let mut params = operands.check(op, x, out, total)?;
    params.offsets[0] = out.first();
    params.offsets[1] = x.first();
    let key = Nll {
        pass: NllPass::Forward,
        reduction: operands.reduction,
        dtype: x.dtype,
        target: operands.target.dtype,
        weight: operands.weight.is_some(),
    };
    let mut bound = Operands::new();
    bound.push((out, Write));
    match (operands.reduction, total) {
        (LossReduction::None, _) if params.rows == 0 => return Ok(()),
        (LossReduction::None, _) => {}
        (_, Some(total)) => bound.push((total, Write)),
        (_, None) => return refuse(op, "a reduced loss needs a place for the sum of the weights".to_owned()),
    }
    bound.extend([(x, Read), (operands.target, Read)]);
    bound.extend(operands.weight.map(|weight| (weight, Read)));
    let groups = key.groups(out.first(), params.rows, params.classes);
    launch_once(device, op, &Kernel::Nll(key), &bound, bytemuck::bytes_of(&params), groups)
}

/// The gradient of the input of [`nll_loss`], from that of the loss and, for a mean, the sum of the weights.
///
/// Any thread.
///
/// # Errors
/// As [`nll_loss`].
pub fn nll_loss_backward(
    device: &Device,
    out: &View<'_>,
    gradient: &View<'_>,
    total: Option<&View<'_>>,
    operands: &NllOperands<'_, '_>,
) -> Result<()> {
    let op = "nll_loss_backward";
    let mut params = operands.check(op, out, gradient, total)?;
    if out.count() == 0 {
        return Ok(());
    }
    params.offsets[0] = out.first();
    params.offsets[1] = gradient.first();
    let store = RowStore::choose(out.dtype, out.first(), word(out.count()), 1);
    let key = Nll {
        pass: NllPass::Backward(store),
        reduction: operands.reduction,
        dtype: out.dtype,
        target: operands.target.dtype,
        weight: operands.weight.is_some(),
    };
    let mut bound = Operands::new();
    bound.extend([(out, Write), (gradient, Read), (operands.target, Read)]);
    if operands.reduction == LossReduction::Mean {
        match total {
            Some(total) => bound.push((total, Read)),
            None => return refuse(op, "the gradient of a mean needs the sum of the weights".to_owned()),
        }
    }
    bound.extend(operands.weight.map(|weight| (weight, Read)));
    let groups = key.groups(out.first(), params.rows, params.classes);
    launch_once(device, op, &Kernel::Nll(key), &bound, bytemuck::bytes_of(&params), groups)
}

/// The gradient of an embedding's table: out is `[rows, size]`, indices any shape of int64 or int32, gradient that
/// shape and `size`, of out's type (float32, float16, bfloat16). Rows that occur more than once add up in the order of
/// the indices, in float32; the row `padding` gets nothing; with `by_frequency` a sum is divided by how often its row
/// occurs. Everything is dense. An index outside the table must not occur.
///
/// Any thread.
///
/// # Errors
/// [`Error::BadOperand`](crate::Error::BadOperand) where shapes or types do not fit, something is not dense, or the
/// device has no such kernel; what [`Device::record`] and [`Device::allocate`] say.
pub fn embedding_backward(
    device: &Device,
    out: &View<'_>,
    gradient: &View<'_>,
    indices: &View<'_>,
    padding: Option<u32>,
    by_frequency: bool,
) -> Result<()> {
    let op = "embedding_backward";
    let &[_, size] = out.shape.as_slice() else {
        return refuse(op, format!("the output has shape {:?}; it must be [rows, size]", out.shape));
    };
    if !out.dtype.is_float() {
        return refuse(op, format!("not defined for {}", out.dtype.name()));
    }
    if !matches!(indices.dtype, DType::I64 | DType::I32) {
        return refuse(op, format!("the indices are {}; they must be i64 or i32", indices.dtype.name()));
    }
    out.check_dense(op, "the output")?;
    gradient.check_dense(op, "the gradient")?;
    gradient.check_dtype(op, "the gradient", out.dtype)?;
    gradient.check_shape(op, "the gradient", &[&indices.shape[..], &[size]].concat())?;
    indices.check_dense(op, "the indices")?;
    if out.count() == 0 {
        return Ok(());
    }
    pointwise(device, Op::Fill, out.dtype, out, &[], None, &[Scalar::F32(0.0)])?;
    let count = indices.count();
    if count == 0 {
        return Ok(());
    }
    let mut flat = indices.clone();
    flat.shape = [count].into_iter().collect();
    flat.strides = [1].into_iter().collect();
    let (sorted, order) =
        (Temporary::new(device, indices.dtype, count)?, Temporary::new(device, DType::I64, count)?);
    let sorted = sorted.view(indices.dtype, &[count]);
    let order = order.view(DType::I64, &[count]);
    sort(device, &sorted, &order, &flat, 0, false)?;
    let key = EmbeddingGradient { dtype: out.dtype, index: indices.dtype, by_frequency };
    let params = EmbeddingGradientParams {
        offsets: [out.first(), 0, 0, gradient.first()],
        count: word(count),
        size: word(size),
        padding: padding.map_or(-1, u32::cast_signed),
        ..EmbeddingGradientParams::default()
    };
    let bound = [(out, Write), (&sorted, Read), (&order, Read), (gradient, Read)];
    let groups = key.groups(params.count, params.size);
    launch_once(device, op, &Kernel::EmbeddingGradient(key), &bound, bytemuck::bytes_of(&params), groups)
}
