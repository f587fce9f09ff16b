//! Reductions over any dimensions, in chunks and not.

use crate::gpu::{Operand, input, output, run};
use crate::need_device;
use crate::values::{decode, encode};
use bytemuck::bytes_of;
use rivulet_kernels::params::ReduceParams;
use rivulet_kernels::{DType, Kernel, Reduce, ReduceOp, ReduceOutput, ReduceThreads};

/// `[a, b, c]`, reduced over the dimensions in `gone`; what stays is dense in order.
fn params(shape: [u32; 3], gone: &[usize]) -> ReduceParams {
    let strides = [shape[1] * shape[2], shape[2], 1];
    let mut p = ReduceParams { kept: 1, count: 1, chunks: 1, scale: 1.0, power: 3.0, ..Default::default() };
    for d in (0..3).rev() {
        if gone.contains(&d) {
            p.shape[p.rank as usize] = shape[d];
            p.strides[p.rank as usize] = strides[d] as i32;
            p.rank += 1;
            p.count *= shape[d];
        } else {
            p.kept_shape[p.kept_rank as usize] = shape[d];
            p.kept_strides[p.kept_rank as usize] = strides[d] as i32;
            p.kept_rank += 1;
            p.kept *= shape[d];
        }
    }
    if p.kept_rank == 0 {
        (p.kept_rank, p.kept_shape[0]) = (1, 1);
    }
    p.chunk = p.count;
    p
}

/// The elements that fall together into each kept place.
fn groups(x: &[f64], p: &ReduceParams) -> Vec<Vec<f64>> {
    let place = |index: u32, rank: u32, shape: &[u32], strides: &[i32]| {
        let mut rest = index;
        (0..rank as usize).fold(0, |at, d| {
            let c = rest % shape[d];
            rest /= shape[d];
            at + (c as usize) * strides[d] as usize
        })
    };
    let each = |o| {
        (0..p.count)
            .map(|r| {
                x[place(o, p.kept_rank, &p.kept_shape, &p.kept_strides)
                    + place(r, p.rank, &p.shape, &p.strides)]
            })
            .collect()
    };
    (0..p.kept).map(each).collect()
}

fn reference(op: ReduceOp, x: &[f64]) -> f64 {
    let sum = |f: fn(f64) -> f64| x.iter().map(|&x| f(x)).sum::<f64>();
    let nan = x.iter().any(|x| x.is_nan());
    let mean = sum(|x| x) / x.len() as f64;
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (x.len() as f64 - 1.0);
    match op {
        ReduceOp::Sum => sum(|x| x),
        ReduceOp::Prod => x.iter().product(),
        ReduceOp::Max | ReduceOp::ArgMax if !nan => x.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        ReduceOp::Min | ReduceOp::ArgMin if !nan => x.iter().copied().fold(f64::INFINITY, f64::min),
        ReduceOp::Max | ReduceOp::ArgMax | ReduceOp::Min | ReduceOp::ArgMin => f64::NAN,
        ReduceOp::Any => f64::from(u8::from(x.iter().any(|&x| x != 0.0))),
        ReduceOp::All => f64::from(u8::from(x.iter().all(|&x| x != 0.0))),
        ReduceOp::CountNonzero => sum(|x| f64::from(u8::from(x != 0.0))),
        ReduceOp::SumAbs => sum(f64::abs),
        ReduceOp::SumSquares => sum(|x| x * x),
        ReduceOp::Norm2 => sum(|x| x * x).sqrt(),
        ReduceOp::RootSum => sum(|x| x).sqrt(),
        ReduceOp::SumPower => sum(|x| x.abs().powi(3)),
        ReduceOp::MaxAbs => x.iter().fold(0.0, |a, x| a.max(x.abs())),
        ReduceOp::MinAbs => x.iter().fold(f64::INFINITY, |a, x| a.min(x.abs())),
        ReduceOp::Var => variance,
        ReduceOp::Std => variance.sqrt(),
    }
}

fn numbers(op: ReduceOp, dtype: DType, count: usize) -> Vec<f64> {
    let mut rng = fastrand::Rng::with_seed(9);
    let values: Vec<f64> = (0..count)
        .map(|_| match op {
            // Products that stay small; roots of what is not negative.
            ReduceOp::Prod => f64::from(if rng.u8(..) < 240 { 1 } else { rng.u8(1..3) }),
            ReduceOp::RootSum => f64::from(rng.u8(0..9)),
            _ if dtype.is_float() => f64::from(rng.i32(-40..41)) / 8.0,
            _ => f64::from(rng.i32(-3..9)),
        })
        .collect();
    decode(dtype, &encode(dtype, &values))
}

