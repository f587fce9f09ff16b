//! Commands put together.
//!
//! Every pass looks at typed keys and exact ranges of bytes, and changes nothing that is not proved from them: that nobody
//! else reads what disappears, and that nobody writes what is read at another time than before.

mod attention;
mod attention_out;
mod chains;
mod copies;
mod norms;
mod product;
mod rms;
mod strides;
mod tails;

use super::command::{Bound, Command, Dispatch, SlotId, Work};
use super::compile::Draft;
use crate::error::{Error, Result};
use crate::ops::DType;
use crate::ops::launch::pipeline;
use bytemuck::{AnyBitPattern, NoUninit};
use rivulet_hal::ByteRange;
use rivulet_kernels::params::PointwiseParams;
use rivulet_kernels::{Kernel, Pointwise};

/// All passes.
///
/// # Errors
/// What compiling a kernel says, but for those that the device has none of.
pub(super) fn fuse(draft: &mut Draft) -> Result<()> {
    copies::drop_copies(draft);
    attention::take_attention(draft)?;
    attention_out::take_copies(draft)?;
    rms::take_norms(draft)?;
    product::take_biases(draft)?;
    product::take_activations(draft)?;
    norms::forget_statistics(draft)?;
    norms::take_sums(draft)?;
    product::take_residuals(draft)?;
    chains::join(draft)?;
    tails::take_tails(draft)?;
    draft.drop_unread();
    Ok(())
}

/// The first bytes of the parameters.
fn read_params<P: AnyBitPattern>(params: &[u8]) -> Option<P> {
    params.get(..size_of::<P>()).map(bytemuck::pod_read_unaligned)
}

fn write_params<P: NoUninit>(params: &mut [u8], value: &P) {
    if let Some(place) = params.get_mut(..size_of::<P>()) {
        place.copy_from_slice(bytemuck::bytes_of(value));
    }
}

/// Whether two bounds share bytes.
fn overlap(one: &Bound, other: &Bound) -> bool {
    one.slot == other.slot && one.touched.overlaps(other.touched)
}

/// A pointwise command all of whose operands are dense.
struct Dense<'c> {
    key: &'c Pointwise,
    params: PointwiseParams,
    out: &'c Bound,
    inputs: &'c [Bound],
}

/// The command as a pointwise one on dense operands that touches exactly the bytes of its elements.
fn dense(command: &Command) -> Option<Dense<'_>> {
    let Work::Dispatch(dispatch) = &command.work else { return None };
    let Some(Kernel::Pointwise(key)) = &dispatch.kernel else { return None };
    let params: PointwiseParams = read_params(&dispatch.params)?;
    let (out, inputs) = command.bounds.split_first()?;
    let exact = |bound: &Bound, dtype: DType, offset: u32| {
        let (size, count) = (u64::from(dtype.size()), u64::from(params.count));
        let start = bound.range.start + u64::from(offset) * size;
        bound.touched == ByteRange { start, end: start + count * size }
    };
    let whole = !key.layout.is_strided()
        && exact(out, key.output, params.offsets[0])
        && key.tensors().count() == inputs.len()
        && key
            .tensors()
            .zip(inputs)
            .zip(&params.offsets[1..])
            .all(|((dtype, bound), &offset)| exact(bound, dtype, offset));
    whole.then_some(Dense { key, params, out, inputs })
}

impl Draft {
    /// Whether a command is the only one of its group.
    fn is_alone(&self, at: usize) -> bool {
        let group = self.commands[at].group;
        self.commands.iter().filter(|command| command.group == group).count() == 1
    }

    /// The last command before `at` that writes any of these bytes.
    fn writer(&self, at: usize, slot: SlotId, touched: ByteRange) -> Option<usize> {
        self.commands[..at].iter().rposition(|command| {
            command.writes().any(|bound| bound.slot == slot && bound.touched.overlaps(touched))
        })
    }

    /// Whether any of these commands touches bytes of a slot.
    fn touched_by(&self, commands: std::ops::Range<usize>, slot: SlotId, touched: ByteRange) -> bool {
        let touches = |bound: &Bound| bound.slot == slot && bound.touched.overlaps(touched);
        self.commands[commands].iter().any(|command| command.bounds.iter().any(touches))
    }

    /// Whether any of these commands writes bytes of a slot.
    fn written_by(&self, commands: std::ops::Range<usize>, slot: SlotId, touched: ByteRange) -> bool {
        let writes = |bound: &Bound| bound.slot == slot && bound.touched.overlaps(touched);
        self.commands[commands].iter().any(|command| command.writes().any(writes))
    }

    /// A command like `command` with another kernel. `None` where the device has no such kernel.
    fn with_kernel(&self, command: &Command, kernel: Kernel) -> Result<Option<Dispatch>> {
        let Work::Dispatch(dispatch) = &command.work else { return Ok(None) };
        match pipeline(&self.device, command.label, &kernel) {
            Ok(compiled) => Ok(Some(Dispatch {
                pipeline: compiled.clone(),
                kernel: Some(kernel),
                params: dispatch.params.clone(),
                groups: dispatch.groups,
            })),
            Err(Error::NoKernel { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
