//! Reductions on a Vulkan device.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says by a panic what is wrong")]

mod gpu;

use gpu::{
    Shape, Tensor, assert_close, dense, device_or_skip, layouts, numbers, rounded, tensor, unit, zeros,
};
use rivulet::Device;
use rivulet::ops::{DType, ReduceOp, View, reduce};

const OPS: [ReduceOp; 18] = [
    ReduceOp::Sum,
    ReduceOp::Prod,
    ReduceOp::Max,
    ReduceOp::Min,
    ReduceOp::ArgMax,
    ReduceOp::ArgMin,
    ReduceOp::Any,
    ReduceOp::All,
    ReduceOp::CountNonzero,
    ReduceOp::SumAbs,
    ReduceOp::SumSquares,
    ReduceOp::Norm2,
    ReduceOp::RootSum,
    ReduceOp::SumPower,
    ReduceOp::MaxAbs,
    ReduceOp::MinAbs,
    ReduceOp::Var,
    ReduceOp::Std,
];

/// Value and place.
fn reference(op: ReduceOp, x: &[f64], factor: f64) -> (f64, usize) {
    let sum = |f: &dyn Fn(f64) -> f64| x.iter().map(|&x| f(x)).sum::<f64>();
    let squares = || {
        let mean = sum(&|x| x) / x.len() as f64;
        sum(&|x| (x - mean) * (x - mean)) * factor
    };
    let best = |better: &dyn Fn(f64, f64) -> bool| {
        let first = |best: usize, k: usize| {
            let beats = (x[k].is_nan() && !x[best].is_nan()) || better(x[k], x[best]);
            if beats && !(x[best].is_nan()) { k } else { best }
        };
        let place = (1..x.len()).fold(0, first);
        (x[place], place)
    };
    match op {
        ReduceOp::Max | ReduceOp::ArgMax => best(&|a, b| a > b),
        ReduceOp::Min | ReduceOp::ArgMin => best(&|a, b| a < b),
        ReduceOp::Sum => (sum(&|x| x) * factor, 0),
        ReduceOp::Prod => (x.iter().product(), 0),
        ReduceOp::Any => (f64::from(x.iter().any(|&x| x != 0.0)), 0),
        ReduceOp::All => (f64::from(x.iter().all(|&x| x != 0.0)), 0),
        ReduceOp::CountNonzero => (sum(&|x| f64::from(x != 0.0)), 0),
        ReduceOp::SumAbs => (sum(&f64::abs), 0),
        ReduceOp::SumSquares => (sum(&|x| x * x), 0),
        ReduceOp::Norm2 => (sum(&|x| x * x).sqrt(), 0),
        ReduceOp::RootSum => (sum(&|x| x).sqrt(), 0),
        ReduceOp::SumPower => (sum(&|x| x.abs().powf(factor)), 0),
        ReduceOp::MaxAbs => (x.iter().fold(0.0, |a, x| a.max(x.abs())), 0),
        ReduceOp::MinAbs => (x.iter().fold(f64::INFINITY, |a, x| a.min(x.abs())), 0),
        ReduceOp::Var => (squares(), 0),
        ReduceOp::Std => (squares().sqrt(), 0),
    }
}

/// Elements that fall together, for each result, in row-major order of the kept dimensions.
fn sets(sizes: &[u64], reduced: u64, x: &[f64]) -> Vec<Vec<f64>> {
    let is_gone = |dim: &usize| reduced >> dim & 1 == 1;
    let kept: Vec<usize> = (0..sizes.len()).filter(|dim| !is_gone(dim)).collect();
    let kept_sizes: Vec<u64> = kept.iter().map(|&dim| sizes[dim]).collect();
    let mut sets = vec![Vec::new(); kept_sizes.iter().product::<u64>() as usize];
    for (k, &x) in x.iter().enumerate() {
        let at = gpu::place(sizes, k);
        let at: Vec<usize> = kept.iter().map(|&dim| at[dim]).collect();
        sets[gpu::index(&kept_sizes, &at)].push(x);
    }
    sets
}

