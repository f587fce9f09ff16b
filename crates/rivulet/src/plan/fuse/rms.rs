//! `x · rsqrt(mean(x²) + eps)` as one kernel: what `rms_norm` is made of where PyTorch has no kernel for it, and what models
//! write out.

use super::product::producer;
use super::strides::{dense_steps, dims_of, steps_along};
use super::{Dense, dense, overlap, read_params};
use crate::error::Result;
use crate::ops::launch::pipeline;
use crate::ops::{DType, Op};
use crate::plan::command::{Bound, Command, Dispatch, Work};
use crate::plan::compile::Draft;
use bytemuck::bytes_of;
use rivulet_kernels::params::{ReduceParams, RowParams, StridedParams};
use rivulet_kernels::{HeldRow, Kernel, Norm, ReduceOp, ReduceStage, RowOp};

/// Rows divided by the root of their mean square. In float32 alone: a 16-bit type would round, and overflow, at each step.
pub(super) fn take_norms(draft: &mut Draft) -> Result<()> {
    let mut at = 0;
    while at < draft.commands.len() {
        let found = Steps::find(draft, at);
        let one = match &found {
            Some(steps) => steps.command(draft, at)?,
            None => None,
        };
        let (Some(steps), Some(command)) = (found, one) else {
            at += 1;
            continue;
        };
        draft.fusions.push(format!("mean of squares and its root into {}", command.describe()));
        draft.commands[at] = command;
        for gone in steps.gone {
            draft.commands.remove(gone);
        }
        at -= steps.gone.len() - 1;
    }
    Ok(())
}

/// What becomes one kernel with a product of rows and factors.
struct Steps {
    x: Bound,
    params: RowParams,
    /// The commands before the product, the last first.
    gone: [usize; 5],
}

impl Steps {
    /// The steps of which the command `at` is the last: rows times a factor for each.
    fn find(draft: &Draft, at: usize) -> Option<Self> {
        let command = &draft.commands[at];
        let Work::Dispatch(dispatch) = &command.work else { return None };
        let Some(Kernel::Pointwise(key)) = &dispatch.kernel else { return None };
        let [out, left, right] = command.bounds.as_slice() else { return None };
        let wide =
            [key.common, key.output, key.inputs[0], key.inputs[1]].iter().all(|&dtype| dtype == DType::F32);
        if key.op != Op::Mul || key.scalar.is_some() || !wide || !key.layout.is_strided() {
            return None;
        }
        let strided: StridedParams = read_params(&dispatch.params)?;
        [(left, 0, right, 1), (right, 1, left, 0)].into_iter().find_map(|(x, row, factor, each)| {
            let root = producer(draft, at, out, factor)?;
            let (sum, _) = unary_before(draft, root, Op::Rsqrt, false)?;
            let (mean, eps) = unary_before(draft, sum, Op::Add, true)?;
            let (reduce, count) = unary_before(draft, mean, Op::Div, true)?;
            let (square, rows, size) = rows_of_sum(draft, reduce)?;
            let squared = dense(&draft.commands[square]).filter(|own| is_plain(own, Op::Square, false))?;
            let sizes = [size, rows, 1, 1];
            let along = |operand: usize| {
                steps_along(dims_of(&strided).map(|(size, strides)| (size, strides[operand])), sizes)
            };
            let lies = along(0)? == dense_steps(sizes)
                && along(1 + row)? == dense_steps(sizes)
                && along(1 + each)? == [0, i32::from(rows != 1), 0, 0];
            let same = squared.inputs[0].slot == x.slot && squared.inputs[0].touched == x.touched;
            let still = !draft.written_by(square + 1..at, x.slot, x.touched) && !overlap(x, out);
            let offsets = [strided.dense.offsets[0], strided.dense.offsets[1 + row], 0, 0];
            let eps = f32::from_bits(eps);
            let params = RowParams { offsets, rows, size, inner: 1, eps, ..RowParams::default() };
            let is_mean = count == f32_of(size)?.to_bits();
            let gone = [root, sum, mean, reduce, square];
            (lies && same && still && is_mean).then(|| Self { x: x.clone(), params, gone })
        })
    }

    /// The steps as one command, like the command `at`. `None` where no kernel serves such rows.
    fn command(&self, draft: &Draft, at: usize) -> Result<Option<Command>> {
        let (like, op) = (&draft.commands[at], RowOp::RmsNorm(Norm::default()));
        let (params, float) = (&self.params, DType::F32);
        let Some(key) = HeldRow::choose(op, float, float, params.size, &params.offsets) else {
            return Ok(None);
        };
        let kernel = Kernel::HeldRow(key);
        let compiled = match pipeline(&draft.device, like.label, &kernel) {
            Ok(compiled) => compiled.clone(),
            Err(crate::Error::NoKernel { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let (bytes, groups) = (bytes_of(params).to_vec(), key.groups(params.rows));
        let dispatch = Dispatch { pipeline: compiled, kernel: Some(kernel), params: bytes, groups };
        let bounds = [like.bounds[0].clone(), self.x.clone()].into_iter().collect();
        Ok(Some(Command {
            label: "rms_norm",
            bounds,
            work: Work::Dispatch(Box::new(dispatch)),
            ..like.clone()
        }))
    }
}

/// A float32 op of one tensor, and of a number where `number` says so.
fn is_plain(own: &Dense<'_>, op: Op, number: bool) -> bool {
    let wide =
        own.key.common == DType::F32 && own.key.output == DType::F32 && own.key.inputs[0] == DType::F32;
    let scalar = if number { own.key.scalar == Some(1) } else { own.key.scalar.is_none() };
    own.key.op == op && wide && scalar && own.inputs.len() == 1
}

/// The command whose result `at` does such an op to, and the bits of the number; 0 where there is none.
fn unary_before(draft: &Draft, at: usize, op: Op, number: bool) -> Option<(usize, u32)> {
    let own = dense(&draft.commands[at]).filter(|own| is_plain(own, op, number))?;
    let first = producer(draft, at, own.out, &own.inputs[0])?;
    Some((first, if number { own.params.scalars[0] } else { 0 }))
}

/// The command whose result `at` sums up row by row, how many rows there are, and their elements.
fn rows_of_sum(draft: &Draft, at: usize) -> Option<(usize, u32, u32)> {
    let command = &draft.commands[at];
    let Work::Dispatch(dispatch) = &command.work else { return None };
    let Some(Kernel::Reduce(key)) = &dispatch.kernel else { return None };
    let params: ReduceParams = read_params(&dispatch.params)?;
    let [out, x] = command.bounds.as_slice() else { return None };
    let wide = key.op == ReduceOp::Sum && key.input == DType::F32 && key.output == DType::F32;
    let whole = key.stage == ReduceStage::Whole && params.chunks == 1 && params.scale == 1.0;
    let (rows, size) = (params.kept, params.count);
    let near = params.rank == 1 && params.strides[0] == 1 && params.shape[0] == size;
    let kept = params.kept_rank == 1 && (rows == 1 || params.kept_strides[0].cast_unsigned() == size);
    (wide && whole && near && kept).then_some((producer(draft, at, out, x)?, rows, size))
}

/// A number of elements as the divisor of their mean; `None` where float32 does not hold it.
#[allow(clippy::cast_precision_loss, reason = "only numbers that lose nothing")]
fn f32_of(count: u32) -> Option<f32> {
    (count < 1 << 24).then_some(count as f32)
}
