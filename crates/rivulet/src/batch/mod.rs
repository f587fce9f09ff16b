//! Coalescing: calls that arrive while the device is busy are joined and run as one.
//!
//! A device is filled by batches, not by threads. A [`Queue`] has no thread and no clock of its own: whoever arrives
//! while nobody is running becomes the **runner** at once, so a lone call never waits. Calls that arrive meanwhile queue
//! up. When the runner has run its batch it hands each member its result and passes the role on to the oldest call that
//! waits, which takes everything of its group that is there by then, in the order of arrival and up to
//! [`Options::max_batch`] rows. So a caller runs the one batch that its own call is in, and none for others.
//!
//! ```text
//! call ── nobody runs ──────────────► runner: takes its group ─► runs ─► done, role to the oldest that waits
//!      └─ somebody runs ─► queued ─┬─► oldest when a run ends ──┘
//!                                  └─► taken by a runner ─► its result
//! ```
//!
//! [`Batcher`] is the whole of it for Rust programs: give it [`Work`], call it from any number of threads. A [`Queue`]
//! is the part that passes the role, for a bridge whose work runs elsewhere: in Python, for one.
//!
//! # What is promised
//! - Requests of one [group](Queue::call) run in the order of arrival, and the group of the oldest request runs first:
//!   nobody starves.
//! - A request that is cancelled or runs out of time hurts nobody else. Where it was to be the next runner, the role goes
//!   to the one behind it; where its batch is running, the others get their results.
//! - A runner that ends without having run its batch (a panic, an interrupt) gives the other members back to the queue,
//!   at the places that they had.
//!
//! # Coming back together
//! Threads that wait for each result and then call again come back one by one after a batch. If the first of them ran at
//! once, alone, the others would wait for that, and every second run would be a small one. So a runner that follows on a
//! batch waits for those who were in it, as long as they keep coming: no gap longer than a quarter of a usual run
//! (at most 0.5 ms), all in all no longer than a usual run (at most 2 ms), and less and less often where they do not come.
//! A call that follows on a batch of its own alone has nobody to wait for. [`Options::regroup`] switches this off.
//!
//! # Locks
//! One lock a queue (rank [`BATCH`](rivulet_hal::sync::Rank::BATCH)), held for a few list operations, and one a request for
//! the list of threads that it has to wake; no two of them at a time. Waits go through [`blocking`](crate::blocking).
//! `tests/loom_batch.rs` tries the passing of the role in every interleaving.

mod batcher;
mod metrics;
mod queue;
mod request;
mod run;
mod state;

pub use batcher::{BatchError, Batcher, Work};
pub use metrics::{Stats, Summary};
pub use queue::{Options, Queue, Refused, Ticket, Turn, WhenFull};
pub use request::Request;
pub use run::Run;

use crate::hazard::seeded;
