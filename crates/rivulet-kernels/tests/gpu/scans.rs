//! Scans that keep places, and of exponentials.

use crate::gpu::{input, output, run};
use crate::need_device;
use crate::values::{decode, encode};
use bytemuck::bytes_of;
use rivulet_kernels::params::RowParams;
use rivulet_kernels::{DType, Kernel, Scan, ScanOp};

#[test]
fn the_last_of_equal_extremes_stands_and_a_nan_stands_for_ever() {
    need_device!();
    for dtype in DType::ALL {
        for (op, better) in
            [(ScanOp::Max, (|b, a| b >= a) as fn(f64, f64) -> bool), (ScanOp::Min, |b, a| b <= a)]
        {
            for (outer, size, inner) in [(2, 5, 1), (1, 700, 2), (3, 256, 1)] {
                let mut rng = fastrand::Rng::with_seed(size as u64);
                let count = outer * size * inner;
                let x: Vec<f64> = (0..count)
                    .map(|k| {
                        if dtype.is_float() && k % 500 == 431 { f64::NAN } else { f64::from(rng.i32(0..90)) }
                    })
                    .collect();
                let x = decode(dtype, &encode(dtype, &x));
                let (mut values, mut places) = (vec![0.0; count], vec![0.0; count]);
                for row in 0..outer * inner {
                    let first = row / inner * size * inner + row % inner;
                    let (mut best, mut place) = (x[first], 0);
                    for e in 0..size {
                        let value = x[first + e * inner];
                        if value.is_nan() || (!best.is_nan() && better(value, best)) {
                            (best, place) = (value, e);
                        }
                        values[first + e * inner] = best;
                        places[first + e * inner] = place as f64;
                    }
                }
                let key = Scan { op, input: dtype, output: dtype, indices: true };
                let params = RowParams {
                    rows: (outer * inner) as u32,
                    size: size as u32,
                    inner: inner as u32,
                    ..Default::default()
                };
                let mut out = vec![0; (count * dtype.size() as usize).next_multiple_of(4)];
                let (mut indices, mut x) = (vec![0; count * 8], encode(dtype, &x));
                let groups = key.groups(params.rows);
                let operands = &mut [output(&mut out), input(&mut x), output(&mut indices)];
                run(Kernel::Scan(key), bytes_of(&params), groups, operands);
                let what = format!("{op:?} {dtype:?} [{outer}, {size}, {inner}]");
                assert_eq!(decode(DType::I64, &indices), places, "{what}");
                let got = decode(dtype, &out);
                assert!(
                    got.iter().zip(&values).all(|(a, b)| a == b || a.is_nan() && b.is_nan()),
                    "{what}: {got:?}"
                );
            }
        }
    }
}

#[test]
fn logarithms_of_running_sums_of_exponentials() {
    need_device!();
    let inf = f64::INFINITY;
    let mut rng = fastrand::Rng::with_seed(1);
    let mut x: Vec<f64> = (0..900).map(|_| f64::from(rng.f32() * 20.0 - 10.0)).collect();
    x.extend([-inf, -inf, 100.0, -200.0, inf, 1.0]);
    x.rotate_right(6);
    x[..2].copy_from_slice(&[-inf, -inf]);
    x[4] = 88.0;
    let mut total = -inf;
    let want: Vec<f64> = x
        .iter()
        .map(|&x| {
            let (high, low) = (f64::max(total, x), f64::min(total, x));
            total = if high.is_finite() { high + (low - high).exp().ln_1p() } else { high };
            total
        })
        .collect();
    for dtype in [DType::F32, DType::F16] {
        let key = Scan { op: ScanOp::LogSumExp, input: dtype, output: dtype, indices: false };
        let params = RowParams { rows: 1, size: x.len() as u32, inner: 1, ..Default::default() };
        let mut out = vec![0; x.len() * dtype.size() as usize];
        let mut bytes = encode(dtype, &x);
        let operands = &mut [output(&mut out), input(&mut bytes)];
        run(Kernel::Scan(key), bytes_of(&params), key.groups(1), operands);
        let tolerance = if dtype == DType::F32 { 1e-6 } else { 2e-3 };
        for (k, (got, want)) in decode(dtype, &out).iter().zip(&want).enumerate() {
            assert!(
                got == want || (got - want).abs() <= tolerance * want.abs().max(1.0),
                "{k}: {got} for {want}"
            );
        }
    }
}
