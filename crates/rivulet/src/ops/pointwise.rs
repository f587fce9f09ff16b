use super::launch::launch;
use super::temporary::Output;
use super::view::View;
use super::walk::{Dim, OPERANDS, Places, Walk, describe};
use super::{DType, Op, Scalar, no_kernel, refuse};
use crate::Device;
use crate::error::Result;
use crate::ids::Access;
use rivulet_kernels::params::{MAX_RANK, PointwiseParams, StridedParams, scalars};
use rivulet_kernels::{Kernel, Layout, Native, Pointwise};
use smallvec::SmallVec;

/// Makes each element of `out` from the elements of `inputs` at the same place: `out = op(inputs…, scalars…)`. The
/// inputs have the shape of `out`; a dimension is repeated by a stride of 0. `common` is the type that the op computes
/// for, to which the inputs are converted. With `scalar` the input of that index is the first of the scalars.
///
/// `values` are the op's scalars in the order that its WGSL states, converted to what `common` is computed in; the
/// diagonal of `tril`, `triu` and `eye` is a 32-bit integer, and their matrices are the last two dimensions of `out`.
/// Ops that depend on an element's place count it row-major over `out`. Random ops have [`super::random()`].
///
/// Any thread. `out` may be one of the inputs where both are the same view.
///
/// # Errors
/// [`Error::BadOperand`](crate::Error::BadOperand) where shapes differ or elements lie outside their blocks;
/// [`Error::NoKernel`](crate::Error::NoKernel) where there is none; what [`Device::record`] says.
pub fn pointwise(
    device: &Device,
    op: Op,
    common: DType,
    out: &View<'_>,
    inputs: &[View<'_>],
    scalar: Option<u8>,
    values: &[Scalar],
) -> Result<()> {
    let extra = match op {
        Op::Tril | Op::Triu | Op::Eye => matrix(op, out)?,
        _ => [0; 2],
    };
    let words = scalar_words(op, common, values);
    let op = if op == Op::DivTrunc && rounds_quotient(common, out, inputs, scalar) {
        Op::DivTruncRounded
    } else {
        op
    };
    match inputs {
        [] => run(device, &Call { op, common, scalar, words, extra }, out, &[]),
        [a] => run(device, &Call { op, common, scalar, words, extra }, out, &[a]),
        [a, b] => run(device, &Call { op, common, scalar, words, extra }, out, &[a, b]),
        [a, b, c] => run(device, &Call { op, common, scalar, words, extra }, out, &[a, b, c]),
        more => refuse(op.label(), format!("{} tensors; at most 3 are allowed", more.len())),
    }
}

/// True where PyTorch's `div(rounding_mode="trunc")` rounds the quotient to the type before it cuts it off: always in
/// the 16-bit types, but for a divisor of one element (`div_trunc_kernel` in ATen/native/cpu/BinaryOpsKernel.cpp).
fn rounds_quotient(common: DType, out: &View<'_>, inputs: &[View<'_>], scalar: Option<u8>) -> bool {
    let varies = |divisor: &View<'_>| {
        let mut dims = divisor.shape.iter().zip(&divisor.strides);
        out.count() > 1 && dims.any(|(&size, &stride)| size > 1 && stride != 0)
    };
    matches!(common, DType::F16 | DType::BF16) && scalar != Some(1) && inputs.last().is_some_and(varies)
}

/// What is to be done with the operands of a pointwise kernel.
pub(super) struct Call {
    pub(super) op: Op,
    pub(super) common: DType,
    pub(super) scalar: Option<u8>,
    /// Scalars as the kernel reads them.
    pub(super) words: [u32; 4],
    /// The two words beside them.
    pub(super) extra: [u32; 2],
}

impl Call {
    /// An op without scalars.
    pub(super) fn new(op: Op, common: DType) -> Self {
        Self { op, common, scalar: None, words: [0; 4], extra: [0; 2] }
    }

    /// The key of the kernel, and whether a last word may be overwritten.
    fn key(&self, out: &View<'_>, inputs: &[&View<'_>], walk: &Walk) -> Pointwise {
        // The type of an input that is a scalar does not matter, but there is one kernel for all only if it is the
        // same.
        let mut types = [self.common; 3];
        let mut given = inputs.iter().map(|view| view.dtype);
        for (index, dtype) in types.iter_mut().enumerate().take(self.op.arity()) {
            if self.scalar.map(usize::from) != Some(index) {
                *dtype = given.next().unwrap_or(self.common);
            }
        }
        let layout = if walk.dims.len() > MAX_RANK {
            Layout::Strided.canonical(out.dtype)
        } else {
            let dense_inputs = walk.all_dense(inputs.len() + 1);
            Layout::choose(out.dtype, dense_inputs, walk.is_dense(0), out.first(), out.owns_tail())
        };
        if self.op == Op::Copy && types[0] == out.dtype && self.common == out.dtype {
            return in_fours(Pointwise::cast(out.dtype, out.dtype, layout), out, inputs);
        }
        let key = Pointwise {
            op: self.op,
            inputs: types,
            common: self.common,
            output: out.dtype,
            scalar: self.scalar,
            layout,
        };
        in_fours(key, out, inputs)
    }
}

/// The kernel that takes four elements at a time, where the operands lie so.
fn in_fours(key: Pointwise, out: &View<'_>, inputs: &[&View<'_>]) -> Pointwise {
    let fits = out.count().is_multiple_of(4)
        && out.offset.is_multiple_of(4)
        && inputs.iter().all(|input| input.offset.is_multiple_of(4));
    key.in_fours().filter(|_| fits).unwrap_or(key)
}

