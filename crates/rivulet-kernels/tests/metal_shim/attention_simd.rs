//! Attention on simdgroup matrices, which no other device of the tests has, against its definition in float64.

use crate::gpu::{Operand, input, output, run};
use crate::values::{decode, encode};
use bytemuck::bytes_of;
use rivulet_kernels::params::AttentionParams;
use rivulet_kernels::{Attention, AttentionSimd, DType, HeadSize, Kernel, Mask};

const BATCH: usize = 2;
const HEADS: usize = 4;

/// One call: two batches, four heads of q.
#[derive(Clone, Copy, Debug)]
struct Call {
    key: Attention,
    queries: usize,
    keys: usize,
    dim: usize,
    /// Heads of k and v.
    kv_heads: usize,
    /// Query `i` of a causal call sees keys up to `i + diagonal`.
    diagonal: i32,
    /// Scores are this times products.
    scale: f64,
    place: Place,
}

/// How a tensor lies in its memory.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    /// `[batch, heads, length, dim]`, dense.
    Dense,
    /// `[batch, length, heads, dim]`, behind some elements, each head with a gap of that many behind it.
    Apart { before: usize, gap: usize },
}

impl Call {
    fn new(dim: usize, queries: usize, keys: usize, causal: bool) -> Self {
        let key = Attention {
            dtype: DType::F32,
            mask: Mask::None,
            causal,
            head: HeadSize::Upto256,
            pairs: false,
            logsumexp: false,
            quads: false,
            tile: None,
            written_out: false,
        };
        let scale = 1.0 / (dim as f64).sqrt();
        Self { key, queries, keys, dim, kv_heads: 2, diagonal: 0, scale, place: Place::Dense }
    }

    /// Offset and strides of a batch, a head and a row.
    fn strides(&self, heads: usize, length: usize) -> [usize; 4] {
        match self.place {
            Place::Dense => [0, heads * length * self.dim, length * self.dim, self.dim],
            Place::Apart { before, gap } => {
                let head = self.dim + gap;
                [before, length * heads * head, head, heads * head]
            }
        }
    }

    fn at(&self, heads: usize, length: usize, [b, h, row, d]: [usize; 4]) -> usize {
        let [offset, batch, head, step] = self.strides(heads, length);
        offset + b * batch + h * head + row * step + d
    }

    /// Elements of the memory that a tensor lies in, of which the last is its last.
    fn extent(&self, heads: usize, length: usize) -> usize {
        self.at(heads, length, [BATCH - 1, heads - 1, length - 1, self.dim - 1]) + 1
    }

    fn numbers(&self, heads: usize, length: usize, seed: u64) -> Vec<f64> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let values: Vec<f64> = (0..self.extent(heads, length)).map(|_| rng.f64() * 4.0 - 2.0).collect();
        decode(self.key.dtype, &encode(self.key.dtype, &values))
    }
}

struct Operands {
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
    /// `[batch, queries, keys]`, the same for all heads.
    mask: Vec<f64>,
}

impl Operands {
    /// The first query of the second batch sees no key by the mask.
    fn new(call: &Call) -> Self {
        let mask_type = mask_type(call);
        let mut rng = fastrand::Rng::with_seed(4);
        let count = BATCH * call.queries * call.keys;
        let mask = (0..count).map(|at| match (at / call.keys == call.queries, call.key.mask) {
            (none, Mask::Bool) => f64::from(u8::from(!none && at % 3 != 0)),
            (none, _) if none || at % 5 == 0 => f64::NEG_INFINITY,
            _ => rng.f64() * 4.0 - 2.0,
        });
        let mask: Vec<f64> = mask.collect();
        Self {
            q: call.numbers(HEADS, call.queries, 1),
            k: call.numbers(call.kv_heads, call.keys, 2),
            v: call.numbers(call.kv_heads, call.keys, 3),
            mask: decode(mask_type, &encode(mask_type, &mask)),
        }
    }
}

fn mask_type(call: &Call) -> DType {
    if let Mask::Additive(dtype) = call.key.mask { dtype } else { DType::Bool }
}

