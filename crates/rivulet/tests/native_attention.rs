//! Attention on a Vulkan device.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says by a panic what is wrong")]

mod gpu;

use gpu::{Shape, assert_close, dense, device_or_skip, layouts, numbers, tensor, unit, zeros};
use rivulet::ops::{DType, attention};

struct Case<'c> {
    batch: usize,
    heads: usize,
    kv_heads: usize,
    queries: usize,
    keys: usize,
    dim: usize,
    q: &'c [f64],
    k: &'c [f64],
    v: &'c [f64],
    /// What is added to the score of batch, head, query, key.
    bias: &'c dyn Fn([usize; 4]) -> f64,
    causal: bool,
    scale: f64,
}

/// Results, and the logarithms of the sums of exponentials.
fn reference(case: &Case<'_>) -> (Vec<f64>, Vec<f64>) {
    let Case { heads, queries, keys, dim, .. } = *case;
    let (mut out, mut kept) = (Vec::new(), Vec::new());
    for z in 0..case.batch * heads * queries {
        let (b, head, query) = (z / queries / heads, z / queries % heads, z % queries);
        let kv = b * case.kv_heads + head / (heads / case.kv_heads);
        let score = |key: usize| {
            if case.causal && key > query {
                return f64::NEG_INFINITY;
            }
            let dot: f64 = (0..dim).map(|d| case.q[z * dim + d] * case.k[(kv * keys + key) * dim + d]).sum();
            dot * case.scale + (case.bias)([b, head, query, key])
        };
        let scores: Vec<f64> = (0..keys).map(score).collect();
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> =
            scores.iter().map(|s| if top.is_finite() { (s - top).exp() } else { 0.0 }).collect();
        let sum: f64 = weights.iter().sum();
        kept.push(if sum > 0.0 { top + sum.ln() } else { f64::NEG_INFINITY });
        out.extend((0..dim).map(|d| {
            let total: f64 = (0..keys).map(|key| weights[key] * case.v[(kv * keys + key) * dim + d]).sum();
            if sum > 0.0 { total / sum } else { 0.0 }
        }));
    }
    (out, kept)
}

#[test]
fn layouts_groups_masks_and_head_sizes() {
    let device = device_or_skip!();
    let (batch, heads, keys) = (2, 4, 41);
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for (kv_heads, dim, layout, queries) in [
            (4, 16, 0, 9),
            (2, 33, 1, 9),
            (1, 64, 2, 9),
            (4, 80, 3, 9),
            (2, 160, 4, 9),
            (4, 1, 2, 9),
            (2, 32, 0, 37),
            (4, 60, 3, 37),
        ] {
            let sizes = |heads: usize, rows: usize| [batch as u64, heads as u64, rows as u64, dim as u64];
            let (q, k, v) = (
                numbers(dtype, batch * heads * queries * dim, 1),
                numbers(dtype, batch * kv_heads * keys * dim, 2),
                numbers(dtype, batch * kv_heads * keys * dim, 3),
            );
            let of = |shape: [u64; 4], values: &[f64], layout: usize| {
                tensor(&device, dtype, &layouts(&shape)[layout % 5], values)
            };
            let (qt, kt, vt) = (
                of(sizes(heads, queries), &q, layout),
                of(sizes(kv_heads, keys), &k, layout + 1),
                of(sizes(kv_heads, keys), &v, layout + 2),
            );
            // A bias for each head, and bools for each batch of which one query sees nothing.
            let added = numbers(DType::F32, heads * queries * keys, 4);
            let added_tensor = tensor(
                &device,
                DType::F32,
                &layouts(&[heads as u64, queries as u64, keys as u64])[layout],
                &added,
            );
            let seen: Vec<f64> = (0..batch * queries * keys)
                .map(|k| f64::from(k / keys != queries + 3 && k % 3 != 1))
                .collect();
            let seen_tensor = tensor(
                &device,
                DType::Bool,
                &layouts(&[batch as u64, 1, queries as u64, keys as u64])[layout],
                &seen,
            );
            for mask in 0..3 {
                for causal in [false, true] {
                    // The tiles' own arithmetic is the same for all types; each kernel takes a second to compile.
                    if queries > 20 && dtype != DType::F32 && !(mask == 2 && causal) {
                        continue;
                    }
                    let out = zeros(&device, dtype, &layouts(&sizes(heads, queries))[(layout + 3) % 5]);
                    let kept = zeros(&device, DType::F32, &layouts(&sizes(heads, queries)[..3])[layout]);
                    let (added_view, seen_view) = (added_tensor.view(), seen_tensor.view());
                    let view = [None, Some(&added_view), Some(&seen_view)][mask];
                    let kept_view = kept.view();
                    let kept_given = (mask != 1).then_some(&kept_view);
                    attention(
                        &device,
                        &out.view(),
                        kept_given,
                        &qt.view(),
                        &kt.view(),
                        &vt.view(),
                        view,
                        causal,
                        0.25,
                    )
                    .unwrap();
                    let bias = |[b, head, query, key]: [usize; 4]| match mask {
                        1 => added[(head * queries + query) * keys + key],
                        2 if seen[(b * queries + query) * keys + key] == 0.0 => f64::NEG_INFINITY,
                        _ => 0.0,
                    };
                    let case = Case {
                        batch,
                        heads,
                        kv_heads,
                        queries,
                        keys,
                        dim,
                        q: &q,
                        k: &k,
                        v: &v,
                        bias: &bias,
                        causal,
                        scale: 0.25,
                    };
                    let (want, want_kept) = reference(&case);
                    let what = format!("{dtype:?}, head {dim}, mask {mask}, causal {causal}");
                    assert_close(&out.values(), &want, unit(dtype) + 1e-5, 1.0, &what);
                    if kept_given.is_some() {
                        assert_close(&kept.values(), &want_kept, 1e-5, 1.0, &what);
                    }
                }
            }
        }
    }
    gpu::clean();
}