/// A tensor for results, and its view with the sizes of the input.
fn results(device: &Device, dtype: DType, layout: usize, sizes: &[u64], reduced: u64) -> (Tensor, Shape) {
    let is_gone = |dim: &usize| reduced >> dim & 1 == 1;
    let kept: Vec<u64> = (0..sizes.len()).filter(|dim| !is_gone(dim)).map(|dim| sizes[dim]).collect();
    let shape = layouts(&kept)[layout].clone();
    let mut strides = shape.strides.iter();
    let full = (0..sizes.len()).map(|dim| if is_gone(&dim) { 0 } else { *strides.next().unwrap() }).collect();
    let full = Shape { sizes: sizes.to_vec(), strides: full, offset: shape.offset };
    (zeros(device, dtype, &shape), full)
}

/// Numbers that `op` is well-behaved on.
fn suited(op: ReduceOp, dtype: DType, count: usize) -> Vec<f64> {
    let values = numbers(dtype, count, 3);
    values
        .iter()
        .enumerate()
        .map(|(k, x)| match op {
            ReduceOp::Prod if dtype.is_float() => {
                if k % 3 == 0 {
                    2.0
                } else if k % 3 == 1 {
                    0.5
                } else {
                    -1.0
                }
            }
            ReduceOp::Prod => {
                if k % 7 == 3 && k < 150 {
                    2.0
                } else {
                    1.0
                }
            }
            ReduceOp::RootSum => x.abs(),
            _ => *x,
        })
        .map(|x| rounded(dtype, x))
        .collect()
}

fn output(op: ReduceOp, dtype: DType) -> DType {
    op.output(dtype)
}

fn check(device: &Device, op: ReduceOp, dtype: DType, shape: &Shape, reduced: u64, layout: usize) {
    let x = suited(op, dtype, shape.count());
    let input = tensor(device, dtype, shape, &x);
    let sets = sets(&shape.sizes, reduced, &x);
    let members = sets.first().map_or(0, Vec::len) as f64;
    let factor = match op {
        ReduceOp::Var | ReduceOp::Std => 1.0 / (members - 1.0),
        ReduceOp::SumPower => 3.0,
        ReduceOp::Sum if dtype.is_float() => 1.0 / members,
        _ => 1.0,
    };
    let out_type = output(op, dtype);
    let (values, values_shape) = results(device, out_type, layout, &shape.sizes, reduced);
    let (places, places_shape) = results(device, DType::I64, layout, &shape.sizes, reduced);
    let values_view = values.as_view(&values_shape);
    let places_view = op.is_arg().then(|| places.as_view(&places_shape));
    reduce(device, op, Some(&values_view), places_view.as_ref(), &input.view(), reduced, factor as f32)
        .unwrap();
    let want: Vec<_> = sets.iter().map(|set| reference(op, set, factor)).collect();
    let what = format!("{op:?} {dtype:?} {shape:?} over {reduced:b} into {layout}");
    let wanted: Vec<f64> = want.iter().map(|want| want.0).collect();
    // Sums that cancel are as exact as their terms.
    let tolerance = unit(out_type) + if op == ReduceOp::Prod { 1e-5 } else { 1e-6 * members.sqrt().max(4.0) };
    let tolerance = if out_type.is_float() { tolerance } else { 0.0 };
    assert_close(&values.values(), &wanted, tolerance, 1.0, &what);
    if op.is_arg() {
        let wanted: Vec<f64> = want.iter().map(|want| want.1 as f64).collect();
        assert_eq!(places.values(), wanted, "{what}");
    }
}

#[test]
fn every_reduction_of_every_layout_over_every_set_of_dimensions() {
    let device = device_or_skip!();
    let sizes = [3, 5, 4];
    for op in OPS {
        for dtype in [DType::F32, DType::F16, DType::I64, DType::Bool] {
            if op.is_float_only() && !dtype.is_float() {
                continue;
            }
            for reduced in 1..8 {
                for (index, shape) in layouts(&sizes).iter().enumerate() {
                    check(&device, op, dtype, shape, reduced, index);
                }
            }
        }
    }
    check(&device, ReduceOp::Sum, DType::F32, &dense(&[]), 0, 0);
    check(&device, ReduceOp::ArgMax, DType::BF16, &dense(&[4, 6]), 0, 0);
    gpu::clean();
}

