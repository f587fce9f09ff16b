//! Every element type in every layout: what is written, and what is left alone.

use crate::gpu::{input, output, run};
use crate::need_device;
use crate::values::{decode, encode};
use bytemuck::{bytes_of, cast_slice};
use half::{bf16, f16};
use rivulet_kernels::params::{PointwiseParams, StridedParams};
use rivulet_kernels::{DType, Kernel, Layout, Op, Pointwise};

/// Small whole numbers that every type holds.
fn numbers(dtype: DType, count: usize, seed: usize) -> Vec<f64> {
    let top = if dtype == DType::Bool { 2 } else { 11 };
    (0..count).map(|k| ((k * 7 + k / 5 + seed) % top) as f64).collect()
}

/// What adding gives in `dtype`.
fn sum(dtype: DType, a: f64, b: f64) -> f64 {
    if dtype == DType::Bool { f64::from(u8::from(a + b != 0.0)) } else { a + b }
}

#[test]
fn dense_runs_at_any_offset_leave_their_neighbours_alone() {
    need_device!();
    for dtype in DType::ALL {
        for (offset, count) in [(0, 1), (1, 1), (2, 7), (3, 5000), (0, 4097), (5, 2), (4, 8)] {
            let key = Pointwise::new(Op::Add, dtype, Layout::LinearRagged);
            let (a_offset, b_offset) = (3, 6);
            let a = numbers(dtype, count + a_offset, 1);
            let b = numbers(dtype, count + b_offset, 2);
            let before = numbers(dtype, offset + count + 9, 3);
            let params = PointwiseParams {
                offsets: [offset as u32, a_offset as u32, b_offset as u32, 0],
                count: count as u32,
                ..Default::default()
            };
            let mut want = before.clone();
            for k in 0..count {
                want[offset + k] = sum(dtype, a[a_offset + k], b[b_offset + k]);
            }
            let (mut out, mut a, mut b) = (encode(dtype, &before), encode(dtype, &a), encode(dtype, &b));
            run(
                Kernel::Pointwise(key),
                bytes_of(&params),
                key.groups(offset as u32, count as u32),
                &mut [output(&mut out), input(&mut a), input(&mut b)],
            );
            assert_eq!(decode(dtype, &out), want, "{dtype:?} {count} elements at {offset}");
        }
    }
}

#[test]
fn whole_words_are_written_without_atomics() {
    need_device!();
    for dtype in DType::ALL {
        for count in [1_usize, 3, 4, 1023, 5000] {
            let key = Pointwise::new(Op::Add, dtype, Layout::Linear);
            assert!(!Kernel::Pointwise(key).wgsl().contains("atomic"), "{dtype:?}");
            let (a, b) = (numbers(dtype, count, 1), numbers(dtype, count, 2));
            let params = PointwiseParams { count: count as u32, ..Default::default() };
            let want: Vec<_> = a.iter().zip(&b).map(|(&a, &b)| sum(dtype, a, b)).collect();
            let bytes = (count * dtype.size() as usize).next_multiple_of(4);
            let (mut out, mut a, mut b) = (vec![0xee; bytes], encode(dtype, &a), encode(dtype, &b));
            run(
                Kernel::Pointwise(key),
                bytes_of(&params),
                key.groups(0, count as u32),
                &mut [output(&mut out), input(&mut a), input(&mut b)],
            );
            assert_eq!(decode(dtype, &out)[..count], want, "{dtype:?} {count} elements");
        }
    }
}

#[test]
fn four_elements_at_a_time() {
    need_device!();
    let types = DType::ALL.into_iter().filter(|dtype| matches!(dtype.size(), 2 | 4));
    for dtype in types {
        for (offset, count) in [(0, 4), (4, 8), (8, 5000), (12, 4096)] {
            for op in [Op::Add, Op::Copy] {
                let key = match op {
                    Op::Copy => Pointwise::cast(dtype, dtype, Layout::Linear),
                    _ => Pointwise::new(op, dtype, Layout::Linear),
                };
                let key = key.in_fours().unwrap();
                let (a, b) = (numbers(dtype, count + 4, 1), numbers(dtype, count + 8, 2));
                let before = numbers(dtype, offset + count + 4, 3);
                let params = PointwiseParams {
                    offsets: [offset as u32, 4, 8, 0],
                    count: count as u32,
                    ..Default::default()
                };
                let mut want = before.clone();
                for k in 0..count {
                    want[offset + k] = if op == Op::Copy { a[4 + k] } else { sum(dtype, a[4 + k], b[8 + k]) };
                }
                let (mut out, mut a, mut b) = (encode(dtype, &before), encode(dtype, &a), encode(dtype, &b));
                let mut operands = vec![output(&mut out), input(&mut a)];
                if op == Op::Add {
                    operands.push(input(&mut b));
                }
                let groups = key.groups(offset as u32, count as u32);
                run(Kernel::Pointwise(key), bytes_of(&params), groups, &mut operands);
                assert_eq!(decode(dtype, &out), want, "{op:?} of {dtype:?}, {count} elements at {offset}");
            }
        }
    }
    let long = Pointwise::new(Op::Add, DType::I64, Layout::Linear);
    assert_eq!(
        (long.in_fours(), Pointwise::new(Op::Tril, DType::F32, Layout::Linear).in_fours()),
        (None, None)
    );
}

