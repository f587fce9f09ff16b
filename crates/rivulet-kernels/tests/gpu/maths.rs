//! The functions of one and two floats, in units in the last place against float64.

use crate::gpu::{input, output, run};
use crate::need_device;
use crate::values::{as_f32s, f32s};
use bytemuck::bytes_of;
use rivulet_kernels::params::{PointwiseParams, Scalar, scalars};
use rivulet_kernels::{DType, Kernel, Layout, Op, Pointwise};

/// One function: over which arguments, against what, and how close.
struct Case {
    op: Op,
    scalars: &'static [f32],
    low: f32,
    high: f32,
    reference: fn(f64) -> f64,
    ulp: f64,
}

const fn case(op: Op, low: f32, high: f32, ulp: f64, reference: fn(f64) -> f64) -> Case {
    Case { op, scalars: &[], low, high, reference, ulp }
}

const fn with(case: Case, scalars: &'static [f32]) -> Case {
    Case { scalars, ..case }
}

const ANY: f32 = f32::MAX;

fn round_even(x: f64) -> f64 {
    x.round_ties_even()
}

fn log_sigmoid(x: f64) -> f64 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

fn mish(x: f64) -> f64 {
    x * x.exp().ln_1p().tanh()
}

fn elu(x: f64, alpha: f64, scale: f64) -> f64 {
    scale * if x > 0.0 { x } else { alpha * x.exp_m1() }
}

fn relu6(x: f64) -> f64 {
    x.clamp(0.0, 6.0)
}

/// Bounds are those that the WGSL states, where it states one.
const CASES: &[Case] = &[
    case(Op::Neg, -ANY, ANY, 0.0, |x| -x),
    case(Op::Abs, -ANY, ANY, 0.0, f64::abs),
    case(Op::Sign, -ANY, ANY, 0.0, |x| if x == 0.0 { 0.0 } else { x.signum() }),
    case(Op::Square, -1e15, 1e15, 0.5, |x| x * x),
    case(Op::Sqrt, 0.0, ANY, 0.5, f64::sqrt),
    case(Op::Rsqrt, 1e-37, ANY, 2.0, |x| 1.0 / x.sqrt()),
    case(Op::Reciprocal, 1e-37, 1e37, 0.5, |x| 1.0 / x),
    case(Op::Exp, -110.0, 95.0, 2.0, f64::exp),
    case(Op::Exp2, -155.0, 130.0, 2.0, f64::exp2),
    case(Op::Expm1, -20.0, 95.0, 3.0, f64::exp_m1),
    case(Op::Expm1, -1e-3, 1e-3, 3.0, f64::exp_m1),
    case(Op::Log, 0.0, ANY, 2.0, f64::ln),
    case(Op::Log, 0.9, 1.1, 2.0, f64::ln),
    case(Op::Log2, 0.0, ANY, 3.0, f64::log2),
    case(Op::Log2, 0.9, 1.1, 3.0, f64::log2),
    case(Op::Log10, 0.0, ANY, 3.0, f64::log10),
    case(Op::Log10, 0.9, 1.1, 3.0, f64::log10),
    case(Op::Log1p, -0.999, ANY, 3.0, f64::ln_1p),
    case(Op::Log1p, -0.1, 0.1, 3.0, f64::ln_1p),
    case(Op::Sin, -100.0, 100.0, 2.0, f64::sin),
    case(Op::Cos, -100.0, 100.0, 2.0, f64::cos),
    case(Op::Tan, -100.0, 100.0, 4.0, f64::tan),
    case(Op::Asin, -1.0, 1.0, 3.0, f64::asin),
    case(Op::Acos, -1.0, 1.0, 3.0, f64::acos),
    case(Op::Atan, -ANY, ANY, 3.0, f64::atan),
    case(Op::Atan, -3.0, 3.0, 3.0, f64::atan),
    case(Op::Sinh, -92.0, 92.0, 4.0, f64::sinh),
    case(Op::Cosh, -92.0, 92.0, 4.0, f64::cosh),
    case(Op::Tanh, -12.0, 12.0, 4.0, f64::tanh),
    case(Op::Asinh, -ANY, ANY, 4.0, f64::asinh),
    case(Op::Asinh, -2.0, 2.0, 4.0, f64::asinh),
    case(Op::Acosh, 1.0, ANY, 4.0, f64::acosh),
    case(Op::Acosh, 1.0, 3.0, 4.0, f64::acosh),
    case(Op::Atanh, -1.0, 1.0, 4.0, libm::atanh),
    case(Op::Erf, -5.0, 5.0, 2.0, libm::erf),
    case(Op::Erfc, -5.0, 9.5, 8.0, libm::erfc),
    case(Op::Floor, -1e9, 1e9, 0.0, f64::floor),
    case(Op::Ceil, -1e9, 1e9, 0.0, f64::ceil),
    case(Op::Round, -1e4, 1e4, 0.0, round_even),
    case(Op::Trunc, -1e9, 1e9, 0.0, f64::trunc),
    case(Op::Frac, -1e5, 1e5, 0.0, f64::fract),
    case(Op::Relu, -ANY, ANY, 0.0, |x| x.max(0.0)),
    case(Op::Relu6, -10.0, 10.0, 0.0, relu6),
    case(Op::Sigmoid, -80.0, 80.0, 4.0, |x| 1.0 / (1.0 + (-x).exp())),
    case(Op::LogSigmoid, -100.0, 80.0, 5.0, log_sigmoid),
    case(Op::Silu, -80.0, 80.0, 5.0, |x| x / (1.0 + (-x).exp())),
    // Where 1 + erf cancels, PyTorch's formula in float32 has no correct bits either.
    case(Op::Gelu, -1.0, 20.0, 12.0, |x| 0.5 * x * (1.0 + libm::erf(x / std::f64::consts::SQRT_2))),
    case(Op::Mish, -20.0, 50.0, 8.0, mish),
    case(Op::Softsign, -1e6, 1e6, 3.0, |x| x / (1.0 + x.abs())),
    case(Op::Hardswish, -5.0, 5.0, 8.0, |x| x * relu6(x + 3.0) / 6.0),
    case(Op::Selu, -80.0, 80.0, 6.0, |x| elu(x, 1.673_263_242_354_377_2, 1.050_700_987_355_480_5)),
    case(Op::Deg2Rad, -360.0, 360.0, 1.5, f64::to_radians),
    case(Op::Rad2Deg, -7.0, 7.0, 1.5, f64::to_degrees),
    with(case(Op::Softplus, -80.0, 80.0, 6.0, |x| x.exp().ln_1p()), &[1.0, 20.0]),
    with(case(Op::LeakyRelu, -1e6, 1e6, 1.0, |x| if x > 0.0 { x } else { x * 0.25 }), &[0.25]),
    with(case(Op::Elu, -80.0, 80.0, 6.0, |x| elu(x * 1.0, 2.0, 1.5)), &[2.0, 1.5, 1.0]),
    with(case(Op::Clamp, -9.0, 9.0, 0.0, |x| x.clamp(-2.0, 3.0)), &[-2.0, 3.0]),
    with(case(Op::Hardtanh, -9.0, 9.0, 0.0, |x| x.clamp(-2.0, 3.0)), &[-2.0, 3.0]),
    with(case(Op::Threshold, -9.0, 9.0, 0.0, |x| if x > 0.5 { x } else { 7.0 }), &[0.5, 7.0]),
    with(case(Op::Hardshrink, -9.0, 9.0, 0.0, |x| if x.abs() > 0.5 { x } else { 0.0 }), &[0.5]),
];

