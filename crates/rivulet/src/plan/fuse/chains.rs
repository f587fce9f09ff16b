//! Pointwise ops one after the other, as one kernel.

use super::product::producer;
use super::{read_params, write_params};
use crate::error::Result;
use crate::ops::launch::pipeline;
use crate::plan::command::{Bound, Command, Dispatch, Work};
use crate::plan::compile::Draft;
use rivulet_hal::ByteRange;
use rivulet_kernels::params::{FUSED_INPUTS, FUSED_SCALARS, FusedParams, PointwiseParams, StridedParams};
use rivulet_kernels::{FUSED_STEPS, Fused, FusedInput, FusedSource, FusedStep, Kernel, Layout, Pointwise};

/// A tensor that a chain reads.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Input {
    pub(super) bound: Bound,
    pub(super) dtype: rivulet_kernels::DType,
    /// First element, counted from the bound's first byte.
    pub(super) offset: u32,
    /// Elements after which it begins again; 0 where it has one for each of the output.
    pub(super) period: u32,
}

/// A command as a chain of pointwise ops.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    pub(super) steps: Vec<FusedStep>,
    pub(super) inputs: Vec<Input>,
    pub(super) scalars: Vec<u32>,
    pub(super) out: Bound,
    /// First element, counted from the bound's first byte.
    pub(super) offset: u32,
    pub(super) count: u32,
}

impl Chain {
    pub(super) fn of(command: &Command) -> Option<Self> {
        let Work::Dispatch(dispatch) = &command.work else { return None };
        match dispatch.kernel.as_ref()? {
            Kernel::Pointwise(key) => Self::of_pointwise(command, key, &dispatch.params),
            Kernel::Fused(key) => Self::of_fused(command, key, &dispatch.params),
            _ => None,
        }
    }

    fn of_pointwise(command: &Command, key: &Pointwise, params: &[u8]) -> Option<Self> {
        let dense: PointwiseParams = read_params(params)?;
        let (out, bounds) = command.bounds.split_first()?;
        if key.tensors().count() != bounds.len() || !key.common.is_float() {
            return None;
        }
        let periods = match key.layout {
            Layout::Linear | Layout::Fours => vec![0; bounds.len()],
            // Of what shares words, a chain writes whole ones.
            Layout::Strided | Layout::Gathered if key.output.is_wide() || key.layout == Layout::Gathered => {
                periods(&read_params(params)?, bounds.len())?
            }
            _ => return None,
        };
        let input = |((bound, dtype), (&offset, period)): ((&Bound, _), (&u32, u32))| Input {
            bound: bound.clone(),
            dtype,
            offset,
            period,
        };
        let places = dense.offsets[1..].iter().zip(periods);
        let inputs: Vec<Input> = bounds.iter().zip(key.tensors()).zip(places).map(input).collect();
        let (mut sources, mut next) = ([FusedSource::Input(0); 3], 0);
        for (place, source) in sources.iter_mut().enumerate().take(key.op.arity()) {
            if key.scalar.map(usize::from) == Some(place) {
                *source = FusedSource::Scalar(0);
            } else {
                *source = FusedSource::Input(next);
                next += 1;
            }
        }
        let step = FusedStep { op: key.op, common: key.common, output: key.output, sources };
        let scalars = if key.scalar.is_some() { vec![dense.scalars[0]] } else { Vec::new() };
        let chain = Self {
            steps: vec![step],
            inputs,
            scalars,
            out: out.clone(),
            offset: dense.offsets[0],
            count: dense.count,
        };
        chain.is_exact().then_some(chain)
    }

    fn of_fused(command: &Command, key: &Fused, params: &[u8]) -> Option<Self> {
        let params: FusedParams = read_params(params)?;
        let (out, bounds) = command.bounds.split_first()?;
        let inputs = key.inputs().zip(bounds).enumerate().map(|(at, (input, bound))| Input {
            bound: bound.clone(),
            dtype: input.dtype,
            offset: params.offsets[at + 1],
            period: if input.repeated { params.periods[at + 1] } else { 0 },
        });
        Some(Self {
            steps: key.steps().copied().collect(),
            inputs: inputs.collect(),
            scalars: params.scalars.to_vec(),
            out: out.clone(),
            offset: params.offsets[0],
            count: params.count,
        })
    }

