//! Attention that writes its heads where a copy would put them: side by side, as the projection after it reads them.

use super::attention::strided_copy;
use super::product::producer;
use super::strides::{dense_steps, dims_of, steps_along};
use super::{overlap, read_params, write_params};
use crate::error::Result;
use crate::plan::command::{Bound, Command, Work};
use crate::plan::compile::Draft;
use rivulet_kernels::params::{AttentionParams, StridedParams};
use rivulet_kernels::{Attention, Kernel};

/// Attention and the copy of all that it gives as one command.
pub(super) fn take_copies(draft: &mut Draft) -> Result<()> {
    let mut at = 0;
    while at < draft.commands.len() {
        match copied(draft, at)? {
            Some((first, place, command)) => {
                draft.fusions.push(format!("{} into {}", draft.commands[at].label, command.describe()));
                draft.commands[place] = command;
                draft.commands.remove(if place == at { first } else { at });
            }
            None => at += 1,
        }
    }
    Ok(())
}

/// The attention whose result is copied, where the two can be one, and the one.
fn copied(draft: &Draft, at: usize) -> Result<Option<(usize, usize, Command)>> {
    let Some((first, key, params, groups)) = found(draft, at) else { return Ok(None) };
    let (command, copy) = (&draft.commands[first], &draft.commands[at]);
    let Some(place) = place(draft, first, at) else { return Ok(None) };
    let Some(mut dispatch) = draft.with_kernel(command, Kernel::Attention(key))? else { return Ok(None) };
    write_params(&mut dispatch.params, &params);
    dispatch.groups = groups;
    let mut one = Command { work: Work::Dispatch(Box::new(dispatch)), ..command.clone() };
    one.bounds[0] = Bound { dtype: command.bounds[0].dtype, ..copy.bounds[0].clone() };
    Ok(Some((first, place, one)))
}

/// The attention whose result the command `at` copies, told to write where that copies to, with its workgroups.
fn found(draft: &Draft, at: usize) -> Option<(usize, Attention, AttentionParams, [u32; 3])> {
    let copy = &draft.commands[at];
    let strided = strided_copy(copy)?;
    let first = producer(draft, at, &copy.bounds[0], &copy.bounds[1])?;
    let Work::Dispatch(dispatch) = &draft.commands[first].work else { return None };
    let Some(Kernel::Attention(key)) = &dispatch.kernel else { return None };
    let params: AttentionParams = read_params(&dispatch.params)?;
    let [queries, heads, batch] = dispatch.groups;
    // Heads of all batches may be counted as those of one.
    let least = if batch == 1 && params.group == 1 { 1 } else { heads };
    let cuts = (least..=heads).rev().filter(|&inner| heads.is_multiple_of(inner));
    let (params, groups) = cuts.into_iter().find_map(|inner| {
        let cut = if inner == heads { params } else { in_batches(params, inner) };
        let groups = [queries, inner, batch * (heads / inner)];
        Some((written_to(cut, groups, &strided)?, groups))
    })?;
    let [offset, outer, head, row] =
        [params.offsets, params.batch_strides, params.head_strides, params.row_strides].map(|list| list[0]);
    let even = [offset, outer, head, row, params.dim].iter().all(|word| word.is_multiple_of(2));
    Some((first, Attention { pairs: !key.dtype.is_wide() && even, ..*key }, params, groups))
}

/// The heads of one batch as those of several, of `inner` each.
fn in_batches(params: AttentionParams, inner: u32) -> AttentionParams {
    let times = |stride: u32| stride.wrapping_mul(inner);
    let ([_, mask, query, key], [_, kept, each, last]) = (params.mask_strides, params.logsumexp_strides);
    AttentionParams {
        batch_strides: params.head_strides.map(times),
        mask_strides: [times(mask), mask, query, key],
        logsumexp_strides: [times(kept), kept, each, last],
        ..params
    }
}

/// The parameters with the places that a copy of the result has. `None` where strides do not tell them.
fn written_to(
    mut params: AttentionParams,
    [_, heads, batch]: [u32; 3],
    copy: &StridedParams,
) -> Option<AttentionParams> {
    let sizes = [batch, heads, params.queries, params.dim];
    let strides = [params.batch_strides[0], params.head_strides[0], params.row_strides[0], 1];
    // Innermost first, as the result lies that is copied.
    let mut order = [3, 2, 1, 0];
    order.sort_by_key(|&dim| (sizes[dim] != 1, strides[dim]));
    let sorted = order.map(|dim| sizes[dim]);
    let rows = dense_steps(sorted);
    let same = |(&dim, step): (&usize, i32)| sizes[dim] == 1 || strides[dim].cast_signed() == step;
    let mut dims: Vec<_> = dims_of(copy).collect();
    dims.sort_by_key(|&(_, strides)| strides[1]);
    let along =
        |operand: usize| steps_along(dims.iter().map(|&(size, strides)| (size, strides[operand])), sorted);
    if !order.iter().zip(rows).all(same) || along(1)? != rows {
        return None;
    }
    let mut to = [0; 4];
    order.into_iter().zip(along(0)?).for_each(|(dim, step)| to[dim] = step.cast_unsigned());
    let [outer, head, row, element] = to;
    params.offsets[0] = copy.dense.offsets[0];
    (params.batch_strides[0], params.head_strides[0], params.row_strides[0]) = (outer, head, row);
    // Elements of a head are neighbours.
    (params.dim == 1 || element == 1).then_some(params)
}

/// Where attention and copy can be one: at the attention where nobody meanwhile touches what the copy writes, else at the
/// copy where nobody writes what the attention reads or touches what else it writes.
fn place(draft: &Draft, first: usize, at: usize) -> Option<usize> {
    let (own, out) = (&draft.commands[first].bounds[1..], &draft.commands[at].bounds[0]);
    if own.iter().any(|bound| overlap(bound, out)) {
        return None;
    }
    let between = first + 1..at;
    if !draft.touched_by(between.clone(), out.slot, out.touched) {
        return Some(first);
    }
    let still = own.iter().all(|bound| {
        let (slot, touched) = (bound.slot, bound.touched);
        if bound.write {
            !draft.touched_by(between.clone(), slot, touched)
        } else {
            !draft.written_by(between.clone(), slot, touched)
        }
    });
    still.then_some(at)
}
