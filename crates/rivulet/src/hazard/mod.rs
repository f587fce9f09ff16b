//! Who must wait for whom: locks and stamps of blocks, and the set of operands of one op.
//!
//! An op takes an [`OperandSet`] over its blocks. While it holds the set it asks for the [`waits`](OperandSet::waits),
//! and either stamps the blocks with its place on the device timeline (a device op, which lets go at once) or does
//! its work (a CPU access, which holds the set until it ends). All locks of a set are held at the same time, taken
//! in one order by everybody; so of two ops that share two blocks one is wholly before the other, and no circle of
//! waits can form. `docs/concurrency.md` has the argument in full.

mod held;
pub mod lock;
#[cfg_attr(not(loom), doc(hidden))]
pub mod seeded;
pub mod set;
pub mod stamps;

pub use set::{HazardError, OperandSet, Waits};
pub use stamps::{StampSet, Stamps};

/// Whether operands are tracked. A device is opened with one of the two and keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Tracking {
    /// Operands are locked, waited for and stamped.
    #[default]
    On,
    /// Nothing is: for tests that show what tracking prevents.
    Off,
}
