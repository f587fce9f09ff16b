//! A simulated GPU that finds missing synchronisation, for tests.
//!
//! Each queue has a thread that runs its submissions late and out of step with the other queues, so that code which
//! forgets to wait reads old bytes. Because luck is no test, every access is also checked against every earlier one
//! by *happens-before*: an unordered pair of accesses to the same bytes, one of them a write, is a fault whenever it
//! is submitted, however the threads happen to run. [`SimControl`] holds queues back, makes calls fail and loses the
//! device on demand.
//!
//! # What orders what
//!
//! The rules are Vulkan's, with one vector clock for each queue and one for the host:
//!
//! - The order in which submissions and commands reach a queue gives no memory order by itself. Two commands of one
//!   queue are ordered by a [barrier](crate::Recorder::barrier) between them: it orders everything handed to the queue
//!   before it, in whichever command buffer, before everything after it.
//! - A submission's signal covers everything handed to its queue so far. A submission that waits for a timeline value
//!   comes, together with all that its queue gets later, after the signal that first reached that value and what that
//!   signal covers.
//! - Handing over a submission orders it after what the host did before, and after what the host knew to be complete.
//! - The host knows work to be complete only from a [`Timeline::wait`](crate::Timeline::wait) that returned true or a
//!   value that [`Timeline::completed`](crate::Timeline::completed) returned. It counts as one agent: what one thread
//!   learnt, all know. An access that is open on one thread conflicts with those of other threads, though.
//! - What the CPU signals covers what the host did and knew before.
//!
//! A conflict is found where the later of the two is placed in this order. That is inside
//! [`Device::submit`](crate::Device::submit), unless a wait's signal is not submitted yet; then the submission is placed
//! when that happens. It is found also where neither of the two has run yet.
//!
//! Found in `submit` or [`begin_host_access`](crate::Memory::begin_host_access), the call fails with
//! [`HalError::Race`](crate::HalError::Race), and the submission does not run. Found later, the submission's commands
//! are skipped and its timeline answers with that error from the submission's value on. A memory dropped while its use
//! is not known to be complete is a fault as well. All faults are collected in [`SimControl::faults`]; a test ends by
//! looking there.
//!
//! ```
//! use rivulet_hal::{BufferRange, ByteRange, HalError, MemoryUsage, QueueIndex, Submission, TimelinePoint, sim};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (device, control) = sim::open(sim::SimConfig { queues: 2, ..Default::default() });
//! let memory = device.allocate(64, MemoryUsage::Device)?;
//! let fill = |queue, waits| {
//!     let mut recorder = device.recorder(queue)?;
//!     let range = ByteRange { start: 0, end: 64 };
//!     recorder.fill(&BufferRange { memory: memory.clone(), range }, 1)?;
//!     let signal = TimelinePoint { timeline: device.timeline()?, value: 1 };
//!     let commands = vec![recorder.finish()?];
//!     let work = Submission { commands, waits, signal: signal.clone(), label: "fill".to_owned() };
//!     device.submit(queue, vec![work]).map_err(|failure| failure.error)?;
//!     Ok::<_, HalError>(signal)
//! };
//! let first = fill(QueueIndex(0), vec![])?;
//! assert!(matches!(fill(QueueIndex(1), vec![]), Err(HalError::Race(_))));
//! assert_eq!(control.take_faults().len(), 1);
//! let second = fill(QueueIndex(1), vec![first])?;
//! assert!(second.timeline.wait(1, std::time::Duration::from_secs(5))?);
//! assert!(control.faults().is_empty());
//! # Ok(())
//! # }
//! ```

mod adapter;
mod clock;
mod command;
mod control;
mod device;
mod history;
mod memory;
mod order;
mod pipeline;
mod queue;
mod state;
mod timeline;

pub use adapter::{Delay, SimConfig, open};
pub use control::{FailingSubmission, SimControl};
pub use queue::Executed;
