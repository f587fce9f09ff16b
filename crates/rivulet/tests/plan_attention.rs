//! Attention that a model writes out is one kernel, and gives what its steps give.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says by a panic what is wrong")]

mod gpu;
mod plan;

use plan::{
    Tensor, binary, contiguous, device_or_skip, equals_eager, in_place, product, scaled, soft, unary,
};
use rivulet::ops::{DType, Op, Scalar, matmul, pointwise};
use rivulet::plan::Program;
use rivulet::{Device, Result};

const F: DType = DType::F32;

fn kernels(program: &Program) -> Vec<&str> {
    program.report().commands.iter().map(|command| command.kernel.as_str()).collect()
}

/// Batches, heads, queries, keys, size of a head.
#[derive(Clone, Copy)]
struct Size(u64, u64, u64, u64, u64);

const SMALL: Size = Size(2, 3, 9, 13, 16);

impl Size {
    /// q, k and v.
    fn inputs(self, device: &Device, dtype: DType, seed: u64) -> Vec<Tensor> {
        let Self(batch, heads, queries, keys, dim) = self;
        let make = |length, seed| Tensor::random(device, dtype, &[batch, heads, length, dim], seed);
        vec![make(queries, seed), make(keys, seed + 20), make(keys, seed + 40)]
    }
}

fn transposed(x: &Tensor) -> Tensor {
    x.permute(&[0, 1, 3, 2])
}

/// `softmax(q kᵀ · scale + mask) v`.
fn written_out(inputs: &[&Tensor], scale: Option<f32>, mask: Option<&Tensor>) -> Result<Tensor> {
    let mut scores = product(inputs[0], &transposed(inputs[1]))?;
    if let Some(scale) = scale {
        scores = scaled(Op::Mul, &scores, scale)?;
    }
    if let Some(mask) = mask {
        scores = binary(Op::Add, &scores, mask)?;
    }
    product(&soft(&scores)?, inputs[2])
}

/// The names of the kernels that a model of q, k and v becomes.
#[track_caller]
fn names(
    device: &Device,
    (size, dtype): (Size, DType),
    model: impl Fn(&[&Tensor]) -> Result<Vec<Tensor>>,
) -> Vec<String> {
    // The exponential passes on what scores of up to 32 lose, added in another order.
    let tolerance = if dtype == F { 64.0 } else { 4.0 };
    let program = equals_eager(device, tolerance, |seed| size.inputs(device, dtype, seed), model);
    kernels(&program).into_iter().map(str::to_owned).collect()
}

#[test]
fn written_out_attention_is_one_kernel() {
    let device = device_or_skip!();
    for dtype in [F, DType::F16, DType::BF16] {
        // Few queries and many, heads with and without vectors of four, one batch and head, one query, keys cut into parts.
        for size in [SMALL, Size(2, 2, 40, 24, 32), Size(1, 1, 33, 2048, 64), Size(3, 1, 1, 7, 10)] {
            for scale in [None, Some(0.25)] {
                let names =
                    names(&device, (size, dtype), |inputs| Ok(vec![written_out(inputs, scale, None)?]));
                assert!(names.len() == 1 && names[0].starts_with("attention_"), "{names:?}");
            }
        }
    }
    let program = equals_eager(
        &device,
        16.0,
        |seed| SMALL.inputs(&device, F, seed),
        |inputs| Ok(vec![written_out(inputs, Some(0.25), None)?]),
    );
    let report = program.report();
    assert_eq!(report.arena_bytes, 0, "no scores");
    assert!(report.fusions[0].starts_with("matmul, softmax and matmul into attention_f32_32"), "{report:#?}");
}

