//! Losses and gradients of embeddings on a Vulkan device, through the runtime. Skipped where there is none.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says by a panic what is wrong")]

mod common;
#[path = "common/gpu.rs"]
mod gpu;

use gpu::{assert_close, device, floats, longs, numbers, read_floats};
use rivulet::Error;
use rivulet::ops::{
    DType, LossReduction, NllOperands, View, embedding_backward, nll_loss, nll_loss_backward,
};

#[test]
fn a_mean_likelihood_and_its_gradient() {
    let Some(device) = device() else { return };
    let (rows, classes) = (50, 6);
    let (x, weight) = (numbers(rows * classes, 1), [0.5, 1.0, 2.0, 1.5, 0.25, 3.0]);
    let targets: Vec<i64> = (0..rows).map(|row| (row * 5 % 7) as i64 - i64::from(row % 7 == 4)).collect();
    let targets: Vec<i64> = targets.iter().map(|&target| target.clamp(0, 5)).collect();
    let ignored = 3;
    let of = |row: usize| {
        let class = targets[row] as usize;
        (row * classes + class, if class == ignored { 0.0 } else { f64::from(weight[class]) })
    };
    let total: f64 = (0..rows).map(|row| of(row).1).sum();
    let loss = (0..rows).map(|row| -of(row).1 * f64::from(x[of(row).0])).sum::<f64>() / total;
    let mut gradient = vec![0.0; rows * classes];
    for row in 0..rows {
        gradient[of(row).0] = -of(row).1 / total * 2.0;
    }
    let [x, weight, two] = [&x[..], &weight, &[2.0]].map(|values| floats(&device, values));
    let [out, sum, to] = [1, 1, rows * classes].map(|count| floats(&device, &vec![0.0; count]));
    let targets = longs(&device, &targets);
    let view = |block, shape: &[u64]| View::dense(block, DType::F32, shape);
    let table = [rows as u64, classes as u64];
    let target = View::dense(&targets, DType::I64, &table[..1]);
    let weight = view(&weight, &table[1..]);
    let operands = NllOperands {
        target: &target,
        weight: Some(&weight),
        reduction: LossReduction::Mean,
        ignored: ignored as i32,
    };
    let (out_view, sum_view) = (view(&out, &[]), view(&sum, &[]));
    nll_loss(&device, &out_view, Some(&sum_view), &view(&x, &table), &operands).unwrap();
    assert_close(&read_floats(&device, &out, 1), &[loss], 1e-6);
    assert_close(&read_floats(&device, &sum, 1), &[total], 1e-6);
    nll_loss_backward(&device, &view(&to, &table), &view(&two, &[]), Some(&sum_view), &operands).unwrap();
    assert_close(&read_floats(&device, &to, rows * classes), &gradient, 1e-6);

    let text = nll_loss(&device, &out_view, None, &view(&x, &table), &operands).unwrap_err();
    assert!(matches!(&text, Error::BadOperand { .. }) && text.to_string().contains("sum of the weights"));
}

#[test]
fn rows_of_a_table_gather_their_gradients() {
    let Some(device) = device() else { return };
    let (rows, size, count) = (9, 4, 3000);
    let indices: Vec<i64> = (0..count as i64).map(|k| k * k % 9).collect();
    let gradient = numbers(count * size, 1);
    let mut want = vec![0.0; rows * size];
    for (k, &row) in indices.iter().enumerate().filter(|(_, row)| **row != 4) {
        for column in 0..size {
            want[row as usize * size + column] += f64::from(gradient[k * size + column]);
        }
    }
    let (gradient, indices) = (floats(&device, &gradient), longs(&device, &indices));
    let out = floats(&device, &vec![5.0; rows * size]);
    embedding_backward(
        &device,
        &View::dense(&out, DType::F32, &[rows as u64, size as u64]),
        &View::dense(&gradient, DType::F32, &[30, 100, size as u64]),
        &View::dense(&indices, DType::I64, &[30, 100]),
        Some(4),
        false,
    )
    .unwrap();
    assert_close(&read_floats(&device, &out, rows * size), &want, 1e-4);
}
