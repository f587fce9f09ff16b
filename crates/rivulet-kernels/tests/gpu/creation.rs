//! Tensors out of nothing: constants, ranges, triangles, random numbers.

use crate::gpu::{Operand, input, output, run};
use crate::need_device;
use crate::values::{decode, encode};
use bytemuck::bytes_of;
use rivulet_kernels::params::{PointwiseParams, Scalar, scalars};
use rivulet_kernels::{DType, Kernel, Layout, Op, Pointwise};

fn make(op: Op, dtype: DType, params: PointwiseParams, x: Option<&[f64]>) -> Vec<f64> {
    let key = Pointwise::new(op, dtype, Layout::Linear);
    let mut out = vec![0; (params.count * dtype.size()).next_multiple_of(4) as usize];
    let mut x = x.map(|x| encode(dtype, x));
    let mut operands: Vec<Operand<'_>> = vec![output(&mut out)];
    operands.extend(x.as_mut().map(input));
    run(Kernel::Pointwise(key), bytes_of(&params), key.groups(0, params.count), &mut operands);
    let mut values = decode(dtype, &out);
    values.truncate(params.count as usize);
    values
}

#[test]
fn constants_and_ranges() {
    need_device!();
    for dtype in DType::ALL {
        let of = |x: f32| match dtype {
            DType::I64 => Scalar::I64(x as i64),
            _ if dtype.is_float() => Scalar::F32(x),
            _ => Scalar::I32(x as i32),
        };
        let filled = PointwiseParams { count: 7, scalars: scalars(&[of(1.0)]), ..Default::default() };
        assert_eq!(make(Op::Fill, dtype, filled, None), [1.0; 7]);
        let ranged =
            PointwiseParams { count: 5, scalars: scalars(&[of(3.0), of(2.0)]), ..Default::default() };
        if dtype != DType::Bool {
            assert_eq!(make(Op::Arange, dtype, ranged, None), [3.0, 5.0, 7.0, 9.0, 11.0]);
        }
    }
    let big = PointwiseParams {
        count: 2,
        scalars: scalars(&[Scalar::I64(-(1 << 40)), Scalar::I64(1 << 35)]),
        ..Default::default()
    };
    assert_eq!(
        make(Op::Arange, DType::I64, big, None),
        [-(2.0_f64.powi(40)), 2.0_f64.powi(35) - 2.0_f64.powi(40)]
    );
    let line = PointwiseParams {
        count: 5,
        scalars: scalars(&[Scalar::F32(-1.0), Scalar::F32(1.0), Scalar::F32(0.5)]),
        ..Default::default()
    };
    assert_eq!(make(Op::Linspace, DType::F32, line, None), [-1.0, -0.5, 0.0, 0.5, 1.0]);
}

#[test]
fn triangles_of_batches() {
    need_device!();
    for dtype in [DType::F32, DType::BF16, DType::I64, DType::Bool] {
        for diagonal in [-1, 0, 2] {
            let (rows, columns) = (3, 4);
            let x = vec![1.0; 24];
            let word = i32::cast_unsigned(diagonal);
            let params = PointwiseParams {
                count: 24,
                scalars: [word, 0, 0, 0],
                extra: [columns, rows],
                ..Default::default()
            };
            let want = |keep: fn(i32) -> bool| -> Vec<f64> {
                let above = |e: u32| (e % columns) as i32 - (e / columns % rows) as i32 - diagonal;
                (0..24).map(|e| f64::from(u8::from(keep(above(e))))).collect()
            };
            assert_eq!(
                make(Op::Tril, dtype, params, Some(&x)),
                want(|above| above <= 0),
                "{dtype:?} {diagonal}"
            );
            assert_eq!(
                make(Op::Triu, dtype, params, Some(&x)),
                want(|above| above >= 0),
                "{dtype:?} {diagonal}"
            );
            assert_eq!(make(Op::Eye, dtype, params, None), want(|above| above == 0), "{dtype:?} {diagonal}");
        }
    }
}

#[test]
fn philox_gives_the_published_words() {
    need_device!();
    // Known answers of Random123 for counter 0 and key 0.
    let params = PointwiseParams { count: 4, ..Default::default() };
    let words: Vec<_> =
        make(Op::Randint, DType::I32, params, None).iter().map(|&x| x as i32 as u32).collect();
    assert_eq!(words, [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
}

#[test]
fn random_numbers_have_their_distribution() {
    need_device!();
    let count = 200_000;
    let with = |a: f32, b: f32| PointwiseParams {
        count,
        scalars: [123, 4, 5, 0],
        extra: [a.to_bits(), b.to_bits()],
        ..Default::default()
    };
    let moments = |x: &[f64]| {
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let about = |k: i32| x.iter().map(|x| (x - mean).powi(k)).sum::<f64>() / x.len() as f64;
        (mean, about(2), about(4))
    };
    let uniform = make(Op::Uniform, DType::F32, with(-1.0, 3.0), None);
    assert!(uniform.iter().all(|x| (-1.0..2.0).contains(x)));
    let (mean, variance, _) = moments(&uniform);
    assert!((mean - 0.5).abs() < 0.01 && (variance - 0.75).abs() < 0.01, "{mean} {variance}");
    let (mean, variance, fourth) = moments(&make(Op::Normal, DType::F32, with(2.0, 3.0), None));
    assert!((mean - 2.0).abs() < 0.03 && (variance - 9.0).abs() < 0.15, "{mean} {variance}");
    assert!((fourth / variance.powi(2) - 3.0).abs() < 0.1, "{fourth}");
    let (mean, ..) = moments(&make(Op::Bernoulli, DType::U8, with(0.3, 0.0), None));
    assert!((mean - 0.3).abs() < 0.005, "{mean}");
    let (mean, variance, _) = moments(&make(Op::Exponential, DType::F32, with(2.0, 0.0), None));
    assert!((mean - 0.5).abs() < 0.01 && (variance - 0.25).abs() < 0.01, "{mean} {variance}");
    let dice = PointwiseParams { count, scalars: [9, 0, 0, 0], extra: [1, 6], ..Default::default() };
    let dice = make(Op::Randint, DType::I64, dice, None);
    for face in 1..=6 {
        let share = dice.iter().filter(|&&x| x == f64::from(face)).count() as f64 / f64::from(count);
        assert!((share - 1.0 / 6.0).abs() < 0.005, "{face}: {share}");
    }
    let ones = vec![1.0; count as usize];
    let dropped = make(Op::Dropout, DType::F32, with(0.25, 4.0 / 3.0), Some(&ones));
    assert!(dropped.iter().all(|&x| x == 0.0 || (x - 4.0 / 3.0).abs() < 1e-6));
    let (mean, ..) = moments(&dropped);
    assert!((mean - 1.0).abs() < 0.01, "{mean}");
}
