//! Programs: device work noted once and run again, with other inputs, on any thread.
//!
//! ```text
//!  a thread records      noting          every command, with its operands as bytes of slots    noting.rs, tap.rs
//!                        compile         what nobody reads is left out, neighbours are fused   compile.rs, fuse/
//!                        schedule        levels of commands in no order among each other       schedule.rs
//!                        arena           bytes for each activation, by its levels              arena.rs
//!  any thread runs       program         memory, one hazard set, the commands                  program.rs
//! ```
//!
//! A [`Program`] is what one thread recorded between [`Noting::begin`] and [`Noting::end`]: dispatches, copies and fills,
//! with exactly these shapes. Its memory is of four kinds:
//!
//! | slot | is | at each run |
//! |---|---|---|
//! | input | bytes named at the begin | what the caller names |
//! | fresh | blocks that the noting thread allocated and that hold outputs | allocated, the caller's |
//! | arena | all other blocks that it allocated | parts of one allocation, reused by lifetime |
//! | shared | every other block (weights, running statistics) | itself, read and written as noted |
//!
//! A run is an op of the calling thread's stream, or a few where the program is long: waits for other streams, barriers
//! before it and after it, moves between CPU and device, and failures follow from its blocks as for every op.
//!
//! ```no_run
//! use rivulet::ops::{DType, Op, View, pointwise};
//! use rivulet::plan::{Noting, Span};
//! use rivulet::{Device, DeviceOptions};
//!
//! let device = Device::open(DeviceOptions::default())?;
//! let (x, y) = (device.allocate(4096)?, device.allocate(4096)?);
//! let noting = Noting::begin(&device, &[Span::new(&x, 4096)])?;
//! let out = device.allocate(4096)?;
//! let view = |block| View::dense(block, DType::F32, &[1024]);
//! pointwise(&device, Op::Exp, DType::F32, &view(&out), &[view(&x)], None, &[])?;
//! let program = noting.end(&[Span::new(&out, 4096)])?;
//!
//! let results = program.run(&[Span::new(&y, 4096)], None)?;
//! device.free(results[0].clone());
//! # Ok::<(), rivulet::Error>(())
//! ```

mod arena;
mod command;
mod compile;
mod fuse;
pub(crate) mod noting;
mod program;
mod report;
mod schedule;
pub(crate) mod tap;
mod threads;

pub use compile::Fusion;
pub use noting::{Noting, Span};
pub use program::{Fresh, OutputPlace, Program};
pub use report::{CommandReport, ProgramReport};
pub use threads::{Callers, Pace, Way};
