//! Softmax and its like, normalisations and running totals: kernels that go over dense rows.

use super::launch::{launch, launch_once, require};
use super::temporary::{Input, Output, Temporary};
use super::view::View;
use super::{DType, no_kernel, refuse};
use crate::Device;
use crate::error::Result;
use crate::ids::Access;
use rivulet_kernels::params::RowParams;
use rivulet_kernels::{Features, HeldRow, Kernel, Norm, Row, RowOp, Scan, ScanOp};
use smallvec::SmallVec;

type Operands<'o, 'b> = SmallVec<[(&'o View<'b>, Access); 6]>;

/// `softmax(x)` along dimension `dim`, or with `log` its logarithm, in float32 and rounded to the type of `out`. Both
/// have the same shape and floating-point types; any strides. A row that is -inf throughout gives NaN. Any thread.
///
/// # Errors
/// [`Error::BadOperand`](crate::Error::BadOperand) where shapes differ or there is no such dimension;
/// [`Error::NoKernel`](crate::Error::NoKernel) for other types; what [`Device::record`] says.
pub fn softmax(device: &Device, log: bool, out: &View<'_>, x: &View<'_>, dim: usize) -> Result<()> {
    let (name, op) = if log { ("log_softmax", RowOp::LogSoftmax) } else { ("softmax", RowOp::Softmax) };
    along(device, name, op, out, &[x], dim)
}

/// The gradient of [`softmax`]'s input: of the gradient `grad` and the result `output` of `softmax`, or with `log` of
/// `log_softmax`, along dimension `dim`. Any thread.
///
/// # Errors
/// As [`softmax`].
pub fn softmax_backward(
    device: &Device,
    log: bool,
    out: &View<'_>,
    grad: &View<'_>,
    output: &View<'_>,
    dim: usize,
) -> Result<()> {
    let (name, op) = if log {
        ("log_softmax_backward", RowOp::LogSoftmaxBackward)
    } else {
        ("softmax_backward", RowOp::SoftmaxBackward)
    };
    along(device, name, op, out, &[grad, output], dim)
}

/// A dense tensor as `[outer, size, inner]` around dimension `dim`.
fn around(shape: &[u64], dim: usize) -> [u64; 3] {
    if shape.is_empty() {
        return [1; 3];
    }
    [shape[..dim].iter().product(), shape[dim], shape[dim + 1..].iter().product()]
}

fn check_rows(name: &'static str, out: &View<'_>, inputs: &[&View<'_>], dim: usize) -> Result<()> {
    out.check(name, "the output")?;
    for (index, input) in inputs.iter().enumerate() {
        input.check(name, "an input")?;
        if input.shape != out.shape {
            let (given, wanted) = (&input.shape, &out.shape);
            return refuse(name, format!("input {index} has shape {given:?}, the output {wanted:?}"));
        }
    }
    if dim >= out.rank().max(1) {
        return refuse(name, format!("dimension {dim} of {}", out.rank()));
    }
    Ok(())
}

fn check_floats(name: &'static str, views: &[&View<'_>]) -> Result<()> {
    match views.iter().find(|view| !view.dtype.is_float()) {
        Some(view) => no_kernel(name, format!("not defined for {}", view.dtype.name())),
        None => Ok(()),
    }
}

/// The kernel for dense rows, and its workgroups.
fn kernel(op: RowOp, input: DType, output: DType, params: &RowParams) -> (Kernel, [u32; 3]) {
    let held = HeldRow::choose(op, input, output, params.size, &params.offsets);
    match held.filter(|_| params.inner == 1) {
        Some(key) => (Kernel::HeldRow(key), key.groups(params.rows)),
        None => {
            let key = Row::new(op, input, output, params.offsets[0], params.size, params.inner);
            (Kernel::Row(key), key.groups(params.rows))
        }
    }
}

