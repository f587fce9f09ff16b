//! Atomics, locks, parking and threads: the only source of concurrency primitives in this workspace.
//!
//! Everything here has two sides. Compiled normally it is the standard library's type or a thin layer over it;
//! compiled with `RUSTFLAGS="--cfg loom"` the same names are loom's, so that a model can try every interleaving
//! of the code that uses them. Clippy refuses the standard library's own types elsewhere.
//!
//! # Writing code that both sides accept
//!
//! - Loom's atomics and mutexes have no `const` constructor. A process-wide value goes into [`global!`](crate::sync::global),
//!   which makes a fresh one for every execution of a model.
//! - Loom treats a `SeqCst` access as `AcqRel`; only its `SeqCst` [`fence`](atomic::fence) is a full one. A store
//!   that must not pass a later load (Dekker's pattern) therefore needs the fence on both sides. On x86-64 and
//!   AArch64 the fence costs what the `SeqCst` store would.
//! - [`Arc`] is the standard library's on both sides: loom's cannot become an `Arc<dyn Trait>`. A model thus sees
//!   no ordering through reference counts, which makes it stricter, never laxer.
//! - Under loom nothing can wait for a clock. Waits with a timeout may give up after any step of another thread,
//!   see [`Condvar::wait_timeout`] and [`parking::park`].
//!
//! # Locks
//!
//! Every [`Mutex`] is built with a [`Rank`]. Debug builds panic where a thread takes a lock whose rank is not
//! above every rank it holds. Release builds store and check nothing.

mod held;
mod mutex;
mod padded;
mod rank;

pub mod atomic;
pub mod parking;

#[cfg(all(feature = "lock-counts", not(loom)))]
pub mod lock_counts;

pub use held::assert_no_lock_held;
pub use mutex::{Condvar, Mutex, MutexGuard};
pub use padded::CachePadded;
pub use rank::Rank;

pub use std::sync::{Arc, Weak};

/// Threads: `spawn`, `yield_now`, `current` and the rest. Loom's side has no `sleep` and no `scope`.
pub mod thread {
    #[cfg(loom)]
    pub use loom::thread::*;
    #[cfg(not(loom))]
    pub use std::thread::*;
}

/// Hints for spinning.
pub mod hint {
    #[cfg(loom)]
    pub use loom::hint::spin_loop;
    #[cfg(not(loom))]
    pub use std::hint::spin_loop;
}

#[cfg(loom)]
pub use loom::thread_local;
#[cfg(not(loom))]
pub use std::thread_local;

#[cfg(loom)]
#[doc(hidden)]
pub use loom::lazy_static as __lazy_static;

/// Declares a process-wide value that is made at its first use. Under loom each execution of a model makes its own.
///
/// ```
/// use rivulet_hal::sync::{self, Mutex, Rank};
///
/// sync::global! {
///     /// Names given out so far.
///     static NAMES: Mutex<Vec<String>> = Mutex::new(Rank::REGISTRY, Vec::new());
/// }
/// NAMES.lock().push("first".to_owned());
/// assert_eq!(NAMES.lock().len(), 1);
/// ```
#[cfg(not(loom))]
#[doc(hidden)]
#[macro_export]
macro_rules! __rivulet_global {
    ($($(#[$meta:meta])* $vis:vis static $name:ident: $ty:ty = $init:expr;)+) => {
        $($(#[$meta])* $vis static $name: ::std::sync::LazyLock<$ty> = ::std::sync::LazyLock::new(|| $init);)+
    };
}

/// Declares a process-wide value that is made at its first use. Under loom each execution of a model makes its own.
#[cfg(loom)]
#[doc(hidden)]
#[macro_export]
macro_rules! __rivulet_global {
    ($(
        $(#[$meta:meta])*
        $(pub $(($($scope:tt)+))?)? static $name:ident: $ty:ty = $init:expr;
    )+) => {
        $($crate::sync::__lazy_static! {
            $(#[$meta])* $(pub $(($($scope)+))?)? static ref $name: $ty = $init;
        })+
    };
}

pub use crate::__rivulet_global as global;
