//! Reductions over any dimensions.

use super::launch::{launch, require};
use super::temporary::{Input, Output, Temporary};
use super::view::View;
use super::{DType, no_kernel, refuse};
use crate::Device;
use crate::error::Result;
use crate::ids::Access;
use rivulet_kernels::params::{MAX_RANK, ReduceParams};
use rivulet_kernels::{Features, Kernel, Reduce, ReduceOp, ReduceOutput, ReduceStage, ReduceThreads};
use smallvec::SmallVec;

const OP: &str = "reduce";

/// Elements for each invocation below which another chunk is not worth its share of the second step.
const LEAST: u64 = 16;
/// Invocations that keep a device busy.
const FILL: u64 = 1 << 16;

type Dims = SmallVec<[(u64, i64); MAX_RANK]>;

/// What a reduction goes over: sizes and strides of what stays and of what goes, outermost first, joined.
struct Plan {
    kept: Dims,
    gone: Dims,
}

/// Reduces `x` along the dimensions whose bits are set in `reduced`. `values` and `places` have the sizes of `x`; their
/// strides along reduced dimensions are ignored. `places`, for [`ReduceOp::ArgMax`] and [`ReduceOp::ArgMin`], are int64
/// and count row-major over the reduced dimensions, in the order of `x`; [`ReduceOp::Max`] and [`ReduceOp::Min`] with
/// places are those. `values` may be of another type than `x`.
///
/// `factor` scales a [`ReduceOp::Sum`] of floats (1 / count for a mean) and a variance (1 / (count - correction)), and is
/// the exponent of [`ReduceOp::SumPower`]. Floats are summed up in float32, each number in one order whatever the number
/// of threads; variances are made in two passes over the elements.
///
/// An empty set of elements gives what PyTorch's identities are: 0, 1, infinities, false, true, NaN for variances. Any
/// thread.
///
/// # Errors
/// [`Error::BadOperand`](crate::Error::BadOperand) where sizes do not fit or there is nothing to store;
/// [`Error::NoKernel`](crate::Error::NoKernel) for types that the op has no kernel for; what [`Device::record`] says.
pub fn reduce(
    device: &Device,
    op: ReduceOp,
    values: Option<&View<'_>>,
    places: Option<&View<'_>>,
    x: &View<'_>,
    reduced: u64,
    factor: f32,
) -> Result<()> {
    let op = match op {
        ReduceOp::Max if places.is_some() => ReduceOp::ArgMax,
        ReduceOp::Min if places.is_some() => ReduceOp::ArgMin,
        other => other,
    };
    check(op, values, places, x)?;
    let is_gone = |dim: usize| dim < 64 && reduced >> dim & 1 == 1;
    // Kept dimensions in the order in which the results lie, which are then dense as often as can be.
    let mut kept: SmallVec<[usize; 8]> = (0..x.rank()).filter(|&dim| !is_gone(dim)).collect();
    if let Some(first) = values.or(places) {
        kept.sort_by_key(|&dim| std::cmp::Reverse(first.strides[dim].unsigned_abs()));
    }
    let mut gone: SmallVec<[usize; 8]> = (0..x.rank()).filter(|&dim| is_gone(dim)).collect();
    if !op.is_arg() {
        // Neighbours follow one another where the order does not matter.
        gone.sort_by_key(|&dim| std::cmp::Reverse(x.strides[dim].unsigned_abs()));
    }
    let results: u64 = kept.iter().map(|&dim| x.shape[dim]).product();
    if results == 0 {
        return Ok(());
    }
    let count: u64 = gone.iter().map(|&dim| x.shape[dim]).product();
    if results.max(count) > i32::MAX as u64 {
        return no_kernel(
            OP,
            format!("{results} results of {count} elements; kernels count to {}", i32::MAX),
        );
    }
    let fits = |dims: &[usize]| joined(x, dims).len() <= MAX_RANK;
    let order: SmallVec<[usize; 8]> = kept.iter().chain(&gone).copied().collect();
    let permuted = x.permuted(&order);
    require(device, OP, Features::of(x.dtype))?;
    let input = Input::new(device, &permuted, x.dtype, count == 0 || (fits(&kept) && fits(&gone)))?;
    let input = input.view();
    let ranks: SmallVec<[usize; 8]> = (0..order.len()).collect();
    let (stay, go) = ranks.split_at(kept.len());
    let plan = Plan { kept: joined(&input, stay), gone: joined(&input, go) };

    let (values, places) = (values.map(|view| view.permuted(&kept)), places.map(|view| view.permuted(&kept)));
    for view in values.iter().chain(&places) {
        view.check(OP, "the output")?;
    }
    let values = match &values {
        Some(view) => Some(Output::dense(device, view, view.dtype)?),
        None => None,
    };
    let places = match &places {
        Some(view) => Some(Output::dense(device, view, DType::I64)?),
        None => None,
    };
    {
        let (values, places) = (values.as_ref().map(Output::view), places.as_ref().map(Output::view));
        let job = Job {
            device,
            op,
            values: values.as_deref(),
            places: places.as_deref(),
            x: &input,
            plan: &plan,
            results,
            count,
            factor,
        };
        job.run()?;
    }
    values.map_or(Ok(()), Output::finish)?;
    places.map_or(Ok(()), Output::finish)
}

