//! What is put together, what is left apart, and that both give what the ops give one by one.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says by a panic what is wrong")]

mod gpu;
mod plan;

use plan::{
    Tensor, binary, capture, contiguous, device_or_skip, equals_eager, in_place, linear, norm, product, run,
    scaled, soft, unary,
};
use rivulet::Device;
use rivulet::ops::{DType, Op, Scalar, copy, layer_norm, pointwise, rms_norm};
use rivulet::plan::Program;

const F: DType = DType::F32;

fn kernels(program: &Program) -> Vec<&str> {
    program.report().commands.iter().map(|command| command.kernel.as_str()).collect()
}

/// `op(x)` with a scalar.
fn with_scalar(op: Op, x: &Tensor, scalar: f32) -> rivulet::Result<Tensor> {
    let out = Tensor::empty(x.device(), x.dtype, &x.shape)?;
    pointwise(
        x.device(),
        op,
        x.dtype,
        &out.view(),
        &[x.view()],
        None,
        &[Scalar::F32(scalar), Scalar::F32(1.0)],
    )?;
    Ok(out)
}

#[test]
fn activations_go_into_products() {
    let device = device_or_skip!();
    for dtype in [F, DType::F16, DType::BF16] {
        let weight = Tensor::random(&device, dtype, &[24, 40], 1);
        let bias = Tensor::random(&device, dtype, &[24], 2);
        for (rows, op) in [(1, Op::Relu), (5, Op::Gelu), (40, Op::Silu), (9, Op::Tanh), (2, Op::Sigmoid)] {
            let inputs = |seed| vec![Tensor::random(&device, dtype, &[rows, 40], seed)];
            let exact = op == Op::Relu && dtype == F;
            let program = equals_eager(&device, if exact { 0.0 } else { 4.0 }, inputs, |inputs| {
                Ok(vec![unary(op, &linear(inputs[0], &weight, Some(&bias))?)?])
            });
            let (kernels, report) = (kernels(&program), program.report());
            assert!(kernels.len() == 1 && kernels[0].contains(op.label()), "{report:#?}");
            assert_eq!((report.arena_bytes, report.fusions.len()), (0, 1), "{report:#?}");
            let in_its_place = equals_eager(&device, 4.0, inputs, |inputs| {
                let x = linear(inputs[0], &weight, None)?;
                in_place(op, &x)?;
                Ok(vec![x])
            });
            assert_eq!(in_its_place.report().commands.len(), 1);
        }
    }
}

#[test]
fn activations_go_into_what_joins_the_parts_of_a_product() {
    let device = device_or_skip!();
    let program = equals_eager(
        &device,
        8.0,
        |seed| {
            vec![
                Tensor::random(&device, F, &[33, 2048], seed),
                Tensor::random(&device, F, &[2048, 40], seed + 9),
            ]
        },
        |inputs| Ok(vec![unary(Op::Relu, &product(inputs[0], inputs[1])?)?]),
    );
    let kernels = kernels(&program);
    assert!(kernels.len() == 2 && kernels[1].contains("join") && kernels[1].contains("relu"), "{kernels:?}");
}

