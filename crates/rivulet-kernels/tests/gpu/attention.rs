//! Attention against its definition in float64.

use crate::gpu::{Operand, input, output, run};
use crate::need_device;
use crate::values::{decode, encode};
use bytemuck::bytes_of;
use rivulet_kernels::params::AttentionParams;
use rivulet_kernels::{Attention, AttentionTile, DType, HeadSize, Kernel, Mask};

fn numbers(dtype: DType, count: usize, seed: u64) -> Vec<f64> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let values: Vec<f64> = (0..count).map(|_| rng.f64() * 4.0 - 2.0).collect();
    decode(dtype, &encode(dtype, &values))
}

/// What hidden scores are set to.
const FILL: f32 = -1.3;

/// Two batches, four heads of q on two of k and v.
fn check(key: Attention, queries: usize, keys: usize, dim: usize) {
    let (batch, heads, kv_heads) = (2, 4, 2);
    let dtype = key.dtype;
    let q = numbers(dtype, batch * heads * queries * dim, 1);
    let k = numbers(dtype, batch * kv_heads * keys * dim, 2);
    let v = numbers(dtype, batch * kv_heads * keys * dim, 3);
    let mask_type = if let Mask::Additive(dtype) = key.mask { dtype } else { DType::Bool };
    // A mask for each batch, the same for all heads; the first query of the second batch sees nothing.
    let mut mask = numbers(mask_type, batch * queries * keys, 4);
    for (at, x) in mask.iter_mut().enumerate() {
        let none = at / keys == queries;
        if mask_type == DType::Bool {
            *x = f64::from(u8::from(!none && at % 3 != 0));
        } else if none || at % 5 == 0 {
            *x = f64::NEG_INFINITY;
        }
    }
    let scale = 1.0 / (dim as f64).sqrt();
    let mut want = Vec::new();
    for z in 0..batch * heads * queries {
        let (query, head, b) = (z % queries, z / queries % heads, z / queries / heads);
        let kv = (b * kv_heads + head / 2) * keys * dim;
        // What a tensor of scores would hold.
        let held = |x: f64| if key.written_out { decode(dtype, &encode(dtype, &[x]))[0] } else { x };
        let score = |j: usize| {
            let dot: f64 = (0..dim).map(|d| q[z * dim + d] * k[kv + j * dim + d]).sum();
            let m = mask[(b * queries + query) * keys + j];
            if key.mask == Mask::Filled && m != 0.0 {
                return held(f64::from(FILL));
            }
            let hidden = key.causal && j > query || key.mask == Mask::Bool && m == 0.0;
            if hidden {
                f64::NEG_INFINITY
            } else {
                let scaled = held(held(dot) * scale);
                if mask_type == DType::Bool { scaled } else { held(scaled + m) }
            }
        };
        let scores: Vec<_> = (0..keys).map(score).collect();
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<_> =
            scores.iter().map(|s| if top.is_finite() { (s - top).exp() } else { 0.0 }).collect();
        let sum = weights.iter().sum::<f64>();
        let sum = if sum == 0.0 && key.written_out { f64::NAN } else { sum.max(f64::MIN_POSITIVE) };
        want.extend((0..dim).map(|d| (0..keys).map(|j| weights[j] * v[kv + j * dim + d]).sum::<f64>() / sum));
    }
    let stride = |heads: usize, rows: usize| (heads * rows * dim) as u32;
    let per_head = |rows: usize| (rows * dim) as u32;
    let params = AttentionParams {
        batch_strides: [
            stride(heads, queries),
            stride(heads, queries),
            stride(kv_heads, keys),
            stride(kv_heads, keys),
        ],
        head_strides: [per_head(queries), per_head(queries), per_head(keys), per_head(keys)],
        row_strides: [dim as u32; 4],
        mask_strides: [(queries * keys) as u32, 0, keys as u32, 1],
        queries: queries as u32,
        keys: keys as u32,
        dim: dim as u32,
        group: 2,
        scale: scale as f32,
        logsumexp_strides: [0, 0, 0, FILL.to_bits()],
        ..Default::default()
    };
    let mut out = vec![0; (want.len() * dtype.size() as usize).next_multiple_of(4)];
    let (mut q, mut k, mut v) = (encode(dtype, &q), encode(dtype, &k), encode(dtype, &v));
    let mut mask = encode(mask_type, &mask);
    let mut operands: Vec<Operand<'_>> = vec![output(&mut out), input(&mut q), input(&mut k), input(&mut v)];
    if key.mask != Mask::None {
        operands.push(input(&mut mask));
    }
    let kernel = Kernel::Attention(key);
    run(kernel, bytes_of(&params), key.groups(queries as u32, heads as u32, batch as u32), &mut operands);
    let tolerance = match dtype {
        DType::F16 => 1e-3,
        DType::BF16 => 8e-3,
        _ => 3e-6,
    };
    for (at, (got, want)) in decode(dtype, &out).iter().zip(&want).enumerate() {
        let what = format!("{} {queries} queries, {keys} keys, {dim}", kernel.label());
        assert!(
            (got - want).abs() <= tolerance * want.abs().max(1.0) || got.is_nan() && want.is_nan(),
            "{what}, element {at}: {got} for {want}"
        );
    }
}

