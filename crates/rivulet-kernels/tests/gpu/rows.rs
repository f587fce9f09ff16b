//! Rows as a whole: softmax, normalisations, scans.

use crate::gpu::{Operand, input, output, run};
use crate::need_device;
use crate::values::{decode, encode};
use bytemuck::bytes_of;
use rivulet_kernels::params::{FusedParams, RowParams, TailedRowParams};
use rivulet_kernels::{
    DType, Fused, FusedInput, FusedSource, FusedStep, HeldRow, Kernel, Norm, Op, Row, RowOp, RowSum, Scan,
    ScanOp,
};

const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Uneven numbers around 0, as `dtype` holds them.
fn numbers(dtype: DType, count: usize, seed: u64) -> Vec<f64> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let values: Vec<f64> = (0..count).map(|_| rng.f64() * 6.0 - 3.0).collect();
    decode(dtype, &encode(dtype, &values))
}

/// Half a unit in the last place, relative, and what a few float32 operations add.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 6e-4,
        DType::BF16 => 5e-3,
        _ => 4e-6,
    }
}

fn assert_close(got: &[f64], want: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (k, (got, want)) in got.iter().zip(want).enumerate() {
        let close = (got - want).abs() <= tolerance * want.abs().max(0.02)
            || got.is_nan() && want.is_nan()
            || got == want;
        assert!(close, "{what}, element {k}: {got} for {want}");
    }
}

/// Applies `f` to each row of `[outer, size, inner]`.
fn by_rows(x: &[f64], size: usize, inner: usize, f: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
    let mut out = vec![0.0; x.len()];
    for row in 0..x.len() / size {
        let first = row / inner * size * inner + row % inner;
        let values: Vec<_> = (0..size).map(|e| x[first + e * inner]).collect();
        for (e, y) in f(&values).into_iter().enumerate() {
            out[first + e * inner] = y;
        }
    }
    out
}

fn softmax(x: &[f64]) -> Vec<f64> {
    let top = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = x.iter().map(|x| (x - top).exp()).sum();
    x.iter().map(|x| (x - top).exp() / sum).collect()
}

/// Runs a row kernel whose output and inputs begin at uneven places; one byte string for each written operand.
fn apply(key: Row, params: RowParams, outputs: &mut [&mut Vec<u8>], inputs: &[Vec<u8>]) {
    apply_kernel(Kernel::Row(key), key.groups(params.rows), params, outputs, inputs);
}

fn apply_kernel(
    kernel: Kernel,
    groups: [u32; 3],
    params: RowParams,
    outputs: &mut [&mut Vec<u8>],
    inputs: &[Vec<u8>],
) {
    let mut inputs = inputs.to_vec();
    let (out, stats) = outputs.split_first_mut().unwrap();
    let mut operands: Vec<Operand<'_>> = vec![output(out)];
    operands.extend(inputs.iter_mut().map(input));
    operands.extend(stats.iter_mut().map(|stat| output(stat)));
    run(kernel, bytes_of(&params), groups, &mut operands);
}

#[test]
fn softmax_of_any_size_in_any_dimension() {
    need_device!();
    for dtype in FLOATS {
        for (outer, size, inner) in
            [(3, 1, 1), (5, 7, 1), (9, 32, 1), (2, 1000, 1), (3, 257, 1), (2, 33, 5), (1, 300, 3)]
        {
            for op in [RowOp::Softmax, RowOp::LogSoftmax] {
                let offset = 3;
                let count = outer * size * inner;
                let mut x = numbers(dtype, count, 1);
                if size > 2 {
                    x[0] = f64::NEG_INFINITY;
                    x[2 * inner] = decode(dtype, &encode(dtype, &[88.0]))[0];
                }
                let want = by_rows(&x, size, inner, |row| {
                    let y = softmax(row);
                    if op == RowOp::Softmax {
                        y
                    } else {
                        y.iter().zip(row).map(|(y, x)| if *y > 0.0 { y.ln() } else { x - 88.0 }).collect()
                    }
                });
                let key = Row::new(op, dtype, dtype, offset, size as u32, inner as u32);
                let params = RowParams {
                    offsets: [offset, 0, 0, 0],
                    rows: (outer * inner) as u32,
                    size: size as u32,
                    inner: inner as u32,
                    ..Default::default()
                };
                let before = numbers(dtype, count + 9, 2);
                let mut out = encode(dtype, &before);
                apply(key, params, &mut [&mut out], &[encode(dtype, &x)]);
                let got = decode(dtype, &out);
                let what = format!("{op:?} {dtype:?} [{outer}, {size}, {inner}]");
                assert_close(&got[3..3 + count], &want, tolerance(dtype), &what);
                assert_eq!((&got[..3], &got[3 + count..]), (&before[..3], &before[3 + count..]), "{what}");
            }
        }
    }
}

