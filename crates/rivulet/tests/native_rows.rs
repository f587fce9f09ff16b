//! Softmax, normalisations and running totals on a Vulkan device.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says by a panic what is wrong")]

mod gpu;

use gpu::{Shape, assert_close, dense, device_or_skip, layouts, numbers, tensor, unit, zeros};
use rivulet::ops::{DType, ScanOp, layer_norm, rms_norm, scan, softmax, softmax_backward};

const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Applies `row` to each row along `dim` of several tensors of one shape.
fn along(sizes: &[u64], dim: usize, inputs: &[&[f64]], row: impl Fn(&[Vec<f64>]) -> Vec<f64>) -> Vec<f64> {
    let mut out = inputs[0].to_vec();
    let size = sizes.get(dim).copied().unwrap_or(1) as usize;
    let inner = sizes.iter().skip(dim + 1).product::<u64>() as usize;
    for first in 0..out.len() / size.max(1) {
        let at = |e: usize| (first / inner * size + e) * inner + first % inner;
        let rows: Vec<Vec<f64>> =
            inputs.iter().map(|input| (0..size).map(|e| input[at(e)]).collect()).collect();
        for (e, value) in row(&rows).into_iter().enumerate() {
            out[at(e)] = value;
        }
    }
    out
}

fn softmax_of(row: &[f64], log: bool) -> Vec<f64> {
    let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = row.iter().map(|x| (x - top).exp()).sum();
    row.iter().map(|x| if log { x - top - sum.ln() } else { (x - top).exp() / sum }).collect()
}

#[test]
fn softmax_and_its_gradient_along_every_dimension_of_every_layout() {
    let device = device_or_skip!();
    for dtype in FLOATS {
        for sizes in [&[3, 5, 7][..], &[2, 300], &[]] {
            let count = sizes.iter().product::<u64>() as usize;
            let (x, g) = (numbers(dtype, count, 1), numbers(dtype, count, 2));
            for dim in 0..sizes.len().max(1) {
                for (index, shape) in layouts(sizes).iter().enumerate() {
                    for log in [false, true] {
                        let what = format!("{dtype:?} {shape:?} along {dim}, log {log}");
                        let input = tensor(&device, dtype, shape, &x);
                        let out = zeros(&device, dtype, &layouts(sizes)[(index + 2) % 5]);
                        softmax(&device, log, &out.view(), &input.view(), dim).unwrap();
                        let y = out.values();
                        let want = along(sizes, dim, &[&x], |rows| softmax_of(&rows[0], log));
                        assert_close(&y, &want, unit(dtype) + 3e-6, 0.01, &what);

                        let (grad, result) = (
                            tensor(&device, dtype, &layouts(sizes)[(index + 1) % 5], &g),
                            tensor(&device, dtype, shape, &y),
                        );
                        softmax_backward(&device, log, &out.view(), &grad.view(), &result.view(), dim)
                            .unwrap();
                        let want = along(sizes, dim, &[&g, &y], |rows| {
                            let (g, y) = (&rows[0], &rows[1]);
                            let dot: f64 = g.iter().zip(y).map(|(g, y)| if log { *g } else { g * y }).sum();
                            g.iter()
                                .zip(y)
                                .map(|(g, y)| if log { g - y.exp() * dot } else { y * (g - dot) })
                                .collect()
                        });
                        let scale = if log { want.iter().fold(1.0, |a: f64, x| a.max(x.abs())) } else { 0.3 };
                        assert_close(&out.values(), &want, unit(dtype) + 5e-6, scale, &what);
                    }
                }
            }
        }
    }
    // Into another type, in place, and rows of nothing but -inf.
    let x = tensor(&device, DType::F16, &dense(&[2, 3]), &[1.0, 2.0, 3.0, 0.0, 0.0, 0.0]);
    let out = zeros(&device, DType::F32, &dense(&[2, 3]));
    softmax(&device, false, &out.view(), &x.view(), 1).unwrap();
    let want = [softmax_of(&[1.0, 2.0, 3.0], false), vec![1.0 / 3.0; 3]].concat();
    assert_close(&out.values(), &want, 1e-6, 0.1, "half to float");
    softmax(&device, false, &x.view(), &x.view(), 1).unwrap();
    assert_close(&x.values(), &want, 1e-3, 0.1, "in place");
    let infinite = tensor(&device, DType::F32, &dense(&[2]), &[f64::NEG_INFINITY; 2]);
    softmax(&device, false, &infinite.view(), &infinite.view(), 0).unwrap();
    assert!(infinite.values().iter().all(|x| x.is_nan()));
    let none = zeros(&device, DType::F32, &dense(&[3, 0]));
    softmax(&device, false, &none.view(), &none.view(), 1).unwrap();
    gpu::clean();
}

