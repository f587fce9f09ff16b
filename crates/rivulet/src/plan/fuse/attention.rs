//! Attention that is written out: `softmax(q kᵀ · scale + mask) v` as one kernel, without the matrix of scores.

use super::product::producer;
use super::{dense, overlap, read_params};
use crate::error::Result;
use crate::ops::attention::TILE_QUERIES;
use crate::ops::launch::pipeline;
use crate::ops::{DType, Op};
use crate::plan::command::{Bound, Command, Dispatch, Work};
use crate::plan::compile::Draft;
use bytemuck::bytes_of;
use rivulet_kernels::params::{AttentionParams, MatmulParams, PointwiseParams, RowParams, StridedParams};
use rivulet_kernels::{Attention, HeadSize, Kernel, Layout, MAX_GROUPS, Mask, Pointwise, RowOp, RowSum};

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
}

impl Product {
    /// The product whose result a command writes: without anything else done to it.
    fn of(draft: &Draft, at: usize) -> Option<Self> {
        let command = &draft.commands[at];
        let Work::Dispatch(dispatch) = &command.work else { return None };
        let params: MatmulParams = read_params(&dispatch.params)?;
        let (dtype, output) = match dispatch.kernel.as_ref()? {
            Kernel::Matmul(key) if !key.split && !key.bias && !key.residual && key.activation.is_none() => {
                (key.input, key.output)
            }
            Kernel::MatmulSimd(key) if !key.bias && key.activation.is_none() => (key.input, key.output),
            Kernel::MatmulJoin(key) if !key.bias && !key.residual && key.activation.is_none() => {
                let first = producer(draft, at, &command.bounds[0], &command.bounds[1])?;
                return Self::of_parts(draft, first, at, params, key.output);
            }
            _ => return None,
        };
        let [out, a, b] = command.bounds.as_slice() else { return None };
        let bounds = [out.clone(), a.clone(), b.clone()];
        let plain = params.alpha == 1.0 && dtype == output;
        plain.then_some(Self { reads: at, writes: at, dtype, bounds, params, batches: dispatch.groups[2] })
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
        let batches = joined.groups[2];
        plain.then_some(Self { reads: first, writes: at, dtype: output, bounds, params, batches })
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

/// A mask that is added to the scores.
struct Added {
    at: usize,
    bound: Bound,
    dtype: DType,
    offset: u32,
    /// Along outer batch, inner batch, query, key.
    strides: [u32; 4],
}

/// What becomes one kernel.
struct Steps {
    scores: Product,
    scale: Option<(usize, f32)>,
    mask: Option<Added>,
    softmax: usize,
    mixed: Product,
    /// Inner batches.
    inner: u32,
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
        if let Some((made, other)) = sum_of(draft, before) {
            mask = Some((before, other));
            before = made;
        }
        if let Some((made, factor)) = scaled_by(draft, before) {
            scale = Some((before, factor));
            before = made;
        }
        let scores = Product::of(draft, before)?;
        let (mask, inner) = match mask {
            Some((sum, other)) => cuts(&scores, &mixed)
                .find_map(|inner| Some((Some(Added::of(draft, sum, other, &scores, inner)?), inner)))?,
            None => (None, cuts(&scores, &mixed).next()?),
        };
        let steps = Self { scores, scale, mask, softmax, mixed, inner };
        steps.fit(draft).then_some(steps)
    }

    /// The commands, some of them more than once.
    fn all(&self) -> Vec<usize> {
        let Self { scores, mixed, softmax, .. } = self;
        let mut all = vec![scores.reads, scores.writes, *softmax, mixed.reads, mixed.writes];
        all.extend(self.scale.map(|(at, _)| at));
        all.extend(self.mask.as_ref().map(|mask| mask.at));
        all
    }

    /// Whether shapes, types and strides are those of attention, with the scores in rows one after the other.
    fn fit(&self, draft: &Draft) -> bool {
        let Self { scores, mixed, inner, .. } = self;
        let (of_scores, of_mixed) = (&scores.params, &mixed.params);
        let [queries, keys, dim] = [of_scores.m, of_scores.n, of_scores.k];
        let Work::Dispatch(softmax) = &draft.commands[self.softmax].work else { return false };
        let Some(rows) = read_params::<RowParams>(&softmax.params) else { return false };
        let near = |stride: u32, size: u32| size == 1 || stride == 1;
        scores.dtype == mixed.dtype
            && scores.batches == mixed.batches
            && [of_mixed.m, of_mixed.k, of_mixed.n] == [queries, keys, dim]
            && u64::from(rows.rows) == u64::from(queries) * u64::from(scores.batches)
            && (rows.size, rows.inner) == (keys, 1)
            && scores.is_dense(0, of_scores.edges[0], *inner, [queries, keys])
            && mixed.is_dense(1, of_mixed.strides[0], *inner, [queries, keys])
            && near(of_mixed.strides[1], keys)
            // Elements of a head are neighbours.
            && near(of_scores.strides[1], dim)
            && near(of_scores.strides[2], dim)
            && near(of_mixed.strides[3], dim)
    }

    /// Whether what the first steps read is the same when the last one runs, and apart from what that writes.
    fn may_wait(&self, draft: &Draft) -> bool {
        let Self { scores, mixed, .. } = self;
        let out = &mixed.bounds[0];
        let last = mixed.writes;
        let still = |from: usize, bound: &Bound| {
            let between = (from + 1).min(last)..last;
            !overlap(bound, out) && !draft.written_by(between, bound.slot, bound.touched)
        };
        scores.bounds[1..].iter().all(|bound| still(scores.reads, bound))
            && still(mixed.reads, &mixed.bounds[2])
            && self.mask.as_ref().is_none_or(|mask| still(mask.at, &mask.bound))
    }

    /// The steps as one command. `None` where the device has no such kernel.
    fn command(&self, draft: &Draft) -> Result<Option<Command>> {
        let Some((key, params, groups)) = self.kernel() else { return Ok(None) };
        let like = &draft.commands[self.mixed.writes];
        let kernel = Kernel::Attention(key);
        let compiled = match pipeline(&draft.device, like.label, &kernel) {
            Ok(compiled) => compiled.clone(),
            Err(crate::Error::NoKernel { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let params = bytes_of(&params).to_vec();
        let dispatch = Dispatch { pipeline: compiled, kernel: Some(kernel), params, groups };
        let [out, _, v] = &self.mixed.bounds;
        let [_, q, k] = &self.scores.bounds;
        let bounds = [out, q, k, v].into_iter().chain(self.mask.as_ref().map(|mask| &mask.bound));
        Ok(Some(Command {
            label: like.label,
            group: like.group,
            bounds: bounds.cloned().collect(),
            work: Work::Dispatch(Box::new(dispatch)),
        }))
    }

    /// Key, parameters and workgroups; `None` where there are too many of something.
    fn kernel(&self) -> Option<(Attention, AttentionParams, [u32; 3])> {
        let Self { scores, mixed, inner, .. } = self;
        let (of_scores, of_mixed) = (&scores.params, &mixed.params);
        let [queries, keys, dim] = [of_scores.m, of_scores.n, of_scores.k];
        let offsets = [of_mixed.offsets[0], of_scores.offsets[1], of_scores.offsets[2], of_mixed.offsets[2]];
        let row_strides =
            [of_mixed.edges[0], of_scores.strides[0], of_scores.strides[3], of_mixed.strides[2]];
        let (mut batch_strides, mut head_strides) = ([0; 4], [0; 4]);
        let operands = [(mixed, 0), (scores, 1), (scores, 2), (mixed, 2)];
        for (place, (product, operand)) in operands.into_iter().enumerate() {
            [batch_strides[place], head_strides[place]] = product.strides(operand, *inner)?;
        }
        let multiple = |place: usize, of: u32| {
            [offsets, row_strides, batch_strides, head_strides]
                .iter()
                .all(|list: &[u32; 4]| list[place].is_multiple_of(of))
        };
        let head = HeadSize::choose(dim)?;
        let key = Attention {
            dtype: scores.dtype,
            mask: self.mask.as_ref().map_or(Mask::None, |mask| Mask::Additive(mask.dtype)),
            causal: false,
            head,
            pairs: !scores.dtype.is_wide() && dim.is_multiple_of(2) && multiple(0, 2),
            logsumexp: false,
            quads: dim.is_multiple_of(4) && (1..4).all(|place| multiple(place, 4)),
            tile: head.has_tile() && u64::from(queries) >= TILE_QUERIES,
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

/// The command to whose result `at` adds a tensor, and which of the summands the tensor is.
fn sum_of(draft: &Draft, at: usize) -> Option<(usize, usize)> {
    let command = &draft.commands[at];
    let (key, _) = pointwise(command)?;
    let [out, left, right] = command.bounds.as_slice() else { return None };
    if key.op != Op::Add || key.scalar.is_some() {
        return None;
    }
    [(left, 1), (right, 0)].into_iter().find_map(|(made, other)| {
        let whole = key.inputs[1 - other] == key.output && key.inputs[other].is_float();
        let first = if whole { producer(draft, at, out, made) } else { None }?;
        (Product::of(draft, first).is_some() || scaled_by(draft, first).is_some()).then_some((first, other))
    })
}

impl Added {
    /// The summand of that number of the command `at`, with so many inner batches.
    fn of(draft: &Draft, at: usize, summand: usize, scores: &Product, inner: u32) -> Option<Self> {
        let MatmulParams { m: queries, n: keys, .. } = scores.params;
        let sizes = [keys, queries, inner, scores.batches / inner];
        let command = &draft.commands[at];
        let (key, params) = pointwise(command)?;
        let dense: PointwiseParams = read_params(params)?;
        let steps = if matches!(key.layout, Layout::Linear | Layout::Fours) {
            [dense_steps(sizes); 3]
        } else if key.layout.is_strided() {
            let strided: StridedParams = read_params(params)?;
            let rank = strided.dense.rank as usize;
            let of = |operand: usize| {
                let dims = strided.shape.iter().zip(&strided.strides).take(rank);
                steps_along(dims.map(|(&size, strides)| (size, strides[operand])), sizes)
            };
            [of(0)?, of(1)?, of(2)?]
        } else {
            return None;
        };
        // The scores lie row by row before and after.
        let rows = dense_steps(sizes);
        if key.output != scores.dtype || steps[0] != rows || steps[2 - summand] != rows {
            return None;
        }
        let [key_step, query, inner, outer] = steps[1 + summand].map(i32::cast_unsigned);
        Some(Self {
            at,
            bound: command.bounds[1 + summand].clone(),
            dtype: key.inputs[summand],
            offset: dense.offsets[1 + summand],
            strides: [outer, inner, query, key_step],
        })
    }
}

/// The strides of rows one after the other; 0 where there is one of something.
fn dense_steps(sizes: [u32; 4]) -> [i32; 4] {
    let mut next = 1_u32;
    sizes.map(|size| {
        let step = if size == 1 { 0 } else { next.cast_signed() };
        next = next.wrapping_mul(size);
        step
    })
}

/// The strides along dimensions of the given sizes, innermost first, of what is given by size and stride of dimensions that
/// were put together or taken apart; 0 where a size is 1. `None` where they do not meet.
fn steps_along(dims: impl Iterator<Item = (u32, i32)>, sizes: [u32; 4]) -> Option<[i32; 4]> {
    let mut dims = dims.filter(|&(size, _)| size != 1);
    let mut left = (1_u32, 0_i32);
    let mut steps = [0; 4];
    for (step, size) in steps.iter_mut().zip(sizes).filter(|(_, size)| *size != 1) {
        if left.0 == 1 {
            left = dims.next()?;
        }
        *step = left.1;
        let mut covered = 1_u32;
        // Several dimensions that follow one another as one.
        while !left.0.is_multiple_of(size / covered) {
            if !(size / covered).is_multiple_of(left.0) {
                return None;
            }
            covered *= left.0;
            left = dims.next()?;
            if left.1 != step.wrapping_mul(covered.cast_signed()) {
                return None;
            }
        }
        let rest = size / covered;
        left = (left.0 / rest, left.1.wrapping_mul(rest.cast_signed()));
    }
    (left.0 == 1 && dims.next().is_none()).then_some(steps)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn dimensions_are_taken_apart_and_put_together() {
        let steps = |dims: &[(u32, i32)], sizes| steps_along(dims.iter().copied(), sizes);
        assert_eq!(steps(&[(4, 1), (30, 0)], [4, 5, 3, 2]), Some([1, 0, 0, 0]), "a row for all");
        assert_eq!(steps(&[(20, 1), (6, 0)], [4, 5, 3, 2]), Some([1, 4, 0, 0]), "a matrix for all");
        assert_eq!(steps(&[(4, 1), (15, 0), (2, 4)], [4, 5, 3, 2]), Some([1, 0, 0, 4]), "a row a batch");
        assert_eq!(steps(&[(120, 1)], [4, 5, 3, 2]), Some([1, 4, 20, 60]), "dense");
        assert_eq!(steps(&[(2, 1), (2, 2), (30, 7)], [4, 5, 3, 2]), Some([1, 7, 35, 105]), "finer");
        assert_eq!(steps(&[(4, 1)], [4, 1, 1, 1]), Some([1, 0, 0, 0]));
        assert_eq!(steps(&[(2, 1), (2, 3), (30, 7)], [4, 5, 3, 2]), None, "a gap in a row");
        assert_eq!(steps(&[(6, 1), (20, 6)], [4, 5, 3, 2]), None, "another cut");
        assert_eq!(steps(&[(4, 1), (5, 4)], [4, 5, 3, 2]), None, "too few");
        assert_eq!(steps(&[(4, 1), (60, 4)], [4, 5, 3, 2]), None, "too many");
    }
}
