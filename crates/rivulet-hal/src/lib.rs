//! The driver layer: what a compute runtime needs of a GPU, and nothing for graphics.
//!
//! A [`Device`] hands out [`Memory`], [`Pipeline`]s, [`Timeline`]s and [`Recorder`]s. A recorder belongs to one
//! thread at a time (`Send`, not `Sync`) and is consumed by [`Recorder::finish`]; finished command buffers are
//! executed by [`Device::submit`] on one of the device's few hardware queues. Ordering between queues exists
//! only where a [`Submission`] waits for a timeline value; ordering inside a command buffer only where a
//! [`Recorder::barrier`] was recorded. The layers above decide when either is needed.
//!
//! Drivers, with the same file names in each folder:
//!
//! | module | runs on | work completes |
//! |---|---|---|
//! | [`host`] | the CPU's memory | inline, inside `submit` |
//! | [`sim`] | a simulated GPU, for tests | late, out of step, with faults on demand |
//! | `vulkan` | GPUs with Vulkan 1.2 or newer | on the GPU |
//! | `metal` | Apple GPUs; [`metal::model`] runs its call sequence anywhere | on the GPU |
//!
//! # Who checks what
//!
//! A driver reports what its caller cannot foresee (memory, device loss) as [`HalError`]. Misuse of the API
//! (a range outside its memory, an unknown queue) is an error too, [`HalError::Usage`], never a panic.

pub mod host;
#[cfg(not(loom))]
pub mod metal;
pub mod sim;
pub mod sync;
pub mod thread;
#[cfg(not(loom))]
pub mod vulkan;

mod capture;
mod cpu;
mod error;
#[cfg(not(loom))]
mod spin;
pub use capture::{Capture, CaptureError};
pub use cpu::{copy_bytes, read_bytes, write_bytes};
pub use error::{HalError, SubmitFailure};

use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

/// Which driver family an adapter belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backend {
    /// The CPU's own memory; work completes inline.
    Host,
    /// The simulated GPU of the tests.
    Sim,
    /// A Vulkan device.
    Vulkan,
    /// An Apple GPU.
    Metal,
}

/// What kind of machine an adapter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AdapterClass {
    /// The CPU, or a GPU that it simulates.
    Cpu,
    /// A GPU on the CPU's chip or beside it, with the same memory.
    Integrated,
    /// A card with memory of its own.
    Discrete,
    /// A GPU that a virtual machine offers.
    Virtual,
}

/// What an adapter is and can do. Fixed for the life of a device.
#[derive(Clone, Debug)]
pub struct AdapterInfo {
    /// Human-readable name, as the driver gives it.
    pub name: String,
    /// Driver family.
    pub backend: Backend,
    /// Kind of machine.
    pub class: AdapterClass,
    /// Driver name and version, for reports.
    pub driver: String,
    /// Hardware queues that the runtime should use (already chosen, not the driver's count).
    pub queues: usize,
    /// True where the CPU and the device read the same bytes, so that a host access copies nothing. Elsewhere memory for
    /// tensors has a [mirror](Memory::mirror).
    pub unified_memory: bool,
    /// True where submitted work is complete when `submit` returns.
    pub inline_completion: bool,
    /// Bytes the device can sensibly hold.
    pub memory_bytes: u64,
    /// Largest single allocation in bytes.
    pub max_allocation: u64,
    /// Largest range of bytes one binding may cover.
    pub max_binding: u64,
    /// True where kernels may compute in float64.
    pub float64: bool,
    /// What kernels may use beyond 32-bit integers and floats.
    pub shader: ShaderFeatures,
}

/// What a device offers to its kernels. All false where kernels are Rust functions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShaderFeatures {
    /// 64-bit integers.
    pub int64: bool,
    /// 16-bit integers and floats in arithmetic.
    pub half: bool,
    /// A kernel may ask that NaN, infinities and the sign of zero are kept in float32.
    pub preserve_nan_f32: bool,
    /// A kernel may ask that subnormal numbers are kept in float32; without asking, they may become 0.
    pub preserve_subnormals_f32: bool,
    /// A kernel may ask for rounding to nearest even in float16.
    pub round_even_f16: bool,
    /// Subgroups of 32 multiply 16 x 16 matrices of float16 with sums in float32, under the Vulkan memory model.
    pub cooperative_f16: bool,
    /// The same of bfloat16.
    pub cooperative_bf16: bool,
    /// Products of 8 x 8 matrices that a subgroup of 32 holds together: Metal's simdgroup matrices.
    pub simd_matrix: bool,
    /// Processors that workgroups are shared out to, where the driver tells.
    pub processors: Option<u32>,
}

