//! Elements at places that tensors of indices hold.

use super::launch::launch;
use super::pointwise::{Call, cast_scalar, each_place, run};
use super::temporary::{Input, Temporary};
use super::view::View;
use super::walk::{Walk, describe};
use super::{DType, Op, Scalar, ScatterOp, no_kernel, refuse};
use crate::Device;
use crate::error::Result;
use crate::ids::Access;
use rivulet_kernels::params::{MAX_RANK, StridedParams, scalars};
use rivulet_kernels::{Gather, Kernel, Layout, Scatter};
use smallvec::SmallVec;

/// What is scattered: elements, or one value everywhere.
#[derive(Clone, Copy, Debug)]
pub enum ScatterSource<'s> {
    /// At least as large as the indices in every dimension.
    View(&'s View<'s>),
    /// Converted to the type of the output.
    Scalar(Scalar),
}

/// What one dimension is indexed by: its size and stride, in the tensor that is read or written.
#[derive(Clone, Copy)]
struct Indexed {
    size: u64,
    stride: i64,
}

fn check_index(op: &'static str, index: &View<'_>) -> Result<()> {
    if !matches!(index.dtype, DType::I64 | DType::I32) {
        return no_kernel(op, format!("indices of type {}; int64 and int32 are allowed", index.dtype.name()));
    }
    index.check(op, "an index")
}

/// Size and stride of a dimension; a tensor without dimensions has one of 1.
fn dimension(view: &View<'_>, dim: usize) -> Indexed {
    Indexed {
        size: view.shape.get(dim).copied().unwrap_or(1),
        stride: view.strides.get(dim).copied().unwrap_or(0),
    }
}

/// `view` walked along `shape`, standing still along `dim`.
fn still<'b>(view: &View<'b>, shape: &[u64], dim: usize) -> View<'b> {
    let mut strides = view.strides.clone();
    if let Some(stride) = strides.get_mut(dim) {
        *stride = 0;
    }
    view.with(shape, &strides)
}

fn check_dimension(op: &'static str, views: &[(&View<'_>, &'static str)], dim: usize) -> Result<()> {
    let rank = views[0].0.rank();
    for (view, name) in views {
        if view.rank() != rank {
            let (given, first) = (view.rank(), views[0].1);
            return refuse(op, format!("{name} has {given} dimensions, {first} {rank}"));
        }
    }
    if dim >= rank.max(1) {
        return refuse(op, format!("dimension {dim} of {rank}"));
    }
    Ok(())
}

fn same_type(op: &'static str, out: &View<'_>, x: &View<'_>) -> Result<()> {
    if out.dtype == x.dtype {
        return Ok(());
    }
    no_kernel(op, format!("{} into {}; equal types are allowed", x.dtype.name(), out.dtype.name()))
}

/// `out[i][j][k] = x[index[i][j][k]][j][k]` for `dim` 0, and so on, as `torch.gather`. `index` has the shape of `out`,
/// which is nowhere larger than `x` but along `dim`. Negative indices count from the end; an index outside gives 0. Any
/// strides. Any thread.
///
/// # Errors
/// [`Error::BadOperand`](crate::Error::BadOperand) where shapes do not fit;
/// [`Error::NoKernel`](crate::Error::NoKernel) for indices other than int64 and int32; what [`Device::record`] says.
pub fn gather(device: &Device, out: &View<'_>, x: &View<'_>, dim: usize, index: &View<'_>) -> Result<()> {
    const OP: &str = "gather";
    check_index(OP, index)?;
    check_dimension(OP, &[(out, "the output"), (x, "the input"), (index, "the index")], dim)?;
    out.check(OP, "the output")?;
    x.check(OP, "the input")?;
    same_type(OP, out, x)?;
    let fits = |k: usize| k == dim || out.shape[k] <= x.shape[k];
    if index.shape != out.shape || !(0..out.rank()).all(fits) {
        let (x, index, out) = (&x.shape, &index.shape, &out.shape);
        return refuse(OP, format!("index {index:?} into {x:?} does not give {out:?} along dimension {dim}"));
    }
    gathered(device, OP, out, &still(x, &out.shape, dim), index, dimension(x, dim))
}

