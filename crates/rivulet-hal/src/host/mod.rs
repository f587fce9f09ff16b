//! The CPU's own memory as a device.
//!
//! Work runs on the thread that submits it and is complete when [`Device::submit`](crate::Device::submit) returns:
//! pipelines are Rust functions ([`PipelineSource::Host`](crate::PipelineSource::Host)). A submission whose waits are
//! not reached blocks its caller until they are. Queues exist so that threads need not meet: each runs on its caller.
//!
//! ```
//! use rivulet_hal::{Binding, BufferRange, ByteRange, Device, MemoryUsage, PipelineDesc, PipelineSource, QueueIndex,
//!     Submission, TimelinePoint, host};
//! use std::time::Duration;
//!
//! fn double(operands: &mut [&mut [u8]], _params: &[u8], _groups: [u32; 3]) {
//!     operands[0].iter_mut().for_each(|byte| *byte *= 2);
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = host::open();
//! let memory = device.allocate(64, MemoryUsage::Device)?;
//! let all = BufferRange { memory, range: ByteRange { start: 0, end: 64 } };
//! let pipeline = device.pipeline(&PipelineDesc {
//!     label: "double".to_owned(),
//!     source: PipelineSource::Host(double),
//!     bindings: 1,
//!     param_bytes: 0,
//!     workgroup: [1, 1, 1],
//! })?;
//!
//! let mut recorder = device.recorder(QueueIndex(0))?;
//! recorder.fill(&all, 0x0101_0101)?;
//! recorder.barrier()?;
//! recorder.dispatch(&pipeline, &[Binding { buffer: all, write: true }], &[], [1, 1, 1])?;
//! let commands = vec![recorder.finish()?];
//!
//! let timeline = device.timeline()?;
//! let signal = TimelinePoint { timeline: timeline.clone(), value: 1 };
//! device.submit(QueueIndex(0), vec![Submission { commands, waits: vec![], signal, label: "double".to_owned() }])?;
//! assert!(timeline.wait(1, Duration::ZERO)?);
//! # Ok(())
//! # }
//! ```

mod adapter;
mod command;
mod device;
mod memory;
mod pipeline;
mod queue;
mod timeline;

pub use adapter::{info, open};
pub use memory::adopt;
