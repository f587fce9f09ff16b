//! Convolutions against sums in float64.

use crate::gpu::{Operand, input, output, run};
use crate::need_device;
use crate::values::{decode, encode};
use bytemuck::bytes_of;
use rivulet_kernels::params::ConvParams;
use rivulet_kernels::{Conv, ConvKind, DType, Kernel, Tile};

fn numbers(dtype: DType, count: usize, seed: u64) -> Vec<f64> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let values: Vec<f64> = (0..count).map(|_| rng.f64() * 2.0 - 1.0).collect();
    decode(dtype, &encode(dtype, &values))
}

#[derive(Clone, Copy, Debug)]
struct Problem {
    batch: usize,
    groups: usize,
    /// Channels of a group.
    channels: [usize; 2],
    size: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
    dilation: [usize; 2],
}

impl Problem {
    /// Of the forward convolution.
    fn out_size(&self) -> [usize; 2] {
        std::array::from_fn(|d| {
            (self.size[d] + 2 * self.padding[d] - self.dilation[d] * (self.kernel[d] - 1) - 1)
                / self.stride[d]
                + 1
        })
    }

    /// Calls `f` with an element of the output, of the input and of the weight for each product of the forward
    /// convolution. All are dense NCHW.
    fn each_product(&self, mut f: impl FnMut(usize, usize, usize)) {
        let ([ci, co], [h, w], [oh, ow], [kh, kw]) = (self.channels, self.size, self.out_size(), self.kernel);
        for n in 0..self.batch {
            for c in 0..self.groups * co {
                for (y, x) in (0..oh).flat_map(|y| (0..ow).map(move |x| (y, x))) {
                    for i in 0..ci {
                        for (r, s) in (0..kh).flat_map(|r| (0..kw).map(move |s| (r, s))) {
                            let row =
                                (y * self.stride[0] + r * self.dilation[0]).wrapping_sub(self.padding[0]);
                            let column =
                                (x * self.stride[1] + s * self.dilation[1]).wrapping_sub(self.padding[1]);
                            if row < h && column < w {
                                let out = ((n * self.groups * co + c) * oh + y) * ow + x;
                                let from = ((n * self.groups * ci + c / co * ci + i) * h + row) * w + column;
                                f(out, from, ((c * ci + i) * kh + r) * kw + s);
                            }
                        }
                    }
                }
            }
        }
    }
}

fn dense(channels: usize, size: [usize; 2]) -> [u32; 4] {
    [channels * size[0] * size[1], size[0] * size[1], size[1], 1].map(|stride| stride as u32)
}