/// What a piece of memory is for; a driver picks its heap from this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemoryUsage {
    /// Tensor storage: device-local, host-visible where that costs nothing.
    Device,
    /// CPU writes, GPU reads.
    Upload,
    /// GPU writes, CPU reads (cached on the CPU side).
    Readback,
}

/// A contiguous allocation. Freed when the last `Arc` goes; the runtime keeps it alive until every
/// submission that names it has completed.
pub trait Memory: Send + Sync + std::fmt::Debug {
    /// Size in bytes.
    fn size(&self) -> u64;
    /// A stable, process-unique address range `[address, address + size)`. Where the memory is host-visible
    /// this is the pointer itself.
    fn address(&self) -> usize;
    /// The bytes as the CPU sees them, where it can.
    fn host_ptr(&self) -> Option<NonNull<u8>>;
    /// Announces that the CPU is about to touch `range` and makes device writes visible to it
    /// (invalidate). The caller has waited for every conflicting submission; the sim reports a fault
    /// where that is not so.
    ///
    /// # Errors
    /// [`HalError::Race`] on the sim, [`HalError::Usage`] for a range outside the memory.
    fn begin_host_access(&self, range: ByteRange, write: bool) -> Result<(), HalError>;
    /// Ends the access announced before and makes CPU writes visible to the device (flush).
    ///
    /// # Errors
    /// As [`Memory::begin_host_access`].
    fn end_host_access(&self, range: ByteRange, write: bool) -> Result<(), HalError>;
    /// The CPU's own copy of the bytes, [`Memory::size`] of them at [`Memory::address`], where the device's are out of
    /// its sight: a *mirror*. Zero until written; nothing moves between the two copies but what the caller moves.
    fn mirror(&self) -> Option<NonNull<u8>> {
        None
    }
    /// Gives the mirror's pages that lie wholly inside `range` back to the system; their bytes are zero from then on.
    /// Nobody else may touch the mirror's range meanwhile. Nothing where there is no mirror.
    ///
    /// # Errors
    /// [`HalError::Usage`] for a range outside the memory.
    fn release_mirror(&self, range: ByteRange) -> Result<(), HalError> {
        cpu::check_range(range, self.size(), "release_mirror")
    }
    /// Downcast for the driver that made it.
    fn as_any(&self) -> &dyn std::any::Any;
}

/// Half-open range of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ByteRange {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

impl ByteRange {
    /// Number of bytes.
    pub const fn len(self) -> u64 {
        self.end - self.start
    }

    /// True where no byte is covered.
    pub const fn is_empty(self) -> bool {
        self.end <= self.start
    }

    /// True where the two ranges share a byte.
    pub const fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }
}

/// A range of one memory.
#[derive(Clone, Debug)]
pub struct BufferRange {
    /// The memory.
    pub memory: Arc<dyn Memory>,
    /// Bytes inside it.
    pub range: ByteRange,
}

/// One operand of a dispatch.
#[derive(Clone, Debug)]
pub struct Binding {
    /// Bytes bound.
    pub buffer: BufferRange,
    /// True where the kernel may write them.
    pub write: bool,
}

/// One operand of a dispatch, borrowed: what a caller that holds the memory anyway binds without counting references.
#[derive(Clone, Copy, Debug)]
pub struct Operand<'m> {
    /// The memory.
    pub memory: &'m Arc<dyn Memory>,
    /// Bytes bound.
    pub range: ByteRange,
    /// True where the kernel may write them.
    pub write: bool,
}

impl Operand<'_> {
    /// The bytes, with a reference of its own.
    pub fn buffer(&self) -> BufferRange {
        BufferRange { memory: Arc::clone(self.memory), range: self.range }
    }
}

impl Binding {
    /// The same, borrowed.
    pub fn operand(&self) -> Operand<'_> {
        Operand { memory: &self.buffer.memory, range: self.buffer.range, write: self.write }
    }
}

/// A monotonic counter that device and CPU can wait for and signal.
pub trait Timeline: Send + Sync + std::fmt::Debug {
    /// Highest value reached, read with Acquire: what the device wrote before signalling it is visible.
    ///
    /// # Errors
    /// [`HalError::DeviceLost`].
    fn completed(&self) -> Result<u64, HalError>;
    /// Blocks until `value` is reached or `timeout` has passed; true where it was reached.
    ///
    /// # Errors
    /// [`HalError::DeviceLost`].
    fn wait(&self, value: u64, timeout: Duration) -> Result<bool, HalError>;
    /// Advances the counter from the CPU.
    ///
    /// # Errors
    /// [`HalError::Usage`] where `value` is not above the current one, [`HalError::DeviceLost`].
    fn signal(&self, value: u64) -> Result<(), HalError>;
    /// Downcast for the driver that made it.
    fn as_any(&self) -> &dyn std::any::Any;
}