/// Arguments spread evenly over the range, and evenly over its exponents, with both ends.
fn arguments(low: f32, high: f32) -> Vec<f32> {
    let mut rng = fastrand::Rng::with_seed(7);
    let mut values = vec![low, high];
    let inside = |x: &f32| *x >= low && *x <= high;
    values.extend([0.0_f32, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, 1e-20, -1e-20].into_iter().filter(inside));
    while values.len() < 60_000 {
        let even = low + (high / 2.0 - low / 2.0) * (2.0 * rng.f32());
        let exponent = f32::from_bits(rng.u32(..));
        values.extend([even, exponent].into_iter().filter(inside));
    }
    values
}

fn unary(op: Op, scalar: &[f32], values: &[f32]) -> Vec<f32> {
    let key = Pointwise::new(op, DType::F32, Layout::Linear);
    let count = values.len() as u32;
    let scalar: Vec<_> = scalar.iter().map(|&x| Scalar::F32(x)).collect();
    let params = PointwiseParams { count, scalars: scalars(&scalar), ..Default::default() };
    let (mut x, mut y) = (f32s(values), vec![0; values.len() * 4]);
    run(
        Kernel::Pointwise(key),
        bytes_of(&params),
        key.groups(0, count),
        &mut [output(&mut y), input(&mut x)],
    );
    as_f32s(&y)
}

/// Distance in units in the last place of `want` as float32; results below the normal numbers may be flushed.
fn ulps(got: f32, want: f64) -> f64 {
    if want.is_nan() || got.is_nan() {
        return if want.is_nan() && got.is_nan() { 0.0 } else { f64::INFINITY };
    }
    let rounded = want as f32;
    if rounded.is_infinite() || got.is_infinite() {
        // At the very edge of overflow either answer is within the bound.
        let edge = want.abs() > f64::from(f32::MAX) * (1.0 - 1e-6)
            && want.abs() < f64::from(f32::MAX) * (1.0 + 1e-6);
        return if rounded == got || edge { 0.0 } else { f64::INFINITY };
    }
    let tiny = f64::from(f32::MIN_POSITIVE);
    if want.abs() < tiny && f64::from(got).abs() <= tiny {
        return 0.0;
    }
    let ulp = (want.abs().max(tiny).log2().floor() - 23.0).exp2();
    (f64::from(got) - want).abs() / ulp
}

#[test]
fn functions_of_one_float_keep_their_bounds() {
    need_device!();
    let mut failures = Vec::new();
    for case in CASES {
        let x = arguments(case.low, case.high);
        let y = unary(case.op, case.scalars, &x);
        let error = |x: f32, y: f32| {
            let exact = ulps(y, (case.reference)(f64::from(x)));
            // A device may take a subnormal argument for 0; square roots and logarithms look at its bits.
            let flushed = x.is_subnormal() && !matches!(case.op, Op::Sqrt | Op::Log | Op::Log2 | Op::Log10);
            if flushed { exact.min(ulps(y, (case.reference)(0.0))) } else { exact }
        };
        let errors = x.iter().zip(&y).map(|(&x, &y)| (error(x, y), x, y));
        let worst = errors.fold((-1.0, 0.0, 0.0), |worst, now| if now.0 > worst.0 { now } else { worst });
        println!(
            "{:14} [{:e}, {:e}] {:.2} ULP at {:e}",
            case.op.label(),
            case.low,
            case.high,
            worst.0,
            worst.1
        );
        if worst.0 > case.ulp {
            let want = (case.reference)(f64::from(worst.1));
            failures.push(format!(
                "{} of {:e}: {:e} for {want:e}, {} ULP",
                case.op.label(),
                worst.1,
                worst.2,
                worst.0
            ));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
