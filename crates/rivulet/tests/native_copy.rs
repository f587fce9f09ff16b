//! Copies, conversions and fills on a Vulkan device.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says by a panic what is wrong")]

mod gpu;

use gpu::{Shape, dense, device_or_skip, layouts, numbers, rounded, tensor, zeros};
use rivulet::ops::{DType, Op, Scalar, copy, fill, join, pointwise};
use rivulet::{Device, Error};

#[test]
fn every_type_is_copied_between_all_layouts() {
    let device = device_or_skip!();
    for dtype in DType::ALL {
        for sizes in [&[5, 7][..], &[3, 1, 4], &[9], &[], &[4, 0, 2]] {
            let values = numbers(dtype, sizes.iter().product::<u64>() as usize, 1);
            for from in layouts(sizes) {
                for to in layouts(sizes) {
                    let (input, out) = (tensor(&device, dtype, &from, &values), zeros(&device, dtype, &to));
                    copy(&device, &out.view(), &input.view()).unwrap();
                    assert_eq!(out.values(), values, "{dtype:?} {from:?} to {to:?}");
                }
            }
        }
    }
    gpu::clean();
}

#[test]
fn every_type_is_converted_to_every_other() {
    let device = device_or_skip!();
    let sizes = [3, 11];
    for from in DType::ALL {
        let values = numbers(from, 33, 2);
        for to in DType::ALL {
            // What is below 0 is undefined in PyTorch for the one unsigned type.
            let values: Vec<f64> = values
                .iter()
                .map(|x| if to == DType::U8 { x.abs() } else { *x })
                .map(|x| rounded(from, x))
                .collect();
            for shape in &layouts(&sizes)[1..3] {
                let (input, out) =
                    (tensor(&device, from, &dense(&sizes), &values), zeros(&device, to, shape));
                copy(&device, &out.view(), &input.view()).unwrap();
                let want: Vec<f64> = values.iter().map(|x| rounded(to, *x)).collect();
                assert_eq!(out.values(), want, "{from:?} to {to:?}");
            }
        }
    }
    gpu::clean();
}

#[test]
fn copies_keep_the_bits_of_nan_and_repeat_by_strides_of_0() {
    let device = device_or_skip!();
    let bits = f64::from(f32::from_bits(0xffc1_2345));
    let input = tensor(&device, DType::F32, &dense(&[2]), &[bits, 1.0]);
    let out = zeros(&device, DType::F32, &dense(&[3, 2]));
    copy(
        &device,
        &out.view(),
        &input.as_view(&gpu::Shape { sizes: vec![3, 2], strides: vec![0, 1], offset: 0 }),
    )
    .unwrap();
    let rows = out.raw();
    for row in rows.chunks(2) {
        assert_eq!(row, [0xffc1_2345_u32.to_le_bytes().to_vec(), 1.0_f32.to_le_bytes().to_vec()]);
    }
    // Seven dimensions that cannot be joined.
    let sizes = [2, 3, 2, 3, 2, 2, 3];
    let values = numbers(DType::BF16, 432, 3);
    let order: Vec<u64> = sizes.iter().rev().copied().collect();
    let strides: Vec<i64> = dense(&order).strides.into_iter().rev().collect();
    let input = tensor(&device, DType::BF16, &dense(&sizes), &values);
    let out = zeros(&device, DType::BF16, &gpu::Shape { sizes: sizes.to_vec(), strides, offset: 0 });
    copy(&device, &out.view(), &input.view()).unwrap();
    assert_eq!(out.values(), values);
    gpu::clean();
}

#[test]
fn fills_take_any_scalar_and_touch_nothing_else() {
    let device = device_or_skip!();
    for dtype in DType::ALL {
        for shape in layouts(&[5, 3]) {
            for value in [Scalar::F32(2.5), Scalar::I32(-3), Scalar::I64(7), Scalar::F32(0.25)] {
                let number = match value {
                    Scalar::F32(x) => f64::from(x),
                    Scalar::I32(x) => f64::from(x),
                    Scalar::I64(x) => x as f64,
                };
                let out = zeros(&device, dtype, &shape);
                fill(&device, &out.view(), value).unwrap();
                assert_eq!(out.values(), [rounded(dtype, number); 15], "{dtype:?} {value:?} {shape:?}");
            }
        }
    }
    let wide = zeros(&device, DType::I64, &dense(&[2]));
    // Among them such whose lower word alone would be negative.
    for value in [i64::MIN + 1, 0xffff_ffff, 1 << 31, -(1 << 31), i64::MAX] {
        fill(&device, &wide.view(), Scalar::I64(value)).unwrap();
        assert_eq!(wide.raw()[1], value.to_le_bytes(), "{value}");
    }
    gpu::clean();
}