#[test]
fn biases_and_residuals_go_into_products() {
    let device = device_or_skip!();
    for dtype in [F, DType::F16] {
        let (weight, bias) =
            (Tensor::random(&device, dtype, &[24, 40], 1), Tensor::random(&device, dtype, &[24], 2));
        for rows in [1, 5, 40] {
            let inputs = |seed| {
                vec![
                    Tensor::random(&device, dtype, &[rows, 40], seed),
                    Tensor::random(&device, dtype, &[rows, 24], seed + 9),
                ]
            };
            let tolerance = if dtype == F { 0.0 } else { 4.0 };
            let commands = |model: &dyn Fn(&[&Tensor]) -> rivulet::Result<Tensor>| {
                let program = equals_eager(&device, tolerance, inputs, |inputs| Ok(vec![model(inputs)?]));
                kernels(&program).into_iter().map(str::to_owned).collect::<Vec<_>>()
            };
            let row = commands(&|inputs| {
                unary(Op::Relu, &binary(Op::Add, &linear(inputs[0], &weight, None)?, &bias)?)
            });
            assert!(row.len() == 1 && row[0].contains("bias_relu"), "{row:?}");
            let residual = commands(&|inputs| binary(Op::Add, inputs[1], &linear(inputs[0], &weight, None)?));
            assert!(residual.len() == 1 && residual[0].contains("bias"), "{residual:?}");
            let in_place = commands(&|inputs| {
                let sum = unary(Op::Exp, inputs[1])?;
                soft(&sum)?;
                let made = linear(inputs[0], &weight, None)?;
                pointwise(&device, Op::Add, dtype, &sum.view(), &[sum.view(), made.view()], None, &[])?;
                Ok(sum)
            });
            assert_eq!(in_place.len(), 2, "{in_place:?}");
            let taken =
                commands(&|inputs| binary(Op::Add, inputs[1], &linear(inputs[0], &weight, Some(&bias))?));
            assert!(taken.len() == 1 && taken[0].contains("bias_residual"), "{taken:?}");
            let after = commands(&|inputs| {
                let made = unary(Op::Relu, &linear(inputs[0], &weight, Some(&bias))?)?;
                binary(Op::Add, &made, inputs[1])
            });
            assert!(after.len() == 1 && after[0].contains("bias_relu_residual"), "{after:?}");
            let over = commands(&|inputs| {
                let sum = unary(Op::Exp, inputs[1])?;
                let made = linear(inputs[0], &weight, Some(&bias))?;
                pointwise(&device, Op::Add, dtype, &sum.view(), &[made.view(), sum.view()], None, &[])?;
                Ok(sum)
            });
            assert!(over.len() == 2 && over[1].contains("bias_residual"), "{over:?}");
            let before = commands(&|inputs| {
                unary(Op::Relu, &binary(Op::Add, &linear(inputs[0], &weight, Some(&bias))?, inputs[1])?)
            });
            assert_eq!(before.len(), 2, "an activation of the sum: {before:?}");
        }
    }
    // In batches, and of the product's first factor itself.
    let program = equals_eager(
        &device,
        0.0,
        |seed| {
            vec![
                Tensor::random(&device, F, &[3, 6, 6], seed),
                Tensor::random(&device, F, &[3, 6, 6], seed + 5),
            ]
        },
        |inputs| Ok(vec![binary(Op::Add, &product(inputs[0], inputs[1])?, inputs[0])?]),
    );
    assert_eq!(program.report().commands.len(), 1, "{:#?}", program.report());
    let joined = equals_eager(
        &device,
        0.0,
        |seed| {
            vec![
                Tensor::random(&device, F, &[33, 2048], seed),
                Tensor::random(&device, F, &[2048, 40], seed + 9),
            ]
        },
        |inputs| {
            let sums = product(inputs[0], inputs[1])?;
            Ok(vec![binary(Op::Add, &sums, &unary(Op::Sin, &inputs[1].with(&[33, 40], &[40, 1]))?)?])
        },
    );
    assert!(kernels(&joined).iter().any(|kernel| kernel.contains("join_f32_bias")), "{:?}", kernels(&joined));
}

