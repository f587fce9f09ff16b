//! Matrix products on a Vulkan device.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says by a panic what is wrong")]

mod gpu;

use gpu::{Shape, assert_close, dense, device_or_skip, layouts, numbers, rounded, tensor, unit, zeros};
use rivulet::Device;
use rivulet::ops::{DType, Op, matmul};

/// `[.., m, n]` of `[.., m, k]` and `[.., k, n]`, and for each result the sum of the terms' magnitudes.
fn product(a: &[f64], b: &[f64], m: usize, k: usize, n: usize) -> Vec<(f64, f64)> {
    let batches = a.len() / (m * k).max(1);
    let mut out = Vec::new();
    for z in 0..batches {
        for row in 0..m {
            for column in 0..n {
                let terms = (0..k).map(|i| a[(z * m + row) * k + i] * b[(z * k + i) * n + column]);
                out.push(terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs())));
            }
        }
    }
    out
}

#[track_caller]
fn check(device: &Device, dtype: DType, shapes: [&Shape; 3], what: &str) {
    let [a_shape, b_shape, out_shape] = shapes;
    let rank = a_shape.sizes.len();
    let (m, k, n) = (a_shape.sizes[rank - 2], a_shape.sizes[rank - 1], b_shape.sizes[rank - 1]);
    let (a_values, b_values) = (numbers(dtype, a_shape.count(), 1), numbers(dtype, b_shape.count(), 2));
    let (a, b) = (tensor(device, dtype, a_shape, &a_values), tensor(device, dtype, b_shape, &b_values));
    let out = zeros(device, dtype, out_shape);
    matmul(device, &out.view(), &a.view(), &b.view(), None, 1.0, 0.0, None).unwrap();
    let want = product(&a_values, &b_values, m as usize, k as usize, n as usize);
    for (index, (got, (want, size))) in out.values().iter().zip(&want).enumerate() {
        let bound = 2e-7 * size + unit(dtype) * want.abs();
        assert!((got - want).abs() <= bound, "{what} {shapes:?}, element {index}: {got} for {want}");
    }
}

#[test]
fn factors_and_results_lie_in_any_layout() {
    let device = device_or_skip!();
    for (m, k, n) in [(5, 7, 6), (33, 20, 18), (1, 9, 40), (40, 9, 1), (20, 3, 2), (1, 1, 1)] {
        for a in &layouts(&[m, k]) {
            for b in &layouts(&[k, n]) {
                check(&device, DType::F32, [a, b, &dense(&[m, n])], "f32");
            }
        }
        for out in &layouts(&[m, n]) {
            for dtype in [DType::F32, DType::BF16, DType::F16] {
                check(&device, dtype, [&dense(&[m, k]), &layouts(&[k, n])[2], out], "out");
            }
        }
    }
    gpu::clean();
}

#[test]
fn batches_of_many_dimensions_and_strides_are_walked() {
    let device = device_or_skip!();
    for (out, lead) in [(0, &[4][..]), (1, &[2, 3]), (2, &[2, 3, 2]), (3, &[2, 1, 3, 2])] {
        let sizes = |rows: u64, columns: u64| [lead, &[rows, columns]].concat();
        for layout in 0..5 {
            let (a, b) =
                (layouts(&sizes(6, 5))[layout].clone(), layouts(&sizes(5, 4))[(layout + out) % 5].clone());
            check(&device, DType::F32, [&a, &b, &layouts(&sizes(6, 4))[out]], "batches");
        }
    }
    // One matrix for all batches.
    let (a_values, b_values) = (numbers(DType::F32, 24, 1), numbers(DType::F32, 6, 2));
    let (a, b) = (
        tensor(&device, DType::F32, &dense(&[4, 2, 3]), &a_values),
        tensor(&device, DType::F32, &dense(&[3, 2]), &b_values),
    );
    let out = zeros(&device, DType::F32, &dense(&[4, 2, 2]));
    let repeated = Shape { sizes: vec![4, 3, 2], strides: vec![0, 2, 1], offset: 0 };
    matmul(&device, &out.view(), &a.view(), &b.as_view(&repeated), None, 1.0, 0.0, None).unwrap();
    let want: Vec<f64> = product(&a_values, &b_values.repeat(4), 2, 3, 2).iter().map(|x| x.0).collect();
    assert_close(&out.values(), &want, 1e-6, 1.0, "repeated");
    gpu::clean();
}

