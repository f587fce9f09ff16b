//! Attention that is written out: `softmax(q kᵀ · scale + mask) v` as one kernel, without the matrix of scores and without
//! the copies that PyTorch makes of heads for its products.

use super::product::producer;
use super::strides::{dense_steps, dims_of, steps_along};
use super::{dense, overlap, read_params};
use crate::error::Result;
use crate::ops::launch::{pipeline, processors};
use crate::ops::{DType, Op};
use crate::plan::command::{Bound, Command, Dispatch, Work};
use crate::plan::compile::Draft;
use bytemuck::bytes_of;
use rivulet_kernels::params::{AttentionParams, MatmulParams, PointwiseParams, RowParams, StridedParams};
use rivulet_kernels::{
    Attention, AttentionTile, HeadSize, Kernel, MAX_GROUPS, Mask, Pointwise, RowOp, RowSum,
};

/// A product of two matrices, or of as many pairs as there are batches.
struct Product {
    /// The command that reads the factors, and the one that writes the result: the same, but for parts along k.
    reads: usize,
    writes: usize,
    dtype: DType,
    /// Out, a, b.
    bounds: [Bound; 3],
    /// Strides and first elements of these three.
    params: MatmulParams,
    batches: u32,
    /// Whether cooperative matrices multiply the factors.
    cooperative: bool,
}

impl Product {
    /// The product whose result a command writes: without anything else done to it.
    fn of(draft: &Draft, at: usize) -> Option<Self> {
        let command = &draft.commands[at];
        let Work::Dispatch(dispatch) = &command.work else { return None };
        let params: MatmulParams = read_params(&dispatch.params)?;
        let (dtype, output, cooperative) = match dispatch.kernel.as_ref()? {
            Kernel::Matmul(key) if !key.split && !key.bias && !key.residual && key.activation.is_none() => {
                (key.input, key.output, key.tile.is_cooperative())
            }
            Kernel::MatmulSimd(key) if !key.bias && key.activation.is_none() => {
                (key.input, key.output, false)
            }
            Kernel::MatmulJoin(key) if !key.bias && !key.residual && key.activation.is_none() => {
                let first = producer(draft, at, &command.bounds[0], &command.bounds[1])?;
                return Self::of_parts(draft, first, at, params, key.output);
            }
            _ => return None,
        };
        let [out, a, b] = command.bounds.as_slice() else { return None };
        let bounds = [out.clone(), a.clone(), b.clone()];
        let (plain, batches) = (params.alpha == 1.0 && dtype == output, dispatch.groups[2]);
        plain.then_some(Self { reads: at, writes: at, dtype, bounds, params, batches, cooperative })
    }

    /// The product in parts along k that `first` makes and `at` puts together.
    fn of_parts(draft: &Draft, first: usize, at: usize, join: MatmulParams, output: DType) -> Option<Self> {
        let (command, Work::Dispatch(joined)) = (&draft.commands[first], &draft.commands[at].work) else {
            return None;
        };
        let Work::Dispatch(dispatch) = &command.work else { return None };
        let Some(Kernel::Matmul(key)) = &dispatch.kernel else { return None };
        let mut params: MatmulParams = read_params(&dispatch.params)?;
        (params.offsets[0], params.edges[0]) = (join.offsets[0], join.edges[0]);
        (params.outer_strides[0], params.batch_strides[0]) = (join.outer_strides[0], join.batch_strides[0]);
        let [_, a, b] = command.bounds.as_slice() else { return None };
        let bounds = [draft.commands[at].bounds[0].clone(), a.clone(), b.clone()];
        let plain = key.split && join.alpha == 1.0 && key.input == output;
        let (batches, cooperative) = (joined.groups[2], key.tile.is_cooperative());
        plain.then_some(Self {
            reads: first,
            writes: at,
            dtype: output,
            bounds,
            params,
            batches,
            cooperative,
        })
    }

    fn outer(&self) -> u32 {
        self.batches / self.params.batch.max(1)
    }

    /// Strides of an operand from one outer batch to the next and from one inner to the next, of which there are `inner`.
    fn strides(&self, operand: usize, inner: u32) -> Option<[u32; 2]> {
        let step = self.params.batch_strides[operand];
        match self.params.batch {
            own if own == inner => Some([self.params.outer_strides[operand], step]),
            own if own == self.batches && own.is_multiple_of(inner) => Some([step.wrapping_mul(inner), step]),
            _ => None,
        }
    }