/// `out[i][j] = x[index[i]][j]` for `dim` 0, and so on, as `torch.index_select`. `index` has one dimension (or none, for
/// one element). Otherwise as [`gather`]. Any thread.
///
/// # Errors
/// As [`gather`].
pub fn index_select(
    device: &Device,
    out: &View<'_>,
    x: &View<'_>,
    dim: usize,
    index: &View<'_>,
) -> Result<()> {
    const OP: &str = "index_select";
    check_index(OP, index)?;
    check_dimension(OP, &[(out, "the output"), (x, "the input")], dim)?;
    out.check(OP, "the output")?;
    x.check(OP, "the input")?;
    same_type(OP, out, x)?;
    let count = dimension(out, dim).size;
    let fits = |k: usize| k == dim || out.shape[k] == x.shape[k];
    if index.rank() > 1 || index.count() != count || !(0..out.rank()).all(fits) {
        let (x, index, out) = (&x.shape, &index.shape, &out.shape);
        return refuse(OP, format!("index {index:?} into {x:?} does not give {out:?} along dimension {dim}"));
    }
    let mut strides = super::view::Strides::from_elem(0, out.rank());
    if let Some(stride) = strides.get_mut(dim) {
        *stride = dimension(index, 0).stride;
    }
    let index = index.with(&out.shape, &strides);
    gathered(device, OP, out, &still(x, &out.shape, dim), &index, dimension(x, dim))
}

/// Records `out[p] = x[p + index[p] * stride]`, for checked views of one shape.
fn gathered(
    device: &Device,
    op: &'static str,
    out: &View<'_>,
    x: &View<'_>,
    index: &View<'_>,
    along: Indexed,
) -> Result<()> {
    if out.count() == 0 {
        return Ok(());
    }
    // Where there is nothing to read, there may be no memory either.
    let x = if along.size == 0 { &x.with_block_of(out) } else { x };
    let operands = [(out, Access::Write), (index, Access::Read), (x, Access::Read)];
    let mut walk = Walk::new(&operands);
    let layout = if walk.dims.len() > MAX_RANK {
        walk.dims.sort_by_key(|dim| dim.size);
        Layout::Strided
    } else {
        Layout::choose(out.dtype, false, walk.is_dense(0), out.first(), out.owns_tail())
    };
    let key = Gather::new(out.dtype, index.dtype, layout);
    let (outer, inner) = walk.split(MAX_RANK);
    let mut params = StridedParams::default().indexed(along.size as u32, along.stride as i32);
    describe(&mut params, inner);
    launch(device, op, &Kernel::Gather(key), &operands, |dispatcher| {
        each_place(outer, &operands, &mut params, |params| {
            let groups = key.groups(params.dense.offsets[0], params.dense.count);
            dispatcher.run(bytemuck::bytes_of(params), groups)
        })
    })
}

/// Writes elements of `source` to `out[index[i][j][k]][j][k]` for `dim` 0, and so on, as `torch.scatter` and
/// `torch.scatter_reduce` do in place: `op` says how they meet what is there. `index` is nowhere larger than the source,
/// nor than `out` but along `dim`. Where indices repeat, [`ScatterOp::Assign`] keeps any of the elements, and sums of
/// floats are made in any order. Negative indices count from the end; what lies outside is left out. Any thread.
///
/// # Errors
/// As [`gather`]; [`Error::NoKernel`](crate::Error::NoKernel) also for products and extremes of int64.
pub fn scatter(
    device: &Device,
    op: ScatterOp,
    out: &View<'_>,
    dim: usize,
    index: &View<'_>,
    source: ScatterSource<'_>,
) -> Result<()> {
    const OP: &str = "scatter";
    check_index(OP, index)?;
    check_dimension(OP, &[(index, "the index"), (out, "the output")], dim)?;
    out.check(OP, "the output")?;
    let inside =
        |view: &View<'_>, but: usize| (0..index.rank()).all(|k| k == but || index.shape[k] <= view.shape[k]);
    if let ScatterSource::View(view) = source {
        check_dimension(OP, &[(index, "the index"), (view, "the source")], dim)?;
        view.check(OP, "the source")?;
        same_type(OP, out, view)?;
        if !inside(view, usize::MAX) {
            return refuse(OP, format!("the index has shape {:?}, the source {:?}", index.shape, view.shape));
        }
    }
    if !inside(out, dim) {
        return refuse(OP, format!("the index has shape {:?}, the output {:?}", index.shape, out.shape));
    }
    let target = still(out, &index.shape, dim);
    let cut = match source {
        ScatterSource::View(view) => Some(view.with(&index.shape, &view.strides)),
        ScatterSource::Scalar(_) => None,
    };
    let source = match (&cut, source) {
        (Some(view), _) => ScatterSource::View(view),
        (None, scalar) => scalar,
    };
    scattered(device, OP, op, &target, index, source, dimension(out, dim))
}

