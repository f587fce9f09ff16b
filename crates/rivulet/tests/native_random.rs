//! Random numbers on a Vulkan device.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says by a panic what is wrong")]

mod gpu;

use gpu::{dense, device_or_skip, layouts, zeros};
use rivulet::Device;
use rivulet::ops::{DType, Op, Scalar, random};

const COUNT: u64 = 40_000;

fn draw(device: &Device, op: Op, dtype: DType, values: &[Scalar], seed: u64) -> Vec<f64> {
    let out = zeros(device, dtype, &dense(&[COUNT]));
    random(device, op, &out.view(), values, seed).unwrap();
    out.values()
}

fn moments(x: &[f64]) -> (f64, f64) {
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    (mean, (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64).sqrt())
}

#[test]
fn numbers_have_the_moments_and_the_range_that_were_asked_for() {
    let device = device_or_skip!();
    let f = Scalar::F32;
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let near = |x: &[f64], mean: f64, deviation: f64, what: &str| {
            let got = moments(x);
            let bound = 5.0 * deviation / (COUNT as f64).sqrt() + 0.003 * deviation;
            assert!(
                (got.0 - mean).abs() < bound && (got.1 - deviation).abs() < 2.0 * bound,
                "{what} {dtype:?}: {got:?}"
            );
        };
        let x = draw(&device, Op::Uniform, dtype, &[f(0.0), f(1.0)], 1);
        // Halves hold fewer digits below 1: their numbers are cut, not rounded.
        near(
            &x,
            0.5 - if dtype == DType::BF16 { 1.0 / 512.0 } else { 0.0 },
            1.0 / 12.0_f64.sqrt(),
            "uniform",
        );
        assert!(x.iter().all(|x| (0.0..1.0).contains(x)), "{dtype:?}");
        near(&draw(&device, Op::Normal, dtype, &[f(3.0), f(2.0)], 2), 3.0, 2.0, "normal");
        let x = draw(&device, Op::Exponential, dtype, &[f(4.0)], 3);
        near(&x, 0.25, 0.25, "exponential");
        assert!(x.iter().all(|x| *x > 0.0 && x.is_finite()));
    }
    for dtype in [DType::F32, DType::Bool, DType::I64, DType::U8] {
        let x = draw(&device, Op::Bernoulli, dtype, &[f(0.25)], 4);
        assert!(x.iter().all(|x| *x == 0.0 || *x == 1.0));
        assert!((moments(&x).0 - 0.25).abs() < 0.012, "{dtype:?}");
    }
    for dtype in [DType::F32, DType::I32, DType::I64, DType::I8] {
        let x = draw(&device, Op::Randint, dtype, &[Scalar::I64(-3), Scalar::I64(5)], 5);
        for wanted in -3..5 {
            let count = x.iter().filter(|x| **x == f64::from(wanted)).count() as f64;
            assert!((count - 5000.0).abs() < 350.0, "{dtype:?}: {count} of {wanted}");
        }
        assert!(x.iter().all(|x| (-3.0..5.0).contains(x)));
    }
    let wide = draw(&device, Op::Randint, DType::I64, &[Scalar::I64(-(1 << 31)), Scalar::I64(1 << 31)], 6);
    assert!(wide.iter().any(|x| *x > 2e9) && wide.iter().any(|x| *x < -2e9));
    gpu::clean();
}

#[test]
fn numbers_follow_from_the_seed_and_the_place_alone() {
    let device = device_or_skip!();
    let f = Scalar::F32;
    for (op, values) in [
        (Op::Uniform, &[f(0.0), f(1.0)][..]),
        (Op::Normal, &[f(0.0), f(1.0)]),
        (Op::Randint, &[Scalar::I64(0), Scalar::I64(1000)]),
    ] {
        let first = draw(&device, op, DType::F32, values, 7);
        assert_eq!(first, draw(&device, op, DType::F32, values, 7));
        assert_ne!(first, draw(&device, op, DType::F32, values, 8));
        assert_ne!(first, draw(&device, op, DType::F32, values, 7 + (1 << 32)));
        for shape in &layouts(&[3, 5, 7, 2]) {
            let out = zeros(&device, DType::F32, shape);
            random(&device, op, &out.view(), values, 7).unwrap();
            assert_eq!(out.values(), first[..210], "{op:?} {shape:?}");
        }
    }
    // Philox 4x32-10 of counter 0 under key 0, of the authors' known answers: 6627e8d5 e169c58d bc57ac4c 9b00dbd8.
    let words = draw(&device, Op::Randint, DType::I64, &[Scalar::I64(0), Scalar::I64(1 << 32)], 0);
    assert_eq!(words[..4], [0x6627_e8d5_u32, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8].map(f64::from));
    gpu::clean();
}

#[test]
fn ranges_that_are_empty_or_too_wide_are_refused() {
    let device = device_or_skip!();
    let out = zeros(&device, DType::I64, &dense(&[4]));
    let run = |op, values: &[Scalar]| random(&device, op, &out.view(), values, 0);
    assert!(
        gpu::bad_operand(run(Op::Randint, &[Scalar::I64(3), Scalar::I64(3)])).contains("from 3 to below 3")
    );
    assert!(gpu::no_kernel(run(Op::Randint, &[Scalar::I64(0), Scalar::I64(1 << 33)])).contains("8589934592"));
    assert!(gpu::no_kernel(run(Op::Uniform, &[Scalar::F32(0.0), Scalar::F32(1.0)])).contains("i64"));
    assert!(gpu::bad_operand(run(Op::Add, &[])).contains("random"));
    assert!(gpu::bad_operand(run(Op::Normal, &[Scalar::F32(0.0)])).contains("1 values; it takes 2"));
    assert_eq!(out.values(), [0.0; 4]);
}
