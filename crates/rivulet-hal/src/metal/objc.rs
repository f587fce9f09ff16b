//! Metal behind the traits of the driver. Type-checked for macOS; has not run on Apple hardware yet.
//!
//! # Threads
//!
//! `objc2-metal` marks devices, queues, pipeline states, events and fences `Send` and `Sync`, as Apple documents them,
//! and command buffers and encoders neither. Buffers are not marked; see [`Buffer`].

use super::api::{Access, Api, Commands, Encoder, Fault, Handler, Outcome};
use crate::{PipelineDesc, PipelineSource};
use block2::RcBlock;
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::{AnyObject, NSObjectProtocol, ProtocolObject};
use objc2::sel;
use objc2_foundation::{NSString, NSURL};
use objc2_metal::{
    MTLBarrierScope, MTLBuffer, MTLCaptureDescriptor, MTLCaptureDestination, MTLCaptureManager,
    MTLCommandBuffer, MTLCommandBufferStatus, MTLCommandEncoder, MTLCommandQueue, MTLCompileOptions,
    MTLComputeCommandEncoder, MTLComputePipelineDescriptor, MTLComputePipelineState, MTLDevice,
    MTLDispatchType, MTLFence, MTLLanguageVersion, MTLLibrary, MTLMathFloatingPointFunctions, MTLMathMode,
    MTLPipelineOption, MTLResourceOptions, MTLSharedEvent, MTLSize,
};
use std::cell::Cell;
use std::ffi::c_void;
use std::path::Path;
use std::ptr::NonNull;
use std::time::Duration;

type Object<T> = Retained<ProtocolObject<T>>;

/// An `MTLDevice`.
#[derive(Debug)]
pub(super) struct Metal {
    device: Object<dyn MTLDevice>,
}

impl Metal {
    pub(super) fn new(device: Object<dyn MTLDevice>) -> Self {
        Self { device }
    }
}

/// A buffer in shared memory. Apple documents resources as usable from any thread as long as nobody changes the same
/// one at the same time; none of ours is changed (labelled, made purgeable) after it is made.
#[derive(Debug)]
pub(super) struct Buffer(Object<dyn MTLBuffer>);

// SAFETY: reference counting is atomic, and the only methods called after creation are `contents` and `setBuffer`'s use
// of it, which only read.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

/// A buffer that is not retained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BufferRef(NonNull<ProtocolObject<dyn MTLBuffer>>);

// SAFETY: an address; it is only followed on the thread that encodes, while the runtime keeps the memory.
unsafe impl Send for BufferRef {}
// SAFETY: as above.
unsafe impl Sync for BufferRef {}

impl Api for Metal {
    type Queue = Object<dyn MTLCommandQueue>;
    type Buffer = Buffer;
    type BufferRef = BufferRef;
    type Kernel = Object<dyn MTLComputePipelineState>;
    type Event = Object<dyn MTLSharedEvent>;
    type Fence = Object<dyn MTLFence>;
    type Commands = MetalCommandBuffer;
    const RUNS_HOST_KERNELS: bool = false;

    fn pool<R>(body: impl FnOnce() -> R) -> R {
        autoreleasepool(|_| body())
    }

    fn queue(&self, label: &str, most: usize) -> Option<Self::Queue> {
        let queue = self.device.newCommandQueueWithMaxCommandBufferCount(most)?;
        queue.setLabel(Some(&NSString::from_str(label)));
        Some(queue)
    }

    fn buffer(&self, bytes: u64) -> Option<Buffer> {
        let options = MTLResourceOptions::StorageModeShared
            | MTLResourceOptions::CPUCacheModeDefaultCache
            | MTLResourceOptions::HazardTrackingModeUntracked;
        let bytes = usize::try_from(bytes).ok()?;
        self.device.newBufferWithLength_options(bytes, options).map(Buffer)
    }

    fn contents(&self, buffer: &Buffer) -> NonNull<u8> {
        buffer.0.contents().cast()
    }

    fn refer(buffer: &Buffer) -> BufferRef {
        BufferRef(NonNull::from(&*buffer.0))
    }

    fn kernel(&self, desc: &PipelineDesc) -> Result<Self::Kernel, String> {
        let PipelineSource::Msl { text, entry, .. } = &desc.source else {
            return Err("a Metal device takes MSL".to_owned());
        };
        let options = compile_options();
        let library = self
            .device
            .newLibraryWithSource_options_error(&NSString::from_str(text), Some(&options))
            .map_err(|error| error.localizedDescription().to_string())?;
        let function = library.newFunctionWithName(&NSString::from_str(entry));
        let function = function.ok_or_else(|| format!("the text has no function {entry}"))?;
        let threads: usize = desc.workgroup.iter().map(|&side| side as usize).product();
        let descriptor = MTLComputePipelineDescriptor::new();
        descriptor.setLabel(Some(&NSString::from_str(&desc.label)));
        descriptor.setComputeFunction(Some(&function));
        // Otherwise a kernel with many registers may be compiled for fewer threads than it is dispatched with.
        descriptor.setMaxTotalThreadsPerThreadgroup(threads);
        let state = self
            .device
            .newComputePipelineStateWithDescriptor_options_reflection_error(
                &descriptor,
                MTLPipelineOption::None,
                None,
            )
            .map_err(|error| error.localizedDescription().to_string())?;
        let most = state.maxTotalThreadsPerThreadgroup();
        if threads > most {
            return Err(format!("{threads} threads a group; this GPU runs it with up to {most}"));
        }
        Ok(state)
    }

