//! Convolutions on a Vulkan device, through the runtime. Skipped where there is none.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says by a panic what is wrong")]

mod common;
#[path = "common/gpu.rs"]
mod gpu;

use gpu::{assert_close, device, floats, numbers, read_floats};
use rivulet::Error;
use rivulet::ops::{ConvGeometry, DType, View, conv2d, conv2d_transposed, conv2d_weight_gradient};

const GEOMETRY: ConvGeometry = ConvGeometry { stride: [2, 1], padding: [1, 2], dilation: [1, 2], groups: 2 };
const IMAGE: [usize; 4] = [3, 4, 8, 9];
const WEIGHT: [usize; 4] = [6, 2, 3, 3];
const PATCHES: [usize; 4] = [3, 6, 4, 9];

/// Calls `f` with the elements of image, weight and patches that belong together.
fn each_product(mut f: impl FnMut(usize, usize, usize)) {
    let [batch, channels, height, width] = IMAGE;
    let [out, own, rows, columns] = WEIGHT;
    let [.., oh, ow] = PATCHES;
    for index in 0..batch * out * oh * ow * own * rows * columns {
        let (s, r, i) = (index % columns, index / columns % rows, index / columns / rows % own);
        let patch = index / columns / rows / own;
        let (x, y, c, n) = (patch % ow, patch / ow % oh, patch / ow / oh % out, patch / ow / oh / out);
        let (row, column) = ((2 * y + r).wrapping_sub(1), (x + 2 * s).wrapping_sub(2));
        if row < height && column < width {
            let channel = c / (out / 2) * own + i;
            f(
                ((n * channels + channel) * height + row) * width + column,
                ((c * own + i) * rows + r) * columns + s,
                patch,
            );
        }
    }
}

#[test]
fn a_convolution_and_its_gradients() {
    let Some(device) = device() else { return };
    let count = |shape: [usize; 4]| shape.iter().product::<usize>();
    let [image, weight, patches] =
        [IMAGE, WEIGHT, PATCHES].map(|shape| numbers(count(shape), shape[2] as u64));
    let bias = numbers(6, 9);
    let [mut forward, mut to_image, mut to_weight] =
        [PATCHES, IMAGE, WEIGHT].map(|shape| vec![0.0; count(shape)]);
    for (index, value) in forward.iter_mut().enumerate() {
        *value = f64::from(bias[index / 36 % 6]);
    }
    each_product(|i, w, p| {
        let [i_, w_, p_] = [image[i], weight[w], patches[p]].map(f64::from);
        forward[p] += i_ * w_;
        to_image[i] += p_ * w_;
        to_weight[w] += p_ * i_;
    });
    let view = |block, shape: [usize; 4]| View::dense(block, DType::F32, &shape.map(|size| size as u64));
    let [image, weight, patches, bias] =
        [&image, &weight, &patches, &bias].map(|values| floats(&device, values));
    let out = floats(&device, &vec![0.0; 1000]);
    let (i, w, p) = (view(&image, IMAGE), view(&weight, WEIGHT), view(&patches, PATCHES));
    let bias = View::dense(&bias, DType::F32, &[6]);
    conv2d(&device, &view(&out, PATCHES), &i, &w, Some(&bias), &GEOMETRY).unwrap();
    assert_close(&read_floats(&device, &out, forward.len()), &forward, 1e-5);
    conv2d_transposed(&device, &view(&out, IMAGE), &p, &w, None, &GEOMETRY).unwrap();
    assert_close(&read_floats(&device, &out, to_image.len()), &to_image, 1e-5);
    conv2d_weight_gradient(&device, &view(&out, WEIGHT), &p, &i, &GEOMETRY).unwrap();
    assert_close(&read_floats(&device, &out, to_weight.len()), &to_weight, 1e-5);

    let wrong = conv2d(&device, &view(&out, PATCHES), &i, &w, None, &ConvGeometry { groups: 1, ..GEOMETRY });
    let text = wrong.unwrap_err();
    assert!(matches!(&text, Error::BadOperand { .. }) && text.to_string().contains("groups: 1"), "{text}");
}
