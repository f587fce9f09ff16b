//! The runtime: streams, events, hazards and memory over any [`rivulet_hal::Device`].
//!
//! The rules of who may touch what are in `docs/concurrency.md`.
#![forbid(unsafe_code)]

pub mod blocking;
pub mod hazard;
pub mod ids;
pub mod memory;
