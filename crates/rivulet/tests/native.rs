//! Native ops on a Vulkan device, through the runtime: what they share. Each family has a file of its own.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says by a panic what is wrong")]

mod gpu;

use gpu::{clean, common, device, device_or_skip};
use rivulet::memory::Block;
use rivulet::ops::{DType, Op, Scalar, View, pointwise};
use rivulet::{Access, Device, Error};
use rivulet_hal::sync::Arc;

fn floats(device: &Device, values: &[f32]) -> Arc<Block> {
    let block = device.allocate(4 * values.len().max(1) as u64).unwrap();
    let access = device.host_access("write", &[(&block, Access::Write)]).unwrap();
    common::store(&block, &values.iter().flat_map(|value| value.to_ne_bytes()).collect::<Vec<_>>());
    access.finish().unwrap();
    block
}

fn read(device: &Device, block: &Block, count: usize) -> Vec<f32> {
    let access = device.host_access("read", &[(block, Access::Read)]).unwrap();
    let bytes = common::load(block, 0, 4 * count);
    access.finish().unwrap();
    bytes.chunks_exact(4).map(|word| f32::from_ne_bytes(word.try_into().unwrap())).collect()
}

fn view<'b>(block: &'b Block, shape: &[u64]) -> View<'b> {
    View::dense(block, DType::F32, shape)
}

fn add(device: &Device, out: &View<'_>, a: &View<'_>, b: &View<'_>) -> rivulet::Result<()> {
    pointwise(device, Op::Add, DType::F32, out, &[a.clone(), b.clone()], None, &[Scalar::F32(1.0)])
}

#[test]
fn a_sum_of_two_tensors_is_right_at_every_size() {
    let device = device_or_skip!();
    for count in [1_usize, 2, 255, 256, 257, 5000, 1 << 20] {
        let a: Vec<f32> = (0..count).map(|index| index as f32 * 0.5).collect();
        let b: Vec<f32> = (0..count).map(|index| 7.0 - index as f32).collect();
        let (x, y, out) = (floats(&device, &a), floats(&device, &b), floats(&device, &vec![0.0; count]));
        let shape = [count as u64];
        add(&device, &view(&out, &shape), &view(&x, &shape), &view(&y, &shape)).unwrap();
        let wanted: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
        assert_eq!(read(&device, &out, count), wanted);
        for block in [x, y, out] {
            device.free(block);
        }
    }
    assert!(device.pipelines().len() <= 2, "one kernel serves every size");
    clean();
}

#[test]
fn strides_repeat_transpose_turn_round_and_split() {
    let device = device_or_skip!();
    let a: Vec<f32> = (0..24).map(|index| index as f32).collect();
    let (x, out) = (floats(&device, &a), floats(&device, &[0.0; 720]));
    let run = |shape: &[u64], strides: &[i64], offset: u64, right: &dyn Fn(&[u64]) -> f32| {
        let target = view(&out, shape);
        let mut source = view(&x, shape);
        source.offset = offset;
        source.strides = strides.iter().copied().collect();
        add(&device, &target, &source, &source).unwrap();
        let count = shape.iter().product::<u64>();
        let got = read(&device, &out, count as usize);
        for (index, got) in got.into_iter().enumerate() {
            let (mut rest, mut place) = (index as u64, vec![0; shape.len()]);
            for dim in (0..shape.len()).rev() {
                place[dim] = rest % shape[dim];
                rest /= shape[dim];
            }
            assert_eq!(got, 2.0 * right(&place), "{shape:?} {strides:?} at {place:?}");
        }
    };
    run(&[4, 6], &[6, 1], 0, &|at| (at[0] * 6 + at[1]) as f32);
    run(&[6, 4], &[1, 6], 0, &|at| (at[1] * 6 + at[0]) as f32);
    run(&[5, 6], &[0, 1], 18, &|at| (18 + at[1]) as f32);
    run(&[24], &[-1], 23, &|at| (23 - at[0]) as f32);
    run(&[], &[], 11, &|_| 11.0);
    // Six dimensions that cannot be joined: more than a kernel walks at once.
    run(&[3, 2, 2, 5, 2, 6], &[1, 0, 3, 0, 12, 1], 0, &|at| (at[0] + 3 * at[2] + 12 * at[4] + at[5]) as f32);
    clean();
}

#[test]
fn eight_threads_share_weights_and_get_the_bits_of_one() {
    let device = device_or_skip!();
    let weight: Vec<f32> = (0..4096).map(|index| (index % 17) as f32 - 8.0).collect();
    let bias: Vec<f32> = (0..4096).map(|index| (index % 5) as f32 * 0.25).collect();
    let (w, b) = (floats(&device, &weight), floats(&device, &bias));
    let shape = [4096];
    let forward = |x: &Block, rounds: usize| {
        let (product, sum) = (device.allocate(4 * 4096).unwrap(), device.allocate(4 * 4096).unwrap());
        for round in 0..rounds {
            let input = if round == 0 { view(x, &shape) } else { view(&sum, &shape) };
            pointwise(
                &device,
                Op::Mul,
                DType::F32,
                &view(&product, &shape),
                &[input, view(&w, &shape)],
                None,
                &[],
            )
            .unwrap();
            add(&device, &view(&sum, &shape), &view(&product, &shape), &view(&b, &shape)).unwrap();
            pointwise(&device, Op::Relu, DType::F32, &view(&sum, &shape), &[view(&sum, &shape)], None, &[])
                .unwrap();
        }
        let result = read(&device, &sum, 4096);
        device.free(product);
        device.free(sum);
        result
    };
    let x: Vec<f32> = (0..4096).map(|index| index as f32 / 4096.0).collect();
    let mut wanted = x.clone();
    for _ in 0..3 {
        for (index, value) in wanted.iter_mut().enumerate() {
            *value = (*value * weight[index] + bias[index]).max(0.0);
        }
    }
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..10 {
                    let input = floats(&device, &x);
                    assert_eq!(forward(&input, 3), wanted);
                    device.free(input);
                }
            });
        }
    });
    clean();
}

#[test]
fn what_a_kernel_cannot_take_is_refused_by_name_and_records_nothing() {
    let Some(device) = device() else { return };
    let block = floats(&device, &[1.0; 16]);
    let text = |result: rivulet::Result<()>| match result {
        Err(error @ (Error::BadOperand { .. } | Error::NoKernel { .. })) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let too_long =
        text(add(&device, &view(&block, &[1 << 20]), &view(&block, &[1 << 20]), &view(&block, &[1 << 20])));
    assert!(too_long.contains("add") && too_long.contains("1048575"), "{too_long}");
    let shapes = text(add(&device, &view(&block, &[4]), &view(&block, &[4]), &view(&block, &[2, 2])));
    assert!(shapes.contains("input 1 has shape [2, 2], the output [4]"), "{shapes}");
    let few = text(pointwise(&device, Op::Add, DType::F32, &view(&block, &[4]), &[], None, &[]));
    assert!(few.contains("0 tensors; it takes 2"), "{few}");
    add(&device, &view(&block, &[0]), &view(&block, &[0]), &view(&block, &[0])).unwrap();
    assert_eq!(read(&device, &block, 16), [1.0; 16]);

    let host = Device::host();
    let block = floats(&host, &[1.0; 4]);
    let all = view(&block, &[4]);
    assert!(text(add(&host, &all, &all, &all)).contains("no native kernels"));
}