#[test]
fn written_out_masks_are_the_kernels() {
    let device = device_or_skip!();
    let Size(batch, heads, queries, keys, _) = SMALL;
    for (dtype, of_mask) in [(F, F), (DType::F16, DType::F16), (F, DType::F16), (DType::BF16, DType::BF16)] {
        for shape in [
            vec![queries, keys],
            vec![1, keys],
            vec![batch, 1, 1, keys],
            vec![batch, 1, queries, keys],
            vec![heads, queries, keys],
            vec![heads, 1, 1],
            vec![batch, heads, queries, keys],
        ] {
            let mask = Tensor::random(&device, of_mask, &shape, 77);
            let of = (SMALL, dtype);
            let model = |scale| {
                names(&device, of, |inputs| {
                    let scores = product(inputs[0], &transposed(inputs[1]))?;
                    let scores =
                        if let Some(scale) = scale { scaled(Op::Mul, &scores, scale)? } else { scores };
                    let (sum, wide) =
                        (Tensor::empty(&device, dtype, &scores.shape)?, mask.expand(&scores.shape));
                    pointwise(
                        &device,
                        Op::Add,
                        dtype,
                        &sum.view(),
                        &[wide.view(), scores.view()],
                        None,
                        &[],
                    )?;
                    Ok(vec![product(&soft(&sum)?, inputs[2])?])
                })
            };
            for scale in [None, Some(0.5)] {
                let names = model(scale);
                let masked = names.len() == 1 && names[0].contains("_mask_");
                assert!(masked, "{dtype:?} {of_mask:?} {shape:?} {scale:?}: {names:?}");
            }
        }
    }
}

#[test]
fn scores_that_are_filled_where_a_mask_says_are_the_kernels() {
    let device = device_or_skip!();
    let Size(batch, heads, queries, keys, _) = SMALL;
    for (dtype, number) in
        [(F, f32::NEG_INFINITY), (F, -2.5), (DType::F16, -1e9), (DType::BF16, f32::NEG_INFINITY)]
    {
        for shape in [vec![queries, keys], vec![batch, 1, 1, keys], vec![batch, heads, queries, keys]] {
            let count = shape.iter().product();
            let hidden: Vec<_> = (0..count).map(|at: u64| f64::from(u8::from(at % 3 == 1))).collect();
            let mask = Tensor::of(&device, DType::Bool, &shape, &hidden);
            for in_its_place in [false, true] {
                let names = names(&device, (SMALL, dtype), |inputs| {
                    let scores = scaled(Op::Mul, &product(inputs[0], &transposed(inputs[1]))?, 0.5)?;
                    let made = Tensor::empty(&device, dtype, &scores.shape)?;
                    let (to, wide) = (if in_its_place { &scores } else { &made }, mask.expand(&scores.shape));
                    let given = [scores.view(), wide.view()];
                    pointwise(
                        &device,
                        Op::MaskedFill,
                        dtype,
                        &to.view(),
                        &given,
                        None,
                        &[Scalar::F32(0.0), Scalar::F32(number)],
                    )?;
                    Ok(vec![product(&soft(to)?, inputs[2])?])
                });
                let filled = names.len() == 1 && names[0].contains("_mask_filled_");
                assert!(filled, "{dtype:?} {shape:?}: {names:?}");
            }
        }
    }
}

/// A mask of -infinity where a query sees no key; the first sees none.
#[test]
fn queries_that_see_no_key_give_what_their_softmax_gives() {
    let device = device_or_skip!();
    for (dtype, low) in [(F, f64::NEG_INFINITY), (DType::F16, f64::NEG_INFINITY), (DType::F16, -65504.0)] {
        for size in [SMALL, Size(1, 2, 40, 40, 32)] {
            let Size(_, _, queries, keys, _) = size;
            let hidden = |at: u64| if at % keys >= at / keys { low } else { 0.0 };
            let values: Vec<f64> = (0..queries * keys).map(hidden).collect();
            let mask = Tensor::of(&device, dtype, &[queries, keys], &values);
            let names = names(&device, (size, dtype), |inputs| {
                Ok(vec![written_out(inputs, Some(4.0), Some(&mask))?])
            });
            assert_eq!(names.len(), 1, "{names:?}");
        }
    }
}

