//! Where the bytes of a block are, on a device whose memory the CPU cannot see.
//!
//! # Note: two copies of a block
//!
//! ```text
//!              CPU write                   device op
//!   empty ───────────────> host ─────────────────────────> both ── CPU write ──> host
//!     └───── device write ──────────> device ── CPU read ──^ └── device write ──> device
//! ```
//!
//! A block has the device's bytes and, at its address, a mirror for the CPU. An op that finds the copy of its side
//! stale moves the bytes first; a block that was just handed out is valid nowhere, and nothing is moved for it. All
//! changes are made under the exclusive lock of the block.

use rivulet_hal::sync::atomic::{AtomicU8, Ordering};

/// Who uses the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The device's copy is valid.
    Device,
    /// The mirror is.
    Host,
}

impl Side {
    const fn bit(self) -> u8 {
        match self {
            Self::Device => 1,
            Self::Host => 2,
        }
    }
}

const BOTH: u8 = Side::Device.bit() | Side::Host.bit();
/// The CPU has read what the device wrote, and probably will again.
const READ_BACK: u8 = 4;
/// The mirror may hold pages.
const TOUCHED: u8 = 8;

/// Which copies of a block are valid. Relaxed: the block's lock gives the order.
#[derive(Debug)]
pub(crate) struct Content(AtomicU8);

impl Content {
    pub(crate) fn new() -> Self {
        Self(AtomicU8::new(0))
    }

    fn get(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, bits: u8) {
        self.0.store(bits, Ordering::Relaxed);
    }

    /// Valid nowhere. The mirror's pages stay.
    #[inline]
    pub(crate) fn reset(&self) {
        self.set(self.get() & TOUCHED);
    }

    /// True where the bytes are valid, but not on this side. Without the lock only a guess.
    #[inline]
    pub(crate) fn is_stale(&self, side: Side) -> bool {
        let bits = self.get();
        bits & BOTH != 0 && bits & side.bit() == 0
    }

    /// The bytes were moved to this side. Needs the exclusive hold.
    pub(crate) fn moved_to(&self, side: Side) {
        let more = if side == Side::Host { READ_BACK | TOUCHED } else { 0 };
        self.set(self.get() | side.bit() | more);
    }

    /// This side writes, or is about to. Needs the exclusive hold.
    #[inline]
    pub(crate) fn written(&self, side: Side) {
        let more = if side == Side::Host { TOUCHED } else { 0 };
        self.set(self.get() & !BOTH | side.bit() | more);
    }

    /// A CPU write ends. Only what the device wrote inside it makes a difference. Needs the exclusive hold.
    pub(crate) fn end_host_write(&self) {
        if self.get() & BOTH == BOTH {
            self.written(Side::Host);
        }
    }

    /// True where the CPU has read the block back since it was handed out.
    pub(crate) fn was_read_back(&self) -> bool {
        self.get() & READ_BACK != 0
    }

    /// True where the mirror may hold pages.
    pub(crate) fn has_pages(&self) -> bool {
        self.get() & TOUCHED != 0
    }

    /// The mirror's pages are gone, and with them that copy. Needs the exclusive hold.
    pub(crate) fn released(&self) {
        self.set(self.get() & !(TOUCHED | READ_BACK | Side::Host.bit()));
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{Content, Side};

    #[test]
    fn each_side_is_stale_after_the_other_has_written() {
        let content = Content::new();
        let stale = || (content.is_stale(Side::Device), content.is_stale(Side::Host));
        assert_eq!(stale(), (false, false), "valid nowhere: nothing to move");
        content.written(Side::Host);
        assert_eq!(stale(), (true, false));
        content.moved_to(Side::Device);
        assert_eq!(stale(), (false, false));
        content.written(Side::Device);
        assert_eq!(stale(), (false, true));
        content.moved_to(Side::Host);
        assert!(stale() == (false, false) && content.was_read_back());
        content.end_host_write();
        assert_eq!(stale(), (true, false));
        content.written(Side::Device);
        content.end_host_write();
        assert_eq!(stale(), (false, true), "the device wrote last");
        content.reset();
        assert!(stale() == (false, false) && content.has_pages() && !content.was_read_back());
        content.released();
        assert!(!content.has_pages());
    }
}