#[test]
fn softmax_of_special_rows() {
    need_device!();
    let (inf, nan) = (f64::INFINITY, f64::NAN);
    let x = [-inf, -inf, -inf, 1.0, nan, 2.0, -inf, 0.0, -inf, 1.0, inf, 2.0, 1e30, 1e30, -1e30];
    let want = [nan, nan, nan, nan, nan, nan, 0.0, 1.0, 0.0, nan, nan, nan, 0.5, 0.5, 0.0];
    let key = Row::new(RowOp::Softmax, DType::F32, DType::F32, 0, 3, 1);
    let params = RowParams { rows: 5, size: 3, inner: 1, ..Default::default() };
    let mut out = vec![0; 60];
    apply(key, params, &mut [&mut out], &[encode(DType::F32, &x)]);
    assert_close(&decode(DType::F32, &out), &want, 0.0, "softmax");
}

#[test]
fn softmax_gradients() {
    need_device!();
    for dtype in FLOATS {
        let (rows, size) = (4, 70);
        let gradient = numbers(dtype, rows * size, 1);
        let y = by_rows(&numbers(DType::F32, rows * size, 2), size, 1, softmax);
        for (op, y) in [
            (RowOp::SoftmaxBackward, y.clone()),
            (RowOp::LogSoftmaxBackward, y.iter().map(|y| y.ln()).collect()),
        ] {
            let y = decode(dtype, &encode(dtype, &y));
            let mut want = vec![0.0; rows * size];
            for (row, want) in want.chunks_mut(size).enumerate() {
                let (g, y) = (&gradient[row * size..][..size], &y[row * size..][..size]);
                let dot: f64 = if op == RowOp::SoftmaxBackward {
                    g.iter().zip(y).map(|(g, y)| g * y).sum()
                } else {
                    g.iter().sum()
                };
                for k in 0..size {
                    want[k] = if op == RowOp::SoftmaxBackward {
                        y[k] * (g[k] - dot)
                    } else {
                        g[k] - y[k].exp() * dot
                    };
                }
            }
            let key = Row::new(op, dtype, dtype, 0, size as u32, 1);
            let params = RowParams { rows: rows as u32, size: size as u32, inner: 1, ..Default::default() };
            let mut out = vec![0; rows * size * dtype.size() as usize];
            apply(key, params, &mut [&mut out], &[encode(dtype, &gradient), encode(dtype, &y)]);
            assert_close(&decode(dtype, &out), &want, tolerance(dtype), &format!("{op:?} {dtype:?}"));
        }
    }
}

/// What a row is shifted and scaled by, in float64: its mean, 0 where it is not centred, and 1 over its deviation.
fn statistics(row: &[f64], rms: bool, eps: f64) -> (f64, f64) {
    let size = row.len() as f64;
    let mean = if rms { 0.0 } else { row.iter().sum::<f64>() / size };
    let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / size;
    (mean, 1.0 / (variance + eps).sqrt())
}