#[test]
fn heads_lie_as_they_do_in_the_projections() {
    let device = device_or_skip!();
    let (batch, heads, length, dim) = (2, 3, 11, 8);
    for dtype in [F, DType::F16] {
        let inputs = |seed| {
            let make = |seed| Tensor::random(&device, dtype, &[batch, length, heads, dim], seed);
            vec![make(seed), make(seed + 20), make(seed + 40)]
        };
        let program = equals_eager(&device, if dtype == F { 16.0 } else { 4.0 }, inputs, |inputs| {
            let [q, k, v] = [0, 1, 2].map(|at| inputs[at].permute(&[0, 2, 1, 3]));
            let scores = scaled(Op::Div, &product(&q, &transposed(&k))?, 3.0)?;
            let out = Tensor::empty(&device, dtype, &[batch, length, heads, dim])?;
            let to = out.permute(&[0, 2, 1, 3]);
            matmul(&device, &to.view(), &soft(&scores)?.view(), &v.view(), None, 1.0, 0.0, None)?;
            Ok(vec![out])
        });
        let names = kernels(&program);
        assert!(names.len() == 1 && names[0].starts_with("attention_"), "{names:?}");
    }
}

#[test]
fn operands_may_begin_and_end_anywhere() {
    let device = device_or_skip!();
    for dtype in [F, DType::F16] {
        let odd = names(&device, (SMALL, dtype), |inputs| {
            let q = inputs[0].with(&[2, 3, 8, 16], &[432, 144, 16, 1]).starting_at(3);
            let [k, v] = [1, 2].map(|at| inputs[at].with(&[2, 3, 12, 16], &[620, 206, 17, 1]).starting_at(1));
            // Elements beside those that are written stay.
            let whole = unary(Op::Tanh, &inputs[1].with(&[2, 3, 8, 17], &[408, 136, 17, 1]))?;
            let (to, keys) = (whole.with(&[2, 3, 8, 16], &[408, 136, 17, 1]), transposed(&k));
            let weights = soft(&product(&q, &keys)?)?;
            matmul(&device, &to.view(), &weights.view(), &v.view(), None, 1.0, 0.0, None)?;
            Ok(vec![whole])
        });
        assert!(odd.len() == 2 && odd[1].starts_with("attention"), "{odd:?}");
    }
}

#[test]
fn results_in_parts_are_put_where_they_belong() {
    let device = device_or_skip!();
    let size = Size(1, 1, 33, 2048, 64);
    let names = names(&device, (size, F), |inputs| {
        let whole = unary(Op::Tanh, &inputs[1].with(&[1, 1, 40, 68], &[2720, 2720, 68, 1]))?;
        let to = whole.with(&[1, 1, 33, 64], &[2720, 2720, 68, 1]).starting_at(72);
        let weights = soft(&product(inputs[0], &transposed(inputs[1]))?)?;
        matmul(&device, &to.view(), &weights.view(), &inputs[2].view(), None, 1.0, 0.0, None)?;
        Ok(vec![whole])
    });
    assert!(names.len() == 2 && names[1].starts_with("attention"), "{names:?}");
}

