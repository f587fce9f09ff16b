//! Gathers, scatters and advanced indexing on a Vulkan device.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says by a panic what is wrong")]

mod gpu;

use gpu::{Shape, assert_close, dense, device_or_skip, layouts, numbers, rounded, tensor, zeros};
use rivulet::ops::{
    DType, Scalar, ScatterOp, ScatterSource, gather, index, index_put, index_select, scatter,
};

/// Indices into `size` places, some counted from the end, and a few outside where `outside` says so.
fn indices(size: u64, count: usize, outside: bool, seed: u64) -> Vec<f64> {
    let mut random = fastrand::Rng::with_seed(seed);
    let far = if outside { 2 } else { 0 };
    (0..count).map(|_| random.i64(-(size as i64) - far..size as i64 + far) as f64).collect()
}

/// The place that an index names.
fn wrapped(index: f64, size: u64) -> Option<usize> {
    let place = if index < 0.0 { index + size as f64 } else { index };
    (place >= 0.0 && place < size as f64).then_some(place as usize)
}

#[test]
fn gathers_along_every_dimension_of_every_layout_and_type() {
    let device = device_or_skip!();
    let sizes = [4, 5, 3];
    for dtype in DType::ALL {
        let x = numbers(dtype, 60, 1);
        for dim in 0..3 {
            let mut out_sizes = [3, 4, 2];
            out_sizes[dim] = 7;
            let count = out_sizes.iter().product::<u64>() as usize;
            let places = indices(sizes[dim], count, true, 2);
            for layout in 0..5 {
                for index_type in [DType::I64, DType::I32] {
                    let input = tensor(&device, dtype, &layouts(&sizes)[layout], &x);
                    let at = tensor(&device, index_type, &layouts(&out_sizes)[(layout + 1) % 5], &places);
                    let out = zeros(&device, dtype, &layouts(&out_sizes)[(layout + 2) % 5]);
                    gather(&device, &out.view(), &input.view(), dim, &at.view()).unwrap();
                    let right = |k: usize| {
                        let mut from = gpu::place(&out_sizes, k);
                        wrapped(places[k], sizes[dim]).map_or(0.0, |place| {
                            from[dim] = place;
                            x[gpu::index(&sizes, &from)]
                        })
                    };
                    let want: Vec<f64> = (0..count).map(right).collect();
                    assert_eq!(out.values(), want, "{dtype:?} along {dim}, layout {layout}");
                }
            }
        }
    }
    // Without dimensions, and out of nothing.
    let (x, at) = (tensor(&device, DType::F32, &dense(&[]), &[3.0]), zeros(&device, DType::I64, &dense(&[])));
    let out = zeros(&device, DType::F32, &dense(&[]));
    gather(&device, &out.view(), &x.view(), 0, &at.view()).unwrap();
    assert_eq!(out.values(), [3.0]);
    let (none, at) = (zeros(&device, DType::F32, &dense(&[0])), zeros(&device, DType::I64, &dense(&[2])));
    let out = tensor(&device, DType::F32, &dense(&[2]), &[1.0; 2]);
    gather(&device, &out.view(), &none.view(), 0, &at.view()).unwrap();
    assert_eq!(out.values(), [0.0; 2]);
    gpu::clean();
}

#[test]
fn selects_along_every_dimension() {
    let device = device_or_skip!();
    let sizes = [4, 5, 3];
    for dtype in [DType::F32, DType::F16, DType::U8, DType::I64] {
        let x = numbers(dtype, 60, 1);
        for dim in 0..3 {
            let places = indices(sizes[dim], 6, false, 3);
            let mut out_sizes = sizes;
            out_sizes[dim] = 6;
            for layout in 0..5 {
                let input = tensor(&device, dtype, &layouts(&sizes)[layout], &x);
                let at = tensor(&device, DType::I64, &layouts(&[6])[(layout + 3) % 5], &places);
                let out = zeros(&device, dtype, &layouts(&out_sizes)[(layout + 2) % 5]);
                index_select(&device, &out.view(), &input.view(), dim, &at.view()).unwrap();
                let right = |k: usize| {
                    let mut from = gpu::place(&out_sizes, k);
                    from[dim] = wrapped(places[from[dim]], sizes[dim]).unwrap();
                    x[gpu::index(&sizes, &from)]
                };
                let want: Vec<f64> = (0..out_sizes.iter().product::<u64>() as usize).map(right).collect();
                assert_eq!(out.values(), want, "{dtype:?} along {dim}, layout {layout}");
            }
        }
    }
    gpu::clean();
}

/// `[4, 5, 3, 6]`, with indices into dimensions 0 and 2, or into 2 alone: the walk is over places of the indices `[7]`,
/// then what is left of the tensor.
struct Advanced {
    shape: Shape,
    indexed: Vec<usize>,
    /// Sizes of the walk.
    walk: Vec<u64>,
    places: Vec<Vec<f64>>,
}