#[test]
fn normalisations_with_every_set_of_operands() {
    need_device!();
    let eps = 1e-5;
    for dtype in FLOATS {
        for (rows, size) in [(5, 7), (3, 64), (2, 768)] {
            // Far from 0, where sums of squares would cancel.
            let x: Vec<_> = numbers(dtype, rows * size, 1).iter().map(|x| x + 20.0).collect();
            let x = decode(dtype, &encode(dtype, &x));
            let (weight, bias) = (numbers(dtype, size, 2), numbers(dtype, size, 3));
            for bits in 0..12 {
                let norm = Norm {
                    weight: bits & 1 != 0,
                    bias: bits & 2 != 0,
                    stats: (bits & 4 != 0).then_some(DType::F32),
                };
                let rms = bits >= 8;
                if rms && norm.bias {
                    continue;
                }
                let (mut want, mut means, mut rstds) = (Vec::new(), Vec::new(), Vec::new());
                for row in x.chunks(size) {
                    let (mean, rstd) = statistics(row, rms, eps);
                    want.extend(row.iter().enumerate().map(|(e, x)| {
                        let y = (x - mean) * rstd;
                        y * if norm.weight { weight[e] } else { 1.0 } + if norm.bias { bias[e] } else { 0.0 }
                    }));
                    means.push(mean);
                    rstds.push(rstd);
                }
                let op = if rms { RowOp::RmsNorm(norm) } else { RowOp::LayerNorm(norm) };
                let key = Row::new(op, dtype, dtype, 0, size as u32, 1);
                let params = RowParams {
                    rows: rows as u32,
                    size: size as u32,
                    inner: 1,
                    eps: eps as f32,
                    ..Default::default()
                };
                let mut inputs = vec![encode(dtype, &x)];
                inputs.extend(norm.weight.then(|| encode(dtype, &weight)));
                inputs.extend(norm.bias.then(|| encode(dtype, &bias)));
                let mut out = vec![0; (rows * size * dtype.size() as usize).next_multiple_of(4)];
                let (mut mean, mut rstd) = (vec![0; rows * 4], vec![0; rows * 4]);
                let mut outputs = vec![&mut out];
                if norm.stats.is_some() {
                    if !rms {
                        outputs.push(&mut mean);
                    }
                    outputs.push(&mut rstd);
                }
                apply(key, params, &mut outputs, &inputs);
                let what = format!("{op:?} {dtype:?} [{rows}, {size}]");
                assert_close(
                    &decode(dtype, &out)[..rows * size],
                    &want,
                    tolerance(dtype) * 3.0 + 5e-5,
                    &what,
                );
                if norm.stats.is_some() {
                    assert_close(&decode(DType::F32, &rstd), &rstds, 1e-5, &what);
                    if !rms {
                        assert_close(&decode(DType::F32, &mean), &means, 1e-6, &what);
                    }
                }
            }
        }
    }
}

/// Keys and the sizes of rows that they serve: few invocations and many, their vectors full and not.
fn held(op: RowOp, dtype: DType) -> Vec<(HeldRow, usize)> {
    let sizes = [4, 300, 1024, 1028, 3000];
    let key = |size: u32| HeldRow::choose(op, dtype, dtype, size, &[4, 8]).map(|key| (key, size as usize));
    sizes.into_iter().filter_map(key).collect()
}

