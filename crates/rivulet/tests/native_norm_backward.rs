//! Gradients of normalisations on a Vulkan device, through the runtime. Skipped where there is none.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says by a panic what is wrong")]

mod common;
#[path = "common/gpu.rs"]
mod gpu;

use gpu::{assert_close, device, floats, numbers, read_floats};
use rivulet::Error;
use rivulet::ops::{DType, NormGradient, View, norm_backward};

#[test]
fn gradients_of_layer_norm_and_rms_norm_of_any_number_of_rows() {
    let Some(device) = device() else { return };
    for centered in [true, false] {
        for (rows, size) in [(3, 10), (1000, 40)] {
            let (x, g) = (numbers(rows * size, 1), numbers(rows * size, 2));
            let weight = numbers(size, 3);
            let (mut means, mut rstds) = (Vec::new(), Vec::new());
            let (mut want, mut want_weight, mut want_bias) = (Vec::new(), vec![0.0; size], vec![0.0; size]);
            for row in 0..rows {
                let x: Vec<f64> = x[row * size..][..size].iter().map(|&x| f64::from(x)).collect();
                let mean = if centered { x.iter().sum::<f64>() / size as f64 } else { 0.0 };
                let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / size as f64;
                let rstd = 1.0 / (variance + 1e-5).sqrt();
                means.push(mean as f32);
                rstds.push(rstd as f32);
                let z: Vec<f64> = x.iter().map(|x| (x - mean) * rstd).collect();
                let g: Vec<f64> = g[row * size..][..size].iter().map(|&g| f64::from(g)).collect();
                let scaled: Vec<f64> = g.iter().zip(&weight).map(|(g, &w)| g * f64::from(w)).collect();
                let mean_g = if centered { scaled.iter().sum::<f64>() / size as f64 } else { 0.0 };
                let mean_gz = scaled.iter().zip(&z).map(|(g, z)| g * z).sum::<f64>() / size as f64;
                for e in 0..size {
                    want.push(rstd * (scaled[e] - mean_g - z[e] * mean_gz));
                    want_weight[e] += g[e] * z[e];
                    want_bias[e] += g[e];
                }
            }
            let [x, g, weight] = [&x, &g, &weight].map(|values| floats(&device, values));
            let [mean, rstd] = [&means, &rstds].map(|values| floats(&device, values));
            let [dx, dw, db] = [rows * size, size, size].map(|count| floats(&device, &vec![7.0; count]));
            let table = [rows as u64, size as u64];
            let view = |block, shape: &[u64]| View::dense(block, DType::F32, shape);
            let (g, x) = (view(&g, &table), view(&x, &table));
            let (mean, rstd) = (view(&mean, &table[..1]), view(&rstd, &table[..1]));
            let weight = view(&weight, &table[1..]);
            let operands = NormGradient {
                gradient: &g,
                x: &x,
                mean: centered.then_some(&mean),
                rstd: &rstd,
                weight: Some(&weight),
            };
            let (to, to_weight, to_bias) =
                (view(&dx, &table), view(&dw, &table[1..]), view(&db, &table[1..]));
            norm_backward(&device, &operands, Some(&to), Some(&to_weight), None).unwrap();
            norm_backward(&device, &operands, None, None, Some(&to_bias)).unwrap();
            assert_close(&read_floats(&device, &dx, rows * size), &want, 1e-5);
            assert_close(&read_floats(&device, &dw, size), &want_weight, 2e-5);
            assert_close(&read_floats(&device, &db, size), &want_bias, 2e-5);
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let Some(device) = device() else { return };
    let block = floats(&device, &[1.0; 64]);
    let view = |shape: &[u64]| View::dense(&block, DType::F32, shape);
    let (x, rows, columns) = (view(&[4, 3]), view(&[4]), view(&[3]));
    let operands =
        NormGradient { gradient: &x, x: &x, mean: Some(&rows), rstd: &columns, weight: Some(&columns) };
    let text = |result: rivulet::Result<()>| match result {
        Err(error @ Error::BadOperand { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let wrong = text(norm_backward(&device, &operands, Some(&x), None, None));
    assert!(wrong.contains("layer_norm_backward") && wrong.contains("rstd has shape [3]"), "{wrong}");
    let mut turned = view(&[4, 3]);
    turned.strides = [1, 4].into_iter().collect();
    let operands = NormGradient { rstd: &rows, ..operands };
    let wrong = text(norm_backward(&device, &operands, Some(&turned), None, None));
    assert!(wrong.contains("strides [1, 4]; it must be dense"), "{wrong}");
}