/// Records `out[p + index[p] * stride] = op(…, source[p])`, for checked views of one shape.
fn scattered(
    device: &Device,
    name: &'static str,
    op: ScatterOp,
    out: &View<'_>,
    index: &View<'_>,
    source: ScatterSource<'_>,
    along: Indexed,
) -> Result<()> {
    if !op.takes(out.dtype) {
        return no_kernel(name, format!("{op:?} is not defined for {}", out.dtype.name()));
    }
    if index.count() == 0 || along.size == 0 {
        return Ok(());
    }
    let mut operands: SmallVec<[(&View<'_>, Access); 3]> =
        SmallVec::from_slice(&[(out, Access::Write), (index, Access::Read)]);
    let mut params = StridedParams::default().indexed(along.size as u32, along.stride as i32);
    let (mut dtype, mut is_scalar) = (out.dtype, false);
    match source {
        ScatterSource::View(view) => {
            operands.push((view, Access::Read));
            if op == ScatterOp::Assign {
                dtype = dtype.bits();
            }
        }
        ScatterSource::Scalar(value) => {
            is_scalar = true;
            params.dense.scalars = scalars(&[cast_scalar(value, dtype.native())]);
        }
    }
    let key = Scatter { op, dtype, index: index.dtype, scalar: is_scalar };
    let mut walk = Walk::new(&operands);
    if walk.dims.len() > MAX_RANK {
        walk.dims.sort_by_key(|dim| dim.size);
    }
    let (outer, inner) = walk.split(MAX_RANK);
    describe(&mut params, inner);
    launch(device, name, &Kernel::Scatter(key), &operands, |dispatcher| {
        each_place(outer, &operands, &mut params, |params| {
            dispatcher.run(bytemuck::bytes_of(params), key.groups(params.dense.count))
        })
    })
}

/// `out[p] = x[p, indices[0][p], indices[1][p], …]`: advanced indexing as PyTorch's `index_stub` states it. `out`, `x` and
/// the indices have one shape; `x` has strides of 0 where only indices move it. `sizes` and `strides` (in elements) are
/// those of the dimensions of `x` that the indices go along, in their order. Negative indices count from the end; an
/// index outside gives 0. Any thread.
///
/// # Errors
/// As [`gather`].
pub fn index(
    device: &Device,
    out: &View<'_>,
    x: &View<'_>,
    indices: &[View<'_>],
    sizes: &[u64],
    strides: &[i64],
) -> Result<()> {
    const OP: &str = "index";
    out.check(OP, "the output")?;
    same_type(OP, out, x)?;
    check_indices(OP, out, x, indices, sizes, strides)?;
    if out.count() == 0 {
        return Ok(());
    }
    with_joined(device, OP, indices, sizes, strides, |index, along| {
        gathered(device, OP, out, x, index, along)
    })
}

/// `out[p, indices[0][p], …] = source[p]`, or with `accumulate` the sum of what is there and all that comes: PyTorch's
/// `index_put_stub`. `out` has strides of 0 where only indices move it; otherwise as [`index()`] and [`scatter`]. Any
/// thread.
///
/// # Errors
/// As [`gather`].
pub fn index_put(
    device: &Device,
    out: &View<'_>,
    source: &View<'_>,
    indices: &[View<'_>],
    sizes: &[u64],
    strides: &[i64],
    accumulate: bool,
) -> Result<()> {
    const OP: &str = "index_put";
    source.check(OP, "the source")?;
    same_type(OP, out, source)?;
    check_indices(OP, source, out, indices, sizes, strides)?;
    if source.count() == 0 {
        return Ok(());
    }
    let op = if accumulate { ScatterOp::Add } else { ScatterOp::Assign };
    with_joined(device, OP, indices, sizes, strides, |index, along| {
        scattered(device, OP, op, out, index, ScatterSource::View(source), along)
    })
}

/// `dense` is the operand that is walked, `moved` the one that indices move.
fn check_indices(
    op: &'static str,
    dense: &View<'_>,
    moved: &View<'_>,
    indices: &[View<'_>],
    sizes: &[u64],
    strides: &[i64],
) -> Result<()> {
    if indices.is_empty() || indices.len() != sizes.len() || indices.len() != strides.len() {
        let (indices, sizes, strides) = (indices.len(), sizes.len(), strides.len());
        let what = format!("{indices} indices, {sizes} sizes and {strides} strides");
        return refuse(op, format!("{what}; as many of each are allowed, and at least one"));
    }
    for view in indices.iter().chain([moved]) {
        if view.shape != dense.shape {
            return refuse(
                op,
                format!("shapes {:?} and {:?}; equal ones are allowed", view.shape, dense.shape),
            );
        }
    }
    indices.iter().try_for_each(|index| check_index(op, index))?;
    if strides.len() > 1 && strides.iter().any(|&stride| stride < 0) {
        return no_kernel(
            op,
            format!("strides {strides:?} of indexed dimensions; those of several may not be negative"),
        );
    }
    // Everything that indices inside their dimensions reach.
    let shape: super::view::Shape = moved.shape.iter().chain(sizes).copied().collect();
    let all: super::view::Strides = moved.strides.iter().chain(strides).copied().collect();
    moved.with(&shape, &all).check(op, "the indexed tensor")
}

/// Calls `body` with one index, in which several are joined, and the dimension that it goes along.
fn with_joined(
    device: &Device,
    op: &'static str,
    indices: &[View<'_>],
    sizes: &[u64],
    strides: &[i64],
    body: impl FnOnce(&View<'_>, Indexed) -> Result<()>,
) -> Result<()> {
    if let ([index], &[size], &[stride]) = (indices, sizes, strides) {
        return body(index, Indexed { size, stride });
    }
    if sizes.contains(&0) {
        return match indices.first() {
            Some(index) => body(index, Indexed { size: 0, stride: 0 }),
            None => Ok(()),
        };
    }
    let wide = indices.iter().any(|index| index.dtype == DType::I64);
    let dtype = if wide { DType::I64 } else { DType::I32 };
    super::launch::require(device, op, rivulet_kernels::Features::of(dtype))?;
    let shape = &indices[0].shape;
    let joined = Temporary::new(device, dtype, indices[0].count())?;
    let place = joined.view(dtype, shape);
    for (k, index) in indices.iter().enumerate() {
        // Of one type before they are joined: llvmpipe (Mesa 22.3) compares widened int32 wrongly there.
        let index = Input::new(device, index, dtype, true)?;
        let index = &*index.view();
        let extra = [sizes[k] as u32, strides[k] as u32];
        let scalar = (k == 0).then_some(0);
        let call = Call { extra, scalar, ..Call::new(Op::JoinIndex, dtype) };
        match scalar {
            // The first joins a place of 0.
            Some(_) => run(device, &call, &place, &[index])?,
            None => run(device, &call, &place, &[&place, index])?,
        }
    }
    let reach: i64 = sizes.iter().zip(strides).map(|(&size, &stride)| (size as i64 - 1) * stride).sum();
    body(&place, Indexed { size: reach as u64 + 1, stride: 1 })
}
