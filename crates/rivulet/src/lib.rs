//! The runtime: streams, events, hazards and memory over any [`rivulet_hal::Device`].
//!
//! A [`Device`] gives each thread a stream of its own from the [`pool`], without being asked. Work goes onto a stream
//! in one of two ways: [`Device::record`] puts commands on the device's timeline, [`Device::host_access`] lets the
//! calling thread use the bytes. Both name their operands, blocks of the device's [`memory`]; what must wait for what
//! follows from them ([`hazard`]), across all streams. [`Event`]s are points of a stream to wait for.
//!
//! A stream is a logical timeline. Any number of them share the few hardware queues of the adapter, and whoever
//! submits, submits for everybody (`stream::combiner`).
//!
//! Every wait goes through [`blocking`], which a bridge to an interpreter hooks into. Settings come from the
//! environment, see [`config`]. The rules of who may touch what are in `docs/concurrency.md`.
//!
//! ```
//! use rivulet::{Access, Device, Event};
//!
//! let device = Device::host();
//! let block = device.allocate(256)?;
//! std::thread::scope(|scope| {
//!     for _ in 0..4 {
//!         scope.spawn(|| -> rivulet::Result<()> {
//!             let event = Event::new(false);
//!             drop(device.host_access("read", &[(&block, Access::Read)])?);
//!             event.record(&device.current_stream()?)?;
//!             event.synchronize()
//!         });
//!     }
//! });
//! device.free(block);
//! # Ok::<(), rivulet::Error>(())
//! ```
#![forbid(unsafe_code)]

pub mod batch;
pub mod blocking;
#[cfg(not(loom))]
mod capture;
pub mod config;
mod device;
mod engine;
pub mod error;
pub mod event;
pub mod hazard;
pub mod ids;
pub mod memory;
#[cfg(not(loom))]
pub mod ops;
pub mod pipelines;
#[cfg(not(loom))]
pub mod plan;
pub mod pool;
pub mod report;
pub mod rng;
pub mod stream;

pub use device::{Device, DeviceOptions};
pub use error::{Error, Result};
pub use event::Event;
pub use ids::{Access, StreamId};
pub use stream::{DeviceOp, HostAccess, Stream};