#[test]
fn strides_of_four_dimensions_broadcast_flip_and_skip() {
    need_device!();
    let shape = [3_u32, 5, 2, 4];
    let count: u32 = shape.iter().product();
    for dtype in DType::ALL {
        for layout in [Layout::Gathered, Layout::GatheredRagged, Layout::Strided] {
            let key = Pointwise::new(Op::Add, dtype, layout);
            // The output dense, or with gaps; the first input reversed in one dimension, the second broadcast in two.
            let dense = [1, 3, 15, 30];
            let gaps = [2, 7, 37, 75];
            let strided_output = layout == Layout::Strided;
            let out_strides = if strided_output { gaps } else { dense };
            let out_offset = if layout == Layout::Gathered { 0 } else { 1 };
            let (a_strides, b_strides) = ([1, -3, 15, 30], [0, 1, 0, 5]);
            let offsets = [out_offset, 12, 2, 0];
            let a = numbers(dtype, count as usize, 1);
            let b = numbers(dtype, 24, 2);
            let before = numbers(dtype, 320, 3);
            let mut want = before.clone();
            for e in 0..count {
                let (mut rest, mut at) = (e, offsets.map(i64::from));
                for d in 0..4 {
                    let c = i64::from(rest % shape[d]);
                    rest /= shape[d];
                    at[0] += c * i64::from(out_strides[d]);
                    at[1] += c * i64::from(a_strides[d]);
                    at[2] += c * i64::from(b_strides[d]);
                }
                want[at[0] as usize] = sum(dtype, a[at[1] as usize], b[at[2] as usize]);
            }
            let params = StridedParams {
                dense: PointwiseParams { offsets, count, rank: 4, ..Default::default() },
                shape,
                strides: std::array::from_fn(|d| [out_strides[d], a_strides[d], b_strides[d], 0]),
            };
            let (mut out, mut a, mut b) = (encode(dtype, &before), encode(dtype, &a), encode(dtype, &b));
            run(
                Kernel::Pointwise(key),
                bytes_of(&params),
                key.groups(out_offset, count),
                &mut [output(&mut out), input(&mut a), input(&mut b)],
            );
            assert_eq!(decode(dtype, &out), want, "{dtype:?} {layout:?}");
        }
    }
}

/// Casts `from` to `to` over dense elements; `out` holds the result's bytes, and no more.
fn cast(from: DType, to: DType, bytes: &[u8]) -> Vec<u8> {
    let count = bytes.len() as u32 / from.size();
    let key = Pointwise::cast(from, to, Layout::Linear);
    let params = PointwiseParams { count, ..Default::default() };
    let size = (count * to.size()) as usize;
    let (mut x, mut y) = (bytes.to_vec(), vec![0; size.next_multiple_of(4)]);
    run(
        Kernel::Pointwise(key),
        bytes_of(&params),
        key.groups(0, count),
        &mut [output(&mut y), input(&mut x)],
    );
    y.truncate(size);
    y
}

#[test]
fn every_half_reads_as_its_value() {
    need_device!();
    let bits: Vec<u16> = (0..=u16::MAX).collect();
    let halves = cast(DType::F16, DType::F32, cast_slice(&bits));
    let brains = cast(DType::BF16, DType::F32, cast_slice(&bits));
    for (k, &bits) in bits.iter().enumerate() {
        let check = |got: &[u8], want: f32, what: &str| {
            let got = f32::from_le_bytes([got[4 * k], got[4 * k + 1], got[4 * k + 2], got[4 * k + 3]]);
            assert!(
                got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
                "{what} {bits:#x}: {got} for {want}"
            );
        };
        check(&halves, f16::from_bits(bits).to_f32(), "f16");
        check(&brains, bf16::from_bits(bits).to_f32(), "bf16");
    }
}

