//! The one table of lock ranks; `docs/concurrency.md` explains it.

/// Place of a lock in the order in which a thread may take locks: only upwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rank {
    index: u8,
}

macro_rules! ranks {
    ($($(#[$meta:meta])* $name:ident = $index:literal, $order:literal, $text:literal;)+) => {
        impl Rank {
            $($(#[$meta])* pub const $name: Self = Self { index: $index };)+

            /// Every rank, lowest first.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            const TABLE: &'static [(u8, &'static str)] = &[$(($order, $text)),+];
        }

        // The held set is a bit mask by index, so the index has to rise with the order.
        const _: () = {
            let mut row = 0;
            while row < Rank::TABLE.len() {
                assert!(Rank::ALL[row].index as usize == row && row < 32);
                assert!(row == 0 || Rank::TABLE[row - 1].0 < Rank::TABLE[row].0);
                row += 1;
            }
        };
    };
}

ranks! {
    /// Slots of the stream pool and those who wait for one.
    POOL = 0, 10, "pool";
    /// The open recorder of a stream.
    RECORDER = 1, 20, "stream recorder";
    /// Submissions of a stream that are finished and not yet handed over.
    PENDING = 2, 30, "stream pending list";
    /// A size-class shard of the allocator, or its large blocks.
    ALLOCATOR = 3, 40, "allocator";
    /// Growth of the table from address to segment.
    SEGMENT_TABLE = 4, 45, "segment table growth";
    /// Ready submissions of a hardware queue.
    COMBINER = 5, 50, "combiner";
    /// State of an event.
    EVENT = 6, 60, "event";
    /// Names, counters and other registries.
    REGISTRY = 7, 70, "registry";
    /// A shard of the parking table.
    PARKING = 8, 80, "parking shard";
    /// Inside a driver; nothing of the engine is called while it is held.
    DRIVER = 9, 90, "driver";
    /// A queue of calls that are joined, or one call in it; a leaf: nothing is taken under it.
    BATCH = 10, 95, "batch queue";
}

impl Rank {
    /// Position in the order, as `docs/concurrency.md` lists it.
    pub const fn order(self) -> u8 {
        Self::TABLE[self.index as usize].0
    }

    /// Name for reports.
    pub const fn name(self) -> &'static str {
        Self::TABLE[self.index as usize].1
    }

    #[cfg(debug_assertions)]
    pub(super) const fn bit(self) -> u32 {
        1 << self.index
    }

    #[cfg(all(feature = "lock-counts", not(loom)))]
    pub(super) const fn index(self) -> usize {
        self.index as usize
    }

    /// Highest rank of a non-empty held set.
    #[cfg(debug_assertions)]
    pub(super) fn highest(mask: u32) -> Option<Self> {
        Self::ALL.iter().rev().find(|rank| mask & rank.bit() != 0).copied()
    }
}

impl std::fmt::Display for Rank {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` (rank {})", self.name(), self.order())
    }
}