#[test]
fn softmax_of_rows_in_registers() {
    need_device!();
    for dtype in FLOATS {
        for op in [RowOp::Softmax, RowOp::LogSoftmax] {
            for (key, size) in held(op, dtype) {
                let (rows, offset) = (11, 4);
                let mut x = numbers(dtype, rows * size + 8, 1);
                let special = &mut x[8..];
                special[0] = f64::NEG_INFINITY;
                special[1] = decode(dtype, &encode(dtype, &[88.0]))[0];
                special[size..2 * size].fill(f64::NEG_INFINITY);
                special[3 * size - 1] = f64::INFINITY;
                special[3 * size] = f64::NAN;
                let want = by_rows(&x[8..], size, 1, |row| {
                    let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let sum: f64 = row.iter().map(|x| (x - top).exp()).sum();
                    let value = |x: &f64| {
                        if op == RowOp::Softmax { (x - top).exp() / sum } else { x - top - sum.ln() }
                    };
                    row.iter().map(value).collect()
                });
                let params = RowParams {
                    offsets: [offset, 8, 0, 0],
                    rows: rows as u32,
                    size: size as u32,
                    inner: 1,
                    ..Default::default()
                };
                let before = numbers(dtype, rows * size + 8, 2);
                let mut out = encode(dtype, &before);
                let groups = key.groups(params.rows);
                apply_kernel(Kernel::HeldRow(key), groups, params, &mut [&mut out], &[encode(dtype, &x)]);
                let got = decode(dtype, &out);
                let what = format!("{key:?} of {size}");
                let end = 4 + rows * size;
                assert_close(&got[4..end], &want, tolerance(dtype), &what);
                assert_eq!((&got[..4], &got[end..]), (&before[..4], &before[end..]), "{what}");
            }
        }
    }
}

#[test]
fn normalisations_of_rows_in_registers() {
    need_device!();
    let eps = 1e-5;
    for dtype in FLOATS {
        for (rms, weight, bias, stats) in
            [(false, false, false, false), (false, true, true, true), (true, true, false, true)]
        {
            let norm = Norm { weight, bias, stats: stats.then_some(DType::F32) };
            let op = if rms { RowOp::RmsNorm(norm) } else { RowOp::LayerNorm(norm) };
            for (key, size) in held(op, dtype) {
                let rows = 9;
                // Far from 0, where sums of squares would cancel.
                let x: Vec<_> = numbers(dtype, rows * size, 1).iter().map(|x| x + 20.0).collect();
                let x = decode(dtype, &encode(dtype, &x));
                let (weight, bias) = (numbers(dtype, size + 4, 2), numbers(dtype, size + 8, 3));
                let (mut want, mut means, mut rstds) = (Vec::new(), Vec::new(), Vec::new());
                for row in x.chunks(size) {
                    let (mean, rstd) = statistics(row, rms, eps);
                    want.extend(row.iter().enumerate().map(|(e, x)| {
                        let scaled = (x - mean) * rstd * if norm.weight { weight[e + 4] } else { 1.0 };
                        scaled + if norm.bias { bias[e + 8] } else { 0.0 }
                    }));
                    means.push(mean);
                    rstds.push(rstd);
                }
                let params = RowParams {
                    offsets: [4, 0, 4, 8],
                    rows: rows as u32,
                    size: size as u32,
                    inner: 1,
                    eps: eps as f32,
                    ..Default::default()
                };
                let mut inputs = vec![encode(dtype, &x)];
                inputs.extend(norm.weight.then(|| encode(dtype, &weight)));
                inputs.extend(norm.bias.then(|| encode(dtype, &bias)));
                let mut out = vec![0; (rows * size + 4) * dtype.size() as usize];
                let (mut mean, mut rstd) = (vec![0; rows * 4], vec![0; rows * 4]);
                let mut outputs = vec![&mut out];
                if norm.stats.is_some() {
                    if !rms {
                        outputs.push(&mut mean);
                    }
                    outputs.push(&mut rstd);
                }
                apply_kernel(Kernel::HeldRow(key), key.groups(params.rows), params, &mut outputs, &inputs);
                let what = format!("{key:?} of {size}");
                assert_close(&decode(dtype, &out)[4..], &want, tolerance(dtype) * 3.0 + 5e-5, &what);
                if norm.stats.is_some() {
                    assert_close(&decode(DType::F32, &rstd), &rstds, 1e-5, &what);
                    if !rms {
                        assert_close(&decode(DType::F32, &mean), &means, 1e-6, &what);
                    }
                }
            }
        }
    }
}

