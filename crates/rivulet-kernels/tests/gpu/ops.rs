//! Ops of two and three operands, the special values, and integers.

use crate::gpu::{Operand, input, output, run};
use crate::need_device;
use crate::values::{as_f32s, decode, encode, f32s};
use bytemuck::bytes_of;
use rivulet_kernels::params::{PointwiseParams, Scalar, scalars};
use rivulet_kernels::{DType, Kernel, Layout, Op, Pointwise};

/// An op, what it should give, and how far from it relatively.
type Binary<'a> = (Op, &'a dyn Fn(f32, f32) -> f32, f32);
type Unary = (Op, fn(f32) -> f32);
type Integers = (Op, fn(i64, i64) -> i64);

/// Runs a kernel over dense operands and returns the output's bytes.
fn apply(key: Pointwise, scalar: &[Scalar], count: usize, inputs: &[Vec<u8>]) -> Vec<u8> {
    let params = PointwiseParams { count: count as u32, scalars: scalars(scalar), ..Default::default() };
    let size = count * key.output.size() as usize;
    let mut out = vec![0; size.next_multiple_of(4)];
    let mut inputs = inputs.to_vec();
    let mut operands: Vec<Operand<'_>> = vec![output(&mut out)];
    operands.extend(inputs.iter_mut().map(input));
    run(Kernel::Pointwise(key), bytes_of(&params), key.groups(0, count as u32), &mut operands);
    out.truncate(size);
    out
}

fn floats(op: Op, inputs: &[&[f32]]) -> Vec<f32> {
    let key = Pointwise::new(op, DType::F32, Layout::Linear);
    let bytes: Vec<_> = inputs.iter().map(|x| f32s(x)).collect();
    let out = apply(key, &[], inputs[0].len(), &bytes);
    if key.output == DType::Bool { out.into_iter().map(f32::from).collect() } else { as_f32s(&out) }
}

/// Every pair of these.
fn pairs(values: &[f32]) -> (Vec<f32>, Vec<f32>) {
    values.iter().flat_map(|&a| values.iter().map(move |&b| (a, b))).unzip()
}

const SPECIAL: &[f32] = &[
    0.0,
    -0.0,
    1.0,
    -1.0,
    2.0,
    -2.0,
    0.5,
    -3.0,
    3.5,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    1e30,
    -1e-30,
    7.0,
];

/// Same value, same sign of zero, NaN where the other is.
fn same(a: f32, b: f32, tolerance: f32) -> bool {
    a.is_nan() && b.is_nan()
        || a == b && a.is_sign_negative() == b.is_sign_negative()
        || a != 0.0 && (a - b).abs() <= tolerance * b.abs()
}

fn max_nan(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() { f32::NAN } else { a.max(b) }
}

fn python_remainder(a: f32, b: f32) -> f32 {
    let r = a % b;
    if r != 0.0 && (r < 0.0) != (b < 0.0) { r + b } else { r }
}

/// PyTorch's div_floor_floating.
fn div_floor(a: f32, b: f32) -> f32 {
    if b == 0.0 {
        return a / b;
    }
    let r = a % b;
    let mut q = (a - r) / b;
    if r != 0.0 && (b < 0.0) != (r < 0.0) {
        q -= 1.0;
    }
    if q == 0.0 {
        return 0.0_f32.copysign(a / b);
    }
    let whole = q.floor();
    if q - whole > 0.5 { whole + 1.0 } else { whole }
}