/// What the kernel gives: the memory of the output, whose other elements were 7 before, and the logarithms.
fn given(call: &Call, operands: &Operands) -> (Vec<f64>, Vec<f64>) {
    let kernel = AttentionSimd::of(call.key, call.dim as u32).unwrap();
    let of_q = call.strides(HEADS, call.queries);
    let of_k = call.strides(call.kv_heads, call.keys);
    let each = |at: usize| [of_q[at], of_q[at], of_k[at], of_k[at]].map(|stride| stride as u32);
    let params = AttentionParams {
        offsets: each(0),
        batch_strides: each(1),
        head_strides: each(2),
        row_strides: each(3),
        mask_strides: [(call.queries * call.keys) as u32, 0, call.keys as u32, 1],
        queries: call.queries as u32,
        keys: call.keys as u32,
        dim: call.dim as u32,
        group: (HEADS / call.kv_heads) as u32,
        diagonal: call.diagonal,
        scale: call.scale as f32,
        logsumexp_offset: 1,
        logsumexp_strides: [(HEADS * call.queries) as u32, call.queries as u32, 1, 0],
        ..Default::default()
    };
    let dtype = call.key.dtype;
    let count = call.extent(HEADS, call.queries);
    let mut out = encode(dtype, &vec![7.0; count]);
    out.resize(out.len().next_multiple_of(4), 0);
    let [mut q, mut k, mut v] = [&operands.q, &operands.k, &operands.v].map(|x| encode(dtype, x));
    let mut mask = encode(mask_type(call), &operands.mask);
    let mut logsumexp = encode(DType::F32, &vec![7.0; 1 + BATCH * HEADS * call.queries]);
    let mut bound: Vec<Operand<'_>> = vec![output(&mut out), input(&mut q), input(&mut k), input(&mut v)];
    if call.key.mask != Mask::None {
        bound.push(input(&mut mask));
    }
    if call.key.logsumexp {
        bound.push(output(&mut logsumexp));
    }
    let groups = kernel.groups(call.queries as u32, HEADS as u32, BATCH as u32);
    run(Kernel::AttentionSimd(kernel), bytes_of(&params), groups, &mut bound);
    let mut out = decode(dtype, &out);
    out.truncate(count);
    (out, decode(DType::F32, &logsumexp))
}