#[test]
fn scans_along_any_dimension() {
    need_device!();
    for (outer, size, inner) in [(3, 1, 1), (2, 300, 1), (1, 1030, 2), (4, 5, 3)] {
        for (op, join) in [
            (ScanOp::Sum, (|a, b| a + b) as fn(f64, f64) -> f64),
            (ScanOp::Max, f64::max),
            (ScanOp::Min, f64::min),
        ] {
            for (input_type, output_type) in [
                (DType::F32, DType::F32),
                (DType::F16, DType::F32),
                (DType::I64, DType::I64),
                (DType::I8, DType::I64),
                (DType::Bool, DType::I64),
                (DType::BF16, DType::BF16),
            ] {
                let count = outer * size * inner;
                let x: Vec<f64> = numbers(DType::F32, count, 4).iter().map(|x| x.round()).collect();
                let x = decode(input_type, &encode(input_type, &x));
                let want = by_rows(&x, size, inner, |row| {
                    let mut total = None;
                    row.iter()
                        .map(|&x| {
                            let t = total.map_or(x, |t| join(t, x));
                            total = Some(t);
                            t
                        })
                        .collect()
                });
                let want = decode(output_type, &encode(output_type, &want));
                let key = Scan { op, input: input_type, output: output_type, indices: false };
                let params = RowParams {
                    rows: (outer * inner) as u32,
                    size: size as u32,
                    inner: inner as u32,
                    ..Default::default()
                };
                let mut out = vec![0; (count * output_type.size() as usize).next_multiple_of(4)];
                let mut x = encode(input_type, &x);
                run(
                    Kernel::Scan(key),
                    bytes_of(&params),
                    key.groups(params.rows),
                    &mut [output(&mut out), input(&mut x)],
                );
                assert_eq!(
                    decode(output_type, &out)[..count],
                    want,
                    "{op:?} {input_type:?} {output_type:?} [{outer}, {size}, {inner}]"
                );
            }
        }
    }
}

#[test]
fn sums_are_normalised_in_registers_and_kept_where_they_are_wanted() {
    need_device!();
    let eps = 1e-5;
    let norm = Norm { weight: true, bias: false, stats: None };
    for dtype in FLOATS {
        for op in [RowOp::LayerNorm(norm), RowOp::RmsNorm(norm)] {
            for (key, size) in held(op, dtype) {
                for sum in [RowSum::Added, RowSum::Kept] {
                    let (rows, key) = (9, key.of_sum(sum).unwrap());
                    let (x, y) = (numbers(dtype, rows * size, 1), numbers(dtype, rows * size + 12, 2));
                    let weight = numbers(dtype, size + 4, 3);
                    let sums: Vec<f64> = x.iter().zip(&y[12..]).map(|(x, y)| x + y).collect();
                    let mut want = Vec::new();
                    for row in sums.chunks(size) {
                        let (mean, rstd) = statistics(row, matches!(op, RowOp::RmsNorm(_)), eps);
                        want.extend(
                            row.iter().zip(&weight[4..]).map(|(x, weight)| (x - mean) * rstd * weight),
                        );
                    }
                    let params = RowParams {
                        offsets: [4, 0, 4, 0],
                        rows: rows as u32,
                        size: size as u32,
                        inner: 1,
                        eps: eps as f32,
                        groups: 12,
                        places: 8,
                        ..Default::default()
                    };
                    let bytes = dtype.size() as usize;
                    let (mut out, mut kept) =
                        (vec![0; (rows * size + 4) * bytes], vec![0; (rows * size + 8) * bytes]);
                    let mut outputs = vec![&mut out];
                    if sum == RowSum::Kept {
                        outputs.push(&mut kept);
                    }
                    let inputs = [encode(dtype, &x), encode(dtype, &weight), encode(dtype, &y)];
                    let kernel = Kernel::HeldRow(key);
                    apply_kernel(kernel, key.groups(params.rows), params, &mut outputs, &inputs);
                    let what = format!("{key:?} of {size}");
                    assert_close(&decode(dtype, &out)[4..], &want, tolerance(dtype) * 4.0 + 5e-5, &what);
                    if sum == RowSum::Kept {
                        let (before, got) = kept.split_at(8 * bytes);
                        assert!(before.iter().all(|&byte| byte == 0), "{what}");
                        assert_close(&decode(dtype, got), &sums, tolerance(dtype), &what);
                    }
                }
            }
        }
    }
}