    /// Whether the operands are what the parameters say, and what a chain's kernel can read and write.
    fn is_exact(&self) -> bool {
        let covers = |bound: &Bound, dtype: rivulet_kernels::DType, offset: u32, count: u32| {
            let size = u64::from(dtype.size());
            let start = bound.range.start + u64::from(offset) * size;
            bound.touched == ByteRange { start, end: start + u64::from(count) * size }
        };
        let Some(output) = self.steps.last().map(|step| step.output) else { return false };
        covers(&self.out, output, self.offset, self.count)
            && self.offset.is_multiple_of(output.lanes())
            && self.inputs.iter().all(|input| {
                let count = if input.period == 0 { self.count } else { input.period };
                covers(&input.bound, input.dtype, input.offset, count)
            })
    }

    /// This chain, then `next`, for which it makes the inputs for which `made` holds.
    fn then(&self, next: &Self, made: &[bool]) -> Option<Self> {
        let mut chain = self.clone();
        chain.scalars.truncate(scalars_of(&self.steps));
        let (first, scalars) = (self.steps.len() as u8, chain.scalars.len() as u8);
        let last = FusedSource::Step(first - 1);
        let mut places = Vec::new();
        for (input, &made) in next.inputs.iter().zip(made) {
            if made {
                places.push(last);
                continue;
            }
            let known = chain.inputs.iter().position(|own| own == input);
            places.push(FusedSource::Input(known.unwrap_or(chain.inputs.len()) as u8));
            if known.is_none() {
                chain.inputs.push(input.clone());
            }
        }
        for step in &next.steps {
            // What a step does not take is the same in all keys of one kernel.
            let mut sources = [FusedSource::Input(0); 3];
            for (to, source) in sources.iter_mut().zip(step.sources).take(step.op.arity()) {
                *to = match source {
                    FusedSource::Input(input) => places.get(usize::from(input)).copied().unwrap_or(last),
                    FusedSource::Step(step) => FusedSource::Step(step + first),
                    FusedSource::Scalar(scalar) => FusedSource::Scalar(scalar + scalars),
                };
            }
            chain.steps.push(FusedStep { sources, ..*step });
        }
        chain.scalars.extend_from_slice(&next.scalars[..scalars_of(&next.steps).min(next.scalars.len())]);
        (chain.out, chain.offset) = (next.out.clone(), next.offset);
        let fits = chain.steps.len() <= FUSED_STEPS
            && chain.inputs.len() <= FUSED_INPUTS
            && chain.scalars.len() <= FUSED_SCALARS;
        (fits && chain.may_write_in_place()).then_some(chain)
    }

    /// Whether each input that shares bytes with the output is read by whoever writes them, and before that.
    pub(super) fn may_write_in_place(&self) -> bool {
        let Some(output) = self.steps.last().map(|step| step.output) else { return false };
        self.inputs.iter().all(|input| {
            let apart = input.bound.slot != self.out.slot || !input.bound.touched.overlaps(self.out.touched);
            let same = input.bound.touched == self.out.touched && input.period == 0;
            apart || (same && input.dtype.size() == output.size())
        })
    }