    fn event(&self) -> Option<Self::Event> {
        self.device.newSharedEvent()
    }

    fn fence(&self) -> Option<Self::Fence> {
        self.device.newFence()
    }

    fn signaled(&self, event: &Self::Event) -> u64 {
        event.signaledValue()
    }

    fn set_signaled(&self, event: &Self::Event, value: u64) {
        event.setSignaledValue(value);
    }

    fn wait_signaled(&self, event: &Self::Event, value: u64, timeout: Duration) -> bool {
        // Up, so that the last part of a wait is not polled.
        let milliseconds = timeout.as_nanos().div_ceil(1_000_000);
        event.waitUntilSignaledValue_timeoutMS(value, u64::try_from(milliseconds).unwrap_or(u64::MAX))
    }

    fn can_capture(&self) -> bool {
        capture_manager().supportsDestination(MTLCaptureDestination::GPUTraceDocument)
    }

    fn is_capturing(&self) -> bool {
        capture_manager().isCapturing()
    }

    fn start_capture(&self, document: &Path) -> Result<(), Fault> {
        let descriptor = MTLCaptureDescriptor::new();
        let device: &AnyObject = (*self.device).as_ref();
        // SAFETY: a device is one of the things that can be captured.
        unsafe { descriptor.setCaptureObject(Some(device)) };
        descriptor.setDestination(MTLCaptureDestination::GPUTraceDocument);
        let path = NSString::from_str(&document.to_string_lossy());
        descriptor.setOutputURL(Some(&NSURL::fileURLWithPath(&path)));
        capture_manager().startCaptureWithDescriptor_error(&descriptor).map_err(|error| Fault {
            code: usize::try_from(error.code()).unwrap_or(usize::MAX),
            text: error.localizedDescription().to_string(),
        })
    }

    fn stop_capture(&self) {
        capture_manager().stopCapture();
    }

    fn commands(&self, queue: &Self::Queue, label: &str) -> Option<MetalCommandBuffer> {
        let buffer = queue.commandBufferWithUnretainedReferences()?;
        buffer.setLabel(Some(&NSString::from_str(label)));
        Some(MetalCommandBuffer(buffer))
    }
}

/// The process's one manager of captures.
fn capture_manager() -> Retained<MTLCaptureManager> {
    // SAFETY: Apple documents the shared manager as usable from any thread.
    unsafe { MTLCaptureManager::sharedCaptureManager() }
}

/// Safe mathematics: NaN and infinity are what IEEE says, and nothing is reassociated.
fn compile_options() -> Retained<MTLCompileOptions> {
    let options = MTLCompileOptions::new();
    options.setLanguageVersion(MTLLanguageVersion::Version3_0);
    // From macOS 15 on; before, one switch stands for both.
    if options.respondsToSelector(sel!(setMathMode:)) {
        options.setMathMode(MTLMathMode::Safe);
        options.setMathFloatingPointFunctions(MTLMathFloatingPointFunctions::Precise);
    } else {
        #[allow(deprecated, reason = "the only way before macOS 15")]
        options.setFastMathEnabled(false);
    }
    options
}

/// A command buffer that is not committed.
#[derive(Debug)]
pub(super) struct MetalCommandBuffer(Object<dyn MTLCommandBuffer>);

impl Commands<Metal> for MetalCommandBuffer {
    type Encoder<'c> = MetalEncoder<'c>;

    fn wait(&mut self, event: &Object<dyn MTLSharedEvent>, value: u64) {
        self.0.encodeWaitForEvent_value(ProtocolObject::from_ref(&**event), value);
    }

    fn signal(&mut self, event: &Object<dyn MTLSharedEvent>, value: u64) {
        self.0.encodeSignalEvent_value(ProtocolObject::from_ref(&**event), value);
    }