#[test]
fn long_reductions_are_made_in_chunks_and_are_right() {
    let device = device_or_skip!();
    for op in OPS {
        for dtype in [DType::F32, DType::I64] {
            if op.is_float_only() && !dtype.is_float() {
                continue;
            }
            // One result, few results along rows, and many across.
            check(&device, op, dtype, &dense(&[100_003]), 1, 0);
            check(&device, op, dtype, &layouts(&[3, 30_011])[1], 2, 0);
            check(&device, op, dtype, &dense(&[2_003, 40]), 1, 0);
        }
    }
    gpu::clean();
}

#[test]
fn the_first_of_equals_is_found_and_a_nan_before_all_also_in_chunks() {
    let device = device_or_skip!();
    let count = 50_000;
    let run = |op, values: &[f64]| {
        let x = tensor(&device, DType::F32, &dense(&[count]), values);
        let places = zeros(&device, DType::I64, &dense(&[]));
        let best = zeros(&device, DType::F32, &dense(&[]));
        let over = Shape { sizes: vec![count], strides: vec![0], offset: 0 };
        reduce(&device, op, Some(&best.as_view(&over)), Some(&places.as_view(&over)), &x.view(), 1, 0.0)
            .unwrap();
        (best.values()[0], places.values()[0])
    };
    let mut values: Vec<f64> = (0..count).map(|k| (k % 7) as f64).collect();
    assert_eq!(run(ReduceOp::Max, &values), (6.0, 6.0));
    assert_eq!(run(ReduceOp::ArgMin, &values), (0.0, 0.0));
    (values[40_001], values[33_333], values[49_999]) = (8.0, 8.0, 8.0);
    assert_eq!(run(ReduceOp::ArgMax, &values), (8.0, 33_333.0));
    (values[30_000], values[45_000]) = (f64::NAN, f64::NAN);
    for op in [ReduceOp::ArgMax, ReduceOp::ArgMin] {
        let (best, place) = run(op, &values);
        assert!(best.is_nan() && place == 30_000.0, "{op:?} {best} at {place}");
    }
    gpu::clean();
}

#[test]
fn variances_far_from_0_do_not_cancel() {
    let device = device_or_skip!();
    for count in [300_u64, 60_000] {
        let values: Vec<f64> = (0..count).map(|k| 10_000.0 + (k % 5) as f64).collect();
        let x = tensor(&device, DType::F32, &dense(&[count]), &values);
        let out = zeros(&device, DType::F32, &dense(&[]));
        let over = Shape { sizes: vec![count], strides: vec![0], offset: 0 };
        reduce(&device, ReduceOp::Var, Some(&out.as_view(&over)), None, &x.view(), 1, 1.0 / count as f32)
            .unwrap();
        assert_close(&out.values(), &[2.0], 1e-3, 1.0, "variance");
    }
    gpu::clean();
}

#[test]
fn many_dimensions_that_cannot_be_joined_are_reduced() {
    let device = device_or_skip!();
    let sizes = [2, 3, 2, 3, 2, 2, 3, 2, 2, 2];
    let count = sizes.iter().product::<u64>() as usize;
    let x: Vec<f64> = (0..count).map(|k| ((k * 7919) % 1009) as f64).collect();
    let input = tensor(&device, DType::F32, &dense(&sizes), &x);
    for reduced in [0b10_1010_1010_u64, 0b01_0101_0101] {
        for (op, layout) in [(ReduceOp::Sum, 0), (ReduceOp::ArgMax, 2)] {
            let (values, values_shape) = results(&device, DType::F32, layout, &sizes, reduced);
            let (places, places_shape) = results(&device, DType::I64, 0, &sizes, reduced);
            let places_view = op.is_arg().then(|| places.as_view(&places_shape));
            let values_view = values.as_view(&values_shape);
            reduce(&device, op, Some(&values_view), places_view.as_ref(), &input.view(), reduced, 1.0)
                .unwrap();
            let want: Vec<_> = sets(&sizes, reduced, &x).iter().map(|set| reference(op, set, 1.0)).collect();
            assert_eq!(values.values(), want.iter().map(|want| want.0).collect::<Vec<_>>());
            if op.is_arg() {
                assert_eq!(places.values(), want.iter().map(|want| want.1 as f64).collect::<Vec<_>>());
            }
        }
    }
    gpu::clean();
}

