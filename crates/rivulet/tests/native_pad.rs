//! Padding by what is there on a Vulkan device, through the runtime. Skipped where there is none.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says by a panic what is wrong")]

mod common;
#[path = "common/gpu.rs"]
mod gpu;

use gpu::{device, floats, read_floats};
use rivulet::Error;
use rivulet::ops::{DType, PadMode, View, pad, pad_backward};

#[test]
fn two_dimensions_are_padded_and_the_gradient_comes_back() {
    let Some(device) = device() else { return };
    let [before, after] = [[1_i64, 2], [2, -1]];
    let (height, width) = (3_i64, 4_i64);
    let (padded_height, padded_width) = (height + before[0] + after[0], width + before[1] + after[1]);
    for mode in [PadMode::Reflect, PadMode::Replicate] {
        let source = |o: i64, before: i64, size: i64| match mode {
            PadMode::Reflect => (size - 1) - ((size - 1) - (o - before).abs()).abs(),
            PadMode::Replicate => (o - before).clamp(0, size - 1),
        };
        let x: Vec<f32> = (0..24).map(|k| k as f32).collect();
        let count = (2 * padded_height * padded_width) as usize;
        let of = |o: usize| {
            let o = o as i64;
            let (h, w) = (o / padded_width % padded_height, o % padded_width);
            let row = o / padded_width / padded_height * height + source(h, before[0], height);
            (row * width + source(w, before[1], width)) as usize
        };
        let want: Vec<f32> = (0..count).map(|o| x[of(o)]).collect();
        let mut gathered = vec![0.0; 24];
        (0..count).for_each(|o| gathered[of(o)] += want[o]);
        let (input, out, back) =
            (floats(&device, &x), floats(&device, &vec![0.0; count]), floats(&device, &[0.0; 24]));
        let small = [2, height as u64, width as u64];
        let large = [2, padded_height as u64, padded_width as u64];
        let padding = [[before[1], after[1]], [before[0], after[0]]];
        let view = |block, shape: &[u64]| View::dense(block, DType::F32, shape);
        pad(&device, &view(&out, &large), &view(&input, &small), &padding, mode).unwrap();
        assert_eq!(read_floats(&device, &out, count), want);
        pad_backward(&device, &view(&back, &small), &view(&out, &large), &padding, mode).unwrap();
        assert_eq!(read_floats(&device, &back, 24), gathered);
    }
    let block = floats(&device, &[0.0; 64]);
    let view = |shape: &[u64]| View::dense(&block, DType::F32, shape);
    let text = pad(&device, &view(&[9]), &view(&[4]), &[[4, 1]], PadMode::Reflect).unwrap_err();
    assert!(matches!(&text, Error::BadOperand { .. }) && text.to_string().contains("[4, 1]"), "{text}");
}