/// A compiled kernel.
pub trait Pipeline: Send + Sync + std::fmt::Debug {
    /// Name for reports and error labels.
    fn label(&self) -> &str;
    /// Downcast for the driver that made it.
    fn as_any(&self) -> &dyn std::any::Any;
}

/// A kernel written in Rust, for the host and sim drivers: operand bytes in binding order, parameter bytes, and
/// the dispatch size in workgroups.
pub type HostKernel = fn(operands: &mut [&mut [u8]], params: &[u8], groups: [u32; 3]);

/// Where a pipeline's code comes from.
#[derive(Clone, Debug)]
pub enum PipelineSource {
    /// SPIR-V words, entry point `main`.
    SpirV(Vec<u32>),
    /// Metal Shading Language text and entry point.
    Msl {
        /// Source text.
        text: String,
        /// Name of the kernel function.
        entry: String,
        /// Bytes of each argument in threadgroup memory, in order; the driver gives the kernel as many.
        threadgroup: Vec<u32>,
    },
    /// A Rust function (host and sim only).
    Host(HostKernel),
}

/// Everything a driver needs to compile a kernel.
#[derive(Clone, Debug)]
pub struct PipelineDesc {
    /// Name for reports and error labels.
    pub label: String,
    /// The code.
    pub source: PipelineSource,
    /// Number of buffer bindings.
    pub bindings: u32,
    /// Bytes of parameters passed with each dispatch.
    pub param_bytes: u32,
    /// Threads of one workgroup.
    pub workgroup: [u32; 3],
}