#[test]
fn binary_ops_treat_special_values_as_ieee_and_pytorch() {
    need_device!();
    let (a, b) = pairs(SPECIAL);
    let truth = |x: bool| f32::from(u8::from(x));
    let cases: &[Binary<'_>] = &[
        (Op::Add, &|a, b| a + b, 0.0),
        (Op::Sub, &|a, b| a - b, 0.0),
        (Op::Mul, &|a, b| a * b, 0.0),
        (Op::Div, &|a, b| a / b, 0.0),
        (Op::DivTrunc, &|a, b| (a / b).trunc(), 0.0),
        (Op::DivFloor, &div_floor, 0.0),
        (Op::Fmod, &|a, b| a % b, 0.0),
        (Op::Remainder, &python_remainder, 0.0),
        (Op::Pow, &f32::powf, 3e-7),
        (Op::Maximum, &|a, b| max_nan(a, b) + 0.0, 0.0),
        (Op::Atan2, &f32::atan2, 4e-7),
        (Op::Copysign, &f32::copysign, 0.0),
        (Op::Hypot, &f32::hypot, 3e-7),
        (Op::Eq, &|a, b| truth(a == b), 0.0),
        (Op::Ne, &|a, b| truth(a != b), 0.0),
        (Op::Lt, &|a, b| truth(a < b), 0.0),
        (Op::Le, &|a, b| truth(a <= b), 0.0),
        (Op::Gt, &|a, b| truth(a > b), 0.0),
        (Op::Ge, &|a, b| truth(a >= b), 0.0),
        (Op::LogicalAnd, &|a, b| truth(a != 0.0 && b != 0.0), 0.0),
        (Op::LogicalOr, &|a, b| truth(a != 0.0 || b != 0.0), 0.0),
        (Op::LogicalXor, &|a, b| truth((a != 0.0) != (b != 0.0)), 0.0),
    ];
    for (op, want, tolerance) in cases {
        let got = floats(*op, &[&a, &b]);
        for (k, &got) in got.iter().enumerate() {
            let want = want(a[k], b[k]);
            // Which zero of +0 and -0 is the larger is nobody's promise.
            let zeros = *op == Op::Maximum && got == 0.0 && want == 0.0;
            assert!(
                zeros || same(got, want, *tolerance),
                "{} of {} and {}: {got} for {want}",
                op.label(),
                a[k],
                b[k]
            );
        }
    }
    for (op, pick) in [(Op::Fmax, f32::max as fn(f32, f32) -> f32), (Op::Fmin, f32::min)] {
        let got = floats(op, &[&a, &b]);
        for (k, &got) in got.iter().enumerate() {
            let want = pick(a[k], b[k]);
            assert!(
                got == want || got.is_nan() && want.is_nan(),
                "{} of {} and {}: {got}",
                op.label(),
                a[k],
                b[k]
            );
        }
    }
}

#[test]
fn functions_of_special_values() {
    need_device!();
    let cases: &[Unary] = &[
        (Op::Exp, f32::exp),
        (Op::Expm1, f32::exp_m1),
        (Op::Log, f32::ln),
        (Op::Log2, f32::log2),
        (Op::Log10, f32::log10),
        (Op::Log1p, f32::ln_1p),
        (Op::Sqrt, f32::sqrt),
        (Op::Rsqrt, |x| 1.0 / x.sqrt()),
        (Op::Sin, f32::sin),
        (Op::Cos, f32::cos),
        (Op::Tan, f32::tan),
        (Op::Asin, f32::asin),
        (Op::Acos, f32::acos),
        (Op::Atan, f32::atan),
        (Op::Sinh, f32::sinh),
        (Op::Cosh, f32::cosh),
        (Op::Tanh, f32::tanh),
        (Op::Asinh, f32::asinh),
        (Op::Acosh, f32::acosh),
        (Op::Atanh, |x| libm::atanh(f64::from(x)) as f32),
        (Op::Erf, libm::erff),
        (Op::Erfc, libm::erfcf),
        (Op::Relu, |x| if x.is_nan() { x } else { x.max(0.0) }),
        (Op::Sign, |x| if x == 0.0 || x.is_nan() { 0.0 } else { x.signum() }),
        (Op::IsNan, |x| f32::from(u8::from(x.is_nan()))),
        (Op::IsInf, |x| f32::from(u8::from(x.is_infinite()))),
        (Op::IsFinite, |x| f32::from(u8::from(x.is_finite()))),
        (Op::LogicalNot, |x| f32::from(u8::from(x == 0.0))),
        (Op::Signbit, |x| f32::from(u8::from(x.is_sign_negative()))),
        (Op::Sigmoid, |x| 1.0 / (1.0 + (-x).exp())),
    ];
    let x = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1.0, -1.0, -2.0, 1e5, 1e-40];
    for (op, want) in cases {
        for (&x, got) in x.iter().zip(floats(*op, &[&x])) {
            let want = want(x);
            let flushed = want.abs() < f32::MIN_POSITIVE
                && got.abs() < f32::MIN_POSITIVE
                && (x.abs() < 1e-38 && x != 0.0);
            let zero = want == 0.0
                && got == 0.0
                && matches!(op, Op::Log | Op::Log2 | Op::Log10 | Op::Sign | Op::Acos | Op::Acosh | Op::Relu);
            let huge = x.abs() == 1e5
                && matches!(op, Op::Sin | Op::Cos | Op::Tan)
                && (got - want).abs() < 4e-7 * want.abs().max(1.0);
            assert!(
                flushed || zero || huge || same(got, want, 1e-6),
                "{} of {x:e}: {got:e} for {want:e}",
                op.label()
            );
        }
    }
}

