//! Sorts against the CPU's stable sort.

use crate::gpu::{input, output, run};
use crate::need_device;
use crate::values::{decode, encode};
use bytemuck::bytes_of;
use rivulet_kernels::params::SortParams;
use rivulet_kernels::{DType, Kernel, Sort, SortStep};
use std::cmp::Ordering;

/// Many equal ones, both zeros, infinities and NaNs where the type has them.
fn numbers(dtype: DType, count: usize) -> Vec<f64> {
    let mut rng = fastrand::Rng::with_seed(count as u64);
    let values: Vec<f64> = (0..count)
        .map(|_| match rng.u32(0..20) {
            0 if dtype.is_float() => f64::NAN,
            1 if dtype.is_float() => f64::INFINITY,
            2 if dtype.is_float() => -0.0,
            3 => 0.0,
            4..9 => f64::from(rng.i32(-5..5)),
            9 if dtype == DType::I64 => (rng.i64(-1000..1000) << 42) as f64,
            _ => rng.f64() * 200.0 - 100.0,
        })
        .collect();
    decode(dtype, &encode(dtype, &values))
}

fn compare(a: f64, b: f64) -> Ordering {
    match (a.is_nan(), b.is_nan()) {
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        _ => a.partial_cmp(&b).unwrap(),
    }
}

/// Runs the steps as a dispatcher does.
fn sort(dtype: DType, descending: bool, x: &[f64], params: SortParams) -> (Vec<f64>, Vec<f64>) {
    let SortParams { rows, size, keep, .. } = params;
    let mut x = encode(dtype, x);
    let kept = (rows * keep) as usize;
    let mut values = vec![0; (kept * dtype.size() as usize).next_multiple_of(4)];
    let mut indices = vec![0; kept * 8];
    let (width, runs) = Sort::runs(size);
    let mut params = SortParams { width, runs, ..params };
    let groups = |key: &Sort| key.groups(rows, size, keep);
    if runs == 1 {
        let key = Sort::new(SortStep::Rows, dtype, descending);
        let mut operands = [output(&mut values), output(&mut indices), input(&mut x)];
        run(Kernel::Sort(key), bytes_of(&params), groups(&key), &mut operands);
    } else {
        let elements = (rows * size) as usize;
        let (mut keys, mut places) =
            (vec![0; elements * Sort::key(dtype).size() as usize], vec![0; elements * 4]);
        let key = Sort::new(SortStep::Runs, dtype, descending);
        let mut operands = [output(&mut keys), output(&mut places), input(&mut x)];
        run(Kernel::Sort(key), bytes_of(&params), groups(&key), &mut operands);
        while params.width < size {
            let (mut keys_in, mut places_in) = (keys.clone(), places.clone());
            let key = Sort::new(SortStep::Merge, dtype, descending);
            let mut operands =
                [output(&mut keys), output(&mut places), input(&mut keys_in), input(&mut places_in)];
            run(Kernel::Sort(key), bytes_of(&params), groups(&key), &mut operands);
            params.width *= 2;
        }
        let key = Sort::new(SortStep::Finish, dtype, descending);
        let mut operands = [output(&mut values), output(&mut indices), input(&mut places), input(&mut x)];
        run(Kernel::Sort(key), bytes_of(&params), groups(&key), &mut operands);
    }
    (decode(dtype, &values)[..kept].to_vec(), decode(DType::I64, &indices))
}

#[test]
fn sorts_are_stable_and_nan_is_the_largest() {
    need_device!();
    for dtype in DType::ALL {
        for (outer, size, inner, keep) in [
            (3, 1, 1, 1),
            (5, 7, 1, 7),
            (70, 32, 1, 5),
            (2, 1024, 1, 1024),
            (3, 300, 2, 10),
            (2, 1025, 1, 1025),
            (1, 5000, 2, 5000),
            (1, 4097, 1, 3),
        ] {
            for descending in [false, true] {
                let x = numbers(dtype, outer * size * inner);
                let (mut values, mut indices) =
                    (vec![0.0; outer * keep * inner], vec![0.0; outer * keep * inner]);
                for row in 0..outer * inner {
                    let at = |e: usize, size: usize| row / inner * size * inner + row % inner + e * inner;
                    let mut order: Vec<usize> = (0..size).collect();
                    order.sort_by(|&a, &b| {
                        let order = compare(x[at(a, size)], x[at(b, size)]);
                        if descending { order.reverse() } else { order }
                    });
                    for (rank, &place) in order.iter().take(keep).enumerate() {
                        values[at(rank, keep)] = x[at(place, size)];
                        indices[at(rank, keep)] = place as f64;
                    }
                }
                let params = SortParams {
                    rows: (outer * inner) as u32,
                    size: size as u32,
                    inner: inner as u32,
                    keep: keep as u32,
                    ..Default::default()
                };
                let got = sort(dtype, descending, &x, params);
                let what =
                    format!("{dtype:?} [{outer}, {size}, {inner}] keep {keep} descending {descending}");
                assert_eq!(got.1, indices, "{what}");
                let same = |a: f64, b: f64| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
                assert!(got.0.iter().zip(&values).all(|(&a, &b)| same(a, b)), "{what}");
            }
        }
    }
}
