//! Bugs planted for a model to find: a loom test that nothing can make fail shows nothing.
//!
//! Only loom builds have them. A test plants one by name on its own thread, on which loom runs all threads of the
//! model.

#[cfg(loom)]
mod imp {
    use std::cell::Cell;

    std::thread_local! { static BUG: Cell<Option<&'static str>> = const { Cell::new(None) }; }

    /// Plants a bug on the calling thread, until `None` is planted. Names are those that the code asks for.
    pub fn plant(bug: Option<&'static str>) {
        BUG.set(bug);
    }

    pub(crate) fn is(bug: &str) -> bool {
        BUG.get() == Some(bug)
    }
}

#[cfg(not(loom))]
mod imp {
    #[inline(always)]
    pub(crate) const fn is(_: &str) -> bool {
        false
    }
}

pub(crate) use imp::is;
#[cfg(loom)]
pub use imp::plant;
