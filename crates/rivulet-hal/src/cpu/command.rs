//! Recorded commands and how the CPU runs them.

use super::{Kernel, check_copy, check_fill, check_range, now_ns};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::{ByteRange, HalError, HostKernel, TimestampSlot};
use std::ptr::NonNull;

/// Bytes of one memory, kept alive by `owner`.
#[derive(Clone, Debug)]
pub(crate) struct Span<K> {
    pub(crate) owner: K,
    pub(crate) range: ByteRange,
    /// First byte of `range`.
    start: NonNull<u8>,
}

// SAFETY: the pointer is as good on any thread, because the owner keeps the bytes mapped; who may touch them when
// is the contract of `Device::submit`.
unsafe impl<K: Send> Send for Span<K> {}
// SAFETY: as above; `&Span` gives no access to the bytes.
unsafe impl<K: Sync> Sync for Span<K> {}

impl<K> Span<K> {
    /// `range` of the `size` bytes at `base`, which `owner` keeps mapped.
    pub(crate) fn new(owner: K, base: NonNull<u8>, size: u64, range: ByteRange) -> Result<Self, HalError> {
        check_range(range, size, "command")?;
        let offset = usize::try_from(range.start)
            .map_err(|_| HalError::Usage(format!("command: offset {} has no address", range.start)))?;
        // SAFETY: `offset <= range.end <= size`, checked above, and the owner holds `size` bytes at `base`.
        let start = unsafe { base.add(offset) };
        Ok(Self { owner, range, start })
    }

    fn len(&self) -> usize {
        // Fits: the range lies inside mapped memory.
        self.range.len() as usize
    }

    fn overlaps(&self, other: &Self) -> bool {
        let (mine, theirs) = (self.start.addr().get(), other.start.addr().get());
        mine < theirs + other.len() && theirs < mine + self.len()
    }

    /// # Safety
    /// For as long as the slice lives, nothing else may touch the bytes.
    #[allow(clippy::mut_from_ref, reason = "the span is an address, not the owner of the bytes")]
    unsafe fn bytes_mut(&self) -> &mut [u8] {
        // SAFETY: `new` checked that the range is inside the owner's mapping, whose bytes are initialised;
        // exclusiveness is the caller's.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len()) }
    }
}

/// Cells for the timestamps of one command buffer; 0 means not written yet.
#[derive(Debug)]
pub(crate) struct Timestamps(Box<[AtomicU64]>);

impl Timestamps {
    pub(crate) fn write(&self, slot: u32) {
        if let Some(cell) = self.0.get(slot as usize) {
            cell.store(now_ns().max(1), Ordering::Release);
        }
    }

    pub(crate) fn read(&self, slot: TimestampSlot) -> Option<u64> {
        let value = self.0.get(slot.0 as usize)?.load(Ordering::Acquire);
        (value != 0).then_some(value)
    }
}

/// One recorded command.
#[derive(Debug)]
pub(crate) enum Command<K> {
    /// Work on memory.
    Op(Op<K>),
    /// Earlier work before later work.
    Barrier,
    /// The clock goes into this slot.
    Timestamp(u32),
}

/// A command that touches memory.
#[derive(Debug)]
pub(crate) enum Op<K> {
    Copy { src: Span<K>, dst: Span<K> },
    Fill { dst: Span<K>, word: u32 },
    Dispatch { kernel: Kernel, operands: Vec<(Span<K>, bool)>, params: Box<[u8]>, groups: [u32; 3] },
}

impl<K> Op<K> {
    /// Name for reports.
    pub(crate) fn label(&self) -> &str {
        match self {
            Self::Copy { .. } => "copy",
            Self::Fill { .. } => "fill",
            Self::Dispatch { kernel, .. } => &kernel.label,
        }
    }

    /// Calls `visit` with each span and whether it is written.
    pub(crate) fn for_each_access(&self, mut visit: impl FnMut(&Span<K>, bool)) {
        match self {
            Self::Copy { src, dst } => {
                visit(src, false);
                visit(dst, true);
            }
            Self::Fill { dst, .. } => visit(dst, true),
            Self::Dispatch { operands, .. } => operands.iter().for_each(|(span, write)| visit(span, *write)),
        }
    }