    fn encoder(&mut self) -> Option<MetalEncoder<'_>> {
        let encoder = self.0.computeCommandEncoderWithDispatchType(MTLDispatchType::Concurrent)?;
        Some(MetalEncoder { encoder, ended: false, _commands: self })
    }

    fn on_completed(&mut self, handler: Handler) {
        // Metal calls the block once; a block is a function that could be called again.
        let handler = Cell::new(Some(handler));
        let block = RcBlock::new(move |buffer: NonNull<ProtocolObject<dyn MTLCommandBuffer>>| {
            // SAFETY: Metal passes the command buffer that completed, alive for the length of the call.
            let outcome = outcome(unsafe { buffer.as_ref() });
            if let Some(handler) = handler.take() {
                // Unwinding into Metal's dispatch queue would end the process.
                let call = std::panic::AssertUnwindSafe(|| handler(outcome));
                if std::panic::catch_unwind(call).is_err() {
                    eprintln!("rivulet: a completion handler panicked");
                }
            }
        });
        // SAFETY: the block takes what Metal passes, is copied by Metal, and all it holds is `Send`.
        unsafe { self.0.addCompletedHandler(RcBlock::as_ptr(&block)) };
    }

    fn commit(self) {
        self.0.commit();
    }
}

fn outcome(buffer: &ProtocolObject<dyn MTLCommandBuffer>) -> Outcome {
    let ended = buffer.GPUEndTime();
    let fault = (buffer.status() == MTLCommandBufferStatus::Error).then(|| match buffer.error() {
        Some(error) => Fault {
            code: usize::try_from(error.code()).unwrap_or(usize::MAX),
            text: error.localizedDescription().to_string(),
        },
        None => Fault { code: 1, text: "no error is given".to_owned() },
    });
    // A command buffer without a pass has no time of its own; the clock is the same.
    let ended_ns = if ended > 0.0 { (ended * 1e9) as u64 } else { uptime_ns() };
    Outcome { fault, ended_ns }
}

/// Nanoseconds on the clock of `GPUEndTime`, which stands still while the machine sleeps.
fn uptime_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: only reads a clock, into a structure of our own.
    let read = unsafe { libc::clock_gettime(libc::CLOCK_UPTIME_RAW, &mut time) };
    if read != 0 {
        return 0;
    }
    let part = |part: libc::c_long| u64::try_from(part).unwrap_or(0);
    part(time.tv_sec) * 1_000_000_000 + part(time.tv_nsec)
}

/// A compute encoder that dispatches concurrently.
#[derive(Debug)]
pub(super) struct MetalEncoder<'c> {
    encoder: Object<dyn MTLComputeCommandEncoder>,
    ended: bool,
    /// While the encoder is open nothing else can be encoded.
    _commands: &'c mut MetalCommandBuffer,
}

impl Drop for MetalEncoder<'_> {
    fn drop(&mut self) {
        // Metal ends the process where an encoder is released before its end.
        if !self.ended {
            self.encoder.endEncoding();
        }
    }
}

const fn size([width, height, depth]: [u32; 3]) -> MTLSize {
    MTLSize { width: width as usize, height: height as usize, depth: depth as usize }
}

impl Encoder<Metal> for MetalEncoder<'_> {
    fn wait_fence(&mut self, fence: &Object<dyn MTLFence>) {
        self.encoder.waitForFence(fence);
    }

    fn update_fence(&mut self, fence: &Object<dyn MTLFence>) {
        self.encoder.updateFence(fence);
    }

    fn kernel(&mut self, kernel: &Object<dyn MTLComputePipelineState>) {
        self.encoder.setComputePipelineState(kernel);
    }

    fn buffer(&mut self, index: u32, BufferRef(buffer): BufferRef, offset: u64, _: Access) {
        // SAFETY: the runtime keeps the memory until every submission that names it has completed, by the contract of
        // `Memory`, and the driver the buffer a little longer; the offset was checked against it when it was recorded,
        // the index against Metal's limit when the kernel was compiled.
        unsafe {
            self.encoder.setBuffer_offset_atIndex(Some(buffer.as_ref()), offset as usize, index as usize)
        };
    }

    fn bytes(&mut self, index: u32, bytes: &[u8]) {
        let start = NonNull::from(bytes).cast::<c_void>();
        // SAFETY: Metal copies so many bytes, at most as many as it takes, which was checked when the kernel was
        // compiled; so was the index.
        unsafe { self.encoder.setBytes_length_atIndex(start, bytes.len(), index as usize) };
    }

    fn threadgroup_memory(&mut self, index: u32, bytes: u32) {
        // SAFETY: length and number were checked when the kernel was compiled.
        unsafe { self.encoder.setThreadgroupMemoryLength_atIndex(bytes as usize, index as usize) };
    }

    fn barrier(&mut self) {
        self.encoder.memoryBarrierWithScope(MTLBarrierScope::Buffers);
    }

    fn dispatch(&mut self, groups: [u32; 3], threads: [u32; 3]) {
        self.encoder.dispatchThreadgroups_threadsPerThreadgroup(size(groups), size(threads));
    }

    fn end(mut self) {
        self.ended = true;
        self.encoder.endEncoding();
    }
}
