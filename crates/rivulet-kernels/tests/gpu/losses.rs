//! The negative log likelihood, forward and backward, and gradients of embeddings.

use crate::gpu::{Operand, input, output, run};
use crate::need_device;
use crate::values::{decode, encode};
use bytemuck::bytes_of;
use rivulet_kernels::params::{EmbeddingGradientParams, NllParams};
use rivulet_kernels::{DType, EmbeddingGradient, Kernel, LossReduction, Nll, NllPass, RowStore};

fn numbers(dtype: DType, count: usize, seed: u64) -> Vec<f64> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let values: Vec<f64> = (0..count).map(|_| rng.f64() * 4.0 - 2.0).collect();
    decode(dtype, &encode(dtype, &values))
}

fn unit(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 6e-4,
        DType::BF16 => 5e-3,
        _ => 2e-6,
    }
}

fn assert_close(got: &[f64], want: &[f64], tolerance: f64, what: &str) {
    for (k, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= tolerance * want.abs().max(1.0), "{what}, {k}: {got} for {want}");
    }
}

fn room(dtype: DType, count: usize) -> Vec<u8> {
    vec![0; (count * dtype.size() as usize).next_multiple_of(4)]
}

fn apply(kernel: Kernel, params: &[u8], groups: [u32; 3], results: &mut [Vec<u8>], inputs: &[Vec<u8>]) {
    let mut inputs = inputs.to_vec();
    let mut operands: Vec<Operand<'_>> = results.iter_mut().map(output).collect();
    operands.extend(inputs.iter_mut().map(input));
    run(kernel, params, groups, &mut operands);
}

#[test]
fn likelihoods_and_their_gradients() {
    need_device!();
    for (dtype, target_type) in [
        (DType::F32, DType::I64),
        (DType::F16, DType::I64),
        (DType::BF16, DType::I32),
        (DType::F32, DType::U8),
    ] {
        for (samples, classes, inner) in [(1, 3, 1), (300, 5, 1), (4, 7, 9)] {
            for weighted in [false, true] {
                let rows = samples * inner;
                let x = numbers(dtype, rows * classes, 1);
                let weight: Vec<f64> = numbers(dtype, classes, 2).iter().map(|w| w.abs() + 0.5).collect();
                let weight = decode(dtype, &encode(dtype, &weight));
                let mut rng = fastrand::Rng::with_seed(3);
                let targets: Vec<f64> = (0..rows).map(|_| f64::from(rng.u32(0..classes as u32))).collect();
                let ignored = 1;
                let of = |row: usize| {
                    let class = targets[row] as usize;
                    let w = if class == ignored {
                        0.0
                    } else if weighted {
                        weight[class]
                    } else {
                        1.0
                    };
                    (class, w, row / inner * classes * inner + class * inner + row % inner)
                };
                let each: Vec<f64> = (0..rows).map(|row| -of(row).1 * x[of(row).2]).collect();
                let total: f64 = (0..rows).map(|row| of(row).1).sum();
                let sum: f64 = each.iter().sum();
                for reduction in [LossReduction::None, LossReduction::Mean, LossReduction::Sum] {
                    let what = format!("{dtype:?} {reduction:?} [{samples}, {classes}, {inner}] {weighted}");
                    let key = Nll {
                        pass: NllPass::Forward,
                        reduction,
                        dtype,
                        target: target_type,
                        weight: weighted,
                    };
                    let params = NllParams {
                        rows: rows as u32,
                        classes: classes as u32,
                        inner: inner as u32,
                        ignored: ignored as i32,
                        ..Default::default()
                    };
                    let (want, count) = match reduction {
                        LossReduction::None => (each.clone(), rows),
                        LossReduction::Mean => (vec![sum / total], 1),
                        LossReduction::Sum => (vec![sum], 1),
                    };
                    let mut results = vec![room(dtype, count)];
                    if reduction != LossReduction::None {
                        results.push(room(dtype, 1));
                    }
                    let mut inputs = vec![encode(dtype, &x), encode(target_type, &targets)];
                    inputs.extend(weighted.then(|| encode(dtype, &weight)));
                    let groups = key.groups(0, rows as u32, classes as u32);
                    apply(Kernel::Nll(key), bytes_of(&params), groups, &mut results, &inputs);
                    assert_close(&decode(dtype, &results[0])[..count], &want, unit(dtype), &what);
                    if let Some(got) = results.get(1) {
                        assert_close(&decode(dtype, got)[..1], &[total], unit(dtype), &what);
                    }

                    let gradient = numbers(dtype, count, 4);
                    let total = decode(dtype, &encode(dtype, &[total]))[0];
                    let offset = 1;
                    let mut want = vec![0.0; rows * classes];
                    for row in 0..rows {
                        let (_, w, at) = of(row);
                        let g = gradient[row.min(count - 1)];
                        want[at] = -w * if reduction == LossReduction::Mean { g / total } else { g };
                    }
                    let store = RowStore::choose(dtype, offset, (rows * classes) as u32, 1);
                    let key = Nll { pass: NllPass::Backward(store), ..key };
                    let params = NllParams { offsets: [offset, 0, 0, 0], ..params };
                    let mut results = [room(dtype, rows * classes + 1)];
                    let mut inputs = vec![encode(dtype, &gradient), encode(target_type, &targets)];
                    if reduction == LossReduction::Mean {
                        inputs.push(encode(dtype, &[total]));
                    }
                    inputs.extend(weighted.then(|| encode(dtype, &weight)));
                    let groups = key.groups(offset, rows as u32, classes as u32);
                    apply(Kernel::Nll(key), bytes_of(&params), groups, &mut results, &inputs);
                    assert_close(&decode(dtype, &results[0])[1..], &want, unit(dtype), &what);
                }
            }
        }
    }
}