/// Records commands; used by one thread at a time.
pub trait Recorder: Send + std::fmt::Debug {
    /// Copies `src` to `dst`; equal lengths.
    ///
    /// # Errors
    /// [`HalError::Usage`].
    fn copy(&mut self, src: &BufferRange, dst: &BufferRange) -> Result<(), HalError>;
    /// Fills `dst` with a repeated 32-bit word; length and offset are multiples of 4.
    ///
    /// # Errors
    /// [`HalError::Usage`].
    fn fill(&mut self, dst: &BufferRange, word: u32) -> Result<(), HalError>;
    /// Runs a kernel on `operands`, in the order of its bindings.
    ///
    /// # Errors
    /// [`HalError::Usage`].
    fn dispatch_on(
        &mut self,
        pipeline: &Arc<dyn Pipeline>,
        operands: &[Operand<'_>],
        params: &[u8],
        groups: [u32; 3],
    ) -> Result<(), HalError>;
    /// As [`Recorder::dispatch_on`].
    ///
    /// # Errors
    /// [`HalError::Usage`].
    fn dispatch(
        &mut self,
        pipeline: &Arc<dyn Pipeline>,
        bindings: &[Binding],
        params: &[u8],
        groups: [u32; 3],
    ) -> Result<(), HalError> {
        let operands: Vec<_> = bindings.iter().map(Binding::operand).collect();
        self.dispatch_on(pipeline, &operands, params, groups)
    }
    /// Orders every earlier command of this recorder before every later one, and makes its writes visible.
    ///
    /// # Errors
    /// [`HalError::DeviceLost`].
    fn barrier(&mut self) -> Result<(), HalError>;
    /// Writes the device clock, in nanoseconds, when all earlier commands are done. The slot is read with
    /// [`CommandBuffer::timestamp`] after completion.
    ///
    /// # Errors
    /// [`HalError::Usage`] where the device has no clock.
    fn timestamp(&mut self) -> Result<TimestampSlot, HalError>;
    /// Number of commands recorded so far, barriers excluded.
    fn len(&self) -> usize;
    /// True where nothing was recorded.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Closes the recorder.
    ///
    /// # Errors
    /// [`HalError::DeviceLost`], [`HalError::OutOfMemory`].
    fn finish(self: Box<Self>) -> Result<Arc<dyn CommandBuffer>, HalError>;
}

/// Index of a timestamp inside its command buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampSlot(pub u32);

/// Closed commands, ready to be submitted once.
pub trait CommandBuffer: Send + Sync + std::fmt::Debug {
    /// Device time of a timestamp in nanoseconds; `None` until the submission has completed.
    fn timestamp(&self, slot: TimestampSlot) -> Option<u64>;
    /// Downcast for the driver that made it.
    fn as_any(&self) -> &dyn std::any::Any;
}

/// A value of a timeline.
#[derive(Clone, Debug)]
pub struct TimelinePoint {
    /// The timeline.
    pub timeline: Arc<dyn Timeline>,
    /// The value waited for or signalled.
    pub value: u64,
}

/// One unit of [`Device::submit`]: waits, then commands, then a signal. Submissions of one queue start in
/// order; nothing else orders them.
#[derive(Debug)]
pub struct Submission {
    /// Executed in order; may be empty.
    pub commands: Vec<Arc<dyn CommandBuffer>>,
    /// All must be reached before the commands start. Only values whose signal is already submitted
    /// (or that the CPU has promised) may be named: a queue is in-order, so anything else can deadlock.
    pub waits: Vec<TimelinePoint>,
    /// Signalled when the commands are complete and their writes are visible.
    pub signal: TimelinePoint,
    /// Name of the first op, for fault reports.
    pub label: String,
}

/// A hardware queue of a device: `0..AdapterInfo::queues`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueIndex(pub usize);

/// An opened adapter. All methods may be called from any thread at any time.
pub trait Device: Send + Sync + std::fmt::Debug {
    /// What this device is.
    fn info(&self) -> &AdapterInfo;
    /// What the first byte of a dispatch's operand is a multiple of: a power of two, at most 256.
    fn operand_alignment(&self) -> u64 {
        256
    }
    /// Allocates at least `bytes` (> 0), aligned to 256 bytes or better.
    ///
    /// # Errors
    /// [`HalError::OutOfMemory`], [`HalError::DeviceLost`].
    fn allocate(&self, bytes: u64, usage: MemoryUsage) -> Result<Arc<dyn Memory>, HalError>;
    /// Makes a timeline that starts at 0.
    ///
    /// # Errors
    /// [`HalError::OutOfMemory`], [`HalError::DeviceLost`].
    fn timeline(&self) -> Result<Arc<dyn Timeline>, HalError>;
    /// Compiles a kernel. May take milliseconds; hold no lock across it.
    ///
    /// # Errors
    /// [`HalError::Compile`], [`HalError::OutOfMemory`], [`HalError::DeviceLost`].
    fn pipeline(&self, desc: &PipelineDesc) -> Result<Arc<dyn Pipeline>, HalError>;
    /// Keeps what was compiled for later processes, where the driver can and was told where. May take milliseconds; the
    /// driver also does it by itself from time to time, and when the device is dropped.
    fn save_pipelines(&self) {}
    /// True where a layer looks for conflicts of commands: what a kernel is bound to then counts as touched.
    fn is_validated(&self) -> bool {
        false
    }
    /// The driver's captures, where it has any.
    fn capture(&self) -> Option<&dyn Capture> {
        None
    }
    /// Opens a recorder whose commands will run on `queue`.
    ///
    /// # Errors
    /// [`HalError::OutOfMemory`], [`HalError::DeviceLost`].
    fn recorder(&self, queue: QueueIndex) -> Result<Box<dyn Recorder>, HalError>;
    /// Hands work to a queue, in order. Calls for one queue must not overlap; the runtime's combiner sees to
    /// that.
    ///
    /// # Errors
    /// [`SubmitFailure`]: how many submissions of `work` were accepted before the failure. Those run; the rest
    /// do not and their timelines are not signalled.
    fn submit(&self, queue: QueueIndex, work: Vec<Submission>) -> Result<(), SubmitFailure>;
}

/// False where this machine has no GPU: no driver has to be loaded to know that. Looks for the device files that a
/// system's kernel makes for one; true on systems whose kernel makes none.
pub fn may_have_gpu() -> bool {
    if !cfg!(target_os = "linux") {
        return true;
    }
    ["/dev/dri", "/dev/nvidiactl", "/dev/dxg", "/dev/kgsl-3d0", "/dev/mali0"]
        .iter()
        .any(|file| std::path::Path::new(file).exists())
}

/// Adapters that can be opened on this machine: the host's, then Metal's, then those of Vulkan, best first. Loads the
/// drivers that there are, but opens no device.
pub fn adapters() -> Vec<AdapterInfo> {
    let found = std::iter::once(host::info());
    #[cfg(all(target_os = "macos", not(loom)))]
    let found = found.chain(metal::adapters());
    #[cfg(not(loom))]
    let found = found.chain(vulkan::adapters());
    found.collect()
}