#[test]
fn layers_are_normalised_with_any_set_of_optional_operands() {
    let device = device_or_skip!();
    let (rows, size) = (6_usize, 33_usize);
    let eps = 1e-5;
    for dtype in FLOATS {
        // Weights of the same type, and of float32 beside halves.
        for factors in [dtype, DType::F32] {
            for (index, shape) in layouts(&[2, 3, 33]).iter().enumerate() {
                let x_values = numbers(dtype, rows * size, 1);
                let (w_values, b_values) = (numbers(factors, size, 2), numbers(factors, size, 3));
                let x = tensor(&device, dtype, shape, &x_values);
                let w = tensor(&device, factors, &layouts(&[33])[index], &w_values);
                let b = tensor(&device, factors, &dense(&[33]), &b_values);
                for bits in 0..16 {
                    let given = |bit: usize| bits >> bit & 1 == 1;
                    let (mean, rstd) = (
                        zeros(&device, DType::F32, &dense(&[2, 3, 1])),
                        zeros(&device, DType::F32, &layouts(&[2, 3])[index]),
                    );
                    let out = zeros(&device, dtype, &layouts(&[2, 3, 33])[(index + 1) % 5]);
                    let (wv, bv, mv, rv) = (w.view(), b.view(), mean.view(), rstd.view());
                    let (wv, bv, mv, rv) = (
                        given(0).then_some(&wv),
                        given(1).then_some(&bv),
                        given(2).then_some(&mv),
                        given(3).then_some(&rv),
                    );
                    for rms in [false, true] {
                        if rms && (given(1) || given(2)) {
                            continue;
                        }
                        if rms {
                            rms_norm(&device, &out.view(), rv, &x.view(), wv, eps).unwrap();
                        } else {
                            layer_norm(&device, &out.view(), mv, rv, &x.view(), wv, bv, eps).unwrap();
                        }
                        let (mut want, mut means, mut rstds) = (Vec::new(), Vec::new(), Vec::new());
                        for row in x_values.chunks(size) {
                            let center = if rms { 0.0 } else { row.iter().sum::<f64>() / size as f64 };
                            let variance =
                                row.iter().map(|x| (x - center).powi(2)).sum::<f64>() / size as f64;
                            let scale = 1.0 / (variance + f64::from(eps)).sqrt();
                            want.extend(row.iter().enumerate().map(|(e, x)| {
                                (x - center) * scale * if given(0) { w_values[e] } else { 1.0 }
                                    + if given(1) { b_values[e] } else { 0.0 }
                            }));
                            means.push(center);
                            rstds.push(scale);
                        }
                        let what = format!("{dtype:?} {factors:?} {shape:?} {bits:b} rms {rms}");
                        assert_close(&out.values(), &want, unit(dtype) + 4e-6, 1.0, &what);
                        let zero = vec![0.0; rows];
                        if !rms {
                            assert_close(
                                &mean.values(),
                                if given(2) { &means } else { &zero },
                                1e-5,
                                1.0,
                                &what,
                            );
                        }
                        assert_close(&rstd.values(), if given(3) { &rstds } else { &zero }, 1e-5, 1.0, &what);
                    }
                }
            }
        }
    }
    gpu::clean();
}

#[test]
fn running_totals_along_every_dimension_of_every_layout() {
    let device = device_or_skip!();
    for (input, output) in [
        (DType::F32, DType::F32),
        (DType::BF16, DType::BF16),
        (DType::I64, DType::I64),
        (DType::Bool, DType::I64),
        (DType::U8, DType::U8),
        (DType::F16, DType::F32),
    ] {
        for sizes in [&[3, 4, 5][..], &[2, 600], &[]] {
            let count = sizes.iter().product::<u64>() as usize;
            let x: Vec<f64> = numbers(input, count, 1)
                .iter()
                .map(|x| gpu::rounded(input, (x * 4.0).round() / 4.0))
                .collect();
            for op in [ScanOp::Sum, ScanOp::Prod, ScanOp::Max, ScanOp::Min] {
                let x: Vec<f64> = if op == ScanOp::Prod {
                    x.iter().map(|x| if *x > 0.0 { 1.0 } else { 0.0 }).collect()
                } else {
                    x.clone()
                };
                for dim in 0..sizes.len().max(1) {
                    for (index, shape) in layouts(sizes).iter().enumerate() {
                        let given = tensor(&device, input, shape, &x);
                        let out = zeros(&device, output, &layouts(sizes)[(index + 3) % 5]);
                        scan(&device, op, &out.view(), &given.view(), dim).unwrap();
                        let want = along(sizes, dim, &[&x], |rows| {
                            let mut total = None;
                            let join = |a: f64, b: f64| match op {
                                ScanOp::Sum => a + b,
                                ScanOp::Prod => a * b,
                                ScanOp::Max => a.max(b),
                                ScanOp::Min => a.min(b),
                                ScanOp::LogSumExp => a.max(b) + (-(a - b).abs()).exp().ln_1p(),
                            };
                            let mut next = |x: &f64| {
                                total = Some(total.map_or(*x, |total| join(total, *x)));
                                total.unwrap_or_default()
                            };
                            rows[0].iter().map(&mut next).collect()
                        });
                        let want: Vec<f64> = want.iter().map(|x| gpu::rounded(output, *x)).collect();
                        let what = format!("{op:?} {input:?} {shape:?} along {dim}");
                        assert_close(&out.values(), &want, 2.0 * unit(output), 1.0, &what);
                    }
                }
            }
        }
    }
    gpu::clean();
}

#[test]
fn what_rows_cannot_be_is_refused() {
    let device = device_or_skip!();
    let whole = zeros(&device, DType::I32, &dense(&[2, 2]));
    let floats = zeros(&device, DType::F32, &dense(&[2, 2]));
    assert!(
        gpu::no_kernel(softmax(&device, false, &whole.view(), &whole.view(), 0))
            .contains("softmax: not defined for i32")
    );
    assert!(
        gpu::bad_operand(softmax(&device, true, &floats.view(), &floats.view(), 2))
            .contains("dimension 2 of 2")
    );
    let long = zeros(&device, DType::F32, &dense(&[3]));
    let refused =
        layer_norm(&device, &floats.view(), None, None, &floats.view(), Some(&long.view()), None, 0.1);
    assert!(gpu::bad_operand(refused).contains("the weight has 3 elements; 2"));
    let repeated = floats.as_view(&Shape { sizes: vec![2, 3], strides: vec![2, 0], offset: 0 });
    assert!(gpu::bad_operand(scan(&device, ScanOp::Sum, &floats.view(), &repeated, 0)).contains("[2, 3]"));
    assert_eq!(floats.values(), [0.0; 4]);
}
