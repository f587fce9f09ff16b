//! Native ops: tensors as C views, handed on to [`rivulet::ops`].

use super::answer;
use super::error::{Failure, INVALID, NO_KERNEL, enter, enter_or};
use crate::python;
use rivulet::Device;
use rivulet::memory::Block;
use rivulet::ops::{self, DType, Op, ReduceOp, Scalar, ScanOp, ScatterOp, ScatterSource, View};
use rivulet_hal::sync::Arc;
use smallvec::SmallVec;
use std::ffi::{CStr, c_char, c_void};

/// `rivulet_scalar`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct RawScalar {
    real: f64,
    integer: i64,
    is_float: u32,
}

/// `rivulet_view`.
#[repr(C)]
#[derive(Debug)]
struct RawView {
    block: *const Block,
    data: *const c_void,
    sizes: *const i64,
    strides: *const i64,
    scalar: RawScalar,
    rank: u32,
    dtype: u32,
}

/// `RIVULET_NO_OP`.
const NO_OP: u32 = u32::MAX;

/// In the order of `enum rivulet_dtype`.
const DTYPES: [DType; 9] = DType::ALL;

/// Views of one call.
const VIEWS: usize = 8;

fn no_kernel(reason: &str) -> Failure {
    Failure::new(NO_KERNEL, reason)
}

fn dtype(number: u32) -> Result<DType, Failure> {
    DTYPES.get(number as usize).copied().ok_or_else(|| no_kernel("no kernels for this element type"))
}

fn pointwise_op(number: u32) -> Result<Op, Failure> {
    Op::ALL.get(number as usize).copied().ok_or_else(|| no_kernel("no such pointwise op"))
}

impl RawScalar {
    /// The number in the type that kernels compute elements of `common` in.
    fn of(self, common: DType) -> Scalar {
        if common.is_float() {
            return Scalar::F32(self.real as f32);
        }
        // Saturates, so that the limits of a clamp stay limits.
        let integer = if self.is_float != 0 { self.real as i64 } else { self.integer };
        if common == DType::I64 {
            Scalar::I64(integer)
        } else {
            Scalar::I32(integer.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32)
        }
    }
}

/// Blocks that live as long as the call that records their use; the runtime keeps their memory until that is done.
struct Temporaries<'d> {
    device: &'d Device,
    blocks: SmallVec<[Arc<Block>; 2]>,
}

impl Drop for Temporaries<'_> {
    fn drop(&mut self) {
        for block in self.blocks.drain(..) {
            self.device.free(block);
        }
    }
}

/// Sizes and strides of a view.
///
/// # Safety
/// - `raw.sizes` and `raw.strides` point to `raw.rank` numbers, or `raw.rank` is 0.
unsafe fn shape<'a>(raw: &RawView) -> (&'a [i64], &'a [i64]) {
    if raw.rank == 0 {
        return (&[], &[]);
    }
    let rank = raw.rank as usize;
    // SAFETY: by contract.
    unsafe { (std::slice::from_raw_parts(raw.sizes, rank), std::slice::from_raw_parts(raw.strides, rank)) }
}

/// A tensor over a block.
///
/// # Safety
/// - As for [`shape`]; the block lives while the view does.
unsafe fn view<'b>(raw: &RawView) -> Result<View<'b>, Failure> {
    // SAFETY: by contract.
    let block = unsafe { raw.block.as_ref() }.ok_or_else(|| no_kernel("an operand is a number"))?;
    // SAFETY: by contract.
    let (sizes, strides) = unsafe { shape(raw) };
    let dtype = dtype(raw.dtype)?;
    let bytes = (raw.data as usize).wrapping_sub(block.address()) as u64;
    if !bytes.is_multiple_of(u64::from(dtype.size())) {
        return Err(no_kernel("an operand does not begin with an element"));
    }
    Ok(View {
        block,
        dtype,
        offset: bytes / u64::from(dtype.size()),
        shape: sizes.iter().map(|&size| size.unsigned_abs()).collect(),
        strides: SmallVec::from_slice(strides),
    })
}

/// A tensor over a block, or a number written into a block of its own.
///
/// # Safety
/// - As for [`view`].
unsafe fn operand<'b>(raw: &RawView, temporaries: &mut Temporaries<'b>) -> Result<View<'b>, Failure> {
    if !raw.block.is_null() {
        // SAFETY: by contract.
        return unsafe { view(raw) };
    }
    let dtype = dtype(raw.dtype)?;
    let device = temporaries.device;
    let block = device.allocate(u64::from(dtype.size()))?;
    // SAFETY: the handle in `temporaries` outlives the view, which is used in this call alone.
    let lasting: &'b Block = unsafe { &*Arc::as_ptr(&block) };
    temporaries.blocks.push(block);
    let mut element = View::dense(lasting, dtype, &[]);
    ops::fill(device, &element, raw.scalar.of(dtype))?;
    // SAFETY: by contract.
    let (sizes, _) = unsafe { shape(raw) };
    element.shape = sizes.iter().map(|&size| size.unsigned_abs()).collect();
    element.strides = sizes.iter().map(|_| 0).collect();
    Ok(element)
}