#[test]
fn other_types_of_results_and_sets_without_elements() {
    let device = device_or_skip!();
    let over = |sizes: &[u64]| Shape { sizes: sizes.to_vec(), strides: vec![1, 0], offset: 0 };
    let x = tensor(&device, DType::U8, &dense(&[2, 3]), &[200.0, 100.0, 7.0, 0.0, 1.0, 0.0]);
    for (op, dtype, want) in [
        (ReduceOp::Sum, DType::F32, [307.0, 1.0]),
        (ReduceOp::Sum, DType::I32, [307.0, 1.0]),
        (ReduceOp::Any, DType::U8, [1.0, 1.0]),
        (ReduceOp::All, DType::Bool, [1.0, 0.0]),
        (ReduceOp::CountNonzero, DType::I64, [3.0, 1.0]),
    ] {
        let out = zeros(&device, dtype, &dense(&[2]));
        reduce(&device, op, Some(&out.as_view(&over(&[2, 3]))), None, &x.view(), 2, 1.0).unwrap();
        assert_eq!(out.values(), want, "{op:?} {dtype:?}");
    }
    let empty = zeros(&device, DType::F32, &dense(&[2, 0]));
    for (op, factor, want) in [
        (ReduceOp::Sum, 1.0, 0.0),
        (ReduceOp::Prod, 1.0, 1.0),
        (ReduceOp::Sum, f32::INFINITY, f64::NAN),
        (ReduceOp::Var, f32::INFINITY, f64::NAN),
        (ReduceOp::Max, 1.0, f64::NEG_INFINITY),
    ] {
        let out = zeros(&device, DType::F32, &dense(&[2]));
        reduce(&device, op, Some(&out.as_view(&over(&[2, 0]))), None, &empty.view(), 2, factor).unwrap();
        assert_close(&out.values(), &[want; 2], 0.0, 0.0, &format!("{op:?}"));
    }
    let none = zeros(&device, DType::F32, &dense(&[0]));
    let nothing = zeros(&device, DType::F32, &dense(&[0, 3]));
    reduce(&device, ReduceOp::Sum, Some(&none.as_view(&over(&[0, 3]))), None, &nothing.view(), 2, 1.0)
        .unwrap();
    gpu::clean();
}

#[test]
fn what_does_not_fit_is_refused() {
    let device = device_or_skip!();
    let x = zeros(&device, DType::I32, &dense(&[4]));
    let (out, long) = (zeros(&device, DType::F32, &dense(&[4])), zeros(&device, DType::I64, &dense(&[5])));
    let run = |op, values: Option<&View<'_>>, places: Option<&View<'_>>| {
        reduce(&device, op, values, places, &x.view(), 1, 1.0)
    };
    assert!(gpu::no_kernel(run(ReduceOp::Var, Some(&out.view()), None)).contains("Var"));
    assert!(gpu::bad_operand(run(ReduceOp::Max, None, Some(&long.view()))).contains("[5]"));
    assert!(gpu::bad_operand(run(ReduceOp::Sum, None, None)).contains("neither"));
    let over = Shape { sizes: vec![1 << 16, 1 << 16], strides: vec![0, 0], offset: 0 };
    let huge = reduce(&device, ReduceOp::Sum, Some(&out.as_view(&over)), None, &x.as_view(&over), 3, 1.0);
    assert!(gpu::no_kernel(huge).contains("4294967296"));
}
