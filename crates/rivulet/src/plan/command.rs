//! Commands as a noting keeps them.

use crate::ops::DType;
use rivulet_hal::sync::Arc;
use rivulet_hal::{ByteRange, Pipeline};
use rivulet_kernels::Kernel;
use smallvec::SmallVec;

/// Memory that commands name: a place in the noting's list of slots.
pub(super) type SlotId = u32;

/// Bytes of a slot that a command names, counted from the slot's first byte.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bound {
    pub(super) slot: SlotId,
    /// What the driver is told; the kernel counts its elements from the first of these.
    pub(super) range: ByteRange,
    /// What is read or written; inside `range`.
    pub(super) touched: ByteRange,
    pub(super) write: bool,
    /// Type of the elements, where the command is a kernel's of [`crate::ops`].
    pub(super) dtype: Option<DType>,
}

impl Bound {
    /// Whether the order of the two matters.
    pub(super) fn conflicts(&self, other: &Self) -> bool {
        self.slot == other.slot && (self.write || other.write) && self.touched.overlaps(other.touched)
    }
}

/// A kernel with its parameters.
#[derive(Clone, Debug)]
pub(super) struct Dispatch {
    pub(super) pipeline: Arc<dyn Pipeline>,
    /// What it was compiled from, where it is one of [`crate::ops`].
    pub(super) kernel: Option<Kernel>,
    pub(super) params: Vec<u8>,
    pub(super) groups: [u32; 3],
}

/// What a command does with its bounds.
#[derive(Clone, Debug)]
pub(super) enum Work {
    /// The bounds are the operands, in binding order.
    Dispatch(Box<Dispatch>),
    /// The first bound gets the bytes of the second.
    Copy,
    /// The bound is filled with a word.
    Fill(u32),
}

/// One command.
#[derive(Clone, Debug)]
pub(super) struct Command {
    /// The op that recorded it.
    pub(super) label: &'static str,
    /// Commands of one group were recorded in no order among each other.
    pub(super) group: u32,
    pub(super) bounds: SmallVec<[Bound; 4]>,
    pub(super) work: Work,
}

impl Command {
    pub(super) fn writes(&self) -> impl Iterator<Item = &Bound> {
        self.bounds.iter().filter(|bound| bound.write)
    }

    /// The kernel, where it is one of [`crate::ops`].
    pub(super) fn kernel(&self) -> Option<&Kernel> {
        match &self.work {
            Work::Dispatch(dispatch) => dispatch.kernel.as_ref(),
            Work::Copy | Work::Fill(_) => None,
        }
    }

    /// First byte of the seed among the parameters, where the command makes random numbers.
    pub(super) fn seed(&self) -> Option<usize> {
        match self.kernel() {
            Some(Kernel::Pointwise(key)) if key.op.is_random() => {
                Some(std::mem::offset_of!(rivulet_kernels::params::PointwiseParams, scalars))
            }
            _ => None,
        }
    }

    /// A name for reports.
    pub(super) fn describe(&self) -> String {
        match &self.work {
            Work::Dispatch(dispatch) => dispatch.pipeline.label().to_owned(),
            Work::Copy => "copy".to_owned(),
            Work::Fill(_) => "fill".to_owned(),
        }
    }
}