    /// Does the work on the calling thread. A panicking kernel is an error that names it.
    pub(crate) fn run(&self) -> Result<(), HalError> {
        match self {
            Self::Copy { src, dst } => {
                // SAFETY: both spans lie inside memory that their owners keep mapped and have equal lengths
                // (checked at recording); `copy` allows them to overlap. Other accesses are kept away by the
                // caller of `Device::submit`.
                unsafe { std::ptr::copy(src.start.as_ptr(), dst.start.as_ptr(), dst.len()) };
                Ok(())
            }
            Self::Fill { dst, word } => {
                // SAFETY: this command is the only user of the bytes while it runs, by the contract of
                // `Device::submit`.
                let bytes = unsafe { dst.bytes_mut() };
                bytes.chunks_exact_mut(4).for_each(|chunk| chunk.copy_from_slice(&word.to_ne_bytes()));
                Ok(())
            }
            Self::Dispatch { kernel, operands, params, groups } => {
                dispatch(kernel.function, operands, params, *groups)
                    .map_err(|why| HalError::Usage(format!("kernel {} panicked: {why}", kernel.label)))
            }
        }
    }
}

/// A kernel gets exclusive slices, so an operand that is only read and shares bytes with another one is handed over
/// as a copy. Two written operands never share bytes (refused at recording).
fn dispatch<K>(
    kernel: HostKernel,
    operands: &[(Span<K>, bool)],
    params: &[u8],
    groups: [u32; 3],
) -> Result<(), String> {
    let shared = |index: usize| {
        let (span, write) = &operands[index];
        !write && operands.iter().enumerate().any(|(other, (with, _))| other != index && span.overlaps(with))
    };
    let mut copies: Vec<Option<Vec<u8>>> = (0..operands.len())
        .map(|index| {
            // SAFETY: nobody writes the bytes while the command runs but the kernel, which has not started; the
            // slice ends here.
            shared(index).then(|| unsafe { operands[index].0.bytes_mut() }.to_vec())
        })
        .collect();
    let mut slices: Vec<&mut [u8]> = operands
        .iter()
        .zip(&mut copies)
        .map(|((span, _), copy)| match copy {
            Some(copy) => copy.as_mut_slice(),
            // SAFETY: overlaps no other operand that was not copied, and commands that conflict do not run at
            // the same time by the contract of `Device::submit`.
            None => unsafe { span.bytes_mut() },
        })
        .collect();
    let run = std::panic::AssertUnwindSafe(|| kernel(&mut slices, params, groups));
    std::panic::catch_unwind(run).map_err(|payload| {
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
    })
}

/// Commands as they are recorded, checked one by one.
#[derive(Debug)]
pub(crate) struct Recording<K> {
    pub(crate) commands: Vec<Command<K>>,
    ops: usize,
    timestamps: u32,
}

impl<K> Recording<K> {
    pub(crate) fn new() -> Self {
        Self { commands: Vec::new(), ops: 0, timestamps: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.ops
    }

    pub(crate) fn copy(&mut self, src: Span<K>, dst: Span<K>) -> Result<(), HalError> {
        check_copy(src.range, dst.range, src.overlaps(&dst))?;
        self.push(Op::Copy { src, dst });
        Ok(())
    }

    pub(crate) fn fill(&mut self, dst: Span<K>, word: u32) -> Result<(), HalError> {
        check_fill(dst.range)?;
        self.push(Op::Fill { dst, word });
        Ok(())
    }

    pub(crate) fn dispatch(
        &mut self,
        kernel: &Kernel,
        operands: Vec<(Span<K>, bool)>,
        params: &[u8],
        groups: [u32; 3],
    ) -> Result<(), HalError> {
        let Kernel { label, bindings, param_bytes, .. } = kernel;
        if operands.len() != *bindings as usize {
            let text = format!("kernel {label}: {} bindings given, it has {bindings}", operands.len());
            return Err(HalError::Usage(text));
        }
        if params.len() != *param_bytes as usize {
            let text =
                format!("kernel {label}: {} parameter bytes given, it takes {param_bytes}", params.len());
            return Err(HalError::Usage(text));
        }
        for (index, (span, write)) in operands.iter().enumerate() {
            let clash = operands[..index]
                .iter()
                .position(|(other, theirs)| *write && *theirs && span.overlaps(other));
            if let Some(other) = clash {
                let text =
                    format!("kernel {label}: bindings {other} and {index} are both written and share bytes");
                return Err(HalError::Usage(text));
            }
        }
        self.push(Op::Dispatch { kernel: kernel.clone(), operands, params: params.into(), groups });
        Ok(())
    }

    pub(crate) fn barrier(&mut self) {
        self.commands.push(Command::Barrier);
    }

    pub(crate) fn timestamp(&mut self) -> TimestampSlot {
        let slot = self.timestamps;
        self.timestamps += 1;
        self.ops += 1;
        self.commands.push(Command::Timestamp(slot));
        TimestampSlot(slot)
    }

    pub(crate) fn timestamps(&self) -> Timestamps {
        Timestamps((0..self.timestamps).map(|_| AtomicU64::new(0)).collect())
    }

    fn push(&mut self, op: Op<K>) {
        self.ops += 1;
        self.commands.push(Command::Op(op));
    }
}