/// Scalars of `op` as its kernel for `common` reads them.
pub(super) fn scalar_words(op: Op, common: DType, values: &[Scalar]) -> [u32; 4] {
    if values.is_empty() {
        return [0; 4];
    }
    let native = match op {
        Op::Tril | Op::Triu | Op::Eye => Native::I32,
        _ => common.native(),
    };
    let truth = |value| match value {
        Scalar::F32(x) if common == DType::Bool => Scalar::I32(i32::from(x != 0.0)),
        other => other,
    };
    let values: SmallVec<[Scalar; 4]> =
        values.iter().map(|&value| cast_scalar(truth(value), native)).collect();
    scalars(&values)
}

/// The scalar in the type that a kernel computes in.
pub(super) fn cast_scalar(value: Scalar, to: Native) -> Scalar {
    match (value, to) {
        (Scalar::F32(_), Native::F32) | (Scalar::I32(_), Native::I32) | (Scalar::I64(_), Native::I64) => {
            value
        }
        (Scalar::I32(x), Native::F32) => Scalar::F32(x as f32),
        (Scalar::I64(x), Native::F32) => Scalar::F32(x as f32),
        (Scalar::F32(x), Native::I32) => Scalar::I32(x as i64 as i32),
        (Scalar::I64(x), Native::I32) => Scalar::I32(x as i32),
        (Scalar::F32(x), Native::I64) => Scalar::I64(x as i64),
        (Scalar::I32(x), Native::I64) => Scalar::I64(i64::from(x)),
    }
}

/// Columns and rows of the matrices that the last two dimensions are.
fn matrix(op: Op, out: &View<'_>) -> Result<[u32; 2]> {
    match *out.shape {
        [.., rows, columns] => Ok([columns as u32, rows as u32]),
        _ => refuse(op.label(), format!("the output has {} dimensions; at least 2 are allowed", out.rank())),
    }
}

/// As [`pointwise`], with the scalars as the kernel reads them.
pub(super) fn run(device: &Device, call: &Call, out: &View<'_>, inputs: &[&View<'_>]) -> Result<()> {
    let label = call.op.label();
    let tensors = call.op.arity() - usize::from(call.scalar.is_some());
    if inputs.len() != tensors {
        return refuse(label, format!("{} tensors; it takes {tensors}", inputs.len()));
    }
    if !call.op.computes(call.common) {
        return no_kernel(label, format!("not defined for {}", call.common.name()));
    }
    out.check(label, "the output")?;
    for (index, input) in inputs.iter().enumerate() {
        if input.shape != out.shape {
            return refuse(
                label,
                format!("input {index} has shape {:?}, the output {:?}", input.shape, out.shape),
            );
        }
        input.check(label, "an input")?;
    }
    if out.count() == 0 {
        return Ok(());
    }
    let mut operands = [(out, Access::Write); OPERANDS];
    for (operand, &input) in operands[1..].iter_mut().zip(inputs) {
        *operand = (input, Access::Read);
    }
    let operands = &operands[..=inputs.len()];
    let mut walk = Walk::new(operands);
    if walk.dims.len() > MAX_RANK {
        if call.op.is_indexed() {
            // One dispatch has to see every place.
            return in_fewer_dimensions(device, call, out, inputs);
        }
        // Any order will do, and few dispatches are best.
        walk.dims.sort_by_key(|dim| dim.size);
    }
    let key = call.key(out, inputs, &walk);
    let mut params = StridedParams::default();
    (params.dense.scalars, params.dense.extra) = (call.words, call.extra);
    let (outer, inner) = walk.split(MAX_RANK);
    describe(&mut params, inner);
    launch(device, label, &Kernel::Pointwise(key), operands, |dispatcher| {
        let bytes = |params: &StridedParams| {
            if key.layout.is_strided() {
                dispatcher
                    .run(bytemuck::bytes_of(params), key.groups(params.dense.offsets[0], params.dense.count))
            } else {
                let dense: &PointwiseParams = &params.dense;
                dispatcher.run(bytemuck::bytes_of(dense), key.groups(dense.offsets[0], dense.count))
            }
        };
        each_place(outer, operands, &mut params, bytes)
    })
}

/// Calls `dispatch` for each place of the outer dimensions, with the offsets of the operands there.
pub(super) fn each_place<E>(
    outer: &[Dim],
    operands: &[(&View<'_>, Access)],
    params: &mut StridedParams,
    mut dispatch: impl FnMut(&StridedParams) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    for place in Places::new(outer) {
        for (index, (view, _)) in operands.iter().enumerate() {
            params.dense.offsets[index] = (view.offset as i64 + place[index]) as u32;
        }
        dispatch(params)?;
    }
    Ok(())
}

/// The op on dense tensors, which are walked in one dimension.
fn in_fewer_dimensions(device: &Device, call: &Call, out: &View<'_>, inputs: &[&View<'_>]) -> Result<()> {
    let target = Output::dense(device, out, out.dtype)?;
    let copies = inputs
        .iter()
        .map(|input| super::temporary::Input::dense(device, input, input.dtype))
        .collect::<Result<SmallVec<[_; OPERANDS]>>>()?;
    let views: SmallVec<[_; OPERANDS]> = copies.iter().map(super::temporary::Input::view).collect();
    let borrowed: SmallVec<[&View<'_>; OPERANDS]> = views.iter().map(|view| &**view).collect();
    run(device, call, &target.view(), &borrowed)?;
    target.finish()
}
