//! The calls of Metal that the driver makes, as traits: one side is Metal itself, the other a [model](super::model) of
//! its rules that runs anywhere.
//!
//! The shape of these traits keeps the commonest misuse from compiling. A command buffer lives on the stack of the
//! thread that made it and cannot be sent away; an encoder borrows it, so that neither a second encoder nor a commit
//! is possible while one is open; ending and committing consume. What types cannot say, the model checks.

use crate::{ByteRange, HalError, PipelineDesc};
use std::fmt::Debug;
use std::path::Path;
use std::ptr::NonNull;
use std::time::Duration;

/// How the kernel uses an operand. Metal is not told; the model judges races by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Access {
    /// Bytes from the start of the binding that it leaves alone.
    pub(super) skip: u64,
    /// Bytes that it may touch after those.
    pub(super) bytes: u64,
    pub(super) write: bool,
}

/// An error of Metal's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// A number of `MTLCommandBufferError`, or of `MTLCaptureError`.
    pub(super) code: usize,
    /// The driver's words.
    pub(super) text: String,
}

/// How a command buffer ended.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) fault: Option<Fault>,
    /// When the GPU was done with it, on the clock of the machine; 0 where Metal does not say.
    pub(super) ended_ns: u64,
}

/// Called once, on a thread of Metal's, when a command buffer has completed or failed.
pub(super) type Handler = Box<dyn FnOnce(Outcome) + Send>;

/// An `MTLDevice` and the objects made from it, which are all safe to use from any thread.
pub(super) trait Api: Sized + Send + Sync + Debug + 'static {
    /// `MTLCommandQueue`.
    type Queue: Send + Sync + Debug;
    /// `MTLBuffer` of shared, untracked memory.
    type Buffer: Send + Sync + Debug;
    /// A buffer's name in a recorded command. Keeps nothing alive: counting references would make all threads that read
    /// one weight write to one cache line.
    type BufferRef: Copy + PartialEq + Send + Sync + Debug;
    /// `MTLComputePipelineState`.
    type Kernel: Send + Sync + Debug;
    /// `MTLSharedEvent`.
    type Event: Send + Sync + Debug;
    /// `MTLFence`.
    type Fence: Send + Sync + Debug;
    /// True where kernels are Rust functions and not MSL.
    const RUNS_HOST_KERNELS: bool;
    /// `MTLCommandBuffer` with unretained references.
    type Commands: Commands<Self>;

    /// Runs `body` inside an autorelease pool.
    fn pool<R>(body: impl FnOnce() -> R) -> R;
    /// A queue that holds up to `most` command buffers.
    fn queue(&self, label: &str, most: usize) -> Option<Self::Queue>;
    /// `None` where there is no memory for it.
    fn buffer(&self, bytes: u64) -> Option<Self::Buffer>;
    /// The CPU's address of its bytes; never changes.
    fn contents(&self, buffer: &Self::Buffer) -> NonNull<u8>;
    fn refer(buffer: &Self::Buffer) -> Self::BufferRef;
    /// Compiles; an error is the compiler's words.
    fn kernel(&self, desc: &PipelineDesc) -> Result<Self::Kernel, String>;
    fn event(&self) -> Option<Self::Event>;
    fn fence(&self) -> Option<Self::Fence>;
    fn signaled(&self, event: &Self::Event) -> u64;
    fn set_signaled(&self, event: &Self::Event, value: u64);
    /// Sleeps until the value is reached; false where that took longer than `timeout`.
    fn wait_signaled(&self, event: &Self::Event, value: u64, timeout: Duration) -> bool;
    /// A command buffer of the queue. Only inside [`Api::pool`].
    fn commands(&self, queue: &Self::Queue, label: &str) -> Option<Self::Commands>;
    /// Whether Metal writes captures into documents: where the process was started with `MTL_CAPTURE_ENABLED=1`. Only
    /// inside [`Api::pool`], as the three that follow.
    fn can_capture(&self) -> bool;
    /// Whether anybody in this process records a capture.
    fn is_capturing(&self) -> bool;
    /// Records the command buffers of this device that are made from now on into a document. An error carries a number
    /// of `MTLCaptureError` and Metal's words.
    fn start_capture(&self, document: &Path) -> Result<(), Fault>;
    /// Ends the capture and writes the document, with what was committed before. Only while one is recorded.
    fn stop_capture(&self);
    /// The CPU is about to touch the bytes. Shared memory needs nothing; the model looks for races.
    fn begin_host_access(&self, _: &Self::Buffer, _: ByteRange, _write: bool) -> Result<(), HalError> {
        Ok(())
    }
    /// As [`Api::begin_host_access`].
    fn end_host_access(&self, _: &Self::Buffer, _: ByteRange, _write: bool) -> Result<(), HalError> {
        Ok(())
    }
}

/// A command buffer that is not committed. Not `Send`, so that its thread alone ever uses it.
pub(super) trait Commands<A: Api>: Sized {
    type Encoder<'c>: Encoder<A>
    where
        Self: 'c;

    /// What follows starts only when the event has reached `value`.
    fn wait(&mut self, event: &A::Event, value: u64);
    /// The event gets `value` when what was encoded before is done.
    fn signal(&mut self, event: &A::Event, value: u64);
    /// A pass whose dispatches may run at the same time.
    fn encoder(&mut self) -> Option<Self::Encoder<'_>>;
    fn on_completed(&mut self, handler: Handler);
    fn commit(self);
}

/// A compute encoder with concurrent dispatch. Ended when dropped, too.
pub(super) trait Encoder<A: Api> {
    /// The whole pass comes after the last update of the fence, by a pass committed before to the same queue.
    fn wait_fence(&mut self, fence: &A::Fence);
    /// The fence stands for this pass from its end on.
    fn update_fence(&mut self, fence: &A::Fence);
    fn kernel(&mut self, kernel: &A::Kernel);
    fn buffer(&mut self, index: u32, buffer: A::BufferRef, offset: u64, access: Access);
    fn bytes(&mut self, index: u32, bytes: &[u8]);
    fn threadgroup_memory(&mut self, index: u32, bytes: u32);
    /// Earlier dispatches of this pass before later ones, with what they wrote.
    fn barrier(&mut self);
    fn dispatch(&mut self, groups: [u32; 3], threads: [u32; 3]);
    fn end(self);
}

/// Metal's limits that hold on every Apple GPU.
pub(super) mod limits {
    /// Buffers that a kernel can be given.
    pub(in crate::metal) const BUFFERS: u32 = 31;
    /// Bytes of one `setBytes`.
    pub(in crate::metal) const INLINE_BYTES: u32 = 4096;
    /// Where a binding may begin, for elements of up to four words.
    pub(in crate::metal) const OFFSET_ALIGNMENT: u64 = 16;
    /// A length of threadgroup memory is a multiple of this.
    pub(in crate::metal) const THREADGROUP_ALIGNMENT: u32 = 16;
    /// Bytes of threadgroup memory of one threadgroup.
    pub(in crate::metal) const THREADGROUP_BYTES: u32 = 32 << 10;
    /// Threads of one threadgroup; a kernel may have a lower limit of its own.
    pub(in crate::metal) const THREADS: u32 = 1024;
}