impl Advanced {
    fn new(layout: usize, indexed: &[usize], outside: bool) -> Self {
        let sizes = [4, 5, 3, 6];
        let kept = (0..4).filter(|dim| !indexed.contains(dim)).map(|dim| sizes[dim]);
        let walk: Vec<u64> = std::iter::once(7).chain(kept).collect();
        let places = indexed.iter().map(|&dim| indices(sizes[dim], 7, outside, 10 + dim as u64)).collect();
        Self { shape: layouts(&sizes)[layout].clone(), indexed: indexed.to_vec(), walk, places }
    }

    fn kept(&self) -> Vec<usize> {
        (0..4).filter(|dim| !self.indexed.contains(dim)).collect()
    }

    /// The tensor along the walk, standing still where only indices move it.
    fn restrided(&self) -> Shape {
        let strides = std::iter::once(0).chain(self.kept().into_iter().map(|dim| self.shape.strides[dim]));
        Shape { sizes: self.walk.clone(), strides: strides.collect(), offset: self.shape.offset }
    }

    fn along<T>(&self, of: &[T]) -> Vec<T>
    where
        T: Copy,
    {
        self.indexed.iter().map(|&dim| of[dim]).collect()
    }

    /// The element of the tensor at place `k` of the walk.
    fn element(&self, k: usize) -> Option<usize> {
        let at = gpu::place(&self.walk, k);
        let mut from = [0; 4];
        for (place, dim) in self.kept().into_iter().enumerate() {
            from[dim] = at[place + 1];
        }
        for (place, &dim) in self.indexed.iter().enumerate() {
            from[dim] = wrapped(self.places[place][at[0]], self.shape.sizes[dim])?;
        }
        Some(gpu::index(&self.shape.sizes, &from))
    }

    fn count(&self) -> usize {
        self.walk.iter().product::<u64>() as usize
    }
}

#[test]
fn advanced_indices_read_into_one_dimension_and_several() {
    let device = device_or_skip!();
    for dtype in [DType::F32, DType::BF16, DType::I64, DType::Bool] {
        let x = numbers(dtype, 360, 1);
        for (layout, indexed) in
            [(0, &[2][..]), (1, &[0, 2]), (2, &[1]), (3, &[3, 1, 0]), (2, &[0, 1, 2, 3]), (4, &[0])]
        {
            let case = Advanced::new(layout, indexed, true);
            let input = tensor(&device, dtype, &case.shape, &x);
            let out = zeros(&device, dtype, &layouts(&case.walk)[layout]);
            let at: Vec<_> = case
                .places
                .iter()
                .enumerate()
                .map(|(k, places)| {
                    let dtype = if k == 1 { DType::I32 } else { DType::I64 };
                    tensor(&device, dtype, &layouts(&[7])[layout], places)
                })
                .collect();
            let along = |at: &gpu::Tensor| {
                let mut strides = vec![0; case.walk.len()];
                strides[0] = at.shape.strides[0];
                Shape { sizes: case.walk.clone(), strides, offset: at.shape.offset }
            };
            let views: Vec<_> = at.iter().map(|at| at.as_view(&along(at))).collect();
            let (sizes, strides) = (case.along(&case.shape.sizes), case.along(&case.shape.strides));
            index(&device, &out.view(), &input.as_view(&case.restrided()), &views, &sizes, &strides).unwrap();
            let want: Vec<f64> =
                (0..case.count()).map(|k| case.element(k).map_or(0.0, |element| x[element])).collect();
            assert_close(&out.values(), &want, 0.0, 1.0, &format!("{dtype:?} {indexed:?}, layout {layout}"));
        }
    }
    gpu::clean();
}

#[test]
fn advanced_indices_write_and_add_up() {
    let device = device_or_skip!();
    for dtype in [DType::F32, DType::F16, DType::I64, DType::U8] {
        for (layout, indexed) in [(0, &[2][..]), (1, &[0, 2]), (3, &[3, 1, 0])] {
            for accumulate in [false, true] {
                let mut case = Advanced::new(layout, indexed, true);
                if !accumulate {
                    // Each place once, so that the result is one.
                    for (place, &dim) in indexed.iter().enumerate() {
                        let size = case.shape.sizes[dim];
                        case.places[place] =
                            (0..7).map(|k| if k < size.min(3) { k as f64 } else { 99.0 }).collect();
                    }
                }
                let before = numbers(dtype, 360, 1);
                let source_values: Vec<f64> =
                    numbers(dtype, case.count(), 2).iter().map(|x| rounded(dtype, x.round())).collect();
                let before: Vec<f64> = before.iter().map(|x| rounded(dtype, x.round())).collect();
                let out = tensor(&device, dtype, &case.shape, &before);
                let source = tensor(&device, dtype, &layouts(&case.walk)[(layout + 2) % 5], &source_values);
                let at: Vec<_> = case
                    .places
                    .iter()
                    .map(|places| tensor(&device, DType::I64, &dense(&[7]), places))
                    .collect();
                let mut strides = vec![0; case.walk.len()];
                strides[0] = 1;
                let along = Shape { sizes: case.walk.clone(), strides, offset: 0 };
                let views: Vec<_> = at.iter().map(|at| at.as_view(&along)).collect();
                let (sizes, strides) = (case.along(&case.shape.sizes), case.along(&case.shape.strides));
                let target = out.as_view(&case.restrided());
                index_put(&device, &target, &source.view(), &views, &sizes, &strides, accumulate).unwrap();
                let mut want = before;
                for (k, source) in source_values.iter().enumerate() {
                    if let Some(element) = case.element(k) {
                        let sum = if accumulate { want[element] } else { 0.0 };
                        want[element] = rounded(dtype, sum + source);
                    }
                }
                assert_eq!(out.values(), want, "{dtype:?} {indexed:?} accumulate {accumulate}");
            }
        }
    }
    gpu::clean();
}

