//! Rows that a model divides by the root of their mean square, step by step, are one kernel.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says by a panic what is wrong")]

mod gpu;
mod plan;

use plan::{Tensor, binary, device_or_skip, equals_eager, in_place, scaled, soft, unary};
use rivulet::ops::{DType, Op, ReduceOp, reduce};
use rivulet::{Device, Result};

const F: DType = DType::F32;

/// The sum of each row, `[rows, 1]`.
fn row_sums(x: &Tensor) -> Result<Tensor> {
    let out = Tensor::empty(x.device(), x.dtype, &[x.shape[0], 1])?;
    let wide = out.with(&x.shape, &[1, 0]);
    reduce(x.device(), ReduceOp::Sum, Some(&wide.view()), None, &x.view(), 2, 1.0)?;
    Ok(out)
}

/// `x · rsqrt(sum(x²) / count + eps)`, and the factors.
fn steps(x: &Tensor, count: f32) -> Result<[Tensor; 2]> {
    let mean = scaled(Op::Div, &row_sums(&unary(Op::Square, x)?)?, count)?;
    let root = unary(Op::Rsqrt, &scaled(Op::Add, &mean, 1e-5)?)?;
    let wide = root.with(&x.shape, &[1, 0]);
    Ok([binary(Op::Mul, x, &wide)?, root])
}

#[track_caller]
fn names(
    device: &Device,
    dtype: DType,
    [rows, size]: [u64; 2],
    model: impl Fn(&[&Tensor]) -> Result<Vec<Tensor>>,
) -> Vec<String> {
    let inputs =
        |seed| [seed, seed + 9].map(|seed| Tensor::random(device, dtype, &[rows, size], seed)).into();
    let program = equals_eager(device, 8.0, inputs, model);
    program.report().commands.iter().map(|command| command.kernel.clone()).collect()
}

#[test]
fn root_mean_squares_that_are_written_out_are_one_kernel() {
    let device = device_or_skip!();
    for [rows, size] in [[9, 40], [1, 128], [3, 1024], [300, 8]] {
        let gain = Tensor::random(&device, F, &[size], 1);
        let count = size as f32;
        let plain = names(&device, F, [rows, size], |inputs| {
            let [out, _] = steps(inputs[0], count)?;
            Ok(vec![out])
        });
        assert!(plain.len() == 1 && plain[0].starts_with("rms_norm_f32"), "{plain:?}");
        let gated = names(&device, F, [rows, size], |inputs| {
            let [out, _] = steps(&binary(Op::Add, inputs[0], inputs[1])?, count)?;
            Ok(vec![binary(Op::Mul, &binary(Op::Mul, &gain.expand(&[rows, size]), &out)?, inputs[1])?])
        });
        let one = gated.len() == 1 && gated[0].starts_with("add_rms_norm_f32") && gated[0].contains("mul");
        assert!(one, "with the sum before, the weight and a gate behind: {gated:?}");
    }
}

#[test]
fn root_mean_squares_stay_written_out_where_they_are_something_else() {
    let device = device_or_skip!();
    let apart =
        |what: &str, (dtype, size): (DType, u64), model: &dyn Fn(&[&Tensor]) -> Result<Vec<Tensor>>| {
            let names = names(&device, dtype, [9, size], model);
            assert!(!names.iter().any(|name| name.contains("rms_norm")), "{what}: {names:?}");
        };
    apart("another divisor", (F, 40), &|inputs| Ok(vec![steps(inputs[0], 39.0)?[0].clone()]));
    apart("factors that are an output", (F, 40), &|inputs| Ok(steps(inputs[0], 40.0)?.to_vec()));
    apart("rows of three", (F, 3), &|inputs| Ok(vec![steps(inputs[0], 3.0)?[0].clone()]));
    apart("a type that rounds at each step", (DType::F16, 40), &|inputs| {
        Ok(vec![steps(inputs[0], 40.0)?[0].clone()])
    });
    apart("squares of one, rows of another", (F, 40), &|inputs| {
        let [_, root] = steps(inputs[0], 40.0)?;
        Ok(vec![binary(Op::Mul, inputs[1], &root.with(&[9, 40], &[1, 0]))?])
    });
    apart("rows that change before they are multiplied", (F, 40), &|inputs| {
        let x = soft(inputs[0])?;
        let mean = scaled(Op::Div, &row_sums(&unary(Op::Square, &x)?)?, 40.0)?;
        let root = unary(Op::Rsqrt, &scaled(Op::Add, &mean, 1e-5)?)?;
        in_place(Op::Exp, &x)?;
        Ok(vec![binary(Op::Mul, &x, &root.with(&[9, 40], &[1, 0]))?])
    });
    apart("factors along the rows", (F, 40), &|inputs| {
        let x = inputs[0].with(&[8, 8], &[8, 1]);
        let [_, root] = steps(&x, 8.0)?;
        Ok(vec![binary(Op::Mul, &x, &root.with(&[8, 8], &[0, 1]))?])
    });
    apart("sums of columns", (F, 9), &|inputs| {
        let x = inputs[0].with(&[9, 8], &[8, 1]);
        let square = inputs[0].with(&[8, 9], &[1, 8]);
        let made = unary(Op::Square, &x)?;
        let sums = row_sums(&made.with(&[8, 9], &[1, 8]))?;
        let root = unary(Op::Rsqrt, &scaled(Op::Add, &scaled(Op::Div, &sums, 9.0)?, 1e-5)?)?;
        Ok(vec![binary(Op::Mul, &square, &root.with(&[8, 9], &[1, 0]))?])
    });
}
