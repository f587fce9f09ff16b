//! Places in sorted rows and products of integers on a Vulkan device, through the runtime. Skipped where there is none.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says by a panic what is wrong")]

mod common;
#[path = "common/gpu.rs"]
mod gpu;

use gpu::{device, floats, longs, read_longs};
use rivulet::Error;
use rivulet::ops::{DType, View, int_matmul, search};

#[test]
fn values_find_their_places_in_each_row() {
    let Some(device) = device() else { return };
    let rows = [[1.0, 2.0, 2.0, 5.0_f32], [-1.0, 0.0, f32::INFINITY, f32::NAN]];
    let values = [[2.0, 0.0, 9.0_f32], [0.5, f32::NAN, -2.0]];
    let order = [[3, 2, 1, 0_i64], [0, 1, 2, 3]];
    let shuffled: Vec<f32> = rows[0].iter().rev().chain(&rows[1]).copied().collect();
    let (sorted, mixed) = (floats(&device, rows.as_flattened()), floats(&device, &shuffled));
    let (wanted, places) = (floats(&device, values.as_flattened()), longs(&device, &[0; 6]));
    let order = longs(&device, order.as_flattened());
    let place = View::dense(&places, DType::I64, &[2, 3]);
    let value = View::dense(&wanted, DType::F32, &[2, 3]);
    for right in [false, true] {
        let expected: Vec<i64> = (0..6)
            .map(|k| {
                let value = values.as_flattened()[k];
                let before = |&&other: &&f32| {
                    value.is_nan() || other < value || (right && other.total_cmp(&value).is_eq())
                };
                rows[k / 3].iter().take_while(before).count() as i64
            })
            .collect();
        search(&device, &place, &View::dense(&sorted, DType::F32, &[2, 4]), &value, None, right).unwrap();
        assert_eq!(read_longs(&device, &places, 6), expected);
        let order = View::dense(&order, DType::I64, &[2, 4]);
        search(&device, &place, &View::dense(&mixed, DType::F32, &[2, 4]), &value, Some(&order), right)
            .unwrap();
        assert_eq!(read_longs(&device, &places, 6), expected);
    }
    // One row for all.
    search(&device, &place, &View::dense(&sorted, DType::F32, &[4]), &value, None, false).unwrap();
    assert_eq!(read_longs(&device, &places, 6), [1, 0, 4, 0, 4, 0]);
    let three = View::dense(&sorted, DType::F32, &[3, 2]);
    let text = search(&device, &place, &three, &value, None, false).unwrap_err();
    assert!(matches!(&text, Error::BadOperand { .. }) && text.to_string().contains("[3, 2]"), "{text}");
}

#[test]
fn products_of_integers_wrap() {
    let Some(device) = device() else { return };
    let (batch, m, k, n) = (2_usize, 19, 33, 17);
    let mut rng = fastrand::Rng::with_seed(8);
    let mut made = |count: usize| -> Vec<i64> { (0..count).map(|_| rng.i64(..)).collect() };
    let (a, b) = (made(batch * m * k), made(k * n * batch));
    let wanted: Vec<i64> = (0..batch * m * n)
        .map(|e| {
            let (plane, row, column) = (e / (m * n), e / n % m, e % n);
            (0..k).fold(0_i64, |sum, i| {
                // b is given transposed.
                let (left, right) = (a[(plane * m + row) * k + i], b[(plane * n + column) * k + i]);
                sum.wrapping_add(left.wrapping_mul(right))
            })
        })
        .collect();
    let (left, right, out) =
        (longs(&device, &a), longs(&device, &b), longs(&device, &vec![0; batch * m * n]));
    let size = |shape: [usize; 3]| shape.map(|size| size as u64);
    let product = View::dense(&out, DType::I64, &size([batch, m, n]));
    let x = View::dense(&left, DType::I64, &size([batch, m, k]));
    let mut y = View::dense(&right, DType::I64, &size([batch, n, k]));
    y.shape.swap(1, 2);
    y.strides.swap(1, 2);
    int_matmul(&device, &product, &x, &y).unwrap();
    assert_eq!(read_longs(&device, &out, wanted.len()), wanted);
    let text = int_matmul(&device, &product, &y, &x).unwrap_err();
    assert!(matches!(text, Error::BadOperand { .. }), "{text}");
}
