//! Programs of models give what the models give.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says by a panic what is wrong")]

mod gpu;
mod plan;

use plan::{
    Tensor, attend, binary, contiguous, device_or_skip, embed, equals_eager, in_place, linear, norm, product,
    scaled, soft, unary,
};
use rivulet::Device;
use rivulet::ops::{DType, Op};

const F: DType = DType::F32;

fn weight(device: &Device, shape: &[u64], seed: u64) -> Tensor {
    Tensor::random(device, F, shape, 1000 + seed)
}

#[test]
fn a_perceptron() {
    let device = device_or_skip!();
    let sizes = [48, 96, 64, 24];
    let layers: Vec<_> = (0..3)
        .map(|k| {
            (
                weight(&device, &[sizes[k + 1], sizes[k]], k as u64),
                weight(&device, &[sizes[k + 1]], 9 + k as u64),
            )
        })
        .collect();
    for batch in [1, 7] {
        let program = equals_eager(
            &device,
            0.0,
            |seed| vec![Tensor::random(&device, F, &[batch, 48], seed)],
            |inputs| {
                let mut x = linear(inputs[0], &layers[0].0, Some(&layers[0].1))?;
                in_place(Op::Relu, &x)?;
                x = linear(&x, &layers[1].0, Some(&layers[1].1))?;
                x = unary(Op::Relu, &x)?;
                Ok(vec![linear(&x, &layers[2].0, Some(&layers[2].1))?])
            },
        );
        assert_eq!(program.report().shared_blocks, 6);
    }
}

#[test]
fn a_transformer_block() {
    let device = device_or_skip!();
    let (batch, length, width, heads, words) = (2, 10, 32, 4, 50);
    let table = weight(&device, &[words, width], 1);
    let square: Vec<_> = (0..4).map(|k| weight(&device, &[width, width], 2 + k)).collect();
    let (up, down) = (weight(&device, &[4 * width, width], 7), weight(&device, &[width, 4 * width], 8));
    let (gain, shift) = (weight(&device, &[width], 10), weight(&device, &[width], 11));
    let program = equals_eager(
        &device,
        8.0,
        |seed| {
            let mut random = fastrand::Rng::with_seed(seed);
            let index: Vec<f64> = (0..batch * length).map(|_| f64::from(random.u32(0..50))).collect();
            vec![Tensor::of(&device, DType::I64, &[batch, length], &index)]
        },
        |inputs| {
            let x = embed(&table, inputs[0])?;
            let h = norm(&x, &gain, &shift)?;
            let [q, k, v] = [0, 1, 2].map(|at| linear(&h, &square[at], None));
            let mixed = attend(&q?, &k?, &v?, heads)?;
            let x = binary(Op::Add, &x, &linear(&mixed, &square[3], None)?)?;
            let h = unary(Op::Gelu, &linear(&norm(&x, &gain, &shift)?, &up, None)?)?;
            let x = binary(Op::Add, &x, &linear(&h, &down, None)?)?;
            Ok(vec![norm(&x, &gain, &shift)?, mixed])
        },
    );
    let report = program.report();
    // Of the three projections each is independent of the others.
    assert!(report.barriers + 3 <= report.commands.len(), "{report:#?}");
}

#[test]
fn attention_written_out_with_strided_copies() {
    let device = device_or_skip!();
    let (length, width) = (12, 16);
    let weights: Vec<_> = (0..3).map(|k| weight(&device, &[width, width], k)).collect();
    equals_eager(
        &device,
        0.0,
        |seed| vec![Tensor::random(&device, F, &[length, width], seed)],
        |inputs| {
            let [q, k, v] = [0, 1, 2].map(|at| linear(inputs[0], &weights[at], None));
            let keys = contiguous(&k?.permute(&[1, 0]))?;
            let scores = scaled(Op::Mul, &product(&q?, &keys)?, 0.25)?;
            let mixed = product(&soft(&scores)?, &v?)?;
            // Parts of one block, written by two commands.
            let joined = Tensor::empty(&device, F, &[2, length, width])?;
            for (part, of) in [(0, &mixed), (1, inputs[0])] {
                let to = joined.with(&of.shape, &of.strides).starting_at(part * length * width);
                rivulet::ops::copy(&device, &to.view(), &of.view())?;
            }
            Ok(vec![contiguous(&joined.permute(&[2, 1, 0]))?, scores])
        },
    );
}

#[test]
fn narrow_types_and_conversions() {
    let device = device_or_skip!();
    for dtype in [DType::F16, DType::BF16] {
        equals_eager(
            &device,
            0.0,
            |seed| {
                vec![
                    Tensor::random(&device, dtype, &[5, 7], seed),
                    Tensor::random(&device, F, &[5, 7], seed + 50),
                ]
            },
            |inputs| {
                let wide = Tensor::empty(&device, F, &[5, 7])?;
                rivulet::ops::copy(&device, &wide.view(), &inputs[0].view())?;
                let sum = binary(Op::Add, &wide, inputs[1])?;
                let mask = Tensor::empty(&device, DType::Bool, &[5, 7])?;
                rivulet::ops::pointwise(
                    &device,
                    Op::Gt,
                    F,
                    &mask.view(),
                    &[sum.view(), inputs[1].view()],
                    None,
                    &[],
                )?;
                let narrow = Tensor::empty(&device, dtype, &[5, 7])?;
                rivulet::ops::copy(&device, &narrow.view(), &sum.view())?;
                Ok(vec![mask, narrow])
            },
        );
    }
}

#[test]
fn the_driver_accepts_what_a_run_records() {
    let Some(device) = gpu::device() else { return };
    let (w, b) = (weight(&device, &[64, 48], 1), weight(&device, &[64], 2));
    let x = Tensor::random(&device, F, &[4, 48], 3);
    let (program, noted) = plan::capture(&device, &[&x], |inputs| {
        let x = linear(inputs[0], &w, Some(&b))?;
        in_place(Op::Tanh, &x)?;
        Ok(vec![soft(&contiguous(&x.permute(&[1, 0]))?)?])
    })
    .unwrap();
    let runs: Vec<_> = (0..3).map(|_| program.run(&[x.span()], None).unwrap()).collect();
    device.synchronize().unwrap();
    let want = plan::read(&device, &noted[0].span());
    for fresh in runs {
        assert!(plan::read(&device, &rivulet::plan::Span::new(&fresh[0], want.len() as u64)) == want);
        fresh.into_iter().for_each(|block| device.free(block));
    }
    gpu::clean();
}