#[test]
fn attention_is_what_it_is_defined_as() {
    need_device!();
    for (dtype, masks) in [
        (DType::F32, &[Mask::None, Mask::Bool, Mask::Additive(DType::F32)][..]),
        (DType::F16, &[Mask::None, Mask::Additive(DType::F16)]),
        (DType::BF16, &[Mask::Bool]),
    ] {
        for &mask in masks {
            for causal in [false, true] {
                for (queries, keys, dim) in
                    [(1, 1, 8), (1, 50, 64), (19, 19, 32), (33, 70, 80), (9, 20, 200), (5, 3, 7)]
                {
                    let head = HeadSize::choose(dim).unwrap();
                    let pairs = dim % 2 == 0;
                    let (logsumexp, quads, tile, written_out) = (false, false, None, false);
                    let key =
                        Attention { dtype, mask, causal, head, pairs, logsumexp, quads, tile, written_out };
                    check(key, queries, keys, dim as usize);
                }
            }
        }
    }
}

#[test]
fn attention_on_tiles_and_by_fours() {
    need_device!();
    let f32_masks = [Mask::None, Mask::Bool, Mask::Additive(DType::F32)];
    let wide =
        f32_masks.iter().flat_map(|&mask| [false, true].map(|causal| (DType::F32, mask, causal, true)));
    let narrow = [(DType::F16, Mask::None, true, false), (DType::BF16, Mask::Bool, false, true)];
    let tiles = [
        ((64, 1), (70, 66, 24)),
        ((16, 2), (20, 130, 64)),
        ((32, 1), (40, 67, 64)),
        ((16, 1), (20, 33, 32)),
        ((32, 2), (40, 70, 24)),
        ((16, 2), (35, 33, 20)),
    ];
    for (turn, (dtype, mask, causal, quads)) in wide.chain(narrow).enumerate() {
        // Each is compiled anew, which takes a CPU's driver seconds: two of the tiles each time.
        for (tile, (queries, keys, dim)) in tiles.into_iter().skip(turn % 3).step_by(3) {
            let head = HeadSize::choose(dim).unwrap();
            let (pairs, logsumexp, written_out) = (true, false, false);
            let tile = Some(AttentionTile { queries: tile.0, slices: tile.1 });
            check(
                Attention { dtype, mask, causal, head, pairs, logsumexp, quads, tile, written_out },
                queries,
                keys,
                dim as usize,
            );
        }
    }
    for (dtype, dim) in [(DType::F32, 80), (DType::F16, 200), (DType::BF16, 28)] {
        let head = HeadSize::choose(dim).unwrap();
        let (mask, pairs, logsumexp, quads, tile) = (Mask::None, true, false, true, None);
        let written_out = false;
        let key = Attention { dtype, mask, causal: false, head, pairs, logsumexp, quads, tile, written_out };
        check(key, 17, 35, dim as usize);
    }
}

#[test]
fn attention_gives_what_its_steps_give_where_they_are_written_out() {
    need_device!();
    let (causal, logsumexp, written_out) = (false, false, true);
    for (dtype, mask) in [
        (DType::F32, Mask::None),
        (DType::F32, Mask::Additive(DType::F32)),
        (DType::F16, Mask::Additive(DType::F16)),
        (DType::F16, Mask::Bool),
        (DType::F32, Mask::Filled),
        (DType::F16, Mask::Filled),
        (DType::BF16, Mask::Additive(DType::F32)),
    ] {
        let tile = |queries, slices| Some(AttentionTile { queries, slices });
        for (queries, keys, dim, tile) in
            [(33, 70, 80, None), (19, 19, 32, None), (40, 67, 64, tile(32, 1)), (20, 70, 24, tile(16, 2))]
        {
            let (head, pairs, quads) = (HeadSize::choose(dim).unwrap(), true, dim != 80);
            let key = Attention { dtype, mask, causal, head, pairs, logsumexp, quads, tile, written_out };
            check(key, queries, keys, dim as usize);
        }
    }
}
