//! Sorts on a Vulkan device, through the runtime. Skipped where there is none.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says by a panic what is wrong")]

mod common;
#[path = "common/gpu.rs"]
mod gpu;

use gpu::{device, floats, longs, numbers, read_floats, read_longs};
use rivulet::Error;
use rivulet::ops::{DType, View, sort};

#[test]
fn rows_of_any_length_are_sorted_and_the_first_are_taken() {
    let Some(device) = device() else { return };
    for (rows, size, keep) in [(4, 10, 10), (3, 6000, 6000), (2, 3000, 5)] {
        let x: Vec<f32> = numbers(rows * size, 1).iter().map(|x| (x * 100.0).round()).collect();
        let source = floats(&device, &x);
        let (values, indices) =
            (floats(&device, &vec![0.0; rows * keep]), longs(&device, &vec![0; rows * keep]));
        let shape = [rows as u64, size as u64];
        let kept = [rows as u64, keep as u64];
        for descending in [false, true] {
            sort(
                &device,
                &View::dense(&values, DType::F32, &kept),
                &View::dense(&indices, DType::I64, &kept),
                &View::dense(&source, DType::F32, &shape),
                1,
                descending,
            )
            .unwrap();
            let got =
                (read_floats(&device, &values, rows * keep), read_longs(&device, &indices, rows * keep));
            for row in 0..rows {
                let x = &x[row * size..][..size];
                let mut order: Vec<usize> = (0..size).collect();
                order.sort_by(|&a, &b| {
                    let order = x[a].partial_cmp(&x[b]).unwrap();
                    if descending { order.reverse() } else { order }
                });
                for rank in 0..keep {
                    assert_eq!(got.1[row * keep + rank], order[rank] as i64, "{rows} x {size}, rank {rank}");
                    assert_eq!(got.0[row * keep + rank], x[order[rank]]);
                }
            }
        }
    }
}

#[test]
fn more_than_there_are_cannot_be_taken() {
    let Some(device) = device() else { return };
    let (source, indices) = (floats(&device, &[1.0; 16]), longs(&device, &[0; 16]));
    let view = |shape: &[u64]| View::dense(&source, DType::F32, shape);
    let error =
        sort(&device, &view(&[2, 8]), &View::dense(&indices, DType::I64, &[2, 8]), &view(&[2, 4]), 1, false);
    let text = error.unwrap_err();
    assert!(matches!(&text, Error::BadOperand { .. }));
    assert!(text.to_string().contains("the values has shape [2, 8]; it must be [2, 4]"), "{text}");
}