#[test]
fn powers_and_remainders_of_random_floats() {
    need_device!();
    let mut rng = fastrand::Rng::with_seed(11);
    let count = 40_000;
    let a: Vec<f32> = (0..count)
        .map(|_| (rng.f32() * 40.0 - 20.0).exp2() * if rng.bool() { 1.0 } else { 1.0 + rng.f32() })
        .collect();
    let b: Vec<f32> = (0..count)
        .map(|k| if k % 5 == 0 { rng.i32(-9..10) as f32 } else { rng.f32() * 12.0 - 6.0 })
        .collect();
    for (&got, (&a, &b)) in floats(Op::Pow, &[&a, &b]).iter().zip(a.iter().zip(&b)) {
        let want = f64::from(a).powf(f64::from(b));
        if want.abs() > 1e-37 && want.abs() < 1e38 {
            assert!(
                (f64::from(got) - want).abs() <= 2.0 * want.abs() * 1.2e-7,
                "{a}^{b}: {got:e} for {want:e}"
            );
        }
    }
    for (op, want) in [
        (Op::Fmod, (|a, b| a % b) as fn(f32, f32) -> f32),
        (Op::Remainder, python_remainder),
        (Op::DivFloor, div_floor),
    ] {
        for (&got, (&a, &b)) in floats(op, &[&a, &b]).iter().zip(a.iter().zip(&b)) {
            let want = want(a, b);
            assert!(
                same(got, want, 0.0) || got == want,
                "{} of {a:e} and {b:e}: {got:e} for {want:e}",
                op.label()
            );
        }
    }
}

#[test]
fn quotients_and_roots_are_correctly_rounded() {
    need_device!();
    let mut rng = fastrand::Rng::with_seed(3);
    // Any bits, quotients near ties, and subnormal ones.
    let mut a: Vec<f32> = (0..60_000).map(|_| f32::from_bits(rng.u32(..))).collect();
    let mut b: Vec<f32> = (0..60_000).map(|_| f32::from_bits(rng.u32(..))).collect();
    for _ in 0..20_000 {
        a.push(f32::from_bits(0x3f80_0000 + rng.u32(0..0x80_0000)));
        b.push(f32::from_bits(0x3fff_fff0 + rng.u32(0..16)));
        a.push(f32::from_bits(rng.u32(0..0x0180_0000)));
        b.push(f32::from_bits(0x3f00_0000 + rng.u32(0..0x180_0000)));
    }
    for bits in 1..400 {
        // Halves, quarters and eighths of the least number: ties.
        a.push(f32::from_bits(bits));
        b.push([2.0, 4.0, 8.0][bits as usize % 3]);
    }
    for ((&a, &b), got) in a.iter().zip(&b).zip(floats(Op::Div, &[&a, &b])) {
        assert!(same(got, a / b, 0.0), "{a:e} / {b:e}: {got:e} for {:e}", a / b);
    }
    for (&a, got) in a.iter().zip(floats(Op::Sqrt, &[&a])) {
        assert!(same(got, a.sqrt(), 0.0), "sqrt {a:e}: {got:e} for {:e}", a.sqrt());
    }
}