#[test]
fn ops_that_know_the_place_of_an_element_count_row_major_in_every_layout() {
    let device = device_or_skip!();
    let sizes = [2, 3, 4, 2, 3, 4];
    let count = 576;
    let mut shapes = layouts(&sizes);
    // More dimensions than a kernel walks, in an order that is not that of the memory.
    shapes.push(gpu::Shape { strides: vec![12, 1, 3, 288, 96, 24], ..dense(&sizes) });
    for shape in &shapes {
        let out = zeros(&device, DType::I32, shape);
        pointwise(&device, Op::Arange, DType::I32, &out.view(), &[], None, &[Scalar::I32(5), Scalar::I32(2)])
            .unwrap();
        assert_eq!(out.values(), (0..count).map(|k| f64::from(5 + 2 * k)).collect::<Vec<_>>(), "{shape:?}");
        let out = zeros(&device, DType::F32, shape);
        let ends = [Scalar::F32(0.0), Scalar::F32(575.0), Scalar::F32(1.0)];
        pointwise(&device, Op::Linspace, DType::F32, &out.view(), &[], None, &ends).unwrap();
        assert_eq!(out.values(), (0..count).map(f64::from).collect::<Vec<_>>(), "{shape:?}");
        for (op, dtype, keeps) in [
            (Op::Tril, DType::F16, &(|row: i64, column: i64| column <= row + 1) as &dyn Fn(i64, i64) -> bool),
            (Op::Triu, DType::I64, &|row, column| column > row),
            (Op::Eye, DType::Bool, &|row, column| column == row + 1),
        ] {
            let values = numbers(dtype, count as usize, 4);
            let (input, out) = (tensor(&device, dtype, &shapes[2], &values), zeros(&device, dtype, shape));
            let inputs = if op == Op::Eye { vec![] } else { vec![input.view()] };
            pointwise(&device, op, dtype, &out.view(), &inputs, None, &[Scalar::I32(1)]).unwrap();
            let right = |k: usize| {
                let at = gpu::place(&sizes, k);
                let value = if op == Op::Eye { 1.0 } else { values[k] };
                if keeps(at[4] as i64, at[5] as i64) { value } else { 0.0 }
            };
            assert_eq!(out.values(), (0..count as usize).map(right).collect::<Vec<_>>(), "{op:?} {shape:?}");
        }
    }
    gpu::clean();
}

#[test]
fn what_no_kernel_can_do_is_told_apart_from_what_is_wrong() {
    let device = device_or_skip!();
    let x = zeros(&device, DType::F32, &dense(&[4]));
    let text = gpu::no_kernel(pointwise(&device, Op::Exp, DType::I32, &x.view(), &[x.view()], None, &[]));
    assert!(text.contains("exp") && text.contains("i32"), "{text}");
    let text = gpu::bad_operand(copy(&device, &x.view(), &x.as_view(&dense(&[5]))));
    assert!(text.contains("[5]") && text.contains("[4]"), "{text}");
    let host = Device::host();
    let y = zeros(&host, DType::F32, &dense(&[4]));
    assert!(gpu::no_kernel(copy(&host, &y.view(), &y.view())).contains("no native kernels"));
    assert_eq!(x.values(), [0.0; 4]);
}

/// The adapter of all tests without the layer, for what is recorded in another way under it.
fn without_the_layer() -> Option<Device> {
    let wanted = gpu::adapter::wanted();
    let index = rivulet_hal::vulkan::adapters().iter().position(|found| found.name.contains(&wanted))?;
    let hal = rivulet_hal::vulkan::open(index, rivulet_hal::vulkan::Options::default()).unwrap();
    Some(Device::with(hal, rivulet::DeviceOptions::default()).unwrap())
}

#[test]
fn tensors_of_any_number_and_size_are_joined() {
    let validated = device_or_skip!();
    for device in [validated, without_the_layer().unwrap()] {
        for dtype in [DType::F32, DType::F16, DType::I64, DType::U8] {
            // Rows of one tensor each, of several, none at all, and more than one dispatch takes.
            for counts in [&[8][..], &[8, 8], &[8, 16, 8, 24], &[4, 0, 12, 8], &[16; 70]] {
                let parts: Vec<_> = counts
                    .iter()
                    .enumerate()
                    .map(|(index, &count)| {
                        let values = numbers(dtype, count as usize, index as u64);
                        // Every other one begins inside its block.
                        let offset = if index % 2 == 0 { 0 } else { 8 };
                        (tensor(&device, dtype, &Shape { offset, ..dense(&[count]) }, &values), values)
                    })
                    .collect();
                let out = zeros(&device, dtype, &Shape { offset: 4, ..dense(&[counts.iter().sum()]) });
                let views: Vec<_> = parts.iter().map(|(part, _)| part.view()).collect();
                join(&device, &out.view(), &views).unwrap();
                let want: Vec<f64> = parts.iter().flat_map(|(_, values)| values.clone()).collect();
                assert_eq!(out.values(), want, "{dtype:?} {counts:?}");
            }
        }
    }
    gpu::clean();
}

#[test]
fn what_cannot_be_joined_is_refused_and_changes_nothing() {
    let device = device_or_skip!();
    let values = numbers(DType::F32, 8, 1);
    let part = tensor(&device, DType::F32, &dense(&[8]), &values);
    let out = zeros(&device, DType::F32, &dense(&[9]));
    let error = join(&device, &out.view(), &[part.view()]).unwrap_err();
    assert!(error.to_string().contains("8 elements together, the output 9"), "{error}");
    let other = tensor(&device, DType::I32, &dense(&[9]), &[1.0; 9]);
    assert!(join(&device, &out.view(), &[other.view()]).is_err());
    let mut apart = part.view();
    (apart.shape[0], apart.strides[0]) = (4, 2);
    assert!(join(&device, &out.view(), &[apart]).is_err());
    let halves = tensor(&device, DType::F16, &dense(&[3]), &[1.0; 3]);
    let narrow = zeros(&device, DType::F16, &dense(&[3]));
    assert!(matches!(join(&device, &narrow.view(), &[halves.view()]), Err(Error::NoKernel { .. })));
    assert_eq!(out.values(), [0.0; 9]);
    gpu::clean();
}
