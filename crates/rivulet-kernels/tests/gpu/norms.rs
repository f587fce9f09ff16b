//! Gradients of normalisations, and normalisations of groups and channels.

use crate::gpu::{Operand, input, output, run};
use crate::need_device;
use crate::values::{decode, encode};
use bytemuck::bytes_of;
use rivulet_kernels::params::{ChannelNormParams, NormColumnsParams, RowParams};
use rivulet_kernels::{ChannelNorm, DType, Kernel, Norm, NormBackward, NormColumns, Row, RowOp, RowStore};

const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

fn numbers(dtype: DType, count: usize, seed: u64) -> Vec<f64> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let values: Vec<f64> = (0..count).map(|_| rng.f64() * 6.0 - 3.0).collect();
    decode(dtype, &encode(dtype, &values))
}

/// Relative to the larger of the value and `scale`.
fn assert_close(got: &[f64], want: &[f64], tolerance: f64, scale: f64, what: &str) {
    assert!(got.len() >= want.len(), "{what}");
    for (k, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= tolerance * want.abs().max(scale), "{what}, {k}: {got} for {want}");
    }
}

fn unit(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 6e-4,
        DType::BF16 => 5e-3,
        _ => 4e-6,
    }
}

/// Runs a kernel that writes its first `results.len()` operands.
fn apply(kernel: Kernel, params: &[u8], groups: [u32; 3], results: &mut [Vec<u8>], inputs: &[Vec<u8>]) {
    let mut inputs = inputs.to_vec();
    let mut operands: Vec<Operand<'_>> = results.iter_mut().map(output).collect();
    operands.extend(inputs.iter_mut().map(input));
    run(kernel, params, groups, &mut operands);
}

fn room(dtype: DType, count: usize) -> Vec<u8> {
    vec![0; (count * dtype.size() as usize).next_multiple_of(4)]
}

#[test]
fn gradients_of_layer_norm_and_rms_norm() {
    need_device!();
    for dtype in FLOATS {
        for (rows, size) in [(1, 5), (7, 33), (300, 64), (3, 768)] {
            for bits in 0..4 {
                let (centered, weighted) = (bits & 1 != 0, bits & 2 != 0);
                let (x, gradient) = (numbers(dtype, rows * size, 1), numbers(dtype, rows * size, 2));
                let weight = numbers(dtype, size, 3);
                let (mut means, mut rstds) = (Vec::new(), Vec::new());
                for row in x.chunks(size) {
                    let mean = if centered { row.iter().sum::<f64>() / size as f64 } else { 0.0 };
                    let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / size as f64;
                    means.push(mean);
                    rstds.push(1.0 / (variance + 1e-5).sqrt());
                }
                let stats = DType::F32;
                let (means, rstds) =
                    (decode(stats, &encode(stats, &means)), decode(stats, &encode(stats, &rstds)));
                let (mut want, mut want_weight, mut want_bias) =
                    (Vec::new(), vec![0.0; size], vec![0.0; size]);
                for row in 0..rows {
                    let at = |e: usize| row * size + e;
                    let z: Vec<f64> = (0..size).map(|e| (x[at(e)] - means[row]) * rstds[row]).collect();
                    let g: Vec<f64> =
                        (0..size).map(|e| gradient[at(e)] * if weighted { weight[e] } else { 1.0 }).collect();
                    let mean_g = if centered { g.iter().sum::<f64>() / size as f64 } else { 0.0 };
                    let mean_gz = g.iter().zip(&z).map(|(g, z)| g * z).sum::<f64>() / size as f64;
                    for e in 0..size {
                        want.push(rstds[row] * (g[e] - mean_g - z[e] * mean_gz));
                        want_weight[e] += gradient[at(e)] * z[e];
                        want_bias[e] += gradient[at(e)];
                    }
                }
                let what = format!("{dtype:?} [{rows}, {size}] centred {centered} weighted {weighted}");
                let key = NormBackward { weight: weighted, stats };
                let op = if centered { RowOp::LayerNormBackward(key) } else { RowOp::RmsNormBackward(key) };
                let key = Row::new(op, dtype, dtype, 0, size as u32, 1);
                let params =
                    RowParams { rows: rows as u32, size: size as u32, inner: 1, ..Default::default() };
                let mut inputs = vec![encode(dtype, &gradient), encode(dtype, &x)];
                inputs.extend(weighted.then(|| encode(dtype, &weight)));
                inputs.extend(centered.then(|| encode(stats, &means)));
                inputs.push(encode(stats, &rstds));
                let mut results = [room(dtype, rows * size)];
                apply(Kernel::Row(key), bytes_of(&params), key.groups(rows as u32), &mut results, &inputs);
                assert_close(&decode(dtype, &results[0]), &want, unit(dtype) * 2.0, 2.0, &what);

                let key = NormColumns {
                    weight: true,
                    bias: weighted,
                    centered,
                    input: dtype,
                    stats,
                    output: DType::F32,
                };
                let chunk = NormColumns::chunk(rows as u32, size as u32, 64);
                let chunks = rows.div_ceil(chunk as usize);
                let params =
                    NormColumnsParams { rows: rows as u32, size: size as u32, chunk, ..Default::default() };
                let mut inputs = vec![encode(dtype, &gradient), encode(dtype, &x)];
                inputs.extend(centered.then(|| encode(stats, &means)));
                inputs.push(encode(stats, &rstds));
                let mut results = vec![room(DType::F32, chunks * size); 1 + usize::from(weighted)];
                apply(
                    Kernel::NormColumns(key),
                    bytes_of(&params),
                    key.groups(size as u32, chunks as u32),
                    &mut results,
                    &inputs,
                );
                for (result, want) in results.iter().zip([&want_weight, &want_bias]) {
                    let parts = decode(DType::F32, result);
                    let sums: Vec<f64> =
                        (0..size).map(|e| parts.iter().skip(e).step_by(size).sum()).collect();
                    assert_close(&sums, want, 1e-6, (rows as f64).sqrt() * 10.0, &what);
                }
            }
        }
    }
}