/// An operand that may be missing.
///
/// # Safety
/// - `raw` is null or as for [`view`].
unsafe fn optional<'b>(
    raw: *const RawView,
    temporaries: &mut Temporaries<'b>,
) -> Result<Option<View<'b>>, Failure> {
    // SAFETY: by contract.
    match unsafe { raw.as_ref() } {
        // SAFETY: by contract.
        Some(raw) => unsafe { operand(raw, temporaries) }.map(Some),
        None => Ok(None),
    }
}

/// An operand that the header requires.
///
/// # Safety
/// - `raw` is null or as for [`view`].
unsafe fn required<'b>(raw: *const RawView, temporaries: &mut Temporaries<'b>) -> Result<View<'b>, Failure> {
    // SAFETY: by contract.
    unsafe { optional(raw, temporaries) }?.ok_or_else(|| Failure::new(INVALID, "a view is null"))
}

/// Numbers of a C array.
///
/// # Safety
/// - `scalars` points to `count` scalars; null comes with 0.
unsafe fn numbers<'a>(scalars: *const RawScalar, count: usize) -> &'a [RawScalar] {
    // SAFETY: by contract.
    if count == 0 { &[] } else { unsafe { std::slice::from_raw_parts(scalars, count) } }
}

/// Runs `body` with the process's device.
fn record(body: impl FnOnce(&Device, &mut Temporaries<'_>) -> Result<(), Failure>) -> i32 {
    enter(|| {
        python::stay_if_exiting();
        let device = Device::global()?;
        body(device, &mut Temporaries { device, blocks: SmallVec::new() })
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - `answer_at` is valid for writes.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_has_kernels(answer_at: *mut i32) -> i32 {
    enter(|| {
        // SAFETY: by contract.
        let out = unsafe { answer(answer_at, "answer") }?;
        *out = i32::from(ops::has_kernels(Device::global()?));
        Ok(())
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - `name` is a C string.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_pointwise_op(name: *const c_char) -> u32 {
    // SAFETY: by contract.
    enter_or(NO_OP, || position(unsafe { CStr::from_ptr(name) }, Op::ALL.iter().map(|op| op.label())))
}

/// See `rivulet.h`.
///
/// # Safety
/// - `name` is a C string.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_reduce_op(name: *const c_char) -> u32 {
    // SAFETY: by contract.
    enter_or(NO_OP, || position(unsafe { CStr::from_ptr(name) }, ReduceOp::ALL.iter().map(|op| op.label())))
}

fn position<'n>(name: &CStr, mut labels: impl Iterator<Item = &'n str>) -> u32 {
    labels
        .position(|label| label.as_bytes() == name.to_bytes())
        .and_then(|at| u32::try_from(at).ok())
        .unwrap_or(NO_OP)
}

/// See `rivulet.h`.
///
/// # Safety
/// - `views` points to `count` views and `scalars` to `scalar_count` scalars, valid during the call.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_pointwise(
    op: u32,
    common: u32,
    views: *const RawView,
    count: usize,
    scalars: *const RawScalar,
    scalar_count: usize,
) -> i32 {
    record(|device, temporaries| {
        let (op, common) = (pointwise_op(op)?, dtype(common)?);
        if count == 0 || count > VIEWS {
            return Err(Failure::new(INVALID, format!("{count} views; 1 to {VIEWS} are allowed")));
        }
        // SAFETY: by contract.
        let raws = unsafe { std::slice::from_raw_parts(views, count) };
        // SAFETY: by contract.
        let out = unsafe { view(&raws[0]) }?;
        let mut inputs = SmallVec::<[View<'_>; 3]>::new();
        let mut values = SmallVec::<[Scalar; 4]>::new();
        let mut scalar = None;
        // The first scalar of an op with several inputs is the input that is a number, its own come after it.
        let several = op.arity() > 1;
        for (index, raw) in raws[1..].iter().enumerate() {
            if raw.block.is_null() && several && scalar.is_none() {
                scalar = u8::try_from(index).ok();
                values.push(raw.scalar.of(common));
            } else {
                // SAFETY: by contract.
                inputs.push(unsafe { operand(raw, temporaries) }?);
            }
        }
        // SAFETY: by contract.
        let own = unsafe { numbers(scalars, scalar_count) };
        if several && scalar.is_none() && !own.is_empty() {
            values.push(RawScalar { real: 0.0, integer: 0, is_float: 0 }.of(common));
        }
        values.extend(own.iter().map(|number| number.of(common)));
        match inputs.as_slice() {
            [input] if op == Op::Copy => Ok(ops::copy(device, &out, input)?),
            inputs => Ok(ops::pointwise(device, op, common, &out, inputs, scalar, &values)?),
        }
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - `out` is a view and `scalars` points to `scalar_count` scalars, valid during the call.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_random(
    op: u32,
    out: *const RawView,
    scalars: *const RawScalar,
    scalar_count: usize,
    seed: u64,
) -> i32 {
    record(|device, temporaries| {
        let op = pointwise_op(op)?;
        // SAFETY: by contract.
        let (out, own) = unsafe { (required(out, temporaries)?, numbers(scalars, scalar_count)) };
        let common = if op == Op::Randint { DType::I64 } else { DType::F32 };
        let values: SmallVec<[Scalar; 4]> = own.iter().map(|number| number.of(common)).collect();
        Ok(ops::random(device, op, &out, &values, seed)?)
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - The views are null or valid during the call.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_reduce(
    op: u32,
    values: *const RawView,
    places: *const RawView,
    x: *const RawView,
    reduced: u64,
    factor: f64,
) -> i32 {
    record(|device, temporaries| {
        let op = ReduceOp::ALL.get(op as usize).copied().ok_or_else(|| no_kernel("no such reduction"))?;
        // SAFETY: by contract.
        let (values, places, x) = unsafe {
            (optional(values, temporaries)?, optional(places, temporaries)?, required(x, temporaries)?)
        };
        Ok(ops::reduce(device, op, values.as_ref(), places.as_ref(), &x, reduced, factor as f32)?)
    })
}

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

/// See `rivulet.h`.
///
/// # Safety
/// - The views are null or valid during the call; `geometry` points to seven numbers.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_convolution(
    kind: u32,
    out: *const RawView,
    x: *const RawView,
    weight: *const RawView,
    bias: *const RawView,
    geometry: *const [u32; 7],
) -> i32 {
    record(|device, temporaries| {
        // SAFETY: by contract.
        let (out, x, weight, bias) = unsafe {
            (
                required(out, temporaries)?,
                required(x, temporaries)?,
                required(weight, temporaries)?,
                optional(bias, temporaries)?,
            )
        };
        // SAFETY: by contract.
        let &[s0, s1, p0, p1, d0, d1, groups] =
            unsafe { geometry.as_ref() }.ok_or_else(|| Failure::new(INVALID, "geometry is null"))?;
        let geometry = ops::ConvGeometry { stride: [s0, s1], padding: [p0, p1], dilation: [d0, d1], groups };
        let bias = bias.as_ref();
        match kind {
            0 => ops::conv2d(device, &out, &x, &weight, bias, &geometry)?,
            1 => ops::conv2d_transposed(device, &out, &x, &weight, bias, &geometry)?,
            _ => ops::conv2d_weight_gradient(device, &out, &x, &weight, &geometry)?,
        }
        Ok(())
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - The views are valid during the call.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_scan(kind: u32, out: *const RawView, x: *const RawView, dim: u32) -> i32 {
    record(|device, temporaries| {
        const KINDS: [ScanOp; 4] = [ScanOp::Sum, ScanOp::Prod, ScanOp::Max, ScanOp::Min];
        let kind = KINDS.get(kind as usize).copied().ok_or_else(|| no_kernel("no such scan"))?;
        // SAFETY: by contract.
        let (out, x) = unsafe { (required(out, temporaries)?, required(x, temporaries)?) };
        Ok(ops::scan(device, kind, &out, &x, dim as usize)?)
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - The views are null or valid during the call.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_matmul(
    out: *const RawView,
    a: *const RawView,
    b: *const RawView,
    bias: *const RawView,
    alpha: f64,
    beta: f64,
    activation: u32,
) -> i32 {
    record(|device, temporaries| {
        let activation = if activation == NO_OP { None } else { Some(pointwise_op(activation)?) };
        // SAFETY: by contract.
        let (out, a, b, bias) = unsafe {
            (
                required(out, temporaries)?,
                required(a, temporaries)?,
                required(b, temporaries)?,
                optional(bias, temporaries)?,
            )
        };
        Ok(ops::matmul(device, &out, &a, &b, bias.as_ref(), alpha as f32, beta as f32, activation)?)
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - The views are valid during the call.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_gather(
    out: *const RawView,
    x: *const RawView,
    dim: u32,
    index: *const RawView,
) -> i32 {
    record(|device, temporaries| {
        // SAFETY: by contract.
        let (out, x, index) = unsafe {
            (required(out, temporaries)?, required(x, temporaries)?, required(index, temporaries)?)
        };
        Ok(ops::gather(device, &out, &x, dim as usize, &index)?)
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - The views are null or valid during the call.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_scatter(
    kind: u32,
    out: *const RawView,
    dim: u32,
    index: *const RawView,
    source: *const RawView,
    value: RawScalar,
) -> i32 {
    record(|device, temporaries| {
        let kind = ScatterOp::ALL.get(kind as usize).copied().ok_or_else(|| no_kernel("no such scatter"))?;
        // SAFETY: by contract.
        let (out, index, source) = unsafe {
            (required(out, temporaries)?, required(index, temporaries)?, optional(source, temporaries)?)
        };
        let source = match &source {
            Some(view) => ScatterSource::View(view),
            None => ScatterSource::Scalar(value.of(out.dtype)),
        };
        Ok(ops::scatter(device, kind, &out, dim as usize, &index, source)?)
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - The views are valid during the call.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_index_select(
    out: *const RawView,
    x: *const RawView,
    dim: u32,
    index: *const RawView,
) -> i32 {
    record(|device, temporaries| {
        // SAFETY: by contract.
        let (out, x, index) = unsafe {
            (required(out, temporaries)?, required(x, temporaries)?, required(index, temporaries)?)
        };
        Ok(ops::index_select(device, &out, &x, dim as usize, &index)?)
    })
}

/// Operands of `rivulet_index` and `rivulet_index_put`: two tensors, the indices, sizes and strides of what they
/// index.
type Indexed<'b> = (View<'b>, View<'b>, SmallVec<[View<'b>; 4]>, SmallVec<[u64; 4]>, SmallVec<[i64; 4]>);

/// # Safety
/// - `views` points to `indices` + 2 views, `sizes` and `strides` to `indices` numbers, valid during the call.
unsafe fn indexed<'b>(
    views: *const RawView,
    indices: usize,
    sizes: *const i64,
    strides: *const i64,
    temporaries: &mut Temporaries<'b>,
) -> Result<Indexed<'b>, Failure> {
    if indices == 0 || indices + 2 > VIEWS {
        return Err(no_kernel("so many indices"));
    }
    // SAFETY: by contract.
    let (raws, sizes, strides) = unsafe {
        (
            std::slice::from_raw_parts(views, indices + 2),
            std::slice::from_raw_parts(sizes, indices),
            std::slice::from_raw_parts(strides, indices),
        )
    };
    let mut given = SmallVec::new();
    for raw in &raws[2..] {
        // SAFETY: by contract.
        given.push(unsafe { operand(raw, temporaries) }?);
    }
    // SAFETY: by contract.
    let (first, second) = unsafe { (view(&raws[0])?, operand(&raws[1], temporaries)?) };
    let sizes = sizes.iter().map(|&size| size.unsigned_abs()).collect();
    Ok((first, second, given, sizes, SmallVec::from_slice(strides)))
}

/// See `rivulet.h`.
///
/// # Safety
/// - As for [`indexed`].
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_index(
    views: *const RawView,
    indices: usize,
    sizes: *const i64,
    strides: *const i64,
) -> i32 {
    record(|device, temporaries| {
        // SAFETY: by contract.
        let (out, x, given, sizes, strides) =
            unsafe { indexed(views, indices, sizes, strides, temporaries) }?;
        Ok(ops::index(device, &out, &x, &given, &sizes, &strides)?)
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - As for [`indexed`].
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_index_put(
    views: *const RawView,
    indices: usize,
    sizes: *const i64,
    strides: *const i64,
    accumulate: i32,
) -> i32 {
    record(|device, temporaries| {
        // SAFETY: by contract.
        let (out, source, given, sizes, strides) =
            unsafe { indexed(views, indices, sizes, strides, temporaries) }?;
        Ok(ops::index_put(device, &out, &source, &given, &sizes, &strides, accumulate != 0)?)
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - The views are null or valid during the call.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_attention(
    out: *const RawView,
    logsumexp: *const RawView,
    q: *const RawView,
    k: *const RawView,
    v: *const RawView,
    mask: *const RawView,
    causal: i32,
    scale: f64,
) -> i32 {
    record(|device, temporaries| {
        // SAFETY: by contract.
        let (out, logsumexp, q) = unsafe {
            (required(out, temporaries)?, optional(logsumexp, temporaries)?, required(q, temporaries)?)
        };
        // SAFETY: by contract.
        let (k, v, mask) =
            unsafe { (required(k, temporaries)?, required(v, temporaries)?, optional(mask, temporaries)?) };
        let (logsumexp, mask) = (logsumexp.as_ref(), mask.as_ref());
        Ok(ops::attention(device, &out, logsumexp, &q, &k, &v, mask, causal != 0, scale as f32)?)
    })
}
