//! The one loop that every wait of this crate goes through.
//!
//! The runtime knows no interpreter. A bridge [`install`]s [`WaitHooks`]; each wait then lets go of the
//! interpreter's lock before it sleeps, gives signal handlers a turn every [`POLL_INTERVAL`], and takes the lock
//! back at its end, however it ends.
//!
//! ```
//! use rivulet::blocking;
//! use std::time::Instant;
//!
//! let start = Instant::now();
//! // One step sleeps for at most `longest` and says whether the wait is over.
//! blocking::wait_loop(|longest| {
//!     std::thread::sleep(longest.min(std::time::Duration::from_millis(1)));
//!     start.elapsed().as_millis() >= 2
//! })?;
//! assert!(start.elapsed().as_millis() >= 2);
//! # Ok::<(), blocking::Interrupted>(())
//! ```

use rivulet_hal::sync::{assert_no_lock_held, hint};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How often a waiting thread looks for signals.
pub const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A wait was ended by [`WaitHooks::poll`]: on a Python thread an exception such as `KeyboardInterrupt` is set.
/// What was waited for is unchanged and can be waited for again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("interrupted while waiting")]
pub struct Interrupted;

/// What a bridge does around a wait. Called on the waiting thread, any number of threads at a time, while no
/// engine lock is held.
pub trait WaitHooks: Send + Sync {
    /// Before the first sleep: releases the interpreter's lock where this thread holds it. The answer is
    /// handed to [`WaitHooks::leave`].
    fn enter(&self) -> usize;
    /// Every [`POLL_INTERVAL`]: runs pending signal handlers.
    ///
    /// # Errors
    /// [`Interrupted`] ends the wait.
    fn poll(&self) -> Result<(), Interrupted>;
    /// After the last sleep: takes the interpreter's lock back where `enter` released it.
    fn leave(&self, token: usize);
}

static HOOKS: OnceLock<&'static dyn WaitHooks> = OnceLock::new();

/// Installs the hooks of this process. The first call decides: false where hooks were installed before.
pub fn install(hooks: &'static dyn WaitHooks) -> bool {
    HOOKS.set(hooks).is_ok()
}

/// Calls `leave` also where a step panics.
struct Entered {
    hooks: &'static dyn WaitHooks,
    token: usize,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.hooks.leave(self.token);
    }
}

/// Repeats `step` until it answers true. A step sleeps for at most the duration that it is given, and may return
/// early; it is called at least once. Holding an engine lock across this call is a bug that debug builds catch.
///
/// # Errors
/// [`Interrupted`] where the hooks ended the wait.
pub fn wait_loop(mut step: impl FnMut(Duration) -> bool) -> Result<(), Interrupted> {
    assert_no_lock_held("waits");
    let entered = HOOKS.get().map(|&hooks| Entered { hooks, token: hooks.enter() });
    let mut next_poll = Instant::now() + POLL_INTERVAL;
    loop {
        let now = Instant::now();
        if step(next_poll.saturating_duration_since(now).max(Duration::from_millis(1))) {
            return Ok(());
        }
        if Instant::now() >= next_poll {
            if let Some(entered) = &entered {
                entered.hooks.poll()?;
            }
            next_poll = Instant::now() + POLL_INTERVAL;
        }
    }
}

/// How long [`spin`] tries: about the time in which a tiny kernel ends, and less than a sleep and wake-up cost.
pub const SPIN: Duration = Duration::from_micros(20);

/// Asks `done` again and again for at most [`SPIN`]; its last answer. For a wait that is probably short, before
/// [`wait_loop`]: neither hook is called. Where the machine has one core, `done` is asked once.
pub fn spin(mut done: impl FnMut() -> bool) -> bool {
    if done() {
        return true;
    }
    // A model tries every interleaving anyway, and time would make it differ from run to run.
    if cfg!(loom) || cores() < 2 {
        return false;
    }
    let start = Instant::now();
    loop {
        for _ in 0..16 {
            hint::spin_loop();
        }
        if done() {
            return true;
        }
        if start.elapsed() >= SPIN {
            return false;
        }
    }
}

/// Cores that this process may use, at least 1.
pub fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
}
