//! Pooling, changes of resolution and columns of blocks on a Vulkan device, through the runtime. Skipped where there is
//! none.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says by a panic what is wrong")]

mod common;
#[path = "common/gpu.rs"]
mod gpu;

use gpu::{assert_close, device, floats, longs, numbers, read_floats, read_longs};
use rivulet::Error;
use rivulet::ops::{
    Blocks, DType, PoolDivisor, ResampleMode, View, Windows, average_pool, average_pool_backward, fold,
    max_pool, resample, resample_backward, unfold,
};
use std::ops::Range;

const PLANES: usize = 3;
const SIZE: [usize; 2] = [7, 9];
const OUT: [usize; 2] = [4, 3];
const KERNEL: [usize; 2] = [3, 4];
const STRIDE: [usize; 2] = [2, 3];
const PADDING: [usize; 2] = [1, 1];

fn regular() -> Windows {
    let of = |[height, width]: [usize; 2], depth: u32| [depth, height as u32, width as u32];
    Windows::Regular {
        kernel: of(KERNEL, 1),
        stride: of(STRIDE, 1),
        padding: of(PADDING, 0),
        dilation: [1; 3],
    }
}

/// The places of x that window `o` covers along `dim`.
fn covered(windows: &Windows, o: usize, dim: usize) -> Range<usize> {
    match windows {
        Windows::Adaptive => o * SIZE[dim] / OUT[dim]..((o + 1) * SIZE[dim]).div_ceil(OUT[dim]),
        Windows::Regular { .. } => {
            let start = o * STRIDE[dim];
            let end = (start + KERNEL[dim]).saturating_sub(PADDING[dim]).min(SIZE[dim]);
            start.saturating_sub(PADDING[dim])..end
        }
    }
}

fn view<'b>(block: &'b rivulet::memory::Block, dtype: DType, [height, width]: [usize; 2]) -> View<'b> {
    View::dense(block, dtype, &[PLANES as u64, 1, height as u64, width as u64])
}

/// For each element of the pooled side the places of x in its window.
fn windows_of(windows: &Windows) -> Vec<Vec<usize>> {
    let mut all = Vec::new();
    for plane in 0..PLANES {
        for (h, w) in (0..OUT[0]).flat_map(|h| (0..OUT[1]).map(move |w| (h, w))) {
            let rows = covered(windows, h, 0);
            let places = rows.flat_map(|i| covered(windows, w, 1).map(move |j| i * SIZE[1] + j));
            all.push(places.map(|place| plane * SIZE[0] * SIZE[1] + place).collect());
        }
    }
    all
}

