//! Matrix products that do what comes after them.

use super::{Dense, dense, read_params, write_params};
use crate::error::Result;
use crate::ops::{DType, Op};
use crate::plan::command::{Bound, Command, Work};
use crate::plan::compile::Draft;
use rivulet_kernels::params::MatmulParams;
use rivulet_kernels::{Kernel, Pointwise};

/// The product's kernel with an activation, where it has none yet.
fn activated(kernel: &Kernel, op: Op) -> Option<(Kernel, DType)> {
    match *kernel {
        Kernel::Matmul(mut key) if !key.split && key.activation.is_none() => {
            key.activation = Some(op);
            Some((Kernel::Matmul(key), key.output))
        }
        Kernel::MatmulJoin(mut key) if key.activation.is_none() => {
            key.activation = Some(op);
            Some((Kernel::MatmulJoin(key), key.output))
        }
        _ => None,
    }
}

/// An op that a product can do to its results: of one float, without parameters, between equal types.
fn is_activation(key: &Pointwise) -> bool {
    key.op.arity() == 1
        && !key.op.is_indexed()
        && key.op.computes(DType::F32)
        && !key.op.is_predicate()
        && key.scalar.is_none()
        && key.common.is_float()
        && key.output == key.common
        && key.inputs[0] == key.common
        && !key.op.reads_params(key.common)
}

/// Where a command's only result is made by another before it, and can be made together with it.
struct Pair {
    product: usize,
    /// Where the two become one.
    at: usize,
}

/// Finds the command before `at` whose whole result `made` is, an input of the command `at` that writes `out`, and that
/// nobody else has a use for.
pub(super) fn producer(draft: &Draft, at: usize, out: &Bound, made: &Bound) -> Option<usize> {
    let first = draft.writer(at, made.slot, made.touched)?;
    let result = draft.commands[first].bounds.first()?;
    let whole = draft.is_alone(first) && draft.is_alone(at) && result.touched == made.touched && result.write;
    if !whole || draft.touched_by(first + 1..at, made.slot, made.touched) {
        return None;
    }
    let in_place = out.slot == made.slot && out.touched == made.touched;
    let unread = draft.scratch(made.slot).is_some()
        && !draft.touched_by(at + 1..draft.commands.len(), made.slot, made.touched);
    (in_place || unread).then_some(first)
}

/// The place at which product and pointwise command can be one: of the two, the first where nobody touches the result in
/// between, else the second where nobody writes what the product reads.
fn place(draft: &Draft, product: usize, at: usize, own: &Dense<'_>) -> Option<Pair> {
    let command = &draft.commands[product];
    let reads = &command.bounds[1..];
    if reads.iter().any(|bound| bound.slot == own.out.slot && bound.touched.overlaps(own.out.touched)) {
        return None;
    }
    if !draft.touched_by(product + 1..at, own.out.slot, own.out.touched) {
        return Some(Pair { product, at: product });
    }
    let kept = reads.iter().all(|bound| !draft.written_by(product + 1..at, bound.slot, bound.touched));
    kept.then_some(Pair { product, at })
}

/// `activation(product)` as one command.
pub(super) fn take_activations(draft: &mut Draft) -> Result<()> {
    let mut at = 0;
    while at < draft.commands.len() {
        match fused(draft, at)? {
            Some((pair, command)) => {
                let label = command.describe();
                let op = draft.commands[at].label;
                draft.fusions.push(format!("{op} into {label}"));
                draft.commands[pair.at] = command;
                let gone = if pair.at == at { pair.product } else { at };
                draft.commands.remove(gone);
            }
            None => at += 1,
        }
    }
    Ok(())
}

fn fused(draft: &Draft, at: usize) -> Result<Option<(Pair, Command)>> {
    let Some(own) = dense(&draft.commands[at]).filter(|own| is_activation(own.key)) else { return Ok(None) };
    let Some(product) = producer(draft, at, own.out, &own.inputs[0]) else { return Ok(None) };
    let command = &draft.commands[product];
    let kernel = command.kernel().and_then(|kernel| activated(kernel, own.key.op));
    let Some((kernel, _)) = kernel.filter(|(_, output)| *output == own.key.output) else { return Ok(None) };
    let Some(pair) = place(draft, product, at, &own) else { return Ok(None) };
    let offset = own.params.offsets[0];
    // Products that store vectors begin with one.
    if !offset.is_multiple_of(4) {
        return Ok(None);
    }
    let Some(mut dispatch) = draft.with_kernel(command, kernel)? else { return Ok(None) };
    let Some(mut params) = read_params::<MatmulParams>(&dispatch.params) else { return Ok(None) };
    params.offsets[0] = offset;
    write_params(&mut dispatch.params, &params);
    let mut fused = command.clone();
    fused.bounds[0] = own.out.clone();
    fused.work = Work::Dispatch(Box::new(dispatch));
    Ok(Some((pair, fused)))
}
