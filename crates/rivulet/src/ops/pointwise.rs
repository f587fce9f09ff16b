use super::view::View;
use super::{DType, Op, Scalar, pipeline, refuse};
use crate::error::Result;
use crate::ids::Access;
use crate::memory::Block;
use crate::{Device, DeviceOp};
use rivulet_hal::Binding;
use rivulet_kernels::params::{MAX_RANK, POINTWISE_OPERANDS, PointwiseParams, StridedParams, scalars};
use rivulet_kernels::{Kernel, Layout, Pointwise};
use smallvec::SmallVec;

/// Sizes and strides of all operands, dimensions that can be walked as one joined.
#[derive(Debug, PartialEq)]
struct Walk {
    /// Outermost dimension first.
    dims: SmallVec<[Dim; MAX_RANK]>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Dim {
    size: u64,
    strides: [i64; POINTWISE_OPERANDS],
}

impl Walk {
    /// `views`: the output first; all have its shape.
    fn new(views: &[&View<'_>]) -> Self {
        let mut dims: SmallVec<[Dim; MAX_RANK]> = SmallVec::new();
        for (index, &size) in views[0].shape.iter().enumerate() {
            if size == 1 {
                continue;
            }
            let mut strides = [0; POINTWISE_OPERANDS];
            for (stride, view) in strides.iter_mut().zip(views) {
                *stride = view.strides[index];
            }
            let dim = Dim { size, strides };
            match dims.last_mut() {
                Some(outer) if outer.holds(&dim) => *outer = Dim { size: outer.size * size, strides },
                _ => dims.push(dim),
            }
        }
        Self { dims }
    }

    /// Whether operand `index` is walked one element after the other.
    fn is_dense(&self, index: usize) -> bool {
        match self.dims.as_slice() {
            [] => true,
            [dim] => dim.strides[index] == 1,
            _ => false,
        }
    }
}

impl Dim {
    /// Whether this dimension goes on where `inner` ends, for every operand.
    fn holds(&self, inner: &Self) -> bool {
        let size = i64::try_from(inner.size).unwrap_or(i64::MAX);
        self.strides.iter().zip(&inner.strides).all(|(outer, inner)| inner.checked_mul(size) == Some(*outer))
    }
}

/// Makes each element of `out` from the elements of `inputs` at the same place: `out = op(inputs…, scalars…)`. The
/// inputs have the shape of `out`; a dimension is repeated by a stride of 0. `common` is the type that the op computes
/// for, to which the inputs are converted. With `scalar` the input of that index is the first of the scalars.
///
/// Any thread. `out` may be one of the inputs where both are the same view.
///
/// # Errors
/// [`Error::BadOperand`](crate::Error::BadOperand) where shapes differ, elements lie outside their blocks, or the
/// device has no such kernel; what [`Device::record`] says.
pub fn pointwise(
    device: &Device,
    op: Op,
    common: DType,
    out: &View<'_>,
    inputs: &[View<'_>],
    scalar: Option<u8>,
    values: &[Scalar],
) -> Result<()> {
    let label = op.label();
    let tensors = op.arity() - usize::from(scalar.is_some());
    if inputs.len() != tensors {
        return refuse(label, format!("{} tensors; it takes {tensors}", inputs.len()));
    }
    if !op.computes(common) {
        return refuse(label, format!("not defined for {}", common.name()));
    }
    out.check(label, "the output")?;
    for (index, input) in inputs.iter().enumerate() {
        if input.shape != out.shape {
            return refuse(
                label,
                format!("input {index} has shape {:?}, the output {:?}", input.shape, out.shape),
            );
        }
        input.check(label, &format!("input {index}"))?;
    }
    if out.count() == 0 {
        return Ok(());
    }
    let views: SmallVec<[&View<'_>; POINTWISE_OPERANDS]> = std::iter::once(out).chain(inputs).collect();
    let walk = Walk::new(&views);
    let dense_inputs = (1..views.len()).all(|index| walk.is_dense(index));
    let layout =
        Layout::choose(out.dtype, dense_inputs, walk.is_dense(0), out.offset as u32, out.owns_tail());
    // The type of an input that is a scalar does not matter, but there is one kernel for all only if it is the same.
    let mut types = [common; 3];
    let mut given = inputs.iter().map(|view| view.dtype);
    for (index, dtype) in types.iter_mut().enumerate().take(op.arity()) {
        if scalar.map(usize::from) != Some(index) {
            *dtype = given.next().unwrap_or(common);
        }
    }
    let key = Pointwise { op, inputs: types, common, output: out.dtype, scalar, layout };
    let kernel = pipeline(device, label, &Kernel::Pointwise(key))?;

    let most = device.info().max_binding;
    let bindings: SmallVec<[Binding; POINTWISE_OPERANDS]> = views
        .iter()
        .enumerate()
        .map(|(index, view)| view.binding(label, index == 0, most))
        .collect::<Result<_>>()?;
    let access = |index| if index == 0 { Access::Write } else { Access::Read };
    let operands: SmallVec<[(&Block, Access); POINTWISE_OPERANDS]> =
        views.iter().enumerate().map(|(index, view)| (view.block, access(index))).collect();
    let mut params = StridedParams::default();
    params.dense.scalars = scalars(values);
    let inner = walk.dims.len().saturating_sub(MAX_RANK);
    let (outer, inner) = walk.dims.split_at(inner);
    describe(&mut params, inner);
    device.record(&DeviceOp::new(label, &operands), |recorder| {
        for place in Places::new(outer) {
            for (index, view) in views.iter().enumerate() {
                let offset = i64::try_from(view.offset).unwrap_or(i64::MAX) + place[index];
                params.dense.offsets[index] = u32::try_from(offset).unwrap_or(u32::MAX);
            }
            let groups = key.groups(params.dense.offsets[0], params.dense.count);
            let bytes = if layout.is_strided() {
                bytemuck::bytes_of(&params)
            } else {
                bytemuck::bytes_of::<PointwiseParams>(&params.dense)
            };
            recorder.dispatch(&kernel, &bindings, bytes, groups)?;
        }
        Ok(())
    })?;
    Ok(())
}

/// The dimensions that one dispatch walks. What a view reaches was seen to fit into 31 bits.
fn describe(params: &mut StridedParams, dims: &[Dim]) {
    params.dense.count = dims.iter().map(|dim| dim.size as u32).product();
    params.dense.rank = dims.len().max(1) as u32;
    params.shape = [1; MAX_RANK];
    for (place, dim) in dims.iter().rev().enumerate() {
        params.shape[place] = dim.size as u32;
        params.strides[place] = dim.strides.map(|stride| stride as i32);
    }
}

/// Offsets of every operand for each place of the outer dimensions; one place where there are none.
struct Places<'d> {
    dims: &'d [Dim],
    at: u64,
    count: u64,
}

impl<'d> Places<'d> {
    fn new(dims: &'d [Dim]) -> Self {
        Self { dims, at: 0, count: dims.iter().map(|dim| dim.size).product() }
    }
}

impl Iterator for Places<'_> {
    type Item = [i64; POINTWISE_OPERANDS];

    fn next(&mut self) -> Option<Self::Item> {
        if self.at == self.count {
            return None;
        }
        let mut rest = self.at;
        self.at += 1;
        let mut offsets = [0; POINTWISE_OPERANDS];
        for dim in self.dims.iter().rev() {
            let index = (rest % dim.size) as i64;
            rest /= dim.size;
            for (offset, stride) in offsets.iter_mut().zip(dim.strides) {
                *offset += index * stride;
            }
        }
        Some(offsets)
    }
}
