//! Special functions within PyTorch's tolerance for float32, gradients of activations and losses, and integers.

use crate::gpu::{Operand, input, output, run};
use crate::need_device;
use crate::values::{as_f32s, decode, encode, f32s};
use bytemuck::bytes_of;
use rivulet_kernels::params::{PointwiseParams, Scalar, scalars};
use rivulet_kernels::{DType, Kernel, Layout, Op, Pointwise};

fn floats(op: Op, scalar: &[f32], inputs: &[&[f32]]) -> Vec<f32> {
    let key = Pointwise::new(op, DType::F32, Layout::Linear);
    let scalar: Vec<_> = scalar.iter().map(|&x| Scalar::F32(x)).collect();
    let count = inputs[0].len() as u32;
    let params = PointwiseParams { count, scalars: scalars(&scalar), ..Default::default() };
    let mut out = vec![0; inputs[0].len() * 4];
    let mut bytes: Vec<_> = inputs.iter().map(|values| f32s(values)).collect();
    let mut operands: Vec<Operand<'_>> = vec![output(&mut out)];
    operands.extend(bytes.iter_mut().map(input));
    run(Kernel::Pointwise(key), bytes_of(&params), key.groups(0, count), &mut operands);
    as_f32s(&out)
}

fn numbers(low: f32, high: f32, seed: u64) -> Vec<f32> {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..4000).map(|_| low + (high - low) * rng.f32()).collect()
}

/// PyTorch's tolerance for float32, relative to the value and absolute.
#[track_caller]
fn assert_close(op: Op, got: &[f32], want: impl Fn(usize) -> f64, relative: f64) {
    for (k, &got) in got.iter().enumerate() {
        let want = want(k);
        let close = (f64::from(got) - want).abs() <= relative * want.abs() + 1e-5;
        let same = got.is_nan() && want.is_nan() || f64::from(got) == want;
        assert!(close || same, "{}, {k}: {got:e} for {want:e}", op.label());
    }
}

/// Recurrence far up, then the asymptotic series; reflected on the left.
fn digamma(x: f64) -> f64 {
    if x < 0.0 {
        return digamma(1.0 - x) - std::f64::consts::PI / (std::f64::consts::PI * x).tan();
    }
    if x < 40.0 {
        return digamma(x + 1.0) - 1.0 / x;
    }
    let z = 1.0 / (x * x);
    x.ln() - 0.5 / x - z * (1.0 / 12.0 - z * (1.0 / 120.0 - z / 252.0))
}

/// The n-th derivative of digamma, n >= 1, for x > 0.
fn polygamma(n: i32, x: f64) -> f64 {
    let factorial: f64 = (1..=n).map(f64::from).product();
    factorial * zeta(f64::from(n + 1), x) * if n % 2 == 1 { 1.0 } else { -1.0 }
}

fn zeta(s: f64, q: f64) -> f64 {
    let near: f64 = (0..300).map(|k| (q + f64::from(k)).powf(-s)).sum();
    let a = q + 300.0;
    near + a.powf(1.0 - s) / (s - 1.0) + 0.5 * a.powf(-s) + s / 12.0 * a.powf(-s - 1.0)
}

/// The lower incomplete gamma function, regularised, by its series.
fn igamma(a: f64, x: f64) -> f64 {
    let (mut term, mut sum) = (1.0, 1.0);
    for k in 1..2000 {
        term *= x / (a + f64::from(k));
        sum += term;
    }
    (a * x.ln() - x - libm::lgamma(a + 1.0)).exp() * sum
}

#[test]
fn gamma_and_what_derives_from_it() {
    need_device!();
    let x = [numbers(-9.0, 9.0, 1), numbers(0.01, 3.0, 2), vec![0.0, -0.0, -3.0, 10.0, 1e10]].concat();
    let special = |x: f32| if x == 0.0 { -f64::INFINITY.copysign(f64::from(x)) } else { f64::NAN };
    let got = floats(Op::Digamma, &[], &[&x]);
    let whole = |x: f32| x <= 0.0 && x.fract() == 0.0;
    assert_close(
        Op::Digamma,
        &got,
        |k| if whole(x[k]) { special(x[k]) } else { digamma(f64::from(x[k])) },
        2e-6,
    );
    let got = floats(Op::Lgamma, &[], &[&x]);
    assert_close(Op::Lgamma, &got, |k| libm::lgamma(f64::from(x[k])), 1.3e-6);
    let x = numbers(0.01, 9.0, 3);
    for n in 0..5 {
        let got = floats(Op::Polygamma, &[n as f32], &[&x]);
        let want = |k: usize| {
            let x = f64::from(x[k]);
            if n == 0 { digamma(x) } else { polygamma(n, x) }
        };
        assert_close(Op::Polygamma, &got, want, 2e-6);
    }
    let s = numbers(1.1, 12.0, 4);
    assert_close(
        Op::Zeta,
        &floats(Op::Zeta, &[], &[&s, &x]),
        |k| zeta(f64::from(s[k]), f64::from(x[k])),
        2e-6,
    );
    let (a, x) = (numbers(0.001, 9.0, 5), numbers(0.001, 12.0, 6));
    let lower = |k: usize| igamma(f64::from(a[k]), f64::from(x[k]));
    assert_close(Op::Igamma, &floats(Op::Igamma, &[], &[&a, &x]), lower, 1.3e-6);
    assert_close(Op::Igammac, &floats(Op::Igammac, &[], &[&a, &x]), |k| 1.0 - lower(k), 1.3e-6);
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let (a, x) = ([0.0, 0.0, 2.0, inf, inf, -1.0, 2.0, nan], [0.0, 1.0, 0.0, 1.0, inf, 1.0, inf, 1.0]);
    let want = [nan, 1.0, 0.0, 0.0, nan, nan, 1.0, nan];
    assert_close(Op::Igamma, &floats(Op::Igamma, &[], &[&a, &x]), |k| f64::from(want[k]), 0.0);
}

