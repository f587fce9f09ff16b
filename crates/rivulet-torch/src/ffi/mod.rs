//! The C interface of `include/rivulet.h`.
//!
//! Every function stops panics (`error::enter`), and each pointer that it dereferences is one that the header says
//! is valid. Ownership of a block crosses as `Arc::into_raw`: what `rivulet_alloc` gave, `rivulet_free` takes back.
//! `unsafe` in this crate is found here and in `python` only.

mod batch;
mod capture;
mod error;
mod event;
mod life;
mod memory;
mod native;
mod ops;
mod plan;
mod program;
mod rng;
mod stream;
mod torch;

use error::{Failure, INVALID};

/// A reference to where an answer goes.
///
/// # Safety
/// - `out` is null, or valid for writes and not aliased while the answer is used.
unsafe fn answer<'a, T>(out: *mut T, name: &str) -> Result<&'a mut T, Failure> {
    // SAFETY: the caller vouches for a non-null pointer; null is turned away here.
    unsafe { out.as_mut() }.ok_or_else(|| Failure::new(INVALID, format!("{name} is null")))
}