    /// Whether a matrix of that many rows and columns and its batches lie one after the other.
    fn is_dense(&self, operand: usize, row: u32, inner: u32, [rows, columns]: [u32; 2]) -> bool {
        let matrix = rows * columns;
        self.strides(operand, inner).is_some_and(|[outer, step]| {
            (rows == 1 || row == columns)
                && (inner == 1 || step == matrix)
                && (self.batches == inner || outer == matrix * inner)
        })
    }
}

/// A factor as attention reads it.
struct Factor {
    /// The command that reads it, or copies it for that.
    from: usize,
    bound: Bound,
    offset: u32,
    /// Along outer batch, inner batch, query or key, element of a head.
    strides: [u32; 4],
    is_copied: bool,
}

impl Factor {
    /// An operand of a product, whose strides along queries or keys and along a head are given with how many there are. Where
    /// it is a copy made for the product, what was copied. `None` where the elements of a head are apart.
    fn of(
        draft: &Draft,
        product: &Product,
        operand: usize,
        inner: u32,
        [rows, elements]: [(u32, u32); 2],
    ) -> Option<Self> {
        let [outer, step] = product.strides(operand, inner)?;
        let own = Self {
            from: product.reads,
            bound: product.bounds[operand].clone(),
            offset: product.params.offsets[operand],
            strides: [outer, step, rows.1, elements.1],
            is_copied: false,
        };
        let sizes = [product.batches / inner, inner, rows.0, elements.0];
        let near = |factor: &Self| elements.0 == 1 || factor.strides[3] == 1;
        own.source(draft, product.reads, sizes).filter(near).or(Some(own)).filter(near)
    }

    /// What was copied to make this operand of the command `at` alone.
    fn source(&self, draft: &Draft, at: usize, sizes: [u32; 4]) -> Option<Self> {
        let from = producer(draft, at, &draft.commands[at].bounds[0], &self.bound)?;
        let command = &draft.commands[from];
        let params = strided_copy(command)?;
        // Innermost first, as the copy lies.
        let mut order = [3, 2, 1, 0];
        order.sort_by_key(|&dim| (sizes[dim] != 1, self.strides[dim]));
        let sorted = order.map(|dim| sizes[dim]);
        let rows = dense_steps(sorted);
        let along = |operand: usize| {
            steps_along(dims_of(&params).map(|(size, strides)| (size, strides[operand])), sorted)
        };
        let same = |(&dim, step): (&usize, i32)| sizes[dim] == 1 || self.strides[dim].cast_signed() == step;
        if !order.iter().zip(rows).all(same) || along(0)? != rows {
            return None;
        }
        let mut strides = [0; 4];
        order.into_iter().zip(along(1)?).for_each(|(dim, step)| strides[dim] = step.cast_unsigned());
        let bound = Bound { dtype: self.bound.dtype, ..command.bounds[1].clone() };
        Some(Self { from, bound, offset: params.dense.offsets[1], strides, is_copied: true })
    }
}

/// q, k and v, with so many inner batches.
fn factors_of(draft: &Draft, scores: &Product, mixed: &Product, inner: u32) -> Option<[Factor; 3]> {
    let MatmulParams { m: queries, n: keys, k: dim, .. } = scores.params;
    let [q_row, q_near, k_near, k_row] = scores.params.strides;
    let [.., v_row, v_near] = mixed.params.strides;
    Some([
        Factor::of(draft, scores, 1, inner, [(queries, q_row), (dim, q_near)])?,
        Factor::of(draft, scores, 2, inner, [(keys, k_row), (dim, k_near)])?,
        Factor::of(draft, mixed, 2, inner, [(keys, v_row), (dim, v_near)])?,
    ])
}

/// What a copy between tensors of one type is told whose strides are not the same.
pub(super) fn strided_copy(command: &Command) -> Option<StridedParams> {
    let (key, params) = pointwise(command)?;
    let copies = key.op == Op::Copy && key.scalar.is_none() && key.inputs[0] == key.output;
    let strided = if copies && key.layout.is_strided() { read_params(params) } else { None };
    strided.filter(|_| command.bounds.len() == 2)
}

/// Into how many inner batches those of both products can be cut, more before fewer. Where both know but one dimension of
/// batches, a mask may know two.
fn cuts(scores: &Product, mixed: &Product) -> impl Iterator<Item = u32> {
    let (one, other) = (scores.params.batch, mixed.params.batch);
    let (least, most) = match (scores.outer(), mixed.outer()) {
        (1, 1) => (1, one),
        (1, _) => (other, other),
        _ => (one, one),
    };
    let batches = scores.batches;
    (least..=most).rev().filter(move |&inner| inner > 0 && batches.is_multiple_of(inner))
}