    fn command(&self, draft: &Draft, like: &Command) -> Result<Option<Command>> {
        let inputs: Vec<_> = self
            .inputs
            .iter()
            .map(|input| FusedInput { dtype: input.dtype, repeated: input.period != 0 })
            .collect();
        let Some(key) = Fused::new(&self.steps, &inputs) else { return Ok(None) };
        let mut params = FusedParams { count: self.count, ..FusedParams::default() };
        params.offsets[0] = self.offset;
        for (at, input) in self.inputs.iter().enumerate() {
            (params.offsets[at + 1], params.periods[at + 1]) = (input.offset, input.period);
        }
        params.scalars.iter_mut().zip(&self.scalars).for_each(|(to, scalar)| *to = *scalar);
        let kernel = Kernel::Fused(key);
        let compiled = match pipeline(&draft.device, like.label, &kernel) {
            Ok(compiled) => compiled.clone(),
            Err(crate::Error::NoKernel { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = vec![0; size_of::<FusedParams>()];
        write_params(&mut bytes, &params);
        let dispatch = Dispatch {
            pipeline: compiled,
            kernel: Some(kernel),
            params: bytes,
            groups: key.groups(self.count),
        };
        let bounds = std::iter::once(&self.out).chain(self.inputs.iter().map(|input| &input.bound));
        Ok(Some(Command {
            label: like.label,
            group: like.group,
            bounds: bounds.cloned().collect(),
            work: Work::Dispatch(Box::new(dispatch)),
        }))
    }
}

/// Scalars that steps name.
fn scalars_of(steps: &[FusedStep]) -> usize {
    let sources = steps.iter().flat_map(|step| step.sources.into_iter().take(step.op.arity()));
    let scalar = |source| match source {
        FusedSource::Scalar(scalar) => usize::from(scalar) + 1,
        _ => 0,
    };
    sources.map(scalar).max().unwrap_or(0)
}

/// For each input after how many elements it begins again, where that is all that tells it from a dense one.
fn periods(params: &StridedParams, inputs: usize) -> Option<Vec<u32>> {
    let rank = params.dense.rank as usize;
    let dims = || params.shape.iter().zip(&params.strides).take(rank);
    // Over how many elements, innermost dimensions first, an operand is dense before its strides are 0.
    let period = |operand: usize| {
        let (mut covered, mut repeats) = (1_u32, false);
        for (&size, strides) in dims() {
            match strides[operand] {
                0 => repeats = true,
                stride if !repeats && stride == covered as i32 => covered = covered.checked_mul(size)?,
                _ => return None,
            }
        }
        Some(if repeats { covered } else { 0 })
    };
    (period(0)? == 0).then_some(())?;
    (1..=inputs).map(period).collect()
}

/// Puts pointwise commands together as long as there are any that fit.
pub(super) fn join(draft: &mut Draft) -> Result<()> {
    let mut at = 0;
    while at < draft.commands.len() {
        match joined(draft, at)? {
            Some((first, place, command)) => {
                draft
                    .fusions
                    .push(format!("{} after {}", draft.commands[at].label, draft.commands[first].label));
                draft.commands[place] = command;
                let gone = if place == at { first } else { at };
                draft.commands.remove(gone);
                // The one that came of it may have another before it.
                at = if place == at { at - 1 } else { place };
            }
            None => at += 1,
        }
    }
    Ok(())
}

fn joined(draft: &Draft, at: usize) -> Result<Option<(usize, usize, Command)>> {
    let Some(own) = Chain::of(&draft.commands[at]) else { return Ok(None) };
    for input in own.inputs.iter().filter(|input| input.period == 0) {
        let Some(first) = producer(draft, at, &own.out, &input.bound) else { continue };
        let Some(before) = Chain::of(&draft.commands[first]) else { continue };
        if before.count != own.count || before.steps.last().map(|step| step.output) != Some(input.dtype) {
            continue;
        }
        let made: Vec<bool> = own.inputs.iter().map(|other| other == input).collect();
        // What is read in another way than dense would be gone.
        let otherwise = |(other, made): (&Input, &bool)| {
            !made && other.bound.slot == input.bound.slot && other.bound.touched.overlaps(input.bound.touched)
        };
        if own.inputs.iter().zip(&made).any(otherwise) {
            continue;
        }
        let Some(chain) = before.then(&own, &made) else { continue };
        let Some(place) = place(draft, first, at, &chain) else { continue };
        if let Some(command) = chain.command(draft, &draft.commands[at])? {
            return Ok(Some((first, place, command)));
        }
    }
    Ok(None)
}

/// Where in the order two commands can be one: where everything that the chain reads is as it was, and nobody in between
/// touches what it writes.
fn place(draft: &Draft, first: usize, at: usize, chain: &Chain) -> Option<usize> {
    let between = first + 1..at;
    let written = chain
        .inputs
        .iter()
        .any(|input| draft.written_by(between.clone(), input.bound.slot, input.bound.touched));
    if written {
        return None;
    }
    // At the second's place its result is written when it always was; what the first wrote nobody reads.
    Some(at)
}