/// Heads of rows that lie side by side, and back, with the copies that PyTorch makes for its products.
#[test]
fn heads_are_read_and_written_where_they_lie_without_copies() {
    let device = device_or_skip!();
    for (dtype, Size(batch, heads, queries, keys, dim)) in [
        (F, SMALL),
        (F, Size(1, 4, 21, 21, 32)),
        (F, Size(2, 1, 7, 5, 8)),
        (DType::F16, SMALL),
        (DType::BF16, Size(2, 2, 5, 6, 10)),
    ] {
        let inputs = |seed| {
            let make = |length, seed| Tensor::random(&device, dtype, &[batch, length, heads, dim], seed);
            vec![make(queries, seed), make(keys, seed + 20), make(keys, seed + 40)]
        };
        let mask = Tensor::random(&device, dtype, &[batch, 1, 1, keys], 5);
        let tolerance = if dtype == F { 16.0 } else { 4.0 };
        let model = |inputs: &[&Tensor], masked: bool| {
            let flat = |x: &Tensor| -> Result<Tensor> {
                let made = contiguous(x)?;
                Ok(made.reshape(&[batch * heads, made.shape[2], made.shape[3]]))
            };
            let [q, k, v] = [0, 1, 2].map(|at| inputs[at].permute(&[0, 2, 1, 3]));
            let scores = product(&flat(&q)?, &flat(&transposed(&k))?)?;
            let scores = scaled(Op::Mul, &scores.reshape(&[batch, heads, queries, keys]), 0.3)?;
            let scores = if masked { binary(Op::Add, &scores, &mask)? } else { scores };
            let weights = soft(&scores)?;
            let mixed = product(&flat(&weights)?, &flat(&v)?)?.reshape(&[batch, heads, queries, dim]);
            Ok(vec![contiguous(&mixed.permute(&[0, 2, 1, 3]))?])
        };
        for masked in [false, true] {
            let program = equals_eager(&device, tolerance, inputs, |inputs| model(inputs, masked));
            let names = kernels(&program);
            assert!(names.len() == 1 && names[0].starts_with("attention_"), "{dtype:?} {names:?}");
            assert_eq!(program.report().arena_bytes, 0);
        }
    }
}

#[test]
fn heads_of_one_projection_are_read_where_they_lie() {
    let device = device_or_skip!();
    let [batch, length, heads, dim] = [2, 7, 3, 8];
    for dtype in [F, DType::F16] {
        let inputs = |seed| vec![Tensor::random(&device, dtype, &[batch, length, 3, heads, dim], seed)];
        let program = equals_eager(&device, if dtype == F { 16.0 } else { 4.0 }, inputs, |inputs| {
            let row = (3 * heads * dim) as i64;
            let strides = [length as i64 * row, dim as i64, row, 1];
            let part = |at: u64| {
                inputs[0].with(&[batch, heads, length, dim], &strides).starting_at(at * heads * dim)
            };
            let copy = |x: &Tensor| -> Result<Tensor> {
                let made = contiguous(x)?;
                Ok(made.reshape(&[batch * heads, made.shape[2], made.shape[3]]))
            };
            let scores = product(&copy(&part(0))?, &copy(&transposed(&part(1)))?)?;
            let mixed = product(&soft(&scaled(Op::Mul, &scores, 0.3)?)?, &copy(&part(2))?)?;
            // Into a part of what comes after, too.
            let whole = unary(Op::Tanh, inputs[0])?;
            let to = whole.with(&[batch, heads, length, dim], &strides).starting_at(heads * dim);
            rivulet::ops::copy(&device, &to.view(), &mixed.reshape(&[batch, heads, length, dim]).view())?;
            Ok(vec![whole])
        });
        let names = kernels(&program);
        assert!(names.len() == 2 && names[1].starts_with("attention_"), "{dtype:?} {names:?}");
    }
}

#[test]
fn a_mask_of_every_score_follows_where_the_copy_of_the_result_tells_batches_from_heads() {
    let device = device_or_skip!();
    let Size(batch, heads, queries, keys, _) = SMALL;
    let mask = Tensor::random(&device, F, &[batch, heads, queries, keys], 3);
    let names = names(&device, (SMALL, F), |inputs| {
        let mixed = written_out(inputs, Some(0.25), Some(&mask))?;
        Ok(vec![contiguous(&mixed.permute(&[0, 2, 1, 3]))?])
    });
    assert!(names.len() == 1 && names[0].contains("_mask_"), "{names:?}");
}