#[test]
fn a_target_that_is_no_class_gives_nan() {
    need_device!();
    let key = Nll {
        pass: NllPass::Forward,
        reduction: LossReduction::None,
        dtype: DType::F32,
        target: DType::I64,
        weight: false,
    };
    let params = NllParams { rows: 3, classes: 2, inner: 1, ignored: -100, ..Default::default() };
    let mut results = [room(DType::F32, 3)];
    let inputs = [encode(DType::F32, &[1.0; 6]), encode(DType::I64, &[1.0, 2.0, -100.0])];
    apply(Kernel::Nll(key), bytes_of(&params), key.groups(0, 3, 2), &mut results, &inputs);
    let got = decode(DType::F32, &results[0]);
    assert!(got[0] == -1.0 && got[1].is_nan() && got[2] == 0.0, "{got:?}");
}

#[test]
fn equal_indices_add_up_in_a_row_of_the_table() {
    need_device!();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for (index, by_frequency) in [(DType::I64, false), (DType::I32, true)] {
            let (rows, size, count) = (6, 5, 40);
            let mut rng = fastrand::Rng::with_seed(1);
            let indices: Vec<usize> = (0..count).map(|_| rng.usize(0..rows - 1)).collect();
            let gradient = numbers(dtype, count * size, 2);
            let mut want = vec![0.0; rows * size];
            let padding = 2;
            for (k, &row) in indices.iter().enumerate().filter(|(_, row)| **row != padding) {
                let times = indices.iter().filter(|other| **other == row).count() as f64;
                for column in 0..size {
                    want[row * size + column] +=
                        gradient[k * size + column] / if by_frequency { times } else { 1.0 };
                }
            }
            let mut order: Vec<usize> = (0..count).collect();
            order.sort_by_key(|&k| indices[k]);
            let sorted: Vec<f64> = order.iter().map(|&k| indices[k] as f64).collect();
            let order: Vec<f64> = order.iter().map(|&k| k as f64).collect();
            let key = EmbeddingGradient { dtype, index, by_frequency };
            let params = EmbeddingGradientParams {
                count: count as u32,
                size: size as u32,
                padding: padding as i32,
                ..Default::default()
            };
            let mut results = [room(dtype, rows * size)];
            let inputs = [encode(index, &sorted), encode(DType::I64, &order), encode(dtype, &gradient)];
            let groups = key.groups(count as u32, size as u32);
            apply(Kernel::EmbeddingGradient(key), bytes_of(&params), groups, &mut results, &inputs);
            assert_close(&decode(dtype, &results[0]), &want, unit(dtype), &format!("{key:?}"));
        }
    }
}