/// A query's output, and the logarithm of its sum of exponentials.
fn wanted(call: &Call, operands: &Operands, [b, h, query]: [usize; 3]) -> (Vec<f64>, f64) {
    let kv = h / (HEADS / call.kv_heads);
    let of_key = |j: usize, d: usize| call.at(call.kv_heads, call.keys, [b, kv, j, d]);
    let score = |j: usize| {
        let of_q = |d: usize| operands.q[call.at(HEADS, call.queries, [b, h, query, d])];
        let product: f64 = (0..call.dim).map(|d| of_q(d) * operands.k[of_key(j, d)]).sum();
        let mask = operands.mask[(b * call.queries + query) * call.keys + j];
        match call.key.mask {
            _ if call.key.causal && j as i64 > query as i64 + i64::from(call.diagonal) => f64::NEG_INFINITY,
            Mask::Bool if mask == 0.0 => f64::NEG_INFINITY,
            Mask::Additive(_) => product * call.scale + mask,
            _ => product * call.scale,
        }
    };
    let scores: Vec<_> = (0..call.keys).map(score).collect();
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if top == f64::NEG_INFINITY {
        return (vec![0.0; call.dim], top);
    }
    let weights: Vec<_> = scores.iter().map(|score| (score - top).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let gathered =
        |d: usize| (0..call.keys).map(|j| weights[j] * operands.v[of_key(j, d)]).sum::<f64>() / sum;
    ((0..call.dim).map(gathered).collect(), top + sum.ln())
}

fn compare(call: &Call) {
    let operands = Operands::new(call);
    let (out, logsumexp) = given(call, &operands);
    let tolerance = match call.key.dtype {
        DType::F16 => 1e-3,
        DType::BF16 => 8e-3,
        // A score's own rounding is a relative error of its weight.
        _ => 3e-6 * call.scale.max(1.0),
    };
    let mut written = vec![false; out.len()];
    for b in 0..BATCH {
        for (h, query) in (0..HEADS).flat_map(|h| (0..call.queries).map(move |query| (h, query))) {
            let (want, kept) = wanted(call, &operands, [b, h, query]);
            for (d, want) in want.iter().enumerate() {
                let at = call.at(HEADS, call.queries, [b, h, query, d]);
                written[at] = true;
                let got = out[at];
                assert!(
                    (got - want).abs() <= tolerance * want.abs().max(1.0),
                    "{call:?}, batch {b}, head {h}, query {query}, {d}: {got} for {want}"
                );
            }
            if call.key.logsumexp {
                let got = logsumexp[1 + (b * HEADS + h) * call.queries + query];
                assert!(
                    got == kept || (got - kept).abs() <= 1e-5 * kept.abs().max(1.0),
                    "{call:?}, batch {b}, head {h}, query {query}: {got} for {kept}"
                );
            }
        }
    }
    for (at, written) in written.into_iter().enumerate() {
        assert!(written || out[at] == 7.0, "{call:?} wrote {at}, which is not of the output");
    }
}

#[test]
fn simdgroup_attention_of_every_head_size() {
    for dim in (8..=128).step_by(8) {
        for causal in [false, true] {
            // Several steps along the keys, and edges in both directions.
            compare(&Call::new(dim, 33, 70, causal));
        }
    }
}

#[test]
fn simdgroup_attention_of_every_length() {
    for length in 1..=70 {
        let causal = length % 2 == 0;
        compare(&Call::new(8, length, 71 - length, causal));
        compare(&Call::new(8, length, length, !causal));
    }
    for (queries, keys) in [(1, 1), (1, 70), (70, 1), (8, 8), (7, 9), (31, 32), (32, 33), (64, 64), (70, 70)]
    {
        compare(&Call::new(64, queries, keys, false));
        compare(&Call::new(64, queries, keys, true));
    }
}

#[test]
fn simdgroup_attention_whose_highest_score_keeps_rising() {
    // Scores of some hundreds: the highest of one step makes all before it vanish, or is far below them.
    for causal in [false, true] {
        compare(&Call { scale: 20.0, ..Call::new(16, 40, 70, causal) });
    }
}

#[test]
fn simdgroup_attention_of_any_strides_and_groups_of_heads() {
    for (kv_heads, before, gap) in [(1, 0, 0), (2, 3, 1), (4, 4, 4), (2, 8, 2)] {
        for (dtype, causal) in [(DType::F32, false), (DType::F16, true), (DType::BF16, false)] {
            let mut call = Call::new(24, 19, 37, causal);
            call.key.dtype = dtype;
            call.key.quads = before % 4 == 0 && gap % 4 == 0;
            call.key.pairs = before % 2 == 0 && gap % 2 == 0;
            compare(&Call { kv_heads, place: Place::Apart { before, gap }, ..call });
        }
    }
}

#[test]
fn simdgroup_attention_with_masks_and_logarithms() {
    let f32_masks = [Mask::None, Mask::Bool, Mask::Additive(DType::F32)];
    let others = [(DType::F16, Mask::Additive(DType::F16)), (DType::BF16, Mask::Bool)];
    for (dtype, mask) in f32_masks.map(|mask| (DType::F32, mask)).into_iter().chain(others) {
        for (causal, diagonal) in [(false, 0), (true, 0), (true, 1), (true, -40)] {
            let mut call = Call::new(40, 35, 67, causal);
            (call.key.dtype, call.key.mask, call.key.logsumexp) = (dtype, mask, true);
            compare(&Call { diagonal, ..call });
        }
    }
}

#[test]
fn a_query_that_is_not_finite_leaves_the_others_alone() {
    let call = Call::new(16, 20, 40, false);
    let mut operands = Operands::new(&call);
    let (clean, _) = given(&call, &operands);
    for bad in [f64::NAN, f64::INFINITY] {
        operands.q[call.at(HEADS, call.queries, [1, 2, 9, 3])] = bad;
        let (out, _) = given(&call, &operands);
        let row = call.at(HEADS, call.queries, [1, 2, 9, 0])..call.at(HEADS, call.queries, [1, 2, 9, 0]) + 16;
        assert!(out[row.clone()].iter().all(|x| x.is_nan()), "{:?}", &out[row]);
        assert_eq!(out[..row.start], clean[..row.start]);
        assert_eq!(out[row.end..], clean[row.end..]);
    }
}

#[test]
fn an_infinite_value_of_the_last_key_is_weighed_once() {
    let call = Call::new(8, 16, 35, false);
    let mut operands = Operands::new(&call);
    operands.v[call.at(call.kv_heads, call.keys, [0, 0, call.keys - 1, 2])] = f64::INFINITY;
    let (out, _) = given(&call, &operands);
    for query in 0..call.queries {
        assert_eq!(out[call.at(HEADS, call.queries, [0, 0, query, 2])], f64::INFINITY);
        assert!(out[call.at(HEADS, call.queries, [0, 0, query, 3])].is_finite());
    }
}

#[test]
fn head_sizes_that_simdgroup_attention_does_not_have() {
    let key = Call::new(8, 16, 16, false).key;
    for dim in [0, 1, 4, 12, 100, 136, 256, 512] {
        assert_eq!(AttentionSimd::of(key, dim), None, "{dim}");
    }
    assert_eq!(AttentionSimd::of(Attention { written_out: true, ..key }, 64), None);
    // What says how another kernel works makes no other kernel of this one.
    let one = AttentionSimd::of(Attention { head: HeadSize::Upto32, ..key }, 64);
    assert!(one.is_some() && one == AttentionSimd::of(key, 64));
}