#[test]
fn without_keys_nothing_is_seen() {
    let device = device_or_skip!();
    let q = zeros(&device, DType::F32, &dense(&[1, 2, 3, 4]));
    let kv = zeros(&device, DType::F32, &dense(&[1, 2, 0, 4]));
    let out = tensor(&device, DType::F32, &dense(&[1, 2, 3, 4]), &[5.0; 24]);
    let kept = zeros(&device, DType::F32, &dense(&[1, 2, 3]));
    attention(&device, &out.view(), Some(&kept.view()), &q.view(), &kv.view(), &kv.view(), None, false, 1.0)
        .unwrap();
    assert_eq!(out.values(), [0.0; 24]);
    assert_eq!(kept.values(), [f64::NEG_INFINITY; 6]);
    gpu::clean();
}

#[test]
fn more_batches_than_a_dispatch_takes_are_split() {
    let device = device_or_skip!();
    let batch = 66_000;
    let values: Vec<f64> = (0..batch).map(|k| (k % 97) as f64).collect();
    let v = tensor(&device, DType::F32, &dense(&[batch, 1, 1, 1]), &values);
    let q = Shape { sizes: vec![batch, 1, 1, 1], strides: vec![0; 4], offset: 0 };
    let out = zeros(&device, DType::F32, &dense(&[batch, 1, 1, 1]));
    attention(&device, &out.view(), None, &v.as_view(&q), &v.as_view(&q), &v.view(), None, false, 1.0)
        .unwrap();
    assert!(out.values() == values);
    gpu::clean();
}

#[test]
fn what_attention_has_no_kernel_for_is_told() {
    let device = device_or_skip!();
    let of = |dtype, sizes: &[u64]| zeros(&device, dtype, &dense(sizes));
    let run = |out: &gpu::Tensor, q: &gpu::Tensor, k: &gpu::Tensor, v: &gpu::Tensor| {
        attention(&device, &out.view(), None, &q.view(), &k.view(), &v.view(), None, false, 1.0)
    };
    let long = of(DType::F32, &[1, 1, 2, 257]);
    assert!(gpu::no_kernel(run(&long, &long, &long, &long)).contains("257"));
    let (x, wide) = (of(DType::F32, &[1, 1, 2, 4]), of(DType::F32, &[1, 1, 2, 8]));
    assert!(gpu::no_kernel(run(&wide, &x, &x, &wide)).contains("head size 8 and keys of 4"));
    let halves = of(DType::F16, &[1, 1, 2, 4]);
    assert!(gpu::no_kernel(run(&x, &x, &halves, &x)).contains("f16"));
    let (three, two) = (of(DType::F32, &[1, 3, 2, 4]), of(DType::F32, &[1, 2, 2, 4]));
    assert!(gpu::bad_operand(run(&three, &three, &two, &two)).contains("3 heads of q on 2"));
    assert!(gpu::bad_operand(run(&x, &x, &wide, &wide)).contains("do not give"));
}