#[test]
fn windows_yield_their_largest_element_their_average_and_its_gradient() {
    let Some(device) = device() else { return };
    let (inputs, outputs) = (PLANES * SIZE[0] * SIZE[1], PLANES * OUT[0] * OUT[1]);
    let mut x = numbers(inputs, 3);
    (x[1], x[2], x[80], x[90]) = (2.5, 2.5, f32::NAN, f32::NEG_INFINITY);
    let input = floats(&device, &x);
    for windows in [regular(), Windows::Adaptive] {
        let all = windows_of(&windows);
        let plane = SIZE[0] * SIZE[1];
        let larger = |&best: &usize, &next: &usize| x[next] > x[best] || x[next].is_nan();
        let best: Vec<usize> = all
            .iter()
            .map(|places| places.iter().copied().reduce(|a, b| if larger(&a, &b) { b } else { a }).unwrap())
            .collect();
        let (out, places) = (floats(&device, &vec![0.0; outputs]), longs(&device, &vec![0; outputs]));
        let dense = view(&out, DType::F32, OUT);
        max_pool(&device, &dense, &view(&places, DType::I64, OUT), &view(&input, DType::F32, SIZE), &windows)
            .unwrap();
        let wanted: Vec<i64> = best.iter().map(|place| (place % plane) as i64).collect();
        assert_eq!(read_longs(&device, &places, outputs), wanted);
        let values = read_floats(&device, &out, outputs);
        assert!(values.iter().zip(&best).all(|(value, &place)| value.to_bits() == x[place].to_bits()));

        let finite: Vec<f32> = x.iter().map(|value| if value.is_finite() { *value } else { 1.0 }).collect();
        let input = floats(&device, &finite);
        for divisor in [PoolDivisor::Inside, PoolDivisor::Fixed(5)] {
            let share = |places: &Vec<usize>| match divisor {
                PoolDivisor::Fixed(value) => f64::from(value),
                _ => places.len() as f64,
            };
            average_pool(&device, &dense, &view(&input, DType::F32, SIZE), &windows, divisor).unwrap();
            let wanted: Vec<f64> = all
                .iter()
                .map(|places| {
                    places.iter().map(|&place| f64::from(finite[place])).sum::<f64>() / share(places)
                })
                .collect();
            assert_close(&read_floats(&device, &out, outputs), &wanted, 1e-6);

            let slope = numbers(outputs, 4);
            let (gradient, back) = (floats(&device, &slope), floats(&device, &vec![7.0; inputs]));
            let (large, small) = (view(&back, DType::F32, SIZE), view(&gradient, DType::F32, OUT));
            average_pool_backward(&device, &large, &small, &windows, divisor).unwrap();
            let mut wanted = vec![0.0; inputs];
            for (places, &value) in all.iter().zip(&slope) {
                places.iter().for_each(|&place| wanted[place] += f64::from(value) / share(places));
            }
            assert_close(&read_floats(&device, &back, inputs), &wanted, 1e-6);
        }
    }
    let shapes = [view(&input, DType::F32, [6, 3]), view(&input, DType::F32, SIZE)];
    let text = average_pool(&device, &shapes[0], &shapes[1], &regular(), PoolDivisor::Inside).unwrap_err();
    assert!(matches!(&text, Error::BadOperand { .. }) && text.to_string().contains("windows"), "{text}");
}

#[test]
fn padding_counts_where_it_is_asked_for() {
    let Some(device) = device() else { return };
    let (input, out) = (floats(&device, &[1.0; 189]), floats(&device, &[0.0; 36]));
    let (x, dense) = (view(&input, DType::F32, SIZE), view(&out, DType::F32, OUT));
    average_pool(&device, &dense, &x, &regular(), PoolDivisor::WithPadding).unwrap();
    // In the corner 2 of 3 rows and 3 of 4 columns are inside.
    assert_close(&read_floats(&device, &out, 1), &[6.0 / 12.0], 1e-6);
}

/// The places of x that place `o` lies between, and the share of the second.
fn source(mode: ResampleMode, o: usize, size: usize, scale: f64) -> (usize, usize, f64) {
    let place = match mode {
        ResampleMode::Nearest | ResampleMode::LinearAligned => o as f64 * scale,
        ResampleMode::NearestExact => (o as f64 + 0.5) * scale,
        ResampleMode::Linear => ((o as f64 + 0.5) * scale - 0.5).max(0.0),
    };
    let first = (place as usize).min(size - 1);
    match mode {
        ResampleMode::Nearest | ResampleMode::NearestExact => (first, first, 0.0),
        _ => (first, (first + 1).min(size - 1), (place - first as f64).min(1.0)),
    }
}