#[test]
fn copies_stay_where_they_are_another_order_or_others_need_them() {
    let device = device_or_skip!();
    let count = |model: &dyn Fn(&[&Tensor]) -> Result<Vec<Tensor>>| names(&device, (SMALL, F), model);
    let read = count(&|inputs| {
        let v = contiguous(&inputs[2].permute(&[0, 2, 1, 3]))?.permute(&[0, 2, 1, 3]);
        let q = contiguous(&inputs[0].permute(&[1, 0, 2, 3]))?.permute(&[1, 0, 2, 3]);
        let mixed = product(&soft(&product(&q, &transposed(inputs[1]))?)?, &v)?;
        Ok(vec![mixed, v.permute(&[0, 2, 1, 3])])
    });
    assert_eq!(read.len(), 2, "one of two copies is an output: {read:?}");
    let changed = count(&|inputs| {
        let source = unary(Op::Tanh, inputs[2])?;
        let v = contiguous(&source.permute(&[0, 2, 1, 3]))?.permute(&[0, 2, 1, 3]);
        in_place(Op::Neg, &source)?;
        let mixed = product(&soft(&product(inputs[0], &transposed(inputs[1]))?)?, &v)?;
        Ok(vec![mixed, source])
    });
    assert!(!changed.iter().any(|name| name.starts_with("attention")), "{changed:?}");
    let gathered = count(&|inputs| {
        let apart = inputs[1].with(&[2, 3, 13, 16], &[624, 208, 1, 13]);
        Ok(vec![written_out(&[inputs[0], &contiguous(&apart)?, inputs[2]], None, None)?])
    });
    let copied = gathered.len() == 2 && gathered[1].starts_with("attention");
    assert!(copied, "a copy that brings the elements of a head together: {gathered:?}");
    let both = count(&|inputs| {
        let mixed = written_out(inputs, None, None)?;
        Ok(vec![contiguous(&mixed.permute(&[0, 2, 1, 3]))?, mixed])
    });
    assert_eq!(both.len(), 2, "the result is an output too: {both:?}");
    let apart = count(&|inputs| {
        let mixed = written_out(inputs, None, None)?;
        Ok(vec![contiguous(&mixed.permute(&[0, 1, 3, 2]))?])
    });
    assert_eq!(apart.len(), 2, "elements of a head apart: {apart:?}");
    let over_a_factor = count(&|inputs| {
        let q = unary(Op::Tanh, inputs[0])?;
        let mixed = written_out(&[&q, inputs[1], inputs[2]], None, None)?;
        let to = q.with(&[2, 9, 3, 16], &[432, 48, 16, 1]).permute(&[0, 2, 1, 3]);
        rivulet::ops::copy(&device, &to.view(), &mixed.view())?;
        Ok(vec![q])
    });
    assert_eq!(over_a_factor.len(), 3, "{over_a_factor:?}");
    let touched = count(&|inputs| {
        let to = unary(Op::Tanh, inputs[0])?;
        let mixed = written_out(inputs, None, None)?;
        let read = soft(&to)?;
        let heads = to.with(&[2, 9, 3, 16], &[432, 48, 16, 1]).permute(&[0, 2, 1, 3]);
        rivulet::ops::copy(&device, &heads.view(), &mixed.view())?;
        Ok(vec![to, read])
    });
    assert!(touched.len() == 3 && touched[2].starts_with("attention"), "after who reads: {touched:?}");
    let stuck = count(&|inputs| {
        let (to, q) = (unary(Op::Tanh, inputs[0])?, unary(Op::Exp, inputs[0])?);
        let mixed = written_out(&[&q, inputs[1], inputs[2]], None, None)?;
        let read = soft(&to)?;
        in_place(Op::Neg, &q)?;
        let heads = to.with(&[2, 9, 3, 16], &[432, 48, 16, 1]).permute(&[0, 2, 1, 3]);
        rivulet::ops::copy(&device, &heads.view(), &mixed.view())?;
        Ok(vec![to, read, q])
    });
    assert!(stuck.iter().any(|name| name.starts_with("copy")), "neither may move: {stuck:?}");
}