#[test]
fn what_is_cut_off_is_the_rounded_quotient() {
    need_device!();
    let mut rng = fastrand::Rng::with_seed(17);
    let numbers: Vec<f64> = (0..20_000).map(|_| f64::from(rng.f32()) * 18.0 - 9.0).collect();
    let mut moved = 0;
    for (dtype, digits) in [(DType::BF16, 8), (DType::F16, 11)] {
        let (a, b) = (encode(dtype, &numbers[..10_000]), encode(dtype, &numbers[10_000..]));
        let key = Pointwise::new(Op::DivTruncRounded, dtype, Layout::Linear);
        let got = decode(dtype, &apply(key, &[], 10_000, &[a.clone(), b.clone()]));
        for ((a, b), got) in decode(dtype, &a).into_iter().zip(decode(dtype, &b)).zip(got) {
            // Subnormal quotients round otherwise, to the same whole number, which is 0; larger ones than 2^digits are
            // whole before they are cut off.
            let q = f64::from(a as f32 / b as f32);
            let unit = 2.0_f64.powi(q.abs().log2().floor() as i32 + 1 - digits);
            let want = ((q / unit).round_ties_even() * unit).trunc();
            assert!(got == want || (got.is_infinite() && q.abs() > 6e4), "{a} / {b}: {got} for {want}");
            moved += u32::from(want != q.trunc());
        }
    }
    assert!(moved > 20, "only {moved} quotients reach the next whole number by rounding");
}

#[test]
fn angles_far_out_are_reduced_exactly() {
    need_device!();
    let mut rng = fastrand::Rng::with_seed(5);
    let x: Vec<f32> =
        (0..20_000).map(|_| (rng.f32() * 127.0).exp2() * if rng.bool() { 1.0 } else { -1.0 }).collect();
    let (sines, cosines) = (floats(Op::Sin, &[&x]), floats(Op::Cos, &[&x]));
    for (k, &x) in x.iter().enumerate() {
        let (sin, cos) = f64::from(x).sin_cos();
        assert!((f64::from(sines[k]) - sin).abs() < 1.8e-7, "sin {x:e}: {} for {sin}", sines[k]);
        assert!((f64::from(cosines[k]) - cos).abs() < 1.8e-7, "cos {x:e}: {} for {cos}", cosines[k]);
    }
}

#[test]
fn integers_wrap_and_divide_as_in_pytorch() {
    need_device!();
    let edge = [0.0, 1.0, -1.0, 2.0, 3.0, -3.0, 7.0, -7.0, 100.0, -128.0, 127.0, 5.0];
    let (a, b): (Vec<f64>, Vec<f64>) = edge.iter().flat_map(|&a| edge.iter().map(move |&b| (a, b))).unzip();
    let cases: &[Integers] = &[
        (Op::Add, |a, b| a + b),
        (Op::Sub, |a, b| a - b),
        (Op::Mul, |a, b| a * b),
        (
            Op::DivFloor,
            |a, b| if b == 0 { a } else { a.div_euclid(b) - i64::from(b < 0 && a.rem_euclid(b) != 0) },
        ),
        (Op::DivTrunc, |a, b| if b == 0 { a } else { a / b }),
        (Op::Fmod, |a, b| if b == 0 { a } else { a % b }),
        (Op::Maximum, |a, b| a.max(b)),
        (Op::Minimum, |a, b| a.min(b)),
        (Op::BitwiseAnd, |a, b| a & b),
        (Op::BitwiseOr, |a, b| a | b),
        (Op::BitwiseXor, |a, b| a ^ b),
        (Op::Eq, |a, b| i64::from(a == b)),
        (Op::Lt, |a, b| i64::from(a < b)),
        (Op::Pow, |a, b| {
            if b < 0 {
                i64::from(a == 1) + if a == -1 { if b % 2 == 0 { 1 } else { -1 } } else { 0 }
            } else {
                a.wrapping_pow(b as u32)
            }
        }),
    ];
    for dtype in [DType::I64, DType::I32, DType::I16, DType::I8, DType::U8] {
        let (x, y) = (encode(dtype, &a), encode(dtype, &b));
        let (held_a, held_b) = (decode(dtype, &x), decode(dtype, &y));
        for (op, want) in cases {
            let key = Pointwise::new(*op, dtype, Layout::Linear);
            let got = apply(key, &[], a.len(), &[x.clone(), y.clone()]);
            // Zero divisors are refused by PyTorch before a kernel runs; here they only may not trap.
            for (k, (&a, &b)) in held_a.iter().zip(&held_b).enumerate() {
                let (a, b) = (a as i64, b as i64);
                let divides = matches!(op, Op::DivFloor | Op::DivTrunc | Op::Fmod);
                if divides && b == 0 {
                    continue;
                }
                let want = want(a, b).to_le_bytes();
                let size = key.output.size() as usize;
                assert_eq!(
                    got[k * size..][..size],
                    want[..size],
                    "{} of {a} and {b} in {dtype:?}",
                    op.label()
                );
            }
        }
        let got = apply(
            Pointwise::new(Op::ShiftLeft, dtype, Layout::Linear).with_scalar(1),
            &[scalar_of(dtype, 3)],
            a.len(),
            std::slice::from_ref(&x),
        );
        let want: Vec<u8> = held_a
            .iter()
            .flat_map(|&a| ((a as i64) << 3).to_le_bytes()[..dtype.size() as usize].to_vec())
            .collect();
        assert_eq!(got, want, "shift in {dtype:?}");
    }
}

