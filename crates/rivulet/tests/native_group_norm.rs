//! Normalisation of groups and of channels on a Vulkan device, through the runtime. Skipped where there is none.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says by a panic what is wrong")]

mod common;
#[path = "common/gpu.rs"]
mod gpu;

use gpu::{assert_close, device, floats, numbers, read_floats};
use rivulet::Error;
use rivulet::ops::{DType, Spread, View, batch_norm, group_norm};

const EPS: f32 = 1e-5;

#[test]
fn groups_and_channels_of_images() {
    let Some(device) = device() else { return };
    let (samples, groups, own, places) = (2, 3, 2, 35);
    let (channels, size) = (groups * own, own * places);
    let (x, weight, bias) =
        (numbers(samples * channels * places, 1), numbers(channels, 2), numbers(channels, 3));
    let (mut want, mut want_batch, mut means, mut rstds) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (row, values) in x.chunks(size).enumerate() {
        let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / size as f64;
        let variance = values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / size as f64;
        let rstd = 1.0 / (variance + f64::from(EPS)).sqrt();
        means.push(mean);
        rstds.push(rstd);
        for (e, &x) in values.iter().enumerate() {
            let channel = row % groups * own + e / places;
            let (x, w, b) = (f64::from(x), f64::from(weight[channel]), f64::from(bias[channel]));
            want.push((x - mean) * rstd * w + b);
            // Weight and bias serve as mean and variance, to have numbers.
            want_batch.push((x - w) / (b.abs() + f64::from(EPS)).sqrt());
        }
    }
    let spread: Vec<f32> = bias.iter().map(|b| b.abs()).collect();
    let [x, weight, bias, spread] = [&x, &weight, &bias, &spread].map(|values| floats(&device, values));
    let count = want.len();
    let [y, mean, rstd] = [count, samples * groups, samples * groups].map(|n| floats(&device, &vec![9.0; n]));
    let shape = [samples as u64, channels as u64, 5, 7];
    let view = |block, shape: &[u64]| View::dense(block, DType::F32, shape);
    let (to, x) = (view(&y, &shape), view(&x, &shape));
    let vector = |block| view(block, &shape[1..2]);
    let (weight, bias, spread) = (vector(&weight), vector(&bias), vector(&spread));
    let table = [samples as u64, groups as u64];
    let (to_mean, to_rstd) = (view(&mean, &table), view(&rstd, &table));
    let affine = [Some(&weight), Some(&bias)];
    group_norm(&device, &to, &x, affine, Some([&to_mean, &to_rstd]), groups as u32, EPS).unwrap();
    assert_close(&read_floats(&device, &y, count), &want, 1e-5);
    assert_close(&read_floats(&device, &mean, samples * groups), &means, 1e-6);
    assert_close(&read_floats(&device, &rstd, samples * groups), &rstds, 1e-6);
    batch_norm(&device, &to, &x, &weight, Spread::Variance(&spread, EPS), [None, None]).unwrap();
    assert_close(&read_floats(&device, &y, count), &want_batch, 1e-5);

    let text = |result: rivulet::Result<()>| match result {
        Err(error @ Error::BadOperand { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let wrong = text(group_norm(&device, &to, &x, affine, None, 4, EPS));
    assert!(wrong.contains("6 channels cannot be cut into 4 groups"), "{wrong}");
}