fn reduce(key: Reduce, p: &ReduceParams, x: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let results = (p.kept * p.chunks) as usize;
    let mut out = vec![0; (results * key.output.size() as usize).next_multiple_of(4)];
    let (mut places, mut x) = (vec![0; results * 8], encode(key.input, x));
    let mut operands: Vec<Operand<'_>> = Vec::new();
    if key.stores != ReduceOutput::Indices {
        operands.push(output(&mut out));
    }
    if key.stores != ReduceOutput::Values {
        operands.push(output(&mut places));
    }
    operands.push(input(&mut x));
    run(Kernel::Reduce(key), bytes_of(p), key.groups(p.kept, p.chunks), &mut operands);
    let mut values = decode(key.output, &out);
    values.truncate(results);
    (values, decode(DType::I64, &places))
}

#[test]
fn every_reduction_over_every_set_of_dimensions() {
    need_device!();
    for op in ReduceOp::ALL {
        let dtypes = [DType::F32, DType::F16, DType::BF16, DType::I64, DType::I32, DType::U8, DType::Bool];
        for dtype in dtypes.into_iter().filter(|dtype| dtype.is_float() || !op.is_float_only()) {
            for gone in [&[2][..], &[0], &[1], &[0, 2], &[0, 1, 2]] {
                let mut p = params([3, 5, 7], gone);
                if matches!(op, ReduceOp::Var | ReduceOp::Std) {
                    p.scale = 1.0 / (p.count as f32 - 1.0);
                }
                let x = numbers(op, dtype, 105);
                let want: Vec<_> = groups(&x, &p).iter().map(|x| reference(op, x)).collect();
                for threads in [ReduceThreads::One, ReduceThreads::Group] {
                    let key = Reduce::new(op, dtype, ReduceOutput::Values, threads);
                    let (got, _) = reduce(key, &p, &x);
                    let unit = match key.output {
                        DType::F16 => 6e-4,
                        DType::BF16 => 5e-3,
                        DType::F32 => 1e-6,
                        _ => 0.0,
                    };
                    for (got, want) in got.iter().zip(&want) {
                        let what = Kernel::Reduce(key).label();
                        assert!(
                            (got - want).abs() <= unit * want.abs().max(0.1),
                            "{what} over {gone:?}: {got} for {want}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn long_reductions_in_chunks_equal_those_in_one() {
    need_device!();
    let count = 100_003;
    let x: Vec<f64> = (0..count).map(|k| f64::from(k % 17) - 8.0).collect();
    let mut whole = params([1, 1, count], &[0, 1, 2]);
    let want = reference(ReduceOp::Sum, &x);
    let key = Reduce::new(ReduceOp::Sum, DType::F32, ReduceOutput::Values, ReduceThreads::Group);
    assert_eq!(reduce(key, &whole, &x).0, [want]);
    (whole.chunks, whole.chunk) = (16, count.div_ceil(16));
    let (parts, _) = reduce(key, &whole, &x);
    assert_eq!(parts.len(), 16);
    assert_eq!(reduce(key, &params([1, 1, 16], &[0, 1, 2]), &parts).0, [want]);
}

#[test]
fn places_are_the_first_and_nan_wins() {
    need_device!();
    let nan = f64::NAN;
    let x = [1.0, 5.0, 5.0, -2.0, -2.0, 3.0, nan, 9.0, nan, 0.0, -0.0, 0.0];
    for (op, want_places, want) in [
        (ReduceOp::ArgMax, [1.0, 2.0, 0.0, 0.0], [5.0, 3.0, nan, 0.0]),
        (ReduceOp::ArgMin, [0.0, 0.0, 0.0, 0.0], [1.0, -2.0, nan, 0.0]),
    ] {
        for threads in [ReduceThreads::One, ReduceThreads::Group] {
            for stores in [ReduceOutput::Indices, ReduceOutput::Both] {
                let (values, places) =
                    reduce(Reduce::new(op, DType::F32, stores, threads), &params([1, 4, 3], &[2]), &x);
                assert_eq!(places, want_places, "{op:?} {threads:?}");
                if stores == ReduceOutput::Both {
                    assert!(
                        values.iter().zip(want).all(|(a, b)| *a == b || a.is_nan() && b.is_nan()),
                        "{op:?}: {values:?}"
                    );
                }
            }
        }
    }
    // More elements than invocations.
    let mut x: Vec<f64> = (0..2000).map(|k| f64::from(k % 7)).collect();
    (x[777], x[1500]) = (50.0, 50.0);
    let key = Reduce::new(ReduceOp::ArgMax, DType::F16, ReduceOutput::Both, ReduceThreads::Group);
    assert_eq!(reduce(key, &params([1, 1, 2000], &[0, 1, 2]), &x), (vec![50.0], vec![777.0]));
}
