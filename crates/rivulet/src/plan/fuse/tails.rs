//! Rows that go through a chain of pointwise ops before they are written.

use super::chains::{Chain, Input};
use super::product::producer;
use super::{overlap, read_params, write_params};
use crate::error::Result;
use crate::plan::command::{Bound, Command, Work};
use crate::plan::compile::Draft;
use rivulet_kernels::params::{RowParams, TailedRowParams};
use rivulet_kernels::{Fused, FusedInput, FusedSource, FusedStep, HeldRow, Kernel};

/// `chain(norm(x))` as one command, and the same of softmax.
pub(super) fn take_tails(draft: &mut Draft) -> Result<()> {
    let mut at = 0;
    while at < draft.commands.len() {
        match tailed(draft, at)? {
            Some((first, place, command)) => {
                let (op, row) = (draft.commands[at].label, draft.commands[first].label);
                draft.fusions.push(format!("{op} after {row}: {}", command.describe()));
                draft.commands[place] = command;
                draft.commands.remove(if place == at { first } else { at });
            }
            None => at += 1,
        }
    }
    Ok(())
}

/// The rows that a chain reads, where the two can be one, and the one.
fn tailed(draft: &Draft, at: usize) -> Result<Option<(usize, usize, Command)>> {
    let Some(chain) = Chain::of(&draft.commands[at]) else { return Ok(None) };
    for made in chain.inputs.iter().filter(|input| input.period == 0) {
        let Some(first) = producer(draft, at, &chain.out, &made.bound) else { continue };
        let command = &draft.commands[first];
        let (Some(Kernel::HeldRow(key)), Work::Dispatch(dispatch)) = (command.kernel(), &command.work) else {
            continue;
        };
        let Some(row) = read_params::<RowParams>(&dispatch.params) else { continue };
        if key.output != made.dtype || row.rows * row.size != chain.count {
            continue;
        }
        let further: Vec<&Input> = chain.inputs.iter().filter(|input| *input != made).collect();
        let Some(key) = key_of(key, &chain, made, &further) else { continue };
        let Some(place) = place(draft, first, at, &chain, made, &further) else { continue };
        let Some(mut dispatch) = draft.with_kernel(command, Kernel::HeldRow(key))? else { continue };
        let mut params = TailedRowParams { row, ..TailedRowParams::default() };
        params.row.offsets[0] = chain.offset;
        let places = params.tail_offsets.iter_mut().zip(&mut params.tail_periods).skip(1);
        for ((offset, period), input) in places.zip(&further) {
            (*offset, *period) = (input.offset, input.period);
        }
        params.scalars.iter_mut().zip(&chain.scalars).for_each(|(to, scalar)| *to = *scalar);
        dispatch.params.resize(size_of::<TailedRowParams>(), 0);
        write_params(&mut dispatch.params, &params);
        let mut one = Command { work: Work::Dispatch(Box::new(dispatch)), ..command.clone() };
        one.bounds[0] = chain.out;
        one.bounds.extend(further.iter().map(|input| input.bound.clone()));
        return Ok(Some((first, place, one)));
    }
    Ok(None)
}

/// The rows' kernel with the chain, whose inputs are the row and the further ones in this order.
fn key_of(key: &HeldRow, chain: &Chain, made: &Input, further: &[&Input]) -> Option<HeldRow> {
    // Everything is read and written four elements at a time.
    let fourth = |input: &&Input| input.offset.is_multiple_of(4) && input.period.is_multiple_of(4);
    if !chain.offset.is_multiple_of(4) || !further.iter().all(fourth) {
        return None;
    }
    let mut next = 0_u8;
    let places: Vec<u8> = chain
        .inputs
        .iter()
        .map(|input| {
            next += u8::from(input != made);
            if input == made { 0 } else { next }
        })
        .collect();
    let step = |step: &FusedStep| {
        let mut sources = [FusedSource::Input(0); 3];
        for (to, source) in sources.iter_mut().zip(step.sources).take(step.op.arity()) {
            *to = match source {
                FusedSource::Input(input) => FusedSource::Input(*places.get(usize::from(input))?),
                other => other,
            };
        }
        Some(FusedStep { sources, ..*step })
    };
    let steps: Vec<_> = chain.steps.iter().map(step).collect::<Option<_>>()?;
    let input = |input: &Input| FusedInput { dtype: input.dtype, repeated: input.period != 0 };
    let inputs: Vec<_> = std::iter::once(made).chain(further.iter().copied()).map(input).collect();
    key.then(Fused::new(&steps, &inputs)?)
}

/// Where rows and chain can be one: at the chain where nobody meanwhile writes what the rows are made of or touches what
/// else they write, else at the rows where nobody changes the chain's other operands or touches its output.
fn place(
    draft: &Draft,
    first: usize,
    at: usize,
    chain: &Chain,
    made: &Input,
    further: &[&Input],
) -> Option<usize> {
    let own = &draft.commands[first].bounds[1..];
    // What a chain reads it reads after others of the kernel have written.
    let unwritten = |input: &&Input| !own.iter().any(|bound| bound.write && overlap(bound, &input.bound));
    // A row is read as a whole before the first of its elements is written, but the last one by several.
    let clear = !own.iter().any(|bound| overlap(bound, &chain.out)) && chain.may_write_in_place();
    // Rows that are read in another way too would be gone.
    let gone = further.iter().any(|input| overlap(&input.bound, &made.bound));
    if !clear || gone || !further.iter().all(unwritten) {
        return None;
    }
    let between = first + 1..at;
    let changed = |bound: &Bound| draft.written_by(between.clone(), bound.slot, bound.touched);
    let touched = |bound: &Bound| draft.touched_by(between.clone(), bound.slot, bound.touched);
    if !own.iter().any(|bound| if bound.write { touched(bound) } else { changed(bound) }) {
        return Some(at);
    }
    let still = !further.iter().any(|input| changed(&input.bound)) && !touched(&chain.out);
    still.then_some(first)
}