fn scalar_of(dtype: DType, x: i32) -> Scalar {
    match dtype {
        DType::I64 => Scalar::I64(i64::from(x)),
        _ if dtype.is_float() => Scalar::F32(x as f32),
        _ => Scalar::I32(x),
    }
}

#[test]
fn scalars_take_either_side_and_masks_take_bools() {
    need_device!();
    for dtype in [DType::F32, DType::F16, DType::I64, DType::I32, DType::I8] {
        let x = encode(dtype, &[1.0, 2.0, 3.0, 4.0, 5.0]);
        let right = apply(
            Pointwise::new(Op::Sub, dtype, Layout::Linear).with_scalar(1),
            &[scalar_of(dtype, 2)],
            5,
            std::slice::from_ref(&x),
        );
        assert_eq!(decode(dtype, &right), [-1.0, 0.0, 1.0, 2.0, 3.0]);
        let left = apply(
            Pointwise::new(Op::Sub, dtype, Layout::Linear).with_scalar(0),
            &[scalar_of(dtype, 2)],
            5,
            std::slice::from_ref(&x),
        );
        assert_eq!(decode(dtype, &left), [1.0, 0.0, -1.0, -2.0, -3.0]);
        let alpha = [scalar_of(dtype, 0), scalar_of(dtype, 3)];
        let sum =
            apply(Pointwise::new(Op::AddAlpha, dtype, Layout::Linear), &alpha, 5, &[x.clone(), x.clone()]);
        assert_eq!(decode(dtype, &sum), [4.0, 8.0, 12.0, 16.0, 20.0]);
        let mut key = Pointwise::new(Op::MaskedFill, dtype, Layout::Linear);
        key.inputs[1] = DType::Bool;
        let filled =
            apply(key, &[scalar_of(dtype, 0), scalar_of(dtype, 9)], 5, &[x.clone(), vec![0, 1, 0, 255, 0]]);
        assert_eq!(decode(dtype, &filled), [1.0, 9.0, 3.0, 9.0, 5.0]);
        let mut key = Pointwise::new(Op::Where, dtype, Layout::Linear).with_scalar(2);
        key.inputs[0] = DType::Bool;
        let chosen = apply(key, &[scalar_of(dtype, 7)], 5, &[vec![1, 0, 1, 0, 1], x.clone()]);
        assert_eq!(decode(dtype, &chosen), [1.0, 7.0, 3.0, 7.0, 5.0]);
    }
    // Mixed types: the mean of what PyTorch promotes.
    let mut key = Pointwise::new(Op::Mul, DType::F32, Layout::Linear);
    key.inputs = [DType::I64, DType::BF16, DType::F32];
    let got =
        apply(key, &[], 3, &[encode(DType::I64, &[2.0, -3.0, 4.0]), encode(DType::BF16, &[0.5, 1.5, -2.0])]);
    assert_eq!(as_f32s(&got), [1.0, -4.5, -8.0]);
}