#[test]
fn scatters_meet_what_is_there_in_every_layout() {
    let device = device_or_skip!();
    let (sizes, index_sizes, source_sizes) = ([5, 4, 3], [6, 3, 3], [7, 3, 4]);
    for dtype in [DType::F32, DType::BF16, DType::I64, DType::I16, DType::Bool] {
        for op in [ScatterOp::Assign, ScatterOp::Add, ScatterOp::Mul, ScatterOp::Max, ScatterOp::Min] {
            for layout in 0..5 {
                for scalar in [false, true] {
                    let whole = |seed, count| -> Vec<f64> {
                        numbers(dtype, count, seed).iter().map(|x| rounded(dtype, x.round())).collect()
                    };
                    let (before, source_values) = (whole(1, 60), whole(2, 84));
                    let mut places = indices(5, 54, true, 3);
                    if op == ScatterOp::Assign {
                        // Each place once.
                        for (k, place) in places.iter_mut().enumerate() {
                            let row = gpu::place(&index_sizes, k)[0];
                            *place = if row < 5 { row as f64 - 5.0 } else { 17.0 };
                        }
                    }
                    let out = tensor(&device, dtype, &layouts(&sizes)[layout], &before);
                    let at = tensor(&device, DType::I64, &layouts(&index_sizes)[(layout + 1) % 5], &places);
                    let source =
                        tensor(&device, dtype, &layouts(&source_sizes)[(layout + 2) % 5], &source_values);
                    let view = source.view();
                    let given = if scalar {
                        ScatterSource::Scalar(Scalar::F32(3.0))
                    } else {
                        ScatterSource::View(&view)
                    };
                    let result = scatter(&device, op, &out.view(), 0, &at.view(), given);
                    if !op.takes(dtype) {
                        assert!(gpu::no_kernel(result).contains("i64"));
                        continue;
                    }
                    result.unwrap();
                    let mut want = before.clone();
                    for (k, index) in places.iter().enumerate() {
                        let mut at = gpu::place(&index_sizes, k);
                        let x = if scalar {
                            rounded(dtype, 3.0)
                        } else {
                            source_values[gpu::index(&source_sizes, &at)]
                        };
                        let Some(place) = wrapped(*index, 5) else { continue };
                        at[0] = place;
                        let there = &mut want[gpu::index(&sizes, &at)];
                        *there = rounded(
                            dtype,
                            match op {
                                ScatterOp::Assign => x,
                                ScatterOp::Add => *there + x,
                                ScatterOp::Mul => *there * x,
                                ScatterOp::Max => there.max(x),
                                ScatterOp::Min => there.min(x),
                            },
                        );
                    }
                    assert_close(
                        &out.values(),
                        &want,
                        0.0,
                        1.0,
                        &format!("{op:?} {dtype:?} layout {layout} scalar {scalar}"),
                    );
                }
            }
        }
    }
    gpu::clean();
}

#[test]
fn what_indices_cannot_be_is_refused() {
    let device = device_or_skip!();
    let (x, at) = (zeros(&device, DType::F32, &dense(&[2, 2])), zeros(&device, DType::U8, &dense(&[2, 2])));
    let long = zeros(&device, DType::I64, &dense(&[2, 3]));
    let halves = zeros(&device, DType::F16, &dense(&[2, 2]));
    assert!(gpu::no_kernel(gather(&device, &x.view(), &x.view(), 0, &at.view())).contains("u8"));
    assert!(gpu::bad_operand(gather(&device, &x.view(), &x.view(), 0, &long.view())).contains("[2, 3]"));
    let same = long.as_view(&dense(&[2, 2]));
    assert!(gpu::no_kernel(gather(&device, &halves.view(), &x.view(), 0, &same)).contains("f32 into f16"));
    assert!(gpu::bad_operand(gather(&device, &x.view(), &x.view(), 2, &same)).contains("dimension 2 of 2"));
    assert!(gpu::bad_operand(index(&device, &x.view(), &x.view(), &[], &[], &[])).contains("0 indices"));
    let outside = index(&device, &x.view(), &x.view(), std::slice::from_ref(&same), &[3], &[2000]);
    assert!(gpu::bad_operand(outside).contains("the indexed tensor"));
    let source = ScatterSource::View(&same);
    assert!(
        gpu::no_kernel(scatter(&device, ScatterOp::Add, &x.view(), 0, &same, source))
            .contains("i64 into f32")
    );
    assert_eq!(x.values(), [0.0; 4]);
}