/// `where(gelu(row * dense + repeated) > scalar, itself, dense)`, rounded to the type of the row after each step.
fn chain(made: DType, output: DType) -> Fused {
    let [row, dense, repeated] = [0, 1, 2].map(FusedSource::Input);
    let (before, step) =
        (FusedSource::Step, |op, output, sources| FusedStep { op, common: made, output, sources });
    let steps = [
        step(Op::Mul, made, [row, dense, row]),
        step(Op::Add, made, [before(0), repeated, row]),
        step(Op::Gelu, made, [before(1), row, row]),
        step(Op::Gt, DType::Bool, [before(2), FusedSource::Scalar(0), row]),
        step(Op::Where, output, [before(3), before(2), dense]),
    ];
    let input = |dtype, repeated| FusedInput { dtype, repeated };
    Fused::new(&steps, &[input(made, false), input(DType::F32, false), input(made, true)]).unwrap()
}

#[test]
fn chains_behind_rows_give_what_they_give_by_themselves() {
    need_device!();
    let norm = Norm { weight: true, bias: false, stats: None };
    let rows = 9;
    for dtype in FLOATS {
        for op in [RowOp::Softmax, RowOp::LayerNorm(norm), RowOp::RmsNorm(norm)] {
            for (key, size) in held(op, dtype) {
                let output = if size == 300 { DType::F32 } else { dtype };
                let (count, weighted) = (rows * size, op != RowOp::Softmax);
                let x = encode(dtype, &numbers(dtype, count, 1));
                let weight = encode(dtype, &numbers(dtype, size, 2));
                let dense = encode(DType::F32, &numbers(DType::F32, count + 8, 3));
                let repeated = encode(dtype, &numbers(dtype, size + 4, 4));
                let row = RowParams {
                    offsets: [4, 0, 0, 0],
                    rows: rows as u32,
                    size: size as u32,
                    inner: 1,
                    eps: 1e-5,
                    ..Default::default()
                };
                let inputs: Vec<_> = std::iter::once(x).chain(weighted.then_some(weight)).collect();
                let mut made = vec![0; (count + 4) * dtype.size() as usize];
                apply_kernel(Kernel::HeldRow(key), key.groups(row.rows), row, &mut [&mut made], &inputs);
                let (chain, scalar) = (chain(dtype, output), 0.25_f32.to_bits());
                let bytes = (count + 4) * output.size() as usize;
                let (mut want, mut got) = (vec![0; bytes], vec![0; bytes]);
                let mut params = FusedParams { count: count as u32, ..Default::default() };
                params.offsets[..4].copy_from_slice(&[4, 4, 8, 4]);
                (params.periods[3], params.scalars[0]) = (size as u32, scalar);
                let mut given = [made, dense.clone(), repeated.clone()];
                let mut operands = vec![crate::gpu::output(&mut want)];
                operands.extend(given.iter_mut().map(input));
                run(Kernel::Fused(chain), bytes_of(&params), chain.groups(params.count), &mut operands);

                let mut params = TailedRowParams { row, ..Default::default() };
                (params.tail_offsets, params.tail_periods[2]) = ([0, 8, 4, 0], size as u32);
                params.scalars[0] = scalar;
                let mut inputs = [inputs, vec![dense, repeated]].concat();
                let mut operands = vec![crate::gpu::output(&mut got)];
                operands.extend(inputs.iter_mut().map(input));
                let kernel = Kernel::HeldRow(key.then(chain).unwrap());
                run(kernel, bytes_of(&params), key.groups(row.rows), &mut operands);
                assert!(decode(output, &want)[4..].iter().filter(|value| **value != 0.0).count() > count / 2);
                assert!(got == want, "{} of {size}", kernel.label());
            }
        }
    }
}