fn check(key: Conv, problem: Problem) {
    let Problem { batch, groups, channels: [ci, co], size, kernel, .. } = problem;
    let out_size = problem.out_size();
    let pair = |pair: [usize; 2]| pair.map(|size| size as u32);
    let (in_count, out_count) =
        (batch * groups * ci * size[0] * size[1], batch * groups * co * out_size[0] * out_size[1]);
    let area = kernel[0] * kernel[1];
    let weights = groups * co * ci * area;
    let swapped = |[a, b, c, d]: [u32; 4]| [b, a, c, d];
    let weight_strides = dense(ci, kernel);
    let (forward, backward) = (dense(groups * co, out_size), dense(groups * ci, size));
    let [(x_count, x), (weight_count, w)] = match key.kind {
        ConvKind::Forward => [(in_count, 1), (weights, 2)],
        ConvKind::Transposed => [(out_count, 1), (weights, 2)],
        ConvKind::WeightGradient => [(in_count, 1), (out_count, 2)],
    };
    let (x, weight) = (numbers(key.dtype, x_count, x), numbers(key.dtype, weight_count, w));
    let count = [out_count, in_count, weights][key.kind as usize];
    let (mut want, mut scale) = (vec![0.0; count], vec![1.0; count]);
    problem.each_product(|out, from, tap| {
        let (to, product) = match key.kind {
            ConvKind::Forward => (out, x[from] * weight[tap]),
            ConvKind::Transposed => (from, x[out] * weight[tap]),
            ConvKind::WeightGradient => (tap, x[from] * weight[out]),
        };
        want[to] += product;
        scale[to] += product.abs();
    });
    let mut params = ConvParams {
        out_strides: forward,
        x_strides: backward,
        weight_strides,
        x_size: pair(size),
        out_size: pair(out_size),
        kernel: pair(kernel),
        stride: pair(problem.stride),
        padding: pair(problem.padding),
        dilation: pair(problem.dilation),
        batch: batch as u32,
        in_channels: ci as u32,
        out_channels: co as u32,
        ..Default::default()
    };
    match key.kind {
        ConvKind::Forward => {}
        ConvKind::Transposed => {
            (params.x_strides, params.out_strides) = (forward, backward);
            (params.x_size, params.out_size) = (params.out_size, params.x_size);
            (params.in_channels, params.out_channels) = (co as u32, ci as u32);
            params.weight_strides = swapped(weight_strides);
        }
        ConvKind::WeightGradient => {
            (params.x_strides, params.out_strides) = (swapped(backward), swapped(weight_strides));
            params.weight_strides = swapped(forward);
            (params.out_size, params.kernel) = (params.kernel, params.out_size);
            (params.stride, params.dilation) = (params.dilation, params.stride);
            (params.batch, params.in_channels) = (ci as u32, batch as u32);
        }
    }
    let bias = numbers(key.dtype, groups * params.out_channels as usize, 3);
    if key.bias {
        let places = params.out_strides[1] as usize;
        for (at, want) in want.iter_mut().enumerate() {
            *want += bias[at / places % bias.len()];
        }
    }
    let mut out = vec![0; (count * key.dtype.size() as usize).next_multiple_of(4)];
    let [mut x, mut weight, mut bias] = [&x, &weight, &bias].map(|values| encode(key.dtype, values));
    let mut operands: Vec<Operand<'_>> = vec![output(&mut out), input(&mut x), input(&mut weight)];
    if key.bias {
        operands.push(input(&mut bias));
    }
    let places = params.batch * params.out_size[0] * params.out_size[1];
    let launch = key.groups(params.out_channels, places, groups as u32);
    run(Kernel::Conv(key), bytes_of(&params), launch, &mut operands);
    let unit = match key.dtype {
        DType::F16 => 6e-4,
        DType::BF16 => 5e-3,
        _ => 0.0,
    };
    for (at, (got, want)) in decode(key.dtype, &out).iter().zip(&want).enumerate() {
        let bound = 2e-7 * scale[at] + unit * want.abs();
        assert!((got - want).abs() <= bound, "{key:?} {problem:?}, {at}: {got} for {want}");
    }
}

#[test]
fn convolutions_with_everything() {
    need_device!();
    let plain = Problem {
        batch: 2,
        groups: 1,
        channels: [3, 5],
        size: [9, 7],
        kernel: [3, 3],
        stride: [1, 1],
        padding: [1, 1],
        dilation: [1, 1],
    };
    let problems = [
        plain,
        Problem { groups: 3, channels: [2, 4], stride: [2, 3], padding: [0, 2], ..plain },
        Problem { kernel: [2, 4], dilation: [3, 1], padding: [2, 1], stride: [2, 1], ..plain },
        Problem { size: [1, 40], kernel: [1, 5], padding: [0, 2], channels: [20, 70], ..plain },
        Problem { kernel: [1, 1], padding: [0, 0], channels: [33, 40], ..plain },
        Problem { groups: 6, channels: [1, 1], ..plain },
    ];
    for tile in [Tile::Small, Tile::Medium, Tile::Large] {
        for kind in [ConvKind::Forward, ConvKind::Transposed, ConvKind::WeightGradient] {
            for (k, &problem) in problems.iter().enumerate() {
                let bias = k % 2 == 0 && kind != ConvKind::WeightGradient;
                check(Conv { dtype: DType::F32, kind, bias, tile }, problem);
            }
        }
    }
    for dtype in [DType::F16, DType::BF16] {
        check(Conv { dtype, kind: ConvKind::Forward, bias: true, tile: Tile::Small }, problems[1]);
    }
}