#[test]
fn halves_are_rounded_to_nearest_even_and_overflow_to_infinity() {
    need_device!();
    let mut rng = fastrand::Rng::with_seed(3);
    let mut x: Vec<f32> = vec![
        0.0,
        -0.0,
        65504.0,
        65519.996,
        65520.0,
        -65520.0,
        65536.0,
        1e9,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        -f32::NAN,
        6.103_515_6e-5,
        5.960_464_5e-8,
        2.980_232_2e-8,
        2.980_232_6e-8,
        8.940_697e-8,
        1.000_488_3,
        1.001_464_8,
        f32::MAX,
        3.39e38,
        f32::from_bits(0x7f7f_8000),
        f32::from_bits(0x7f80_0001),
        f32::from_bits(0x3f80_8000),
        f32::from_bits(0x3f81_8000),
    ];
    // Ties of either type, just beside them, and anything.
    x.extend((0..60_000).map(|k| {
        let bits = rng.u32(..);
        f32::from_bits(match k % 4 {
            0 => bits & 0xffff_0000 | 0x8000,
            1 => (bits & 0x0fff_e000 | 0x1000).wrapping_add(0x3000_0000) + rng.u32(0..3) - 1,
            2 => (bits & 0xffff_0000 | 0x8000) + rng.u32(0..3) - 1,
            _ => bits,
        })
    }));
    let halves = cast(DType::F32, DType::F16, cast_slice(&x));
    let brains = cast(DType::F32, DType::BF16, cast_slice(&x));
    for (k, &x) in x.iter().enumerate() {
        let got = u16::from_le_bytes([halves[2 * k], halves[2 * k + 1]]);
        let want = f16::from_f32(x);
        let same = got == want.to_bits() || want.is_nan() && f16::from_bits(got).is_nan();
        assert!(same, "{x:e} ({:#x}) as f16: {got:#x} for {:#x}", x.to_bits(), want.to_bits());
        // A device may flush a subnormal float32 on its way, and half's subnormals of bfloat16 are such.
        if x.abs() >= f32::MIN_POSITIVE || x.is_nan() || x == 0.0 {
            let got = u16::from_le_bytes([brains[2 * k], brains[2 * k + 1]]);
            let want = bf16::from_f32(x);
            let same = got == want.to_bits() || want.is_nan() && bf16::from_bits(got).is_nan();
            assert!(same, "{x:e} as bf16: {got:#x} for {:#x}", want.to_bits());
        }
    }
}

/// PyTorch's conversion of a value that both types hold, or wrap, as this project defines it.
fn converted(from: DType, to: DType, x: f64) -> f64 {
    let wrapped = |x: i64| match to {
        DType::I64 => x as f64,
        DType::I32 => f64::from(x as i32),
        DType::I16 => f64::from(x as i16),
        DType::I8 => f64::from(x as i8),
        DType::U8 => f64::from(x as u8),
        _ => unreachable!("an integer type"),
    };
    match to {
        DType::Bool => f64::from(u8::from(x != 0.0)),
        _ if !to.is_float() && from.is_float() && to != DType::I64 => wrapped(x as i64),
        _ if !to.is_float() => wrapped(x as i64),
        _ => decode(to, &encode(to, &[x]))[0],
    }
}

#[test]
fn casts_between_any_two_types_follow_pytorch() {
    need_device!();
    let numbers = [
        0.0,
        1.0,
        -1.0,
        0.5,
        -0.5,
        1.999,
        -1.999,
        100.0,
        127.0,
        128.0,
        -128.0,
        -129.0,
        255.0,
        256.0,
        300.0,
        -300.0,
        1e-7,
        32767.0,
        32768.0,
        -40000.0,
        60000.0,
        70000.0,
        16777217.0,
        2147483647.0,
        -2147483648.0,
    ];
    for from in DType::ALL {
        for to in DType::ALL {
            let bytes = encode(from, &numbers);
            let held: Vec<_> =
                decode(from, &bytes).into_iter().filter(|x| x.abs() < 2_147_483_648.0).collect();
            let got = decode(to, &cast(from, to, &encode(from, &held)));
            let want: Vec<_> = held.iter().map(|&x| converted(from, to, x)).collect();
            assert_eq!(got, want, "{from:?} to {to:?} of {held:?}");
        }
    }
}

#[test]
fn wide_integers_keep_their_bits_and_floats_outside_give_the_smallest() {
    need_device!();
    let wide: Vec<i64> = vec![i64::MAX, i64::MIN, 1 << 40, -(1 << 40) - 3, 0x1234_5678_9abc_def0];
    assert_eq!(cast(DType::I64, DType::I64, cast_slice(&wide)), cast_slice::<_, u8>(&wide));
    let narrow: Vec<i32> = wide.iter().map(|&x| x as i32).collect();
    assert_eq!(cast(DType::I64, DType::I32, cast_slice(&wide)), cast_slice::<_, u8>(&narrow));
    let floats =
        [1e12_f32, -1e12, 9.2e18, 9.3e18, -9.3e18, f32::INFINITY, f32::NAN, 3e9, -3e9, 1.5, -8_388_609.0];
    let as_i64: Vec<i64> =
        floats.iter().map(|&x| if x.abs() < 9.223_372e18 { x as i64 } else { i64::MIN }).collect();
    assert_eq!(cast(DType::F32, DType::I64, cast_slice(&floats)), cast_slice::<_, u8>(&as_i64));
    let as_i32: Vec<i32> =
        floats.iter().map(|&x| if x.abs() < 2_147_483_648.0 { x as i32 } else { i32::MIN }).collect();
    assert_eq!(cast(DType::F32, DType::I32, cast_slice(&floats)), cast_slice::<_, u8>(&as_i32));
    // A copy between equal types is of bits.
    let nans = [0x7fa0_1234_u32, 0xffff_ffff, 0x0000_0001];
    assert_eq!(cast(DType::F32, DType::F32, cast_slice(&nans)), cast_slice::<_, u8>(&nans));
}