/// A mask that is added to the scores, or tells where a number takes their place.
struct Masked {
    at: usize,
    bound: Bound,
    kind: Mask,
    /// The bits of that number.
    number: u32,
    offset: u32,
    /// Along outer batch, inner batch, query, key.
    strides: [u32; 4],
}

/// Scores from which on products on cooperative matrices are taken to be faster than attention, which uses none: there
/// attention's arithmetic takes as long as writing scores and reading them costs. An estimate from the figures of an H100.
const SCORES_ON_MATRICES: u64 = 1 << 22;

/// Whether attention is worth it for so many batches, queries and keys.
fn pays(cooperative: bool, [batches, queries, keys]: [u32; 3]) -> bool {
    let scores = u64::from(queries) * u64::from(keys);
    !cooperative || scores.saturating_mul(u64::from(batches)) < SCORES_ON_MATRICES
}

/// What becomes one kernel.
struct Steps {
    scores: Product,
    scale: Option<(usize, f32)>,
    mask: Option<Masked>,
    softmax: usize,
    mixed: Product,
    /// Inner batches.
    inner: u32,
    /// q, k and v.
    factors: [Factor; 3],
}

/// Products with a softmax between them as attention.
pub(super) fn take_attention(draft: &mut Draft) -> Result<()> {
    let mut at = 0;
    while at < draft.commands.len() {
        let found = Steps::find(draft, at).filter(|steps| steps.may_wait(draft));
        let one = match &found {
            Some(steps) => steps.command(draft)?,
            None => None,
        };
        let (Some(steps), Some(command)) = (found, one) else {
            at += 1;
            continue;
        };
        let label = |at: usize| draft.commands[at].label;
        let (first, soft, last) = (label(steps.scores.reads), label(steps.softmax), label(at));
        draft.fusions.push(format!("{first}, {soft} and {last} into {}", command.describe()));
        draft.commands[at] = command;
        let mut gone = steps.all();
        gone.sort_unstable();
        gone.dedup();
        gone.iter().rev().filter(|&&other| other != at).for_each(|&other| drop(draft.commands.remove(other)));
        at = at + 2 - gone.len();
    }
    Ok(())
}

impl Steps {
    /// The steps of which the command `at` is the last.
    fn find(draft: &Draft, at: usize) -> Option<Self> {
        let mixed = Product::of(draft, at)?;
        let out = |at: usize| &draft.commands[at].bounds[0];
        let softmax = producer(draft, mixed.reads, out(mixed.reads), &mixed.bounds[1])?;
        let x = softmax_of(&draft.commands[softmax])?;
        let mut before = producer(draft, softmax, out(softmax), x)?;
        let (mut mask, mut scale) = (None, None);
        if let Some((made, other)) = masked_by(draft, before) {
            mask = Some((before, other));
            before = made;
        }
        if let Some((made, factor)) = scaled_by(draft, before) {
            scale = Some((before, factor));
            before = made;
        }
        let scores = Product::of(draft, before)?;
        // Of several ways to count batches the one that saves the most copies.
        let ways = cuts(&scores, &mixed).filter_map(|inner| {
            let mask = match mask {
                Some((sum, other)) => Some(Masked::of(draft, sum, other, &scores, inner)?),
                None => None,
            };
            Some((inner, mask, factors_of(draft, &scores, &mixed, inner)?))
        });
        // Of equals the first, which is the last of a reversed order.
        let saved = |factors: &[Factor; 3]| factors.iter().filter(|factor| factor.is_copied).count();
        let ways: Vec<_> = ways.collect();
        let (inner, mask, factors) = ways.into_iter().rev().max_by_key(|(_, _, factors)| saved(factors))?;
        let steps = Self { scores, scale, mask, softmax, mixed, inner, factors };
        steps.fit(draft).then_some(steps)
    }

    /// The commands, some of them more than once.
    fn all(&self) -> Vec<usize> {
        let Self { scores, mixed, softmax, .. } = self;
        let mut all = vec![scores.reads, scores.writes, *softmax, mixed.reads, mixed.writes];
        all.extend(self.scale.map(|(at, _)| at));
        all.extend(self.mask.as_ref().map(|mask| mask.at));
        all.extend(self.factors.iter().filter(|factor| factor.is_copied).map(|factor| factor.from));
        all
    }