#[test]
fn special_functions_of_special_values() {
    need_device!();
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let x = [0.0, 1.0, -1.0, inf, -inf, nan, 2.0];
    for (op, want) in [
        (Op::Erfinv, [0.0, inf, -inf, nan, nan, nan, nan]),
        (Op::Ndtri, [-inf, inf, nan, nan, nan, nan, nan]),
        (Op::Entr, [0.0, 0.0, -inf, -inf, -inf, nan, -1.386_294_4]),
        (Op::Lgamma, [inf, 0.0, inf, inf, inf, nan, 0.0]),
        (Op::I0, [1.0, 1.266_066, 1.266_066, inf, inf, nan, 2.279_585_3]),
        (Op::I1, [0.0, 0.565_159_1, -0.565_159_1, inf, -inf, nan, 1.590_636_9]),
        (Op::I0e, [1.0, 0.465_759_6, 0.465_759_6, 0.0, 0.0, nan, 0.308_508_3]),
        (Op::Sinc, [1.0, 0.0, 0.0, nan, nan, nan, 0.0]),
        (Op::Erfcx, [1.0, 0.427_583_57, 5.008_980_3, 0.0, inf, nan, 0.255_395_68]),
        (Op::LogNdtr, [-std::f32::consts::LN_2, -0.172_753_78, -1.841_021_7, 0.0, -inf, nan, -0.023_012_91]),
    ] {
        assert_close(op, &floats(op, &[], &[&x]), |k| f64::from(want[k]), 1.3e-6);
    }
    let a = [0.0_f32, -0.0, 1.0, 1.0, -1.0, 1e-45, f32::MAX, inf, nan, 0.0, 5.0];
    let b = [1.0_f32, -1.0, 2.0, 0.0, -2.0, -1.0, inf, 0.0, 1.0, -0.0, 5.0];
    let want =
        [1e-45_f32, -1e-45, 1.000_000_1, 0.999_999_94, -1.000_000_1, 0.0, inf, f32::MAX, nan, -0.0, 5.0];
    for (k, (got, want)) in floats(Op::Nextafter, &[], &[&a, &b]).into_iter().zip(want).enumerate() {
        let same = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
        assert!(same, "nextafter({}, {}): {got:e} for {want:e}", a[k], b[k]);
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

#[test]
fn gradients_and_losses() {
    need_device!();
    let [a, b, c] = [1, 2, 3].map(|seed| numbers(-4.0, 4.0, seed));
    let at = |k: usize| (f64::from(a[k]), f64::from(b[k]), f64::from(c[k]));
    type Reference = fn(f64, f64, f64) -> f64;
    let cases: &[(Op, &[f32], Reference)] =
        &[
            (Op::EluBackward, &[9.0, 2.0, 1.5, 0.5], |g, x, _| {
                if x > 0.0 { g * 1.5 } else { g * 0.5 * 3.0 * (x * 0.5).exp() }
            }),
            (Op::EluBackwardResult, &[9.0, 2.0, 1.5, 0.5], |g, y, _| {
                if y > 0.0 { g * 1.5 } else { g * 0.5 * (y + 3.0) }
            }),
            (Op::ShrinkBackward, &[9.0, 0.75], |g, x, _| if x.abs() <= 0.75 { 0.0 } else { g }),
            (Op::LogSigmoidBackward, &[], |g, x, _| g * sigmoid(-x)),
            (Op::PreluWeightBackward, &[], |g, x, _| if x > 0.0 { 0.0 } else { g * x }),
            (Op::PreluBackward, &[], |g, x, w| if x > 0.0 { g } else { g * w }),
            (Op::Glu, &[], |a, b, _| a * sigmoid(b)),
            (Op::GluBackward, &[], |g, a, b| g * a * sigmoid(b) * (1.0 - sigmoid(b))),
            (Op::MseBackward, &[9.0, 2.0], |g, x, y| 2.0 * (x - y) * g),
            (Op::Huber, &[9.0, 0.75], |x, y, _| {
                let d = (x - y).abs();
                if d <= 0.75 { 0.5 * d * d } else { 0.75 * (d - 0.375) }
            }),
            (Op::HuberBackward, &[9.0, 0.5, 0.75], |g, x, y| 0.5 * g * (x - y).clamp(-0.75, 0.75)),
            (Op::SmoothL1Backward, &[9.0, 0.5, 0.75], |g, x, y| 0.5 * g * ((x - y) / 0.75).clamp(-1.0, 1.0)),
            (Op::Addr, &[9.0, 0.5, 2.0], |a, b, c| 0.5 * a + 2.0 * b * c),
            (Op::Logaddexp2, &[], |a, b, _| (a.exp2() + b.exp2()).log2()),
            (Op::Ldexp, &[], |a, b, _| a * b.exp2()),
            (Op::RoundDecimals, &[100.0, 0.0], |a, _, _| (a * 100.0).round() / 100.0),
            (Op::RoundDecimals, &[10.0, 1.0], |a, _, _| (a / 10.0).round() * 10.0),
        ];
    for &(op, scalar, reference) in cases {
        let got = floats(op, scalar, &[&a[..], &b, &c][..op.arity()]);
        let want = |k: usize| {
            let (a, b, c) = at(k);
            reference(a, b, c)
        };
        assert_close(op, &got, want, 2e-6);
    }
    let p = numbers(-0.1, 1.1, 4);
    let inside = |x: f64| 1.0 / (x * (1.0 - x));
    let got = floats(Op::LogitBackward, &[9.0, 0.25], &[&a, &p]);
    let want = |k: usize| {
        let x = f64::from(p[k]);
        if (0.25..=0.75).contains(&x) { f64::from(a[k]) * inside(x) } else { 0.0 }
    };
    assert_close(Op::LogitBackward, &got, want, 2e-6);
    let got = floats(Op::LogitBackward, &[9.0, -1.0], &[&a, &p]);
    let want = |k: usize| {
        let x = f64::from(p[k]);
        if (0.0..=1.0).contains(&x) { f64::from(a[k]) * inside(x) } else { f64::NAN }
    };
    assert_close(Op::LogitBackward, &got, want, 2e-6);
    let got = floats(Op::LogitEps, &[0.25], &[&p]);
    let clamped = |k: usize| f64::from(p[k]).clamp(0.25, 0.75);
    assert_close(Op::LogitEps, &got, |k| (clamped(k) / (1.0 - clamped(k))).ln(), 2e-6);
    let got = floats(Op::Xlog1py, &[], &[&a, &p]);
    assert_close(Op::Xlog1py, &got, |k| f64::from(a[k]) * f64::from(p[k]).ln_1p(), 2e-6);
}

#[test]
fn a_step_at_nan_is_that_below_zero_as_in_pytorch() {
    need_device!();
    let a = [f32::NAN, -1.0, -0.0, 0.0, 1.0, f32::INFINITY, f32::NEG_INFINITY];
    let got = floats(Op::Heaviside, &[], &[&a, &[7.0; 7]]);
    assert_eq!(got, [0.0, 0.0, 7.0, 7.0, 1.0, 1.0, 0.0]);
}

#[test]
fn integers_have_common_multiples_and_steps() {
    need_device!();
    for dtype in [DType::I64, DType::I32, DType::I8] {
        let a: Vec<f64> = (0..200).map(|k| f64::from(k % 19 - 9)).collect();
        let b: Vec<f64> = (0..200).map(|k| f64::from(k % 11 - 5)).collect();
        for op in [Op::Lcm, Op::Heaviside] {
            let key = Pointwise::new(op, dtype, Layout::Linear);
            let params = PointwiseParams { count: 200, ..Default::default() };
            let mut out = vec![0; 200 * dtype.size() as usize];
            let (mut x, mut y) = (encode(dtype, &a), encode(dtype, &b));
            let operands = &mut [output(&mut out), input(&mut x), input(&mut y)];
            run(Kernel::Pointwise(key), bytes_of(&params), key.groups(0, 200), operands);
            for (k, got) in decode(dtype, &out).into_iter().enumerate() {
                let (a, b) = (a[k] as i64, b[k] as i64);
                let want = if op == Op::Heaviside {
                    if a == 0 { b } else { i64::from(a > 0) }
                } else {
                    (1..=a.abs() * b.abs()).find(|m| m % a == 0 && m % b == 0).unwrap_or(0)
                };
                assert_eq!(got, want as f64, "{} of {a} and {b}", op.label());
            }
        }
    }
}