#[test]
fn residuals_go_into_what_joins_the_parts_of_a_product() {
    let device = device_or_skip!();
    for dtype in [F, DType::F16] {
        let (weight, bias) =
            (Tensor::random(&device, dtype, &[40, 2048], 1), Tensor::random(&device, dtype, &[40], 2));
        let inputs = |seed| {
            let make = |shape: &[u64], seed| Tensor::random(&device, dtype, shape, seed);
            vec![make(&[33, 2048], seed), make(&[35, 40], seed + 9)]
        };
        let tolerance = if dtype == F { 0.0 } else { 8.0 };
        let commands = |model: &dyn Fn(&Tensor, &Tensor) -> rivulet::Result<Tensor>| {
            let program = equals_eager(&device, tolerance, inputs, |inputs| {
                // One that begins elsewhere than the product.
                let residual = inputs[1].with(&[33, 40], &[40, 1]).starting_at(80);
                Ok(vec![model(inputs[0], &residual)?])
            });
            kernels(&program).into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        let taken = commands(&|x, residual| binary(Op::Add, residual, &linear(x, &weight, Some(&bias))?));
        assert!(taken.len() == 2 && taken[1].contains("_bias_residual"), "{taken:?}");
        let after =
            commands(&|x, residual| binary(Op::Add, &unary(Op::Relu, &linear(x, &weight, None)?)?, residual));
        assert!(after.len() == 2 && after[1].contains("_relu_residual"), "{after:?}");
        let twice = commands(&|x, residual| {
            let sum = binary(Op::Add, &linear(x, &weight, Some(&bias))?, residual)?;
            binary(Op::Add, &sum, &unary(Op::Exp, residual)?)
        });
        assert!(twice.len() == 3 && twice[1].contains("_bias_residual"), "one of two: {twice:?}");
        let before = commands(&|x, residual| {
            unary(Op::Relu, &binary(Op::Add, &linear(x, &weight, Some(&bias))?, residual)?)
        });
        assert_eq!(before.len(), 3, "an activation of the sum: {before:?}");
    }
    let batches = equals_eager(
        &device,
        0.0,
        |seed| {
            vec![
                Tensor::random(&device, F, &[3, 17, 4096], seed),
                Tensor::random(&device, F, &[3, 4096, 20], seed + 5),
                Tensor::random(&device, F, &[3, 17, 20], seed + 7),
            ]
        },
        |inputs| {
            let product = unary(Op::Relu, &product(inputs[0], inputs[1])?)?;
            Ok(vec![binary(Op::Add, &product, inputs[2])?])
        },
    );
    let names = kernels(&batches);
    assert!(names.len() == 2 && names[1].contains("join_f32_relu_residual"), "{names:?}");
}

#[test]
fn activations_stay_apart_where_somebody_needs_what_they_are_given() {
    let device = device_or_skip!();
    let weight = Tensor::random(&device, F, &[24, 40], 1);
    let inputs = |seed| vec![Tensor::random(&device, F, &[3, 40], seed)];
    let commands = |model: &dyn Fn(&Tensor) -> rivulet::Result<Vec<Tensor>>| {
        let program = equals_eager(&device, 0.0, inputs, |inputs| model(&linear(inputs[0], &weight, None)?));
        kernels(&program).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(commands(&|x| Ok(vec![unary(Op::Relu, x)?, x.clone()])).len(), 2, "an output");
    assert_eq!(commands(&|x| Ok(vec![unary(Op::Relu, x)?, soft(x)?])).len(), 3, "another reader");
    assert_eq!(commands(&|x| Ok(vec![with_scalar(Op::LeakyRelu, x, 0.1)?])).len(), 2, "a parameter");
    let halves = commands(&|x| {
        let part = x.with(&[36], &[1]);
        in_place(Op::Relu, &part)?;
        Ok(vec![x.clone()])
    });
    assert_eq!(halves.len(), 2, "a part: {halves:?}");
}

#[test]
fn chains_of_ops_are_one_kernel_with_the_same_bits() {
    let device = device_or_skip!();
    for dtype in [F, DType::F16, DType::BF16] {
        let (gain, shift) =
            (Tensor::random(&device, dtype, &[16], 1), Tensor::random(&device, dtype, &[16], 2));
        let inputs = |seed| {
            let make = |seed| Tensor::random(&device, dtype, &[129, 16], seed);
            vec![make(seed), make(seed + 20)]
        };
        let program = equals_eager(&device, 0.0, inputs, |inputs| {
            // Products before sums: what a compiler would make one rounding of.
            let x = binary(Op::Add, &binary(Op::Mul, inputs[0], &gain)?, &shift)?;
            let x = binary(Op::Sub, &binary(Op::Mul, &x, inputs[1])?, inputs[0])?;
            let x = scaled(Op::Mul, &x, 0.3)?;
            in_place(Op::Silu, &x)?;
            Ok(vec![binary(Op::Mul, &x, &x)?])
        });
        let report = program.report();
        assert_eq!((report.noted, report.commands.len()), (7, 1), "{report:#?}");
        assert_eq!((report.arena_bytes, report.fusions.len()), (0, 6));
    }
}

#[test]
fn chains_hold_truths_choices_and_conversions() {
    let device = device_or_skip!();
    let shape = [130];
    let program = equals_eager(
        &device,
        0.0,
        |seed| {
            vec![
                Tensor::random(&device, F, &shape, seed),
                Tensor::random(&device, DType::F16, &shape, seed + 7),
            ]
        },
        |inputs| {
            let [x, half] = [inputs[0], inputs[1]];
            let (mask, wide) =
                (Tensor::empty(&device, DType::Bool, &shape)?, Tensor::empty(&device, F, &shape)?);
            copy(&device, &wide.view(), &half.view())?;
            pointwise(&device, Op::Gt, F, &mask.view(), &[x.view()], Some(1), &[Scalar::F32(0.1)])?;
            let chosen = Tensor::empty(&device, F, &shape)?;
            let views = [mask.view(), x.view(), wide.view()];
            pointwise(&device, Op::Where, F, &chosen.view(), &views, None, &[])?;
            let narrow = Tensor::empty(&device, DType::BF16, &shape)?;
            copy(&device, &narrow.view(), &chosen.view())?;
            Ok(vec![unary(Op::Exp, &narrow)?])
        },
    );
    assert_eq!(program.report().commands.len(), 1, "{:#?}", program.report());
}

#[test]
fn a_chain_ends_where_its_result_is_needed_or_its_source_changes() {
    let device = device_or_skip!();
    let inputs = |seed| vec![Tensor::random(&device, F, &[64], seed)];
    let twice = equals_eager(&device, 0.0, inputs, |inputs| {
        let x = unary(Op::Sin, inputs[0])?;
        Ok(vec![unary(Op::Exp, &x)?, unary(Op::Cos, &x)?])
    });
    assert_eq!(twice.report().commands.len(), 3, "{:#?}", twice.report());
    let changed = equals_eager(&device, 0.0, inputs, |inputs| {
        let x = unary(Op::Sin, inputs[0])?;
        let before = unary(Op::Exp, &x)?;
        soft(&x)?;
        pointwise(&device, Op::Cos, F, &x.view(), &[inputs[0].view()], None, &[])?;
        in_place(Op::Neg, &x)?;
        let read = soft(&x)?;
        Ok(vec![unary(Op::Square, &before)?, read])
    });
    assert!(changed.report().fusions.iter().any(|line| line == "neg after cos"), "{:#?}", changed.report());
    let long = equals_eager(&device, 0.0, inputs, |inputs| {
        let mut x = unary(Op::Sin, inputs[0])?;
        for _ in 0..20 {
            x = unary(Op::Tanh, &x)?;
        }
        Ok(vec![x])
    });
    assert_eq!(long.report().commands.len(), 3, "of eight steps each: {:#?}", long.report());
}

#[test]
fn chains_write_over_what_they_read_only_element_by_element() {
    let device = device_or_skip!();
    let inputs = |seed| vec![Tensor::random(&device, F, &[8, 16], seed)];
    equals_eager(&device, 0.0, inputs, |inputs| {
        // The first row is added to all of them, itself too.
        let x = unary(Op::Exp, inputs[0])?;
        let row = x.with(&[16], &[1]).expand(&[8, 16]);
        let sum = Tensor::empty(&device, F, &[8, 16])?;
        pointwise(&device, Op::Add, F, &sum.view(), &[x.view(), row.view()], None, &[])?;
        copy(&device, &x.view(), &sum.view())?;
        Ok(vec![soft(&x)?])
    });
}

/// The noted and the remaining commands of a model of one input.
fn counts(device: &Device, model: impl Fn(&Tensor) -> rivulet::Result<Vec<Tensor>>) -> (usize, usize) {
    let inputs = |seed| vec![Tensor::random(device, F, &[8, 64], seed)];
    let program = equals_eager(device, 0.0, inputs, |inputs| model(inputs[0]));
    (program.report().noted, program.report().commands.len())
}

#[test]
fn copies_that_are_only_read_are_not_made() {
    let device = device_or_skip!();
    let cloned = counts(&device, |x| Ok(vec![soft(&contiguous(x)?)?]));
    assert_eq!(cloned, (2, 1), "an input is read where it lies");
    let made = counts(&device, |x| Ok(vec![soft(&contiguous(&soft(x)?)?)?]));
    assert_eq!(made, (3, 2));
    let row = counts(&device, |x| {
        let part = x.with(&[2, 64], &[64, 1]).starting_at(128);
        Ok(vec![soft(&contiguous(&part)?)?])
    });
    assert_eq!(row, (2, 1), "from within");
    let odd = counts(&device, |x| {
        let part = x.with(&[2, 64], &[64, 1]).starting_at(3);
        Ok(vec![soft(&contiguous(&part)?)?])
    });
    assert_eq!(odd, (2, 2), "an operand cannot begin anywhere");
    let changed = counts(&device, |x| {
        let made = soft(x)?;
        let kept = contiguous(&made)?;
        copy(&device, &made.view(), &x.view())?;
        Ok(vec![soft(&kept)?, soft(&made)?])
    });
    assert_eq!(changed, (5, 5), "the copy keeps what is overwritten");
    let output = counts(&device, |x| Ok(vec![contiguous(x)?]));
    assert_eq!(output, (1, 1), "an output is memory of its own");
}

#[test]
fn parts_of_a_whole_are_made_in_their_places() {
    let device = device_or_skip!();
    let joined = counts(&device, |x| {
        let whole = Tensor::empty(&device, F, &[3, 8, 64])?;
        for (part, made) in [soft(x)?, unary(Op::Exp, x)?, x.clone()].iter().enumerate() {
            let to = whole.with(&[8, 64], &[64, 1]).starting_at(part as u64 * 512);
            copy(&device, &to.view(), &made.view())?;
        }
        Ok(vec![whole])
    });
    assert_eq!(joined, (5, 3), "the input is still copied");
}

#[test]
fn a_fused_program_follows_its_weights_and_its_inputs() {
    let device = device_or_skip!();
    let (weight, gain) = (Tensor::random(&device, F, &[24, 40], 1), Tensor::random(&device, F, &[24], 2));
    let model = |inputs: &[&Tensor]| {
        let x = unary(Op::Relu, &linear(inputs[0], &weight, None)?)?;
        Ok(vec![unary(Op::Exp, &binary(Op::Mul, &x, &gain)?)?])
    };
    let (program, outs) = capture(&device, &[&Tensor::random(&device, F, &[3, 40], 0)], model).unwrap();
    assert_eq!(program.report().commands.len(), 2, "{:#?}", program.report());
    for round in 0..4 {
        in_place(Op::Neg, if round % 2 == 0 { &weight } else { &gain }).unwrap();
        let x = Tensor::random(&device, F, &[3, 40], 50 + round);
        assert_eq!(run(&program, &[&x], &outs, None)[0], model(&[&x]).unwrap()[0].bytes(), "{round}");
    }
}

/// `layer_norm(x)` with its statistics kept, as PyTorch's forward does; out, mean, rstd.
fn norm_with_statistics(x: &Tensor, gain: &Tensor, shift: &Tensor) -> rivulet::Result<[Tensor; 3]> {
    let (out, rows) = (Tensor::empty(x.device(), x.dtype, &x.shape)?, [x.shape[0]]);
    let [mean, rstd] = [Tensor::empty(x.device(), F, &rows)?, Tensor::empty(x.device(), F, &rows)?];
    let (kept, factors) = ((mean.view(), rstd.view()), (gain.view(), shift.view()));
    let (gain, shift) = (Some(&factors.0), Some(&factors.1));
    layer_norm(x.device(), &out.view(), Some(&kept.0), Some(&kept.1), &x.view(), gain, shift, 1e-5)?;
    Ok([out, mean, rstd])
}

#[test]
fn sums_go_into_normalisations() {
    let device = device_or_skip!();
    for dtype in [F, DType::F16, DType::BF16] {
        let [gain, shift] = [1, 2].map(|seed| Tensor::random(&device, dtype, &[40], seed));
        let inputs =
            |seed| [seed, seed + 9].map(|seed| Tensor::random(&device, dtype, &[9, 40], seed)).into();
        let program = |model: &dyn Fn(&[&Tensor]) -> rivulet::Result<Vec<Tensor>>| {
            equals_eager(&device, if dtype == F { 0.0 } else { 16.0 }, inputs, model)
        };
        let sum = |inputs: &[&Tensor]| binary(Op::Add, inputs[0], inputs[1]);

        let gone = program(&|inputs| Ok(vec![norm(&sum(inputs)?, &gain, &shift)?]));
        let (names, report) = (kernels(&gone), gone.report());
        assert!(names.len() == 1 && names[0].starts_with("add_layer_norm"), "{names:?}");
        assert!(report.fusions[0].starts_with("add into add_layer_norm"), "{report:#?}");
        assert_eq!(report.arena_bytes, 0);

        let kept = program(&|inputs| {
            let sum = sum(inputs)?;
            Ok(vec![norm(&sum, &gain, &shift)?, sum])
        });
        let names = kernels(&kept);
        assert!(names.len() == 1 && names[0].starts_with("add_keep_layer_norm"), "{names:?}");

        let read_again = program(&|inputs| {
            let sum = sum(inputs)?;
            let normal = norm(&sum, &gain, &shift)?;
            Ok(vec![soft(&sum)?, normal])
        });
        let names = kernels(&read_again);
        assert!(names.len() == 2 && names[0].starts_with("add_keep_layer_norm"), "{names:?}");

        let in_its_place = program(&|inputs| {
            let x = soft(inputs[0])?;
            pointwise(&device, Op::Add, dtype, &x.view(), &[x.view(), inputs[1].view()], None, &[])?;
            Ok(vec![norm(&x, &gain, &shift)?])
        });
        assert_eq!(kernels(&in_its_place).len(), 2);
    }
}

#[test]
fn summands_and_sums_that_begin_within_a_tensor_go_into_normalisations() {
    let device = device_or_skip!();
    let [gain, shift] = [1, 2].map(|seed| Tensor::random(&device, F, &[40], seed));
    let inputs = |seed| [seed, seed + 9].map(|seed| Tensor::random(&device, F, &[13, 40], seed)).into();
    let part = |x: &Tensor, first: u64| x.with(&[9, 40], &[40, 1]).starting_at(first);
    for [left, right] in [[0, 80], [120, 0], [4, 44]] {
        let program = equals_eager(&device, 0.0, inputs, |inputs| {
            let sum = binary(Op::Add, &part(inputs[0], left), &part(inputs[1], right))?;
            Ok(vec![norm(&sum, &gain, &shift)?])
        });
        let names = kernels(&program);
        assert!(names.len() == 1 && names[0].starts_with("add_layer_norm"), "{left} {right}: {names:?}");
    }
    let kept = equals_eager(&device, 0.0, inputs, |inputs| {
        let whole = soft(inputs[0])?;
        let sum = part(&whole, 120);
        let (left, right) = (part(inputs[0], 40), part(inputs[1], 0));
        pointwise(&device, Op::Add, F, &sum.view(), &[left.view(), right.view()], None, &[])?;
        Ok(vec![norm(&sum, &gain, &shift)?, whole])
    });
    assert!(kernels(&kept)[1].starts_with("add_keep_layer_norm"), "{:?}", kernels(&kept));
    let odd = equals_eager(&device, 0.0, inputs, |inputs| {
        Ok(vec![norm(&binary(Op::Add, &part(inputs[0], 0), &part(inputs[1], 2))?, &gain, &shift)?])
    });
    assert_eq!(kernels(&odd).len(), 2, "read four at a time: {:?}", kernels(&odd));
}

#[test]
fn sums_stay_apart_from_normalisations_where_the_order_or_their_form_says_so() {
    let device = device_or_skip!();
    let [gain, shift] = [1, 2].map(|seed| Tensor::random(&device, F, &[40], seed));
    let inputs = |seed| [seed, seed + 9].map(|seed| Tensor::random(&device, F, &[9, 40], seed)).into();
    let count = |model: &dyn Fn(&[&Tensor]) -> rivulet::Result<Vec<Tensor>>| {
        let program = equals_eager(&device, 0.0, inputs, model);
        kernels(&program).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    // A row for all: read in another way than the rows.
    let row = count(&|inputs| Ok(vec![norm(&binary(Op::Add, inputs[0], &gain)?, &gain, &shift)?]));
    assert_eq!(row.len(), 2, "{row:?}");
    let difference = count(&|inputs| Ok(vec![norm(&binary(Op::Sub, inputs[0], inputs[1])?, &gain, &shift)?]));
    assert_eq!(difference.len(), 2, "{difference:?}");
    // The input itself has to get the sum, and rows read it.
    let kept_in_place = count(&|inputs| {
        pointwise(&device, Op::Add, F, &inputs[0].view(), &[inputs[0].view(), inputs[1].view()], None, &[])?;
        Ok(vec![norm(inputs[0], &gain, &shift)?])
    });
    assert_eq!(kept_in_place.len(), 2, "{kept_in_place:?}");
    let into_its_place = count(&|inputs| {
        let (sum, gain, shift) = (binary(Op::Add, inputs[0], inputs[1])?, gain.view(), shift.view());
        let place = sum.view();
        layer_norm(&device, &place, None, None, &place, Some(&gain), Some(&shift), 1e-5)?;
        Ok(vec![sum])
    });
    assert_eq!(into_its_place.len(), 2, "{into_its_place:?}");
    let over_a_summand = count(&|inputs| {
        let (sum, gain, shift) = (binary(Op::Add, inputs[0], inputs[1])?, gain.view(), shift.view());
        layer_norm(&device, &inputs[1].view(), None, None, &sum.view(), Some(&gain), Some(&shift), 1e-5)?;
        Ok(vec![inputs[1].clone()])
    });
    assert_eq!(over_a_summand.len(), 2, "{over_a_summand:?}");
    let of_two_types = count(&|inputs| {
        let half = Tensor::empty(&device, DType::F16, &[9, 40])?;
        copy(&device, &half.view(), &inputs[1].view())?;
        soft(&half)?;
        Ok(vec![norm(&binary(Op::Add, inputs[0], &half)?, &gain, &shift)?])
    });
    assert!(of_two_types.iter().all(|name| !name.starts_with("add_layer")), "{of_two_types:?}");
    // A summand is written in between: the norm moves up instead.
    let written_between = count(&|inputs| {
        let x = soft(inputs[0])?;
        let sum = binary(Op::Add, &x, inputs[1])?;
        in_place(Op::Neg, &x)?;
        Ok(vec![norm(&sum, &gain, &shift)?, x])
    });
    assert!(written_between[1].starts_with("add_layer_norm"), "{written_between:?}");
    // Both are written in between, summand and factor: neither may move.
    let stuck = count(&|inputs| {
        let (x, gain) = (soft(inputs[0])?, unary(Op::Exp, &gain)?);
        let sum = binary(Op::Add, &x, inputs[1])?;
        in_place(Op::Neg, &x)?;
        in_place(Op::Neg, &gain)?;
        Ok(vec![norm(&sum, &gain, &shift)?, x])
    });
    assert!(stuck.iter().all(|kernel| !kernel.starts_with("add_layer_norm")), "{stuck:?}");
}

/// `rms_norm(x)`.
fn root(x: &Tensor, gain: &Tensor) -> rivulet::Result<Tensor> {
    let out = Tensor::empty(x.device(), x.dtype, &x.shape)?;
    rms_norm(x.device(), &out.view(), None, &x.view(), Some(&gain.view()), 1e-5)?;
    Ok(out)
}

#[test]
fn chains_go_into_the_rows_before_them() {
    let device = device_or_skip!();
    for dtype in [F, DType::F16, DType::BF16] {
        let [gain, shift] = [1, 2].map(|seed| Tensor::random(&device, dtype, &[40], seed));
        let inputs =
            |seed| [seed, seed + 9].map(|seed| Tensor::random(&device, dtype, &[9, 40], seed)).into();
        // Bit by bit: what is between is rounded as if it were stored.
        let names = |model: &dyn Fn(&[&Tensor]) -> rivulet::Result<Tensor>| {
            let program = equals_eager(&device, 0.0, inputs, |inputs| Ok(vec![model(inputs)?]));
            assert!(program.report().fusions.iter().any(|line| line.contains(" after ")), "{program:?}");
            assert_eq!(program.report().arena_bytes, 0);
            kernels(&program).into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        for op in [Op::Gelu, Op::Silu, Op::Relu, Op::Tanh] {
            let of_one = names(&|inputs| unary(op, &norm(inputs[0], &gain, &shift)?));
            assert!(of_one.len() == 1 && of_one[0].contains(op.label()), "{of_one:?}");
        }
        let gate = names(&|inputs| binary(Op::Mul, &root(inputs[0], &gain)?, inputs[1]));
        assert!(gate.len() == 1 && gate[0].starts_with("rms_norm_weight"), "{gate:?}");
        let residual = names(&|inputs| binary(Op::Add, inputs[1], &norm(inputs[0], &gain, &shift)?));
        assert!(residual.len() == 1 && residual[0].starts_with("layer_norm"), "{residual:?}");
        let itself = names(&|inputs| binary(Op::Sub, inputs[0], &norm(inputs[0], &gain, &shift)?));
        assert_eq!(itself.len(), 1, "what was normalised, too: {itself:?}");
        let row = names(&|inputs| binary(Op::Mul, &soft(inputs[0])?, &gain));
        assert!(row.len() == 1 && row[0].starts_with("softmax"), "{row:?}");
        let square = names(&|inputs| {
            let x = root(inputs[0], &gain)?;
            binary(Op::Mul, &x, &x)
        });
        assert_eq!(square.len(), 1, "{square:?}");
        let long = names(&|inputs| {
            let x = scaled(Op::Mul, &norm(inputs[0], &gain, &shift)?, 0.3)?;
            let x = binary(Op::Add, &unary(Op::Silu, inputs[1])?, &x)?;
            binary(Op::Mul, &unary(Op::Gelu, &x)?, &gain)
        });
        assert_eq!(long.len(), 1, "{long:?}");
        let cast = names(&|inputs| {
            let made = norm(inputs[0], &gain, &shift)?;
            let out = Tensor::empty(&device, if dtype == F { DType::F16 } else { F }, &made.shape)?;
            copy(&device, &out.view(), &made.view())?;
            Ok(out)
        });
        assert_eq!(cast.len(), 1, "{cast:?}");
        let in_place_of_it = names(&|inputs| {
            let made = norm(inputs[0], &gain, &shift)?;
            in_place(Op::Neg, &made)?;
            Ok(made)
        });
        assert_eq!(in_place_of_it.len(), 1, "{in_place_of_it:?}");
        let over_an_input = names(&|inputs| {
            let made = norm(inputs[0], &gain, &shift)?;
            let gate = inputs[1].view();
            pointwise(&device, Op::Mul, dtype, &gate, &[made.view(), gate.clone()], None, &[])?;
            Ok(inputs[1].clone())
        });
        assert_eq!(over_an_input.len(), 1, "{over_an_input:?}");
    }
}

#[test]
fn sums_before_rows_and_chains_behind_them_are_one() {
    let device = device_or_skip!();
    let [gain, shift] = [1, 2].map(|seed| Tensor::random(&device, F, &[40], seed));
    let inputs = |seed| [seed, seed + 9].map(|seed| Tensor::random(&device, F, &[9, 40], seed)).into();
    let program = equals_eager(&device, 0.0, inputs, |inputs| {
        let sum = binary(Op::Add, inputs[0], inputs[1])?;
        let normal = norm(&sum, &gain, &shift)?;
        Ok(vec![binary(Op::Mul, &unary(Op::Gelu, &normal)?, inputs[1])?, sum])
    });
    let names = kernels(&program);
    assert!(names.len() == 1 && names[0].starts_with("add_keep_layer_norm"), "{names:?}");
    let read = equals_eager(&device, 0.0, inputs, |inputs| {
        let sum = binary(Op::Add, inputs[0], inputs[1])?;
        let normal = norm(&sum, &gain, &shift)?;
        Ok(vec![binary(Op::Mul, &unary(Op::Gelu, &normal)?, &sum)?, sum])
    });
    assert_eq!(kernels(&read).len(), 2, "the kept sum is written by the same command: {:?}", kernels(&read));
}

#[test]
fn chains_stay_apart_from_rows_where_the_order_or_their_form_says_so() {
    let device = device_or_skip!();
    let [gain, shift] = [1, 2].map(|seed| Tensor::random(&device, F, &[40], seed));
    let inputs = |seed| [seed, seed + 9].map(|seed| Tensor::random(&device, F, &[9, 40], seed)).into();
    let names = |model: &dyn Fn(&[&Tensor]) -> rivulet::Result<Vec<Tensor>>| {
        let program = equals_eager(&device, 0.0, inputs, model);
        kernels(&program).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let kept = names(&|inputs| {
        let made = norm(inputs[0], &gain, &shift)?;
        Ok(vec![unary(Op::Exp, &made)?, made])
    });
    assert_eq!(kept.len(), 2, "an output: {kept:?}");
    let read = names(&|inputs| {
        let made = norm(inputs[0], &gain, &shift)?;
        Ok(vec![unary(Op::Exp, &made)?, soft(&made)?])
    });
    assert_eq!(read.len(), 3, "another reader: {read:?}");
    let read_otherwise = names(&|inputs| {
        let made = norm(inputs[0], &gain, &shift)?;
        Ok(vec![binary(Op::Mul, &made, &made.with(&[40], &[1]))?])
    });
    assert_eq!(read_otherwise.len(), 2, "its first row for all: {read_otherwise:?}");
    // A row is read as a whole, and its elements are written when others of the last one are read yet.
    let over = names(&|inputs| {
        let made = norm(inputs[0], &gain, &shift)?;
        pointwise(&device, Op::Neg, F, &inputs[0].view(), &[made.view()], None, &[])?;
        Ok(vec![inputs[0].clone()])
    });
    assert_eq!(over.len(), 2, "over what was normalised: {over:?}");
    let truths = names(&|inputs| {
        let (made, out) = (norm(inputs[0], &gain, &shift)?, Tensor::empty(&device, DType::Bool, &[9, 40])?);
        pointwise(&device, Op::Gt, F, &out.view(), &[made.view()], Some(1), &[Scalar::F32(0.1)])?;
        Ok(vec![out])
    });
    assert_eq!(truths.len(), 2, "stored in fours: {truths:?}");
    // A part of a tensor that begins at an odd place.
    let odd = names(&|inputs| {
        let part = inputs[1].with(&[8, 40], &[40, 1]).starting_at(3);
        let made = norm(&inputs[0].with(&[8, 40], &[40, 1]), &gain, &shift)?;
        Ok(vec![binary(Op::Mul, &made, &part)?])
    });
    assert_eq!(odd.len(), 2, "{odd:?}");
    // What was normalised changes in between: the chain moves up instead.
    let moved = names(&|inputs| {
        let x = soft(inputs[0])?;
        let made = norm(&x, &gain, &shift)?;
        in_place(Op::Neg, &x)?;
        Ok(vec![binary(Op::Mul, &made, inputs[1])?, x])
    });
    assert!(moved.len() == 3 && moved[1].starts_with("layer_norm") && moved[1].contains("mul"), "{moved:?}");
    // Both change: neither may move.
    let stuck = names(&|inputs| {
        let (x, gate) = (soft(inputs[0])?, soft(inputs[1])?);
        let made = norm(&x, &gain, &shift)?;
        in_place(Op::Neg, &x)?;
        in_place(Op::Neg, &gate)?;
        Ok(vec![binary(Op::Mul, &made, &gate)?, x, gate])
    });
    assert!(stuck.iter().all(|name| !name.contains("layer_norm") || !name.contains("mul")), "{stuck:?}");
}

#[test]
fn statistics_that_nobody_reads_are_not_kept() {
    let device = device_or_skip!();
    let [gain, shift] = [1, 2].map(|seed| Tensor::random(&device, F, &[40], seed));
    let inputs = |seed| vec![Tensor::random(&device, F, &[9, 40], seed)];
    let unread = equals_eager(&device, 0.0, inputs, |inputs| {
        let [out, ..] = norm_with_statistics(inputs[0], &gain, &shift)?;
        Ok(vec![out])
    });
    assert!(!kernels(&unread)[0].contains("stats"), "{:?}", kernels(&unread));
    assert_eq!(unread.report().arena_bytes, 0);
    let read = equals_eager(&device, 0.0, inputs, |inputs| {
        let [out, mean, _] = norm_with_statistics(inputs[0], &gain, &shift)?;
        Ok(vec![out, mean])
    });
    assert!(kernels(&read)[0].contains("stats"), "{:?}", kernels(&read));
}