#[test]
fn steps_in_place_and_steps_around_change_nothing() {
    let device = device_or_skip!();
    let names = names(&device, (SMALL, F), |inputs| {
        let scores = product(&unary(Op::Tanh, inputs[0])?, &transposed(inputs[1]))?;
        pointwise(&device, Op::Mul, F, &scores.view(), &[scores.view()], Some(1), &[Scalar::F32(0.3)])?;
        let other = unary(Op::Exp, inputs[1])?;
        Ok(vec![unary(Op::Neg, &product(&soft(&scores)?, inputs[2])?)?, other])
    });
    assert_eq!(names.iter().filter(|name| name.starts_with("attention_")).count(), 1, "{names:?}");
    assert_eq!(names.len(), 4, "{names:?}");
}

#[test]
fn attention_stays_written_out_where_somebody_needs_its_steps() {
    let device = device_or_skip!();
    let apart = |what: &str, model: &dyn Fn(&[&Tensor]) -> Result<Vec<Tensor>>| {
        let names = names(&device, (SMALL, F), model);
        assert!(!names.iter().any(|name| name.starts_with("attention")), "{what}: {names:?}");
    };
    apart("weights are an output", &|inputs| {
        let weights = soft(&product(inputs[0], &transposed(inputs[1]))?)?;
        Ok(vec![product(&weights, inputs[2])?, weights])
    });
    apart("scores have another reader", &|inputs| {
        let scores = product(inputs[0], &transposed(inputs[1]))?;
        Ok(vec![product(&soft(&scores)?, inputs[2])?, unary(Op::Exp, &scores)?])
    });
    apart("something else is done to the scores", &|inputs| {
        let scores = unary(Op::Tanh, &product(inputs[0], &transposed(inputs[1]))?)?;
        Ok(vec![product(&soft(&scores)?, inputs[2])?])
    });
    apart("something is done to the weights", &|inputs| {
        let weights = scaled(Op::Mul, &soft(&product(inputs[0], &transposed(inputs[1]))?)?, 1.5)?;
        Ok(vec![product(&weights, inputs[2])?])
    });
    apart("a mask that is a factor", &|inputs| {
        let scores = product(inputs[0], &transposed(inputs[1]))?;
        let scores = binary(Op::Mul, &scores, &scores.with(&[13], &[1]))?;
        Ok(vec![product(&soft(&scores)?, inputs[2])?])
    });
    apart("the first factor changes meanwhile", &|inputs| {
        let q = unary(Op::Tanh, inputs[0])?;
        let scores = product(&q, &transposed(inputs[1]))?;
        in_place(Op::Neg, &q)?;
        Ok(vec![product(&soft(&scores)?, inputs[2])?, q])
    });
    apart("the mask changes meanwhile", &|inputs| {
        let mask = unary(Op::Tanh, &inputs[1].with(&[9, 13], &[13, 1]))?;
        let scores = binary(Op::Add, &product(inputs[0], &transposed(inputs[1]))?, &mask)?;
        in_place(Op::Neg, &mask)?;
        Ok(vec![product(&soft(&scores)?, inputs[2])?, mask])
    });
    apart("the result goes where a factor lies", &|inputs| {
        let q = unary(Op::Tanh, inputs[0])?;
        let weights = soft(&product(&q, &transposed(inputs[1]))?)?;
        matmul(&device, &q.view(), &weights.view(), &inputs[2].view(), None, 1.0, 0.0, None)?;
        Ok(vec![q])
    });
}

