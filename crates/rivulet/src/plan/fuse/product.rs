//! Matrix products that do what comes after them.

use super::chains::{Chain, Input};
use super::{Dense, dense, read_params, write_params};
use crate::error::Result;
use crate::ops::{DType, Op};
use crate::plan::command::{Bound, Command, Work};
use crate::plan::compile::Draft;
use rivulet_kernels::params::MatmulParams;
use rivulet_kernels::{Kernel, Matmul, MatmulJoin, Pointwise};

/// The product's kernel with an activation, where it has none yet.
fn activated(kernel: &Kernel, op: Op) -> Option<(Kernel, DType)> {
    match *kernel {
        Kernel::Matmul(mut key) if !key.split && key.activation.is_none() && !key.residual => {
            key.activation = Some(op);
            Some((Kernel::Matmul(key), key.output))
        }
        Kernel::MatmulJoin(mut key) if key.activation.is_none() && !key.residual => {
            key.activation = Some(op);
            Some((Kernel::MatmulJoin(key), key.output))
        }
        Kernel::MatmulSimd(mut key) if key.activation.is_none() => {
            key.activation = Some(op);
            Some((Kernel::MatmulSimd(key), key.output))
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

/// What a product is told.
fn params_of(command: &Command) -> Option<MatmulParams> {
    match &command.work {
        Work::Dispatch(dispatch) => read_params(&dispatch.params),
        _ => None,
    }
}

/// The product with another kernel and other parameters, which writes `out` and reads one operand more. `None` where the
/// device has no such kernel.
fn remade(
    draft: &Draft,
    command: &Command,
    kernel: Kernel,
    params: &MatmulParams,
    out: &Bound,
    further: Option<&Bound>,
) -> Result<Option<Command>> {
    let Some(mut dispatch) = draft.with_kernel(command, kernel)? else { return Ok(None) };
    write_params(&mut dispatch.params, params);
    let mut made = command.clone();
    made.bounds[0] = out.clone();
    made.bounds.extend(further.cloned());
    made.work = Work::Dispatch(Box::new(dispatch));
    Ok(Some(made))
}

/// Makes one of each product and the command after it that `find` can put together.
fn take(draft: &mut Draft, find: impl Fn(&Draft, usize) -> Result<Option<(Pair, Command)>>) -> Result<()> {
    let mut at = 0;
    while at < draft.commands.len() {
        match find(draft, at)? {
            Some((pair, command)) => {
                let op = draft.commands[at].label;
                draft.fusions.push(format!("{op} into {}", command.describe()));
                draft.commands[pair.at] = command;
                let gone = if pair.at == at { pair.product } else { at };
                draft.commands.remove(gone);
            }
            None => at += 1,
        }
    }
    Ok(())
}

/// `activation(product)` as one command.
pub(super) fn take_activations(draft: &mut Draft) -> Result<()> {
    take(draft, fused)
}

/// The product's kernel with a bias, where it has none and does nothing after that; the type of its results.
fn biased(kernel: &Kernel) -> Option<(Kernel, DType)> {
    match *kernel {
        Kernel::Matmul(mut key) if !key.split && !key.bias && key.activation.is_none() && !key.residual => {
            key.bias = true;
            Some((Kernel::Matmul(key), key.output))
        }
        Kernel::MatmulJoin(mut key) if !key.bias && key.activation.is_none() && !key.residual => {
            key.bias = true;
            Some((Kernel::MatmulJoin(key), key.output))
        }
        Kernel::MatmulSimd(mut key) if !key.bias && key.activation.is_none() => {
            key.bias = true;
            Some((Kernel::MatmulSimd(key), key.output))
        }
        _ => None,
    }
}

/// `product + bias` as one command, for a bias of one row and for one of the product's own shape (a residual).
pub(super) fn take_biases(draft: &mut Draft) -> Result<()> {
    take(draft, |draft, at| joined_sum(draft, at, add_bias))
}

/// `product + residual` as one command, for products that have a bias or an activation already.
pub(super) fn take_residuals(draft: &mut Draft) -> Result<()> {
    take(draft, |draft, at| joined_sum(draft, at, add_residual))
}

/// A sum of two operands, one of which a product makes: what `add` makes of draft, place, sum, that operand and the other.
fn joined_sum(
    draft: &Draft,
    at: usize,
    add: impl Fn(&Draft, usize, &Chain, &Input, &Input) -> Result<Option<(Pair, Command)>>,
) -> Result<Option<(Pair, Command)>> {
    let Some(sum) = Chain::of(&draft.commands[at]) else { return Ok(None) };
    let ([step], [left, right]) = (sum.steps.as_slice(), sum.inputs.as_slice()) else { return Ok(None) };
    let plain = step.op == Op::Add && step.common == step.output && sum.scalars.is_empty();
    let alike = left.dtype == step.output && right.dtype == step.output;
    if !plain || !alike || !sum.offset.is_multiple_of(4) {
        return Ok(None);
    }
    for (made, other) in [(left, right), (right, left)] {
        if made.period != 0 || made == other {
            continue;
        }
        if let Some(found) = add(draft, at, &sum, made, other)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn add_residual(
    draft: &Draft,
    at: usize,
    sum: &Chain,
    made: &Input,
    residual: &Input,
) -> Result<Option<(Pair, Command)>> {
    let Some(product) = producer(draft, at, &sum.out, &made.bound) else { return Ok(None) };
    let command = &draft.commands[product];
    let Some(mut params) = params_of(command) else { return Ok(None) };
    // The residual lies as the output does.
    let kernel = match command.kernel() {
        _ if residual.period != 0 => return Ok(None),
        Some(Kernel::Matmul(key)) if !key.split && !key.residual && key.output == made.dtype => {
            params.edges[3] = residual.offset;
            Kernel::Matmul(Matmul { residual: true, ..*key })
        }
        Some(Kernel::MatmulJoin(key)) if !key.residual && key.output == made.dtype => {
            params.offsets[2] = residual.offset;
            params.outer_strides[2] = params.outer_strides[0];
            params.batch_strides[2] = params.batch_strides[0];
            Kernel::MatmulJoin(MatmulJoin { residual: true, ..*key })
        }
        _ => return Ok(None),
    };
    params.offsets[0] = sum.offset;
    let Some(place) = sum_place(draft, product, at, sum, residual) else { return Ok(None) };
    let fused = remade(draft, command, kernel, &params, &sum.out, Some(&residual.bound))?;
    Ok(fused.map(|fused| (Pair { product, at: place }, fused)))
}

/// Where product and sum can be one: at the sum where nobody writes meanwhile what the product reads, else at the product
/// where nobody changes the other operand or touches the output.
fn sum_place(draft: &Draft, product: usize, at: usize, sum: &Chain, other: &Input) -> Option<usize> {
    let overlaps = |bound: &Bound| bound.slot == sum.out.slot && bound.touched.overlaps(sum.out.touched);
    let in_place = other.period == 0 && other.bound.touched == sum.out.touched;
    let reads = &draft.commands[product].bounds[1..];
    if reads.iter().any(overlaps) || (overlaps(&other.bound) && !in_place) {
        return None;
    }
    let between = product + 1..at;
    let changed = |bound: &Bound| draft.written_by(between.clone(), bound.slot, bound.touched);
    if !reads.iter().any(changed) {
        return Some(at);
    }
    let still = !changed(&other.bound) && !draft.touched_by(between.clone(), sum.out.slot, sum.out.touched);
    still.then_some(product)
}

fn add_bias(
    draft: &Draft,
    at: usize,
    sum: &Chain,
    made: &Input,
    bias: &Input,
) -> Result<Option<(Pair, Command)>> {
    let Some(product) = producer(draft, at, &sum.out, &made.bound) else { return Ok(None) };
    let command = &draft.commands[product];
    let Some((kernel, output)) = command.kernel().and_then(biased) else { return Ok(None) };
    let Some(mut params) = params_of(command) else { return Ok(None) };
    if output != made.dtype {
        return Ok(None);
    }
    // Where element e of the output finds its bias.
    (params.edges[1], params.edges[2]) = match bias.period {
        0 => (params.edges[0], 1),
        period if period == params.n && (params.m == 1 || params.edges[0] == params.n) => (0, 1),
        _ => return Ok(None),
    };
    let strides = |strides: [u32; 4]| if bias.period == 0 { strides[0] } else { 0 };
    params.outer_strides[3] = strides(params.outer_strides);
    params.batch_strides[3] = strides(params.batch_strides);
    (params.offsets[0], params.offsets[3], params.beta) = (sum.offset, bias.offset, 1.0);
    let Some(place) = sum_place(draft, product, at, sum, bias) else { return Ok(None) };
    let fused = remade(draft, command, kernel, &params, &sum.out, Some(&bias.bound))?;
    Ok(fused.map(|fused| (Pair { product, at: place }, fused)))
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
    let Some(mut params) = params_of(command) else { return Ok(None) };
    params.offsets[0] = offset;
    Ok(remade(draft, command, kernel, &params, own.out, None)?.map(|fused| (pair, fused)))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use rivulet_kernels::MatmulSimd;

    /// Metal's products, which no device of the tests has.
    #[test]
    fn products_on_simdgroup_matrices_take_a_bias_and_then_an_activation_once() {
        let (input, output) = (DType::F16, DType::F32);
        let key =
            MatmulSimd { input, output, a_along_k: true, b_along_k: true, bias: false, activation: None };
        let (with_bias, dtype) = biased(&Kernel::MatmulSimd(key)).unwrap();
        assert_eq!((with_bias, dtype), (Kernel::MatmulSimd(MatmulSimd { bias: true, ..key }), output));
        assert_eq!(biased(&with_bias), None);
        let (both, dtype) = activated(&with_bias, Op::Gelu).unwrap();
        let wanted = MatmulSimd { bias: true, activation: Some(Op::Gelu), ..key };
        assert_eq!((both, dtype), (Kernel::MatmulSimd(wanted), output));
        assert_eq!(activated(&both, Op::Relu), None);
        let (alone, _) = activated(&Kernel::MatmulSimd(key), Op::Relu).unwrap();
        assert_eq!(biased(&alone), None, "a bias comes before the activation");
    }
}