#[test]
fn a_group_is_normalised_over_its_channels() {
    need_device!();
    let eps = 1e-5;
    for dtype in FLOATS {
        for (samples, groups, channels, places) in [(2, 3, 2, 5), (1, 1, 4, 1), (2, 2, 3, 200)] {
            let (rows, size) = (samples * groups, channels * places);
            let x = numbers(dtype, rows * size, 1);
            let (weight, bias) = (numbers(dtype, groups * channels, 2), numbers(dtype, groups * channels, 3));
            let (mut want, mut means) = (Vec::new(), Vec::new());
            for (row, values) in x.chunks(size).enumerate() {
                let mean = values.iter().sum::<f64>() / size as f64;
                let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / size as f64;
                want.extend(values.iter().enumerate().map(|(e, x)| {
                    let channel = row % groups * channels + e / places;
                    (x - mean) / (variance + eps).sqrt() * weight[channel] + bias[channel]
                }));
                means.push(mean);
            }
            let op = RowOp::GroupNorm(Norm { weight: true, bias: true, stats: Some(DType::F32) });
            let key = Row::new(op, dtype, dtype, 0, size as u32, 1);
            let params = RowParams {
                rows: rows as u32,
                size: size as u32,
                inner: 1,
                eps: eps as f32,
                groups: groups as u32,
                places: places as u32,
                ..Default::default()
            };
            let (mut out, mut mean, mut rstd) =
                (room(dtype, rows * size), room(DType::F32, rows), room(DType::F32, rows));
            let (mut x, mut weight, mut bias) =
                (encode(dtype, &x), encode(dtype, &weight), encode(dtype, &bias));
            run(
                Kernel::Row(key),
                bytes_of(&params),
                key.groups(rows as u32),
                &mut [
                    output(&mut out),
                    input(&mut x),
                    input(&mut weight),
                    input(&mut bias),
                    output(&mut mean),
                    output(&mut rstd),
                ],
            );
            let what = format!("{dtype:?} [{samples}, {groups} x {channels}, {places}]");
            assert_close(&decode(dtype, &out), &want, unit(dtype) * 2.0, 1.0, &what);
            assert_close(&decode(DType::F32, &mean), &means, 1e-6, 1.0, &what);
        }
    }
}

#[test]
fn channels_are_normalised_by_given_statistics() {
    need_device!();
    let eps = 1e-3;
    for dtype in FLOATS {
        for (samples, channels, places) in [(2, 3, 5), (3, 4, 1), (1, 2, 300)] {
            let count = samples * channels * places;
            let x = numbers(dtype, count, 1);
            let [mean, weight, bias] = [2, 3, 4].map(|seed| numbers(dtype, channels, seed));
            let variance: Vec<f64> = numbers(DType::F32, channels, 5).iter().map(|x| x.abs() + 0.1).collect();
            let variance = decode(dtype, &encode(dtype, &variance));
            for given in [true, false] {
                let spread: Vec<f64> =
                    variance.iter().map(|v| if given { *v } else { 1.0 / (v + eps).sqrt() }).collect();
                let spread = decode(dtype, &encode(dtype, &spread));
                let offset = 1;
                let key = ChannelNorm {
                    dtype,
                    stats: dtype,
                    affine: dtype,
                    variance: given,
                    weight: true,
                    bias: true,
                    store: RowStore::choose(dtype, offset, count as u32, 1),
                };
                let want: Vec<f64> = (0..count)
                    .map(|e| {
                        let c = e / places % channels;
                        let rstd = if given { 1.0 / (spread[c] + eps).sqrt() } else { spread[c] };
                        (x[e] - mean[c]) * rstd * weight[c] + bias[c]
                    })
                    .collect();
                let params = ChannelNormParams {
                    offsets: [offset, 0, 0, 0],
                    count: count as u32,
                    channels: channels as u32,
                    places: places as u32,
                    eps: eps as f32,
                    ..Default::default()
                };
                let mut results = [room(dtype, count + 1)];
                let inputs = [&x, &mean, &spread, &weight, &bias].map(|values| encode(dtype, values));
                let groups = key.groups(offset, count as u32);
                apply(Kernel::ChannelNorm(key), bytes_of(&params), groups, &mut results, &inputs);
                let what = format!("{dtype:?} [{samples}, {channels}, {places}] variance {given}");
                let got = decode(dtype, &results[0]);
                assert!(got[0] == 0.0, "{what}");
                assert_close(&got[1..], &want, unit(dtype) * 2.0, 2.0, &what);
            }
        }
    }
}