#[test]
fn attention_stays_written_out_where_its_form_is_another() {
    let device = device_or_skip!();
    let apart = |what: &str, size: Size, model: &dyn Fn(&[&Tensor]) -> Result<Vec<Tensor>>| {
        let names = names(&device, (size, F), model);
        assert!(!names.iter().any(|name| name.starts_with("attention")), "{what}: {names:?}");
    };
    apart("a large head", Size(1, 2, 9, 13, 260), &|inputs| Ok(vec![written_out(inputs, None, None)?]));
    apart("weights along the queries", Size(2, 3, 9, 9, 16), &|inputs| {
        let scores = product(inputs[0], &transposed(inputs[1]))?;
        let weights = Tensor::empty(&device, F, &scores.shape)?;
        rivulet::ops::softmax(&device, false, &weights.view(), &scores.view(), 2)?;
        Ok(vec![product(&weights, inputs[2])?])
    });
    apart("weights of the transposed scores", Size(2, 3, 9, 9, 16), &|inputs| {
        let weights = soft(&product(inputs[0], &transposed(inputs[1]))?)?;
        Ok(vec![product(&transposed(&weights), inputs[2])?])
    });
    let one = Size(1, 1, 9, 13, 16);
    apart("queries whose elements are apart", one, &|inputs| {
        let q = inputs[0].with(&[1, 1, 9, 16], &[144, 144, 1, 9]);
        Ok(vec![written_out(&[&q, inputs[1], inputs[2]], None, None)?])
    });
    apart("keys whose elements are apart", one, &|inputs| {
        let k = inputs[1].with(&[1, 1, 13, 16], &[208, 208, 1, 13]);
        Ok(vec![written_out(&[inputs[0], &k, inputs[2]], None, None)?])
    });
    apart("values whose elements are apart", one, &|inputs| {
        let v = inputs[2].with(&[1, 1, 13, 16], &[208, 208, 1, 13]);
        Ok(vec![written_out(&[inputs[0], inputs[1], &v], None, None)?])
    });
    apart("scores of other batches", SMALL, &|inputs| {
        let scores = Tensor::empty(&device, F, &[3, 2, 9, 13])?;
        let (to, keys) = (scores.permute(&[1, 0, 2, 3]), transposed(inputs[1]));
        matmul(&device, &to.view(), &inputs[0].view(), &keys.view(), None, 1.0, 0.0, None)?;
        Ok(vec![product(&soft(&scores)?, &inputs[2].reshape(&[3, 2, 13, 16]))?])
    });
    apart("masked scores of another order", SMALL, &|inputs| {
        let scores = product(inputs[0], &transposed(inputs[1]))?;
        let (sums, mask) = (Tensor::empty(&device, F, &[2, 3, 13, 9])?, inputs[2].with(&[9, 13], &[13, 1]));
        let (to, mask) = (transposed(&sums), mask.expand(&[2, 3, 9, 13]));
        pointwise(&device, Op::Add, F, &to.view(), &[scores.view(), mask.view()], None, &[])?;
        Ok(vec![product(&soft(&sums.reshape(&[2, 3, 9, 13]))?, inputs[2])?])
    });
    apart("weights of other batches", SMALL, &|inputs| {
        let weights = soft(&product(inputs[0], &transposed(inputs[1]))?)?.permute(&[1, 0, 2, 3]);
        Ok(vec![product(&weights, &inputs[2].permute(&[1, 0, 2, 3]))?])
    });
    apart("values of another size", SMALL, &|inputs| {
        let part = inputs[2].with(&[2, 3, 13, 8], &[624, 208, 16, 1]);
        Ok(vec![product(&soft(&product(inputs[0], &transposed(inputs[1]))?)?, &part)?])
    });
    apart("the softmax of a part of the scores", SMALL, &|inputs| {
        let scores = product(inputs[0], &transposed(inputs[1]))?;
        let part = scores.with(&[1, 3, 9, 13], &[351, 117, 13, 1]);
        let values = inputs[2].with(&[1, 3, 13, 16], &[624, 208, 16, 1]);
        Ok(vec![product(&soft(&part)?, &values)?])
    });
}