#[test]
fn another_resolution_shows_its_neighbours_and_the_gradient_goes_back() {
    let Some(device) = device() else { return };
    let modes = [
        ResampleMode::Nearest,
        ResampleMode::NearestExact,
        ResampleMode::Linear,
        ResampleMode::LinearAligned,
    ];
    for (mode, out_size) in modes.into_iter().flat_map(|mode| [(mode, [16, 5]), (mode, [3, 20])]) {
        let scale: [f64; 2] = std::array::from_fn(|dim| match mode {
            ResampleMode::LinearAligned => (SIZE[dim] - 1) as f64 / (out_size[dim] - 1) as f64,
            _ => SIZE[dim] as f64 / out_size[dim] as f64,
        });
        let (inputs, outputs) = (PLANES * SIZE[0] * SIZE[1], PLANES * out_size[0] * out_size[1]);
        let (x, slope) = (numbers(inputs, 5), numbers(outputs, 6));
        let (mut wanted, mut gradients) = (vec![0.0; outputs], vec![0.0; inputs]);
        for o in 0..outputs {
            let (plane, h, w) =
                (o / (out_size[0] * out_size[1]), o / out_size[1] % out_size[0], o % out_size[1]);
            let (top, bottom, down) = source(mode, h, SIZE[0], scale[0]);
            let (left, right, along) = source(mode, w, SIZE[1], scale[1]);
            for (row, column, share) in [
                (top, left, (1.0 - down) * (1.0 - along)),
                (top, right, (1.0 - down) * along),
                (bottom, left, down * (1.0 - along)),
                (bottom, right, down * along),
            ] {
                let place = (plane * SIZE[0] + row) * SIZE[1] + column;
                wanted[o] += share * f64::from(x[place]);
                gradients[place] += share * f64::from(slope[o]);
            }
        }
        let (input, out) = (floats(&device, &x), floats(&device, &vec![0.0; outputs]));
        let scale = [1.0, scale[0] as f32, scale[1] as f32];
        let (large, small) = (view(&out, DType::F32, out_size), view(&input, DType::F32, SIZE));
        resample(&device, &large, &small, scale, mode).unwrap();
        assert_close(&read_floats(&device, &out, outputs), &wanted, 1e-5);
        let (gradient, back) = (floats(&device, &slope), floats(&device, &vec![7.0; inputs]));
        let (large, small) = (view(&gradient, DType::F32, out_size), view(&back, DType::F32, SIZE));
        resample_backward(&device, &small, &large, scale, mode).unwrap();
        assert_close(&read_floats(&device, &back, inputs), &gradients, 1e-5);
    }
}

#[test]
fn blocks_become_columns_and_add_up_to_an_image() {
    let Some(device) = device() else { return };
    let blocks = Blocks { kernel: [2, 3], stride: [2, 1], padding: [1, 0], dilation: [1, 2] };
    let count = [(SIZE[0] + 2 - 2) / 2 + 1, SIZE[1] - 5 + 1];
    let (inputs, outputs) = (PLANES * SIZE[0] * SIZE[1], PLANES * 6 * count[0] * count[1]);
    let x = numbers(inputs, 7);
    let (mut wanted, mut image) = (vec![0.0; outputs], vec![0.0; inputs]);
    for (e, value) in wanted.iter_mut().enumerate() {
        let (block, part) = (e % (count[0] * count[1]), e / (count[0] * count[1]));
        let (inside, plane) = (part % 6, part / 6);
        let row = block / count[1] * 2 + inside / 3;
        let column = block % count[1] + inside % 3 * 2;
        if (1..=SIZE[0]).contains(&row) && column < SIZE[1] {
            let place = (plane * SIZE[0] + row - 1) * SIZE[1] + column;
            *value = f64::from(x[place]);
            image[place] += f64::from(x[place]);
        }
    }
    let (input, out, back) =
        (floats(&device, &x), floats(&device, &vec![9.0; outputs]), floats(&device, &vec![9.0; inputs]));
    let shape = [1, PLANES as u64, SIZE[0] as u64, SIZE[1] as u64];
    let columns = View::dense(&out, DType::F32, &[1, PLANES as u64 * 6, (count[0] * count[1]) as u64]);
    unfold(&device, &columns, &View::dense(&input, DType::F32, &shape), &blocks).unwrap();
    assert_close(&read_floats(&device, &out, outputs), &wanted, 0.0);
    fold(&device, &View::dense(&back, DType::F32, &shape), &columns, &blocks).unwrap();
    assert_close(&read_floats(&device, &back, inputs), &image, 1e-6);
    let text =
        unfold(&device, &columns, &View::dense(&input, DType::F32, &[1, 3, 9, 7]), &blocks).unwrap_err();
    assert!(matches!(&text, Error::BadOperand { .. }) && text.to_string().contains("columns"), "{text}");
}
