//! GPUs through Vulkan 1.2 or newer.
//!
//! What is asked of a device beyond version 1.2: timeline semaphores, and `VK_KHR_push_descriptor`, with which a
//! dispatch binds its operands without an object made for them.
//! Nothing is loaded before [`adapters`] or [`open`] is called, and a machine without Vulkan simply has no adapters. What was
//! loaded stays for the life of the process, and a device that was closed is kept for the next who opens it alike:
//! drivers do not bear either's end while threads end.
//!
//! # Threads
//!
//! Recording takes no lock beyond one exchange of a command pool at its start and end: every recorder owns its pool.
//! Submissions to one queue must not overlap, which the caller sees to; the queue's list of unfinished work is behind
//! a lock of its own. Waits hold no lock.
//!
//! # Memory
//!
//! Where the CPU and the device share cached memory ([`AdapterInfo::unified_memory`](crate::AdapterInfo)), everything
//! is mapped for life. Elsewhere [`MemoryUsage::Device`](crate::MemoryUsage) is out of the CPU's sight: such memory
//! has a [mirror](crate::Memory::mirror) of ordinary pages, which take room only where they are touched, and whose
//! address is the memory's. The bytes are copied between the two through [`MemoryUsage::Upload`](crate::MemoryUsage) and
//! [`MemoryUsage::Readback`](crate::MemoryUsage).

mod adapter;
mod bfloat16;
mod cache;
mod command;
mod device;
mod instance;
mod memory;
mod pipeline;
mod queue;
mod shared;
mod slot;
mod spare;
mod timeline;

pub use adapter::{adapters, open};

/// How an adapter is opened.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Loads Khronos' validation layer, with synchronization validation. An error where it is not installed.
    pub validation: bool,
    /// Hardware queues to use instead of the number chosen for the adapter; at most what its family has.
    pub queues: Option<usize>,
    /// Uses shared memory as if the CPU could not see it, so that tests need no card with memory of its own.
    pub mirror: bool,
    /// Folder in which compiled kernels are kept for later processes; made where it does not exist. A cache that is
    /// damaged, of another driver or cannot be written is as good as none.
    pub cache: Option<std::path::PathBuf>,
}

/// Messages of the validation layer since the process began, oldest first; the first hundred. For tests, which fail
/// where there is any.
pub fn validation_messages() -> Vec<String> {
    instance::messages()
}
