//! Normalisations that do what comes before them, and nothing that nobody asks for.

use super::chains::Chain;
use super::{overlap, read_params, write_params};
use crate::error::Result;
use crate::ops::Op;
use crate::plan::command::{Bound, Command, Work};
use crate::plan::compile::Draft;
use rivulet_kernels::params::RowParams;
use rivulet_kernels::{HeldRow, Kernel, Norm, Row, RowOp, RowSum};

/// The op without its statistics; `None` where it keeps none, or is another.
fn without_statistics(op: RowOp) -> Option<RowOp> {
    let plain = |norm: Norm| norm.stats.map(|_| Norm { stats: None, ..norm });
    match op {
        RowOp::LayerNorm(norm) => plain(norm).map(RowOp::LayerNorm),
        RowOp::RmsNorm(norm) => plain(norm).map(RowOp::RmsNorm),
        _ => None,
    }
}

/// Leaves out means and deviations that nobody reads: a forward keeps them for a backward.
pub(super) fn forget_statistics(draft: &mut Draft) -> Result<()> {
    for at in 0..draft.commands.len() {
        let kernel = match draft.commands[at].kernel() {
            Some(Kernel::HeldRow(key)) => {
                without_statistics(key.op).map(|op| Kernel::HeldRow(HeldRow { op, ..*key }))
            }
            Some(Kernel::Row(key)) => without_statistics(key.op).map(|op| Kernel::Row(Row { op, ..*key })),
            _ => None,
        };
        let Some(kernel) = kernel else { continue };
        let command = &draft.commands[at];
        let is_statistic = |place: usize, bound: &Bound| place > 0 && bound.write;
        let unread = command.bounds.iter().enumerate().all(|(place, bound)| {
            let elsewhere = || {
                let others = draft.commands.iter().enumerate().filter(|&(other, _)| other != at);
                others.flat_map(|(_, other)| &other.bounds).any(|other| other.slot == bound.slot)
            };
            !is_statistic(place, bound) || (draft.scratch(bound.slot).is_some() && !elsewhere())
        });
        if !unread {
            continue;
        }
        let Some(dispatch) = draft.with_kernel(command, kernel)? else { continue };
        let bounds = command.bounds.iter().enumerate().filter(|&(place, bound)| !is_statistic(place, bound));
        let bounds = bounds.map(|(_, bound)| bound.clone()).collect();
        let plain = Command { bounds, work: Work::Dispatch(Box::new(dispatch)), ..command.clone() };
        draft.commands[at] = plain;
    }
    Ok(())
}

/// `norm(x + y)` as one command; the sum is written too where anybody else reads it.
pub(super) fn take_sums(draft: &mut Draft) -> Result<()> {
    let mut at = 0;
    while at < draft.commands.len() {
        match of_sum(draft, at)? {
            Some((first, place, command)) => {
                draft.fusions.push(format!("{} into {}", draft.commands[first].label, command.describe()));
                draft.commands[place] = command;
                let gone = if place == at { first } else { at };
                draft.commands.remove(gone);
            }
            None => at += 1,
        }
    }
    Ok(())
}

/// The sum before a normalisation, where the two can be one, and the one.
fn of_sum(draft: &Draft, at: usize) -> Result<Option<(usize, usize, Command)>> {
    let command = &draft.commands[at];
    let Some(Kernel::HeldRow(key)) = command.kernel() else { return Ok(None) };
    let Work::Dispatch(dispatch) = &command.work else { return Ok(None) };
    let (RowSum::None, [out, x, ..]) = (key.sum, command.bounds.as_slice()) else { return Ok(None) };
    let Some(first) = draft.writer(at, x.slot, x.touched) else { return Ok(None) };
    let Some(sum) = Chain::of(&draft.commands[first]) else { return Ok(None) };
    let ([step], [left, right]) = (sum.steps.as_slice(), sum.inputs.as_slice()) else { return Ok(None) };
    let Some(params) = read_params::<RowParams>(&dispatch.params) else { return Ok(None) };
    let alike = [left.dtype, right.dtype, step.common, step.output].iter().all(|&dtype| dtype == key.input);
    let plain = step.op == Op::Add && sum.scalars.is_empty() && left.period == 0 && right.period == 0;
    let fourth = [left.offset, right.offset, sum.offset].iter().all(|offset| offset.is_multiple_of(4));
    let whole = sum.out.touched == x.touched && sum.count == params.rows * params.size;
    if !(plain && alike && fourth && whole && draft.is_alone(first) && draft.is_alone(at)) {
        return Ok(None);
    }
    let summands = [&left.bound, &right.bound];
    let others = draft.commands.iter().enumerate().filter(|&(other, _)| other != first && other != at);
    let read = |(_, other): (usize, &Command)| other.bounds.iter().any(|bound| overlap(bound, x));
    let kept = draft.scratch(x.slot).is_none() || others.skip_while(|&(other, _)| other < first).any(read);
    // Several invocations may make the last row, and read it when another has written it.
    if summands.iter().any(|bound| overlap(bound, out) || (kept && overlap(bound, x))) || overlap(out, x) {
        return Ok(None);
    }
    let between = first + 1..at;
    let changed = |bound: &Bound| draft.written_by(between.clone(), bound.slot, bound.touched);
    let touched = |bound: &Bound| draft.touched_by(between.clone(), bound.slot, bound.touched);
    // At the norm's place where the sum can wait so long, else at the sum's.
    let place = if !summands.into_iter().any(changed) && !touched(x) {
        at
    } else if !command.bounds[2..].iter().any(changed) && !command.writes().any(touched) && !changed(x) {
        first
    } else {
        return Ok(None);
    };
    let Some(kernel) = key.of_sum(if kept { RowSum::Kept } else { RowSum::Added }) else { return Ok(None) };
    let Some(mut dispatch) = draft.with_kernel(command, Kernel::HeldRow(kernel))? else { return Ok(None) };
    let mut params = RowParams { groups: right.offset, places: sum.offset, ..params };
    params.offsets[1] = left.offset;
    write_params(&mut dispatch.params, &params);
    let mut one = command.clone();
    one.bounds[1] = left.bound.clone();
    one.bounds.push(right.bound.clone());
    if kept {
        one.bounds.push(sum.out.clone());
    }
    one.work = Work::Dispatch(Box::new(dispatch));
    Ok(Some((first, place, one)))
}
