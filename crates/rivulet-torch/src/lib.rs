//! The bridge from PyTorch's `mps` device to the Rivulet runtime.
//!
//! ```text
//! torch ── csrc/ (C++: hooks, guard, allocator, kernels) ── include/rivulet.h ── ffi (here) ── rivulet
//! python/rivulet (ctypes) ───────────────────────────────────────┘
//! ```
//!
//! [`ffi`] implements the C interface and nothing else: it turns pointers into references, results into status
//! codes, and stops panics. `python` is what the runtime must know of an interpreter that may be in the process,
//! found at run time so that the library depends on no Python version.

mod ffi;
mod python;
mod turns;