    /// Whether shapes, types and strides are those of attention, with the scores in rows one after the other.
    fn fit(&self, draft: &Draft) -> bool {
        let Self { scores, mixed, inner, .. } = self;
        let (of_scores, of_mixed) = (&scores.params, &mixed.params);
        let [queries, keys, dim] = [of_scores.m, of_scores.n, of_scores.k];
        let Work::Dispatch(softmax) = &draft.commands[self.softmax].work else { return false };
        let Some(rows) = read_params::<RowParams>(&softmax.params) else { return false };
        pays(scores.cooperative || mixed.cooperative, [scores.batches, queries, keys])
            && scores.dtype == mixed.dtype
            && [of_mixed.m, of_mixed.k, of_mixed.n] == [queries, keys, dim]
            && (rows.size, rows.inner) == (keys, 1)
            && scores.is_dense(0, of_scores.edges[0], *inner, [queries, keys])
            && mixed.is_dense(1, of_mixed.strides[0], *inner, [queries, keys])
    }

    /// Whether what the first steps read is the same when the last one runs, and apart from what that writes.
    fn may_wait(&self, draft: &Draft) -> bool {
        let (out, last) = (&self.mixed.bounds[0], self.mixed.writes);
        let still = |from: usize, bound: &Bound| {
            let between = (from + 1).min(last)..last;
            !overlap(bound, out) && !draft.written_by(between, bound.slot, bound.touched)
        };
        self.factors.iter().all(|factor| still(factor.from, &factor.bound))
            && self.mask.as_ref().is_none_or(|mask| still(mask.at, &mask.bound))
    }