fn check(op: ReduceOp, values: Option<&View<'_>>, places: Option<&View<'_>>, x: &View<'_>) -> Result<()> {
    x.check(OP, "the input")?;
    for (view, name) in [(values, "the values"), (places, "the places")] {
        let Some(view) = view else { continue };
        if view.shape != x.shape {
            return refuse(OP, format!("{name} have shape {:?}, the input {:?}", view.shape, x.shape));
        }
    }
    if values.is_none() && places.is_none() {
        return refuse(OP, "neither values nor places to store".to_owned());
    }
    if let Some(places) = places {
        if !op.is_arg() {
            return refuse(OP, format!("{op:?} has no places"));
        }
        if places.dtype != DType::I64 {
            return no_kernel(OP, format!("places of type {}; int64 is allowed", places.dtype.name()));
        }
    }
    if op.is_float_only() && (!x.dtype.is_float() || values.is_some_and(|values| !values.dtype.is_float())) {
        return no_kernel(OP, format!("{op:?} is not defined for {}", x.dtype.name()));
    }
    Ok(())
}

/// Sizes and strides of `dims` of a view, those joined that can be walked as one.
fn joined(view: &View<'_>, dims: &[usize]) -> Dims {
    let mut all = Dims::new();
    for &dim in dims {
        let (size, stride) = (view.shape[dim], view.strides[dim]);
        if size == 1 {
            continue;
        }
        match all.last_mut() {
            Some(outer) if outer.1 == stride.saturating_mul(size as i64) => {
                *outer = (outer.0.saturating_mul(size), stride);
            }
            _ => all.push((size, stride)),
        }
    }
    all
}

/// One reduction whose results are dense.
struct Job<'j, 'd, 'b> {
    device: &'d Device,
    op: ReduceOp,
    values: Option<&'j View<'b>>,
    places: Option<&'j View<'b>>,
    x: &'j View<'b>,
    plan: &'j Plan,
    results: u64,
    count: u64,
    factor: f32,
}

/// What one dispatch stores, and reads beside its input.
#[derive(Clone, Copy)]
struct Step<'s, 'b> {
    op: ReduceOp,
    stage: ReduceStage,
    values: Option<&'s View<'b>>,
    places: Option<&'s View<'b>>,
    /// Sums of squares that are stored, or what is merged beside the input.
    second: Option<&'s View<'b>>,
    x: &'s View<'b>,
    plan: &'s Plan,
    /// Elements of each result in this step.
    count: u64,
    chunks: u64,
    /// Elements of a chunk, of this step or of the one that is merged.
    chunk: u64,
    scale: f32,
}

