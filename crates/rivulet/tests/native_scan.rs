//! Scans that keep places on a Vulkan device, through the runtime. Skipped where there is none.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says by a panic what is wrong")]

mod common;
#[path = "common/gpu.rs"]
mod gpu;

use gpu::{assert_close, device, floats, longs, numbers, read_floats, read_longs};
use rivulet::ops::{DType, ScanOp, View, scan, scan_with_places};

#[test]
fn maxima_with_their_places_and_sums_of_exponentials() {
    let Some(device) = device() else { return };
    let (rows, size) = (3, 700);
    let x: Vec<f32> = numbers(rows * size, 1).iter().map(|x| (x * 20.0).round()).collect();
    let (mut values, mut places, mut sums) = (Vec::new(), Vec::new(), Vec::new());
    for row in x.chunks(size) {
        let (mut best, mut place, mut sum) = (row[0], 0, f64::NEG_INFINITY);
        for (e, &x) in row.iter().enumerate() {
            if x >= best {
                (best, place) = (x, e as i64);
            }
            values.push(best);
            places.push(place);
            let (high, low) = (sum.max(f64::from(x)), sum.min(f64::from(x)));
            sum = high + (low - high).exp().ln_1p();
            sums.push(sum);
        }
    }
    let source = floats(&device, &x);
    let (out, indices) = (floats(&device, &vec![0.0; x.len()]), longs(&device, &vec![0; x.len()]));
    let shape = [rows as u64, size as u64];
    let view = |block| View::dense(block, DType::F32, &shape);
    let to = View::dense(&indices, DType::I64, &shape);
    scan_with_places(&device, ScanOp::Max, &view(&out), &to, &view(&source), 1).unwrap();
    assert_eq!(read_floats(&device, &out, x.len()), values);
    assert_eq!(read_longs(&device, &indices, x.len()), places);
    scan(&device, ScanOp::LogSumExp, &view(&out), &view(&source), 1).unwrap();
    assert_close(&read_floats(&device, &out, x.len()), &sums, 1e-6);
    assert!(scan_with_places(&device, ScanOp::Sum, &view(&out), &to, &view(&source), 1).is_err());
}