    /// The steps as one command. `None` where the device has no such kernel.
    fn command(&self, draft: &Draft) -> Result<Option<Command>> {
        let Some((key, params, groups)) = self.kernel(processors(&draft.device)) else { return Ok(None) };
        let like = &draft.commands[self.mixed.writes];
        let kernel = Kernel::Attention(key);
        let compiled = match pipeline(&draft.device, like.label, &kernel) {
            Ok(compiled) => compiled.clone(),
            Err(crate::Error::NoKernel { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let params = bytes_of(&params).to_vec();
        let dispatch = Dispatch { pipeline: compiled, kernel: Some(kernel), params, groups };
        let factors = self.factors.iter().map(|factor| &factor.bound);
        let bounds = std::iter::once(&self.mixed.bounds[0])
            .chain(factors)
            .chain(self.mask.as_ref().map(|mask| &mask.bound));
        Ok(Some(Command {
            label: like.label,
            group: like.group,
            bounds: bounds.cloned().collect(),
            work: Work::Dispatch(Box::new(dispatch)),
        }))
    }

    /// Key, parameters and workgroups for so many processors; `None` where there are too many of something.
    fn kernel(&self, processors: u32) -> Option<(Attention, AttentionParams, [u32; 3])> {
        let Self { scores, mixed, inner, .. } = self;
        let (of_scores, of_mixed) = (&scores.params, &mixed.params);
        let [queries, keys, dim] = [of_scores.m, of_scores.n, of_scores.k];
        let [outer, step] = mixed.strides(0, *inner)?;
        let mut lists = [[of_mixed.offsets[0]; 4], [outer; 4], [step; 4], [of_mixed.edges[0]; 4]];
        for (place, factor) in self.factors.iter().enumerate() {
            let [outer, step, row, _] = factor.strides;
            for (list, word) in lists.iter_mut().zip([factor.offset, outer, step, row]) {
                list[place + 1] = word;
            }
        }
        let [offsets, batch_strides, head_strides, row_strides] = lists;
        let multiple = |place: usize, of: u32| lists.iter().all(|list| list[place].is_multiple_of(of));
        let head = HeadSize::choose(dim)?;
        let key = Attention {
            dtype: scores.dtype,
            mask: self.mask.as_ref().map_or(Mask::None, |mask| mask.kind),
            causal: false,
            head,
            pairs: !scores.dtype.is_wide() && dim.is_multiple_of(2) && multiple(0, 2),
            logsumexp: false,
            quads: dim.is_multiple_of(4) && (1..4).all(|place| multiple(place, 4)),
            tile: AttentionTile::choose(head, queries, keys, scores.batches, processors),
            written_out: true,
        };
        let params = AttentionParams {
            offsets,
            batch_strides,
            head_strides,
            row_strides,
            mask_strides: self.mask.as_ref().map_or([0; 4], |mask| mask.strides),
            mask_offset: self.mask.as_ref().map_or(0, |mask| mask.offset),
            queries,
            keys,
            dim,
            group: 1,
            scale: self.scale.map_or(1.0, |(_, factor)| factor),
            logsumexp_strides: [0, 0, 0, self.mask.as_ref().map_or(0, |mask| mask.number)],
            ..AttentionParams::default()
        };
        let groups = key.groups(queries, *inner, scores.batches / inner);
        groups.iter().all(|&count| count <= MAX_GROUPS).then_some((key, params, groups))
    }
}

/// What a softmax of rows reads.
fn softmax_of(command: &Command) -> Option<&Bound> {
    let types = match command.kernel()? {
        Kernel::HeldRow(key) if key.op == RowOp::Softmax && key.sum == RowSum::None && key.tail.is_none() => {
            (key.input, key.output)
        }
        Kernel::Row(key) if key.op == RowOp::Softmax => (key.input, key.output),
        _ => return None,
    };
    let [_, x] = command.bounds.as_slice() else { return None };
    (types.0 == types.1).then_some(x)
}

/// A pointwise command of one type.
fn pointwise(command: &Command) -> Option<(&Pointwise, &[u8])> {
    let Work::Dispatch(dispatch) = &command.work else { return None };
    match dispatch.kernel.as_ref()? {
        Kernel::Pointwise(key) if key.common == key.output => Some((key, &dispatch.params)),
        _ => None,
    }
}

/// The command whose result `at` multiplies by a number, and the number.
fn scaled_by(draft: &Draft, at: usize) -> Option<(usize, f32)> {
    let own = dense(&draft.commands[at])?;
    let [x] = own.inputs else { return None };
    let number = f32::from_bits(own.params.scalars[0]);
    let factor = match (own.key.op, own.key.scalar) {
        (Op::Mul, Some(_)) => number,
        (Op::Div, Some(1)) => 1.0 / number,
        _ => return None,
    };
    let same = own.key.common == own.key.output && own.key.inputs[0] == own.key.output;
    (same && factor.is_finite()).then_some((producer(draft, at, own.out, x)?, factor))
}

/// The command whose result `at` masks, and which of its operands is the mask: one that is added, or bools that are true
/// where a number takes the place of what was there.
fn masked_by(draft: &Draft, at: usize) -> Option<(usize, usize)> {
    let command = &draft.commands[at];
    let (key, _) = pointwise(command)?;
    let [out, left, right] = command.bounds.as_slice() else { return None };
    if key.scalar.is_some() || !key.output.is_float() {
        return None;
    }
    [(left, 1), (right, 0)].into_iter().find_map(|(made, other)| {
        let whole = key.inputs[1 - other] == key.output && kind_of(key, other).is_some();
        let first = if whole { producer(draft, at, out, made) } else { None }?;
        (Product::of(draft, first).is_some() || scaled_by(draft, first).is_some()).then_some((first, other))
    })
}

/// What an operand of a pointwise command is as a mask.
fn kind_of(key: &Pointwise, operand: usize) -> Option<Mask> {
    match (key.op, key.inputs[operand], operand) {
        (Op::Add, dtype, _) if dtype.is_float() => Some(Mask::Additive(dtype)),
        (Op::MaskedFill, DType::Bool, 1) => Some(Mask::Filled),
        _ => None,
    }
}

impl Masked {
    /// The operand of that number of the command `at`, with so many inner batches.
    fn of(draft: &Draft, at: usize, operand: usize, scores: &Product, inner: u32) -> Option<Self> {
        let MatmulParams { m: queries, n: keys, .. } = scores.params;
        let sizes = [keys, queries, inner, scores.batches / inner];
        let command = &draft.commands[at];
        let (key, params) = pointwise(command)?;
        let dense: PointwiseParams = read_params(params)?;
        let steps = if !key.layout.is_strided() {
            [dense_steps(sizes); 3]
        } else {
            let strided: StridedParams = read_params(params)?;
            let of = |operand: usize| {
                steps_along(dims_of(&strided).map(|(size, strides)| (size, strides[operand])), sizes)
            };
            [of(0)?, of(1)?, of(2)?]
        };
        // The scores lie row by row before and after.
        let rows = dense_steps(sizes);
        if key.output != scores.dtype || steps[0] != rows || steps[2 - operand] != rows {
            return None;
        }
        let [key_step, query, inner, outer] = steps[1 + operand].map(i32::cast_unsigned);
        Some(Self {
            at,
            bound: command.bounds[1 + operand].clone(),
            kind: kind_of(key, operand)?,
            number: dense.scalars[1],
            offset: dense.offsets[1 + operand],
            strides: [outer, inner, query, key_step],
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn many_scores_stay_where_products_have_matrices_that_attention_lacks() {
        assert!(pays(false, [64, 4096, 4096]));
        assert!(pays(true, [12, 128, 128]));
        assert!(!pays(true, [16, 512, 512]));
        assert!(!pays(true, [u32::MAX; 3]));
    }
}
