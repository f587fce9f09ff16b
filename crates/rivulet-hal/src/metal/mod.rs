//! Apple GPUs through Metal 3. **This has not run on Apple hardware yet**: it is type-checked for macOS, and its calls
//! are made against a [model] of Metal's rules by the tests.
//!
//! # From a submission to Metal
//!
//! A [`Recorder`](crate::Recorder) writes plain data and calls no driver. [`Device::submit`](crate::Device::submit)
//! encodes a submission into one `MTLCommandBuffer`, on the calling thread and inside an autorelease pool, and commits
//! it before it returns:
//!
//! 1. a wait for each timeline value that the submission names,
//! 2. one compute pass with concurrent dispatch, whose memory barriers are the recorded ones,
//! 3. the signal, and the handler that hears how it ended.
//!
//! So waits stand before the commands they are for, in the same command buffer, though they are known only when all is
//! recorded; an open recorder holds none of the few command buffers that a queue has; and a command buffer with its
//! encoder never leaves the stack of one thread, which the types see to (`metal/api.rs`). At most one thread a queue
//! encodes at a time, fewer by [`Options::encoders`], since some macOS drivers are reported to fail where several do.
//!
//! # Order
//!
//! Resources are untracked: Metal orders no pass after another by itself. Each timeline has an `MTLFence`, for which a
//! pass waits and which it updates, so the passes that signal one timeline run one after the other, and those of other
//! timelines beside them. Timelines are `MTLSharedEvent`s.
//!
//! # What is kept alive
//!
//! Command buffers retain nothing. A submission keeps its kernels, timelines and fence until Metal has called its
//! completion handler, which may be later than its signal. Memory dropped in between is put aside until then.
//!
//! # Failure
//!
//! The handler sees Metal's error of each command buffer. Those after which memory cannot be trusted lose the device;
//! others concern the submission's timeline, and those that waited for it: it answers with the error from that value
//! on (`metal/error.rs`).

mod api;
mod builtin;
mod capture;
mod command;
mod device;
mod encode;
mod error;
mod memory;
#[cfg(target_os = "macos")]
mod objc;
mod pipeline;
mod queue;
mod retire;
mod shared;
mod slot;
mod timeline;

pub mod model;

#[cfg(target_os = "macos")]
mod adapter;
#[cfg(target_os = "macos")]
pub use adapter::{adapters, open};

/// How an adapter is opened.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Command queues instead of the adapter's one; 1 to [`MAX_QUEUES`].
    pub queues: Option<usize>,
    /// Threads that may encode at the same time; as many as there are queues where not given, at least 1.
    pub encoders: Option<usize>,
}

/// The MSL of the driver's own kernels, copies and fills, for tests that compile it.
pub const fn builtin_text() -> &'static str {
    builtin::MSL
}

/// More command queues than this gain nothing: the GPU has few of its own.
pub const MAX_QUEUES: usize = 4;

impl Options {
    /// Queues and encoders; an error names what is allowed.
    fn checked(&self) -> Result<(usize, usize), crate::HalError> {
        let queues = self.queues.unwrap_or(1);
        if queues == 0 || queues > MAX_QUEUES {
            return Err(crate::HalError::Usage(format!(
                "metal: {queues} queues asked; 1 to {MAX_QUEUES} are allowed"
            )));
        }
        let encoders = self.encoders.unwrap_or(queues);
        if encoders == 0 {
            return Err(crate::HalError::Usage(
                "metal: 0 encoding threads asked; at least 1 is allowed".to_owned(),
            ));
        }
        Ok((queues, encoders))
    }
}