#[test]
fn more_batches_rows_or_columns_than_a_dispatch_takes_are_split() {
    let device = device_or_skip!();
    let ones = |shape: &Shape| tensor(&device, DType::F32, shape, &vec![1.0; shape.count()]);
    let counted = |count: u64| (0..count).map(|k| (k % 251) as f64).collect::<Vec<_>>();
    // Batches of one dimension, of two, and of two whose inner one alone is too many.
    for (outer, inner) in [(1, 70_000), (3, 30_000), (2, 66_000)] {
        let (sizes, count) = ([outer, inner, 1, 1], outer * inner);
        // A gap between the outer batches, so that the two are not one.
        let apart = Shape { strides: vec![inner as i64 + 1, 1, 1, 1], ..dense(&sizes) };
        let a = tensor(&device, DType::F32, &apart, &counted(count));
        let (b, out) = (ones(&dense(&[1])), zeros(&device, DType::F32, &dense(&sizes)));
        let b_shape = Shape { strides: vec![0; 4], ..dense(&sizes) };
        matmul(&device, &out.view(), &a.view(), &b.as_view(&b_shape), None, 2.0, 0.0, None).unwrap();
        let want: Vec<f64> = counted(count).iter().map(|x| 2.0 * x).collect();
        assert!(out.values() == want, "{outer} x {inner}");
    }
    // Columns of eight to a group, which is what b along k gives.
    let n = 8 * 65_535 + 100;
    let b = tensor(&device, DType::F32, &Shape { strides: vec![1, 1], ..dense(&[1, n]) }, &counted(n));
    let bias = tensor(&device, DType::F32, &dense(&[n]), &counted(n));
    let wide = Shape { sizes: vec![2, 2], strides: vec![1, 1], offset: 0 };
    let (a, out) = (ones(&dense(&[2])), zeros(&device, DType::F32, &dense(&[2, n])));
    let _ = wide;
    let a_shape = dense(&[2, 1]);
    let bias_shape = Shape { strides: vec![0, 1], ..dense(&[2, n]) };
    matmul(
        &device,
        &out.view(),
        &a.as_view(&a_shape),
        &b.view(),
        Some(&bias.as_view(&bias_shape)),
        1.0,
        1.0,
        None,
    )
    .unwrap();
    let want: Vec<f64> = counted(n).iter().map(|x| 2.0 * x).collect();
    assert!(out.values() == [want.clone(), want].concat());
    gpu::clean();
}

#[test]
fn bias_scales_and_activation_follow_the_sum() {
    let device = device_or_skip!();
    let (m, k, n) = (7, 12, 10);
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for out_layout in 0..5 {
            let (a_values, b_values) = (numbers(dtype, 84, 1), numbers(dtype, 120, 2));
            let bias_values = numbers(dtype, 10, 3);
            let (a, b) = (
                tensor(&device, dtype, &dense(&[m, k]), &a_values),
                tensor(&device, dtype, &layouts(&[k, n])[2], &b_values),
            );
            let bias = tensor(&device, dtype, &dense(&[n]), &bias_values);
            let along = Shape { sizes: vec![m, n], strides: vec![0, 1], offset: 0 };
            let out = zeros(&device, dtype, &layouts(&[m, n])[out_layout]);
            let run = |beta, activation| {
                let bias = bias.as_view(&along);
                matmul(&device, &out.view(), &a.view(), &b.view(), Some(&bias), 0.5, beta, activation)
                    .unwrap();
                out.values()
            };
            let terms = product(&a_values, &b_values, 7, 12, 10);
            for (beta, activation) in
                [(2.0_f32, None), (2.0, Some(Op::Relu)), (0.0, None), (-1.0, Some(Op::Tanh))]
            {
                let want: Vec<f64> = terms
                    .iter()
                    .enumerate()
                    .map(|(index, (sum, _))| 0.5 * sum + f64::from(beta) * bias_values[index % 10])
                    .map(|x| match activation {
                        Some(Op::Relu) => x.max(0.0),
                        Some(_) => x.tanh(),
                        None => x,
                    })
                    .collect();
                assert_close(&run(beta, activation), &want, 2.0 * unit(dtype) + 4e-6, 1.0, "bias");
            }
        }
    }
    // The bias may be the output, and where it is not asked for it is not read.
    let (a, b) = (
        tensor(&device, DType::F32, &dense(&[2, 1]), &[1.0, 2.0]),
        tensor(&device, DType::F32, &dense(&[1, 2]), &[3.0, 4.0]),
    );
    let out = tensor(&device, DType::F32, &dense(&[2, 2]), &[10.0, 20.0, 30.0, 40.0]);
    matmul(&device, &out.view(), &a.view(), &b.view(), Some(&out.view()), 1.0, 1.0, None).unwrap();
    assert_eq!(out.values(), [13.0, 24.0, 36.0, 48.0]);
    let nan = tensor(&device, DType::F32, &dense(&[2, 2]), &[f64::NAN; 4]);
    matmul(&device, &out.view(), &a.view(), &b.view(), Some(&nan.view()), 1.0, 0.0, None).unwrap();
    assert_eq!(out.values(), [3.0, 4.0, 6.0, 8.0]);
    gpu::clean();
}