fn along(
    device: &Device,
    name: &'static str,
    op: RowOp,
    out: &View<'_>,
    inputs: &[&View<'_>],
    dim: usize,
) -> Result<()> {
    check_rows(name, out, inputs, dim)?;
    check_floats(name, inputs)?;
    check_floats(name, &[out])?;
    if out.count() == 0 {
        return Ok(());
    }
    // All inputs are read as one type; the first one's loses nothing that the second has.
    let wide = inputs.iter().any(|input| input.dtype != inputs[0].dtype);
    let dtype = if wide { DType::F32 } else { inputs[0].dtype };
    require(device, name, Features::of(dtype) | Features::of(out.dtype))?;
    let inputs = inputs
        .iter()
        .map(|input| Input::dense(device, input, dtype))
        .collect::<Result<SmallVec<[_; 2]>>>()?;
    let target = Output::dense(device, out, out.dtype)?;
    {
        let (written, views) = (target.view(), inputs.iter().map(Input::view).collect::<SmallVec<[_; 2]>>());
        let [outer, size, inner] = around(&out.shape, dim);
        let offset = |index: usize| views.get(index).map_or(0, |view| view.first());
        let params = RowParams {
            offsets: [written.first(), offset(0), offset(1), 0],
            rows: (outer * inner) as u32,
            size: size as u32,
            inner: inner as u32,
            ..RowParams::default()
        };
        let (kernel, groups) = kernel(op, dtype, out.dtype, &params);
        let mut operands = Operands::new();
        operands.push((&written, Access::Write));
        operands.extend(views.iter().map(|view| (&**view, Access::Read)));
        launch_once(device, name, &kernel, &operands, bytemuck::bytes_of(&params), groups)?;
    }
    target.finish()
}

/// Normalises the last dimension of `x` to mean 0 and variance 1, `eps` added to the variance, then multiplies by
/// `weight` and adds `bias`, which have one element for each of the last dimension. `mean` and `rstd` get a row's mean
/// and 1 / sqrt(variance + eps); they have an element for each row in row-major order. Floating-point types, any
/// strides; float32 inside. Any thread.
///
/// # Errors
/// As [`softmax`].
#[allow(clippy::too_many_arguments, reason = "PyTorch's native_layer_norm, with its outputs")]
pub fn layer_norm(
    device: &Device,
    out: &View<'_>,
    mean: Option<&View<'_>>,
    rstd: Option<&View<'_>>,
    x: &View<'_>,
    weight: Option<&View<'_>>,
    bias: Option<&View<'_>>,
    eps: f32,
) -> Result<()> {
    Normalisation { device, name: "layer_norm", out, mean, rstd, x, weight, bias, eps }.run(RowOp::LayerNorm)
}

/// Divides the last dimension of `x` by the root of its mean square, to which `eps` is added, then multiplies by
/// `weight`. `rstd` gets 1 / sqrt(mean square + eps). Otherwise as [`layer_norm`].
///
/// # Errors
/// As [`softmax`].
pub fn rms_norm(
    device: &Device,
    out: &View<'_>,
    rstd: Option<&View<'_>>,
    x: &View<'_>,
    weight: Option<&View<'_>>,
    eps: f32,
) -> Result<()> {
    let (mean, bias) = (None, None);
    Normalisation { device, name: "rms_norm", out, mean, rstd, x, weight, bias, eps }.run(RowOp::RmsNorm)
}

struct Normalisation<'n, 'b> {
    device: &'n Device,
    name: &'static str,
    out: &'n View<'b>,
    mean: Option<&'n View<'b>>,
    rstd: Option<&'n View<'b>>,
    x: &'n View<'b>,
    weight: Option<&'n View<'b>>,
    bias: Option<&'n View<'b>>,
    eps: f32,
}

impl Normalisation<'_, '_> {
    /// `family`: what is to be done with the optional operands there are.
    fn run(&self, family: impl Fn(Norm) -> RowOp) -> Result<()> {
        let Self { device, name, out, x, .. } = *self;
        let rank = out.rank();
        if rank == 0 {
            return refuse(name, "the output has no dimension to normalise".to_owned());
        }
        check_rows(name, out, &[x], rank - 1)?;
        let size = out.shape[rank - 1];
        let rows: u64 = out.shape[..rank - 1].iter().product();
        check_floats(name, &[out, x])?;
        for (view, what, wanted) in [
            (self.weight, "the weight", size),
            (self.bias, "the bias", size),
            (self.mean, "the mean", rows),
            (self.rstd, "rstd", rows),
        ] {
            let Some(view) = view else { continue };
            view.check(name, what)?;
            check_floats(name, &[view])?;
            if view.count() != wanted {
                return refuse(name, format!("{what} has {} elements; {wanted} are allowed", view.count()));
            }
        }
        if out.count() == 0 {
            return self.of_nothing();
        }
        // Elements of all inputs are read as one type; where they differ, as float32.
        let differ = self.weight.iter().chain(&self.bias).any(|view| view.dtype != x.dtype);
        let dtype = if differ { DType::F32 } else { x.dtype };
        require(device, name, Features::of(dtype) | Features::of(out.dtype))?;
        let x = Input::dense(device, x, dtype)?;
        let mut factors = SmallVec::<[Input<'_, '_, '_>; 2]>::new();
        for view in self.weight.iter().chain(&self.bias) {
            factors.push(Input::dense(device, view, dtype)?);
        }
        let target = Output::dense(device, out, out.dtype)?;
        let stats_type = self.mean.or(self.rstd).map(|view| view.dtype);
        let norm = Norm { weight: self.weight.is_some(), bias: self.bias.is_some(), stats: stats_type };
        let (mut kept, mut unwanted) = (SmallVec::<[Output<'_, '_, '_>; 2]>::new(), None);
        if let Some(stats) = stats_type {
            let centered = matches!(family(norm), RowOp::LayerNorm(_));
            // The kernel keeps both or neither.
            if centered && (self.mean.is_none() || self.rstd.is_none()) {
                unwanted = Some(Temporary::new(device, stats, rows)?);
            }
            for view in self.mean.iter().chain(&self.rstd) {
                kept.push(Output::dense(device, view, stats)?);
            }
        }
        {
            let unwanted = unwanted.as_ref().zip(stats_type).map(|(made, stats)| made.view(stats, &[rows]));
            let (written, x) = (target.view(), x.view());
            let factors: SmallVec<[_; 2]> = factors.iter().map(Input::view).collect();
            let wanted: SmallVec<[_; 2]> = kept.iter().map(Output::view).collect();
            let mut stats: SmallVec<[&View<'_>; 2]> = wanted.iter().map(|view| &**view).collect();
            if let Some(unwanted) = &unwanted {
                stats.insert(if self.mean.is_some() { 1 } else { 0 }, unwanted);
            }
            let first = |index: usize, views: &[&View<'_>]| views.get(index).map_or(0, |view| view.first());
            let factors: SmallVec<[&View<'_>; 2]> = factors.iter().map(|view| &**view).collect();
            let factor = |there: bool, index: usize| if there { first(index, &factors) } else { 0 };
            let rms = matches!(family(norm), RowOp::RmsNorm(_));
            let params = RowParams {
                offsets: [
                    written.first(),
                    x.first(),
                    factor(norm.weight, 0),
                    factor(norm.bias, usize::from(norm.weight)),
                ],
                rows: rows as u32,
                size: size as u32,
                inner: 1,
                eps: self.eps,
                stats: if rms { [0, first(0, &stats)] } else { [first(0, &stats), first(1, &stats)] },
                ..RowParams::default()
            };
            let (kernel, groups) = kernel(family(norm), dtype, out.dtype, &params);
            let mut operands = Operands::new();
            operands.push((&written, Access::Write));
            operands.push((&x, Access::Read));
            operands.extend(factors.iter().map(|&view| (view, Access::Read)));
            operands.extend(stats.iter().map(|&view| (view, Access::Write)));
            launch_once(device, name, &kernel, &operands, bytemuck::bytes_of(&params), groups)?;
        }
        target.finish()?;
        kept.into_iter().try_for_each(Output::finish)
    }

    /// Rows without elements still have statistics: PyTorch's are 0 and NaN.
    fn of_nothing(&self) -> Result<()> {
        for (view, value) in [(self.mean, 0.0), (self.rstd, f32::NAN)] {
            if let Some(view) = view {
                super::fill(self.device, view, super::Scalar::F32(value))?;
            }
        }
        Ok(())
    }
}

/// Running totals of `x` along dimension `dim`, computed in the type of `out`; maxima and minima take a NaN for more
/// than all else. Same shapes, any strides. Any thread.
///
/// # Errors
/// As [`softmax`].
pub fn scan(device: &Device, op: ScanOp, out: &View<'_>, x: &View<'_>, dim: usize) -> Result<()> {
    scanned(device, op, out, None, x, dim)
}

/// The largest or smallest so far, with its place along `dim` as int64: the last of equal ones. `out` is of the type of
/// `x`; all have one shape, and any strides but for the places, which are dense. Any thread.
///
/// # Errors
/// As [`softmax`].
pub fn scan_with_places(
    device: &Device,
    op: ScanOp,
    out: &View<'_>,
    places: &View<'_>,
    x: &View<'_>,
    dim: usize,
) -> Result<()> {
    scanned(device, op, out, Some(places), x, dim)
}

fn scanned(
    device: &Device,
    op: ScanOp,
    out: &View<'_>,
    places: Option<&View<'_>>,
    x: &View<'_>,
    dim: usize,
) -> Result<()> {
    let name = match op {
        ScanOp::Sum => "cumsum",
        ScanOp::Prod => "cumprod",
        ScanOp::Max => "cummax",
        ScanOp::Min => "cummin",
        ScanOp::LogSumExp => "logcumsumexp",
    };
    check_rows(name, out, &[x], dim)?;
    if op == ScanOp::LogSumExp && !out.dtype.is_float() {
        return no_kernel(name, format!("not defined for {}", out.dtype.name()));
    }
    if let Some(places) = places {
        if !matches!(op, ScanOp::Max | ScanOp::Min) {
            return refuse(name, "it has no places".to_owned());
        }
        out.check_dtype(name, "the output", x.dtype)?;
        places.check_dense(name, "the places")?;
        places.check_dtype(name, "the places", DType::I64)?;
        places.check_shape(name, "the places", &out.shape)?;
    }
    if out.count() == 0 {
        return Ok(());
    }
    require(device, name, Features::of(x.dtype) | Features::of(out.dtype))?;
    let x = Input::dense(device, x, x.dtype)?;
    let target = Output::dense(device, out, out.dtype)?;
    {
        let (written, x) = (target.view(), x.view());
        let [outer, size, inner] = around(&out.shape, dim);
        let params = RowParams {
            offsets: [written.first(), x.first(), places.map_or(0, View::first), 0],
            rows: (outer * inner) as u32,
            size: size as u32,
            inner: inner as u32,
            ..RowParams::default()
        };
        let key = Scan { op, input: x.dtype, output: out.dtype, indices: places.is_some() };
        let mut operands: SmallVec<[(&View<'_>, Access); 3]> = SmallVec::new();
        operands.extend([(&*written, Access::Write), (&*x, Access::Read)]);
        operands.extend(places.map(|places| (places, Access::Write)));
        launch(device, name, &Kernel::Scan(key), &operands, |dispatcher| {
            dispatcher.run(bytemuck::bytes_of(&params), key.groups(params.rows))
        })?;
    }
    target.finish()
}