impl Job<'_, '_, '_> {
    /// Invocations for a result, and the number of chunks that keep the device busy.
    fn shares(&self) -> (ReduceThreads, u64) {
        let threads = threads(self.plan, self.results, self.count);
        let (busy, least) = match threads {
            ReduceThreads::One => (FILL, 4 * LEAST),
            ReduceThreads::Group => (FILL / 256, 256 * LEAST),
        };
        (threads, (busy / self.results).min(self.count / least).max(1))
    }

    fn run(&self) -> Result<()> {
        // Elements that do not exist need no memory.
        let stored = self.values.or(self.places).unwrap_or(self.x);
        let x = if self.count == 0 { &self.x.with_block_of(stored) } else { self.x };
        let (threads, chunks) = self.shares();
        let whole = Step {
            op: self.op,
            stage: ReduceStage::Whole,
            values: self.values,
            places: self.places,
            second: None,
            x,
            plan: self.plan,
            count: self.count,
            chunks: 1,
            chunk: self.count,
            scale: self.factor,
        };
        if chunks == 1 {
            return self.step(&whole, threads);
        }
        let chunk = self.count.div_ceil(chunks);
        let chunks = self.count.div_ceil(chunk);
        let (results, parts) = (self.results, self.results * chunks);
        let merging = Plan {
            kept: SmallVec::from_slice(&[(results, 1)]),
            gone: SmallVec::from_slice(&[(chunks, results as i64)]),
        };
        let last_threads = crate::ops::reduce::threads(&merging, results, chunks);
        let split = Step { chunks, chunk, ..whole };
        let last = Step { plan: &merging, count: chunks, chunks: 1, chunk: chunks, ..whole };
        let native = x.dtype.native().dtype();
        match self.op {
            ReduceOp::ArgMax | ReduceOp::ArgMin => {
                require(self.device, OP, Features::INT64)?;
                let best = Temporary::new(self.device, native, parts)?;
                let at = Temporary::new(self.device, DType::I64, parts)?;
                let (best, at) = (best.view(native, &[parts]), at.view(DType::I64, &[parts]));
                self.step(&Step { values: Some(&best), places: Some(&at), ..split }, threads)?;
                let merge = Step { stage: ReduceStage::Merge, x: &best, second: Some(&at), ..last };
                self.step(&merge, last_threads)
            }
            ReduceOp::Var | ReduceOp::Std => {
                let means = Temporary::new(self.device, DType::F32, parts)?;
                let squares = Temporary::new(self.device, DType::F32, parts)?;
                let (means, squares) = (means.view(DType::F32, &[parts]), squares.view(DType::F32, &[parts]));
                let part =
                    Step { stage: ReduceStage::Part, values: Some(&means), second: Some(&squares), ..split };
                self.step(&part, threads)?;
                let stage = ReduceStage::Merge;
                self.step(&Step { stage, x: &means, second: Some(&squares), chunk, ..last }, last_threads)
            }
            op => {
                let (first, then) = in_two(op);
                let dtype = match op {
                    ReduceOp::Sum | ReduceOp::Prod | ReduceOp::CountNonzero => {
                        self.values.map_or(native, |values| values.dtype.native().dtype())
                    }
                    ReduceOp::Any | ReduceOp::All => DType::I32,
                    _ => native,
                };
                let room = Temporary::new(self.device, dtype, parts)?;
                let room = room.view(dtype, &[parts]);
                let scale = if op == ReduceOp::SumPower { self.factor } else { 1.0 };
                self.step(&Step { op: first, values: Some(&room), scale, ..split }, threads)?;
                let scale = if op == ReduceOp::Sum { self.factor } else { 1.0 };
                self.step(&Step { op: then, x: &room, scale, ..last }, last_threads)
            }
        }
    }

    fn step(&self, step: &Step<'_, '_>, threads: ReduceThreads) -> Result<()> {
        let stores = match (step.values, step.places) {
            (Some(_), Some(_)) => ReduceOutput::Both,
            (None, Some(_)) => ReduceOutput::Indices,
            _ => ReduceOutput::Values,
        };
        // The type of values that are not stored does not matter, but there is one kernel for all only if it is the
        // same.
        let output = step.values.map_or(step.x.dtype, |values| values.dtype);
        let key = Reduce { op: step.op, input: step.x.dtype, output, stores, threads, stage: step.stage };
        let mut operands: SmallVec<[(&View<'_>, Access); 4]> = SmallVec::new();
        operands.extend(step.values.map(|view| (view, Access::Write)));
        operands.extend(step.places.map(|view| (view, Access::Write)));
        if step.stage == ReduceStage::Part {
            operands.extend(step.second.map(|view| (view, Access::Write)));
        }
        operands.push((step.x, Access::Read));
        if step.stage == ReduceStage::Merge {
            operands.extend(step.second.map(|view| (view, Access::Read)));
        }
        let first = |view: Option<&View<'_>>| view.map_or(0, View::first);
        let mut params = ReduceParams {
            kept_shape: [1; MAX_RANK],
            shape: [1; MAX_RANK],
            offsets: [first(step.values), first(step.places), step.x.first(), self.count as u32],
            kept: self.results as u32,
            count: step.count as u32,
            chunk: step.chunk as u32,
            chunks: step.chunks as u32,
            kept_rank: step.plan.kept.len().max(1) as u32,
            rank: step.plan.gone.len().max(1) as u32,
            scale: step.scale,
            power: step.scale,
            ..ReduceParams::default()
        };
        lay(&step.plan.kept, &mut params.kept_shape, &mut params.kept_strides);
        lay(&step.plan.gone, &mut params.shape, &mut params.strides);
        let groups = key.groups(params.kept, params.chunks);
        launch(self.device, OP, &Kernel::Reduce(key), &operands, |dispatcher| {
            dispatcher.run(bytemuck::bytes_of(&params), groups)
        })
    }
}

/// Dimensions as a kernel takes them, innermost first.
fn lay(dims: &Dims, shape: &mut [u32; MAX_RANK], strides: &mut [i32; MAX_RANK]) {
    for (place, &(size, stride)) in dims.iter().rev().enumerate().take(MAX_RANK) {
        (shape[place], strides[place]) = (size as u32, stride as i32);
    }
}

/// What suits `results` of `count` elements each.
fn threads(plan: &Plan, results: u64, count: u64) -> ReduceThreads {
    let stride = |dims: &Dims| dims.last().map_or(1, |dim| dim.1.unsigned_abs());
    let across = results >= 32 && stride(&plan.kept) < stride(&plan.gone);
    if across || count <= 32 { ReduceThreads::One } else { ReduceThreads::Group }
}

/// The op on chunks, and the one on what they give.
fn in_two(op: ReduceOp) -> (ReduceOp, ReduceOp) {
    match op {
        ReduceOp::Norm2 => (ReduceOp::SumSquares, ReduceOp::RootSum),
        ReduceOp::RootSum => (ReduceOp::Sum, ReduceOp::RootSum),
        ReduceOp::CountNonzero | ReduceOp::SumAbs | ReduceOp::SumSquares | ReduceOp::SumPower => {
            (op, ReduceOp::Sum)
        }
        ReduceOp::MaxAbs => (ReduceOp::MaxAbs, ReduceOp::Max),
        ReduceOp::MinAbs => (ReduceOp::MinAbs, ReduceOp::Min),
        other => (other, other),
    }
}
