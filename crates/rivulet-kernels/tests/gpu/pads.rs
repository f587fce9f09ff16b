//! Padding by reflection and replication, and the gradients.

use crate::gpu::{input, output, run};
use crate::need_device;
use crate::values::{decode, encode};
use bytemuck::bytes_of;
use rivulet_kernels::params::PadParams;
use rivulet_kernels::{DType, Kernel, Pad, PadMode};

fn source(mode: PadMode, i: i32, size: i32) -> i32 {
    match mode {
        PadMode::Reflect if i < 0 => -i,
        PadMode::Reflect if i >= size => 2 * (size - 1) - i,
        PadMode::Reflect => i,
        PadMode::Replicate => i.clamp(0, size - 1),
    }
}

#[test]
fn edges_are_copied_and_their_gradients_gathered() {
    need_device!();
    for mode in [PadMode::Reflect, PadMode::Replicate] {
        for (outer, size, before, after) in [
            (3, [1, 1, 5], [0, 0, 4], [0, 0, 2]),
            (2, [1, 4, 5], [0, 3, 2], [0, 1, 4]),
            (1, [3, 4, 2], [2, 1, 1], [1, 3, 0]),
            (2, [1, 6, 7], [0, -1, 2], [0, 3, -2]),
            (1, [1, 1, 1], [0, 0, 0], [0, 0, 0]),
        ] {
            let padded: [i32; 3] = std::array::from_fn(|d| size[d] + before[d] + after[d]);
            let volume = |size: [i32; 3]| (size[0] * size[1] * size[2]) as usize;
            let (in_count, out_count) = (outer * volume(size), outer * volume(padded));
            let of = |o: usize| {
                let (o, [_, h, w]) = (o as i32, padded);
                let at = [o / (w * h) % padded[0], o / w % h, o % w];
                let from: [i32; 3] = std::array::from_fn(|d| source(mode, at[d] - before[d], size[d]));
                let n = o / (w * h * padded[0]);
                (((n * size[0] + from[0]) * size[1] + from[1]) * size[2] + from[2]) as usize
            };
            let pad = |sizes: [i32; 3]| [sizes[0] as u32, sizes[1] as u32, sizes[2] as u32, 0];
            let params = |offset: u32, count: usize| PadParams {
                offsets: [offset, 0, 0, 0],
                size: pad(size),
                padded: pad(padded),
                before: [before[0], before[1], before[2], 0],
                count: count as u32,
                ..Default::default()
            };
            let what = format!("{mode:?} {outer} of {size:?} before {before:?} after {after:?}");
            for dtype in [DType::F32, DType::F16, DType::I64, DType::U8] {
                let x: Vec<f64> = (0..in_count).map(|k| (k % 100 + 1) as f64).collect();
                let want: Vec<f64> = (0..out_count).map(|o| x[of(o)]).collect();
                let offset = 1;
                let key = Pad::new(mode, false, dtype, offset, out_count as u32);
                let mut out = vec![0; ((out_count + 1) * dtype.size() as usize).next_multiple_of(4)];
                let mut bytes = encode(dtype, &x);
                let params = params(offset, out_count);
                let groups = key.groups(offset, params.count);
                run(Kernel::Pad(key), bytes_of(&params), groups, &mut [output(&mut out), input(&mut bytes)]);
                assert_eq!(decode(dtype, &out)[1..=out_count], want, "{what} {dtype:?}");
            }
            for dtype in [DType::F32, DType::F16] {
                let gradient: Vec<f64> = (0..out_count).map(|k| (k % 7) as f64 - 3.0).collect();
                let mut want = vec![0.0; in_count];
                (0..out_count).for_each(|o| want[of(o)] += gradient[o]);
                let key = Pad::new(mode, true, dtype, 0, in_count as u32);
                let mut out = vec![0; (in_count * dtype.size() as usize).next_multiple_of(4)];
                let mut bytes = encode(dtype, &gradient);
                let params = params(0, in_count);
                let groups = key.groups(0, params.count);
                run(Kernel::Pad(key), bytes_of(&params), groups, &mut [output(&mut out), input(&mut bytes)]);
                assert_eq!(decode(dtype, &out)[..in_count], want, "{what} {dtype:?} gradient");
            }
        }
    }
}