#[test]
fn a_sum_of_no_terms_is_the_bias_and_no_result_is_nothing() {
    let device = device_or_skip!();
    let empty = zeros(&device, DType::F32, &dense(&[3, 0]));
    let other = zeros(&device, DType::F32, &dense(&[0, 2]));
    let bias = tensor(&device, DType::F32, &dense(&[3, 2]), &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    for shape in &layouts(&[3, 2]) {
        let out = tensor(&device, DType::F32, shape, &[9.0; 6]);
        matmul(&device, &out.view(), &empty.view(), &other.view(), Some(&bias.view()), 1.0, 2.0, None)
            .unwrap();
        assert_eq!(out.values(), [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]);
        matmul(&device, &out.view(), &empty.view(), &other.view(), None, 1.0, 0.0, None).unwrap();
        assert_eq!(out.values(), [0.0; 6]);
    }
    let none = zeros(&device, DType::F32, &dense(&[0, 0]));
    let (a, b) = (zeros(&device, DType::F32, &dense(&[0, 3])), zeros(&device, DType::F32, &dense(&[3, 0])));
    matmul(&device, &none.view(), &a.view(), &b.view(), None, 1.0, 0.0, None).unwrap();
    gpu::clean();
}

#[test]
fn factors_of_other_types_and_shapes_that_do_not_fit_are_refused() {
    let device = device_or_skip!();
    let floats = zeros(&device, DType::F32, &dense(&[2, 2]));
    let halves = zeros(&device, DType::F16, &dense(&[2, 2]));
    let whole = zeros(&device, DType::I64, &dense(&[2, 2]));
    let run = |a: &gpu::Tensor, b: &gpu::Tensor, out: &gpu::Tensor, op| {
        matmul(&device, &out.view(), &a.view(), &b.view(), None, 1.0, 0.0, op)
    };
    assert!(gpu::no_kernel(run(&whole, &whole, &whole, None)).contains("i64 times i64 into i64"));
    assert!(gpu::no_kernel(run(&floats, &halves, &floats, None)).contains("f32 times f16"));
    assert!(gpu::no_kernel(run(&floats, &floats, &floats, Some(Op::Add))).contains("add"));
    let long = zeros(&device, DType::F32, &dense(&[3, 2]));
    assert!(gpu::bad_operand(run(&floats, &long, &floats, None)).contains("[3, 2]"));
    assert!(
        gpu::bad_operand(run(&floats, &zeros(&device, DType::F32, &dense(&[4])), &floats, None))
            .contains("right")
    );
    // Halves are summed in float32 and stored as either.
    let a = tensor(&device, DType::F16, &dense(&[1, 2]), &[2048.0, 1.0]);
    let b = tensor(&device, DType::F16, &dense(&[2, 1]), &[1.0, 1.0]);
    for (dtype, want) in [(DType::F32, 2049.0), (DType::F16, rounded(DType::F16, 2049.0))] {
        let out = zeros(&device, dtype, &dense(&[1, 1]));
        run(&a, &b, &out, None).unwrap();
        assert_eq!(out.values(), [want]);
    }
    gpu::clean();
}

#[test]
fn eight_threads_multiply_by_shared_weights() {
    let device = device_or_skip!();
    let (x, w) = (numbers(DType::F32, 32 * 64, 1), numbers(DType::F32, 64 * 48, 2));
    let weight = tensor(&device, DType::F32, &dense(&[64, 48]), &w);
    let want: Vec<f64> = product(&x, &w, 32, 64, 48).iter().map(|x| x.0).collect();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..5 {
                    let input = tensor(&device, DType::F32, &layouts(&[32, 64])[2], &x);
                    let out = zeros(&device, DType::F32, &layouts(&[32, 48])[3]);
                    matmul(&device, &out.view(), &input.view(), &weight.view(), None, 1.0, 0.0, None)
                        .unwrap();
                    assert_close(&out.values(), &want, 1e-5, 1.0, "a thread's product");
                }
            });
        }
    });
    gpu::clean();
}

#[test]
fn long_sums_are_made_in_parts() {
    let device = device_or_skip!();
    for (lead, m, k, n) in
        [(&[][..], 32, 520, 40), (&[2, 3], 17, 301, 33), (&[], 70, 1000, 66), (&[], 384, 1024, 384)]
    {
        let sizes = |rows: u64, columns: u64| [lead, &[rows, columns]].concat();
        for dtype in [DType::F32, DType::BF16] {
            let [a, b, out] =
                [&layouts(&sizes(m, k))[0], &layouts(&sizes(k, n))[2], &layouts(&sizes(m, n))[0]];
            check(&device, dtype, [a, b, out], "long sums");
        }
    }
    // A bias that is the output, and an activation.
    let (m, k, n) = (20, 400, 36);
    let (a_values, b_values) = (numbers(DType::F32, m * k, 1), numbers(DType::F32, k * n, 2));
    let before = numbers(DType::F32, m * n, 3);
    let a = tensor(&device, DType::F32, &dense(&[m as u64, k as u64]), &a_values);
    let b = tensor(&device, DType::F32, &dense(&[k as u64, n as u64]), &b_values);
    let out = tensor(&device, DType::F32, &dense(&[m as u64, n as u64]), &before);
    matmul(&device, &out.view(), &a.view(), &b.view(), Some(&out.view()), 2.0, -1.0, Some(Op::Relu)).unwrap();
    let sums = product(&a_values, &b_values, m, k, n);
    let want: Vec<f64> = sums.iter().zip(&before).map(|((sum, _), old)| (2.0 * sum - old).max(0.0)).collect();
    assert_close(&out.values(), &want, 1e-4, 1.0, "into the bias");
    gpu::clean();
}
