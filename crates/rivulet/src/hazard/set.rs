//! The operands of one op, locked together.

use super::lock::{Hold, Mode, Patience};
use super::{Tracking, held, seeded};
use crate::blocking::{self, Interrupted};
use crate::ids::{Access, Point, Progress, StreamId};
use crate::memory::Block;
use smallvec::SmallVec;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

/// Operands kept without allocating.
const INLINE: usize = 8;

/// How long an op inside another op of its thread waits for a block out of order.
#[cfg(not(test))]
const NESTED_LIMIT: Duration = Duration::from_secs(30);
#[cfg(test)]
const NESTED_LIMIT: Duration = Duration::from_millis(300);

/// Points to wait for: the highest of each stream.
pub type Waits = SmallVec<[Point; 4]>;

/// Why operands could not be taken. None of them is held then. Transient.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HazardError {
    /// A signal ended the wait.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// An op inside an op (a CPU kernel that called back into Python) met a block that another thread kept.
    #[error(
        "gave up after {} s waiting for the tensor memory at {address:#x} ({bytes} bytes), which another thread is \
         using: this thread waits inside an operation that itself holds {holding} tensors, so the two may be \
         waiting for each other; let the callback use only tensors of the operation it runs in, or new ones",
        waited.as_secs_f32()
    )]
    NestedTimeout {
        /// Address of the block.
        address: usize,
        /// Its size.
        bytes: u64,
        /// Blocks that the thread holds.
        holding: usize,
        /// How long it waited.
        waited: Duration,
    },
}

#[derive(Debug)]
enum State {
    /// Not taken yet.
    Free,
    Held(Hold),
    /// By an op that this one is inside of.
    Outer,
}

#[derive(Debug)]
struct Entry<'a> {
    block: &'a Block,
    access: Access,
    /// Alone, although the op itself may only read.
    alone: bool,
    state: State,
}

impl<'a> Entry<'a> {
    fn new(block: &'a Block, access: Access) -> Self {
        Self { block, access, alone: false, state: State::Free }
    }

    #[inline]
    fn key(&self) -> usize {
        key(self.block)
    }

    fn mode(&self) -> Mode {
        match self.access {
            Access::Read if !self.alone => Mode::Shared,
            Access::Read | Access::Write => Mode::Exclusive,
        }
    }

    /// True where this op, or the one around it, holds the block alone.
    fn is_alone(&self) -> bool {
        match self.state {
            State::Free => false,
            State::Held(hold) => hold == Hold::Exclusive,
            State::Outer => self.block.lock().is_exclusive(),
        }
    }
}

/// Blocks are ordered by where their headers lie: unlike data, no two of them can share an address.
#[cfg(not(loom))]
#[inline]
fn key(block: &Block) -> usize {
    std::ptr::from_ref(block).addr()
}

/// Where a model's headers lie differs between its runs; its data does not.
#[cfg(loom)]
fn key(block: &Block) -> usize {
    block.address()
}

/// The operands of one op, all locked. Dropping it lets go. Belongs to the thread that made it.
#[derive(Debug)]
pub struct OperandSet<'a> {
    /// By rising key, each block once.
    entries: SmallVec<[Entry<'a>; INLINE]>,
    /// Blocks that this set has put on the thread's list.
    listed: usize,
    not_send: PhantomData<*const ()>,
}

impl<'a> OperandSet<'a> {
    /// Locks the blocks of `operands`, a block named twice in its stronger mode. A block that this thread already
    /// holds in an op around this one is left as it is. Waits where another thread holds a block in a conflicting
    /// mode; engine locks must not be held. `stream` chooses the cell of shared blocks.
    ///
    /// With [`Tracking::Off`] nothing is locked and the set is empty.
    ///
    /// # Errors
    /// [`HazardError`]; nothing is held then.
    pub fn acquire(
        operands: &[(&'a Block, Access)],
        stream: StreamId,
        tracking: Tracking,
    ) -> Result<Self, HazardError> {
        Self::acquire_alone(operands, stream, tracking, |_| false)
    }

    /// As [`OperandSet::acquire`], but blocks for which `alone` holds are locked against everybody, also where the op
    /// only reads them.
    ///
    /// # Errors
    /// As [`OperandSet::acquire`].
    pub(crate) fn acquire_alone(
        operands: &[(&'a Block, Access)],
        stream: StreamId,
        tracking: Tracking,
        alone: impl Fn(&Block) -> bool,
    ) -> Result<Self, HazardError> {
        let mut set = Self { entries: SmallVec::new(), listed: 0, not_send: PhantomData };
        if tracking == Tracking::Off {
            return Ok(set);
        }
        set.sort_in(operands);
        set.entries.iter_mut().for_each(|entry| entry.alone = alone(entry.block));
        if seeded::is("hazard_unordered_locks") {
            set.entries.sort_by_key(|entry| entry.access);
        }
        let highest = if held::len() > 0 { set.mark_outer() } else { None };
        for index in 0..set.entries.len() {
            let entry = &mut set.entries[index];
            if matches!(entry.state, State::Outer) {
                continue;
            }
            match entry.block.lock().try_lock(entry.mode(), stream) {
                Some(hold) => entry.state = State::Held(hold),
                None => set.wait_for(index, stream, highest)?,
            }
        }
        set.list();
        Ok(set)
    }

    #[inline]
    fn sort_in(&mut self, operands: &[(&'a Block, Access)]) {
        if operands.len() > 4 * INLINE {
            let entry = |&(block, access): &(&'a Block, Access)| Entry::new(block, access);
            self.entries.extend(operands.iter().map(entry));
            // Writes first, so that the one kept of equal blocks is the stronger.
            self.entries.sort_unstable_by_key(|entry| (entry.key(), entry.access == Access::Read));
            self.entries.dedup_by_key(|entry| entry.key());
            return;
        }
        for &(block, access) in operands {
            let place = self.entries.iter().rposition(|other| other.key() <= key(block));
            match place {
                Some(place) if self.entries[place].key() == key(block) => {
                    let other = &mut self.entries[place].access;
                    *other = access.max(*other);
                }
                _ => {
                    let at = place.map_or(0, |place| place + 1);
                    self.entries.insert(at, Entry::new(block, access));
                }
            }
        }
    }

    /// Marks what the thread already holds; the highest key of it.
    #[cold]
    fn mark_outer(&mut self) -> Option<usize> {
        for entry in self.entries.iter_mut().filter(|entry| held::contains(entry.key())) {
            entry.state = State::Outer;
        }
        held::highest()
    }

    /// Waits for one block. `highest` is the highest key that ops around this one hold.
    #[cold]
    fn wait_for(
        &mut self,
        index: usize,
        stream: StreamId,
        highest: Option<usize>,
    ) -> Result<(), HazardError> {
        // A signal handler that runs while this waits is an op inside this one.
        self.list();
        let entry = &mut self.entries[index];
        let start = Instant::now();
        // In order there can be no circle, however long the wait.
        let limit = highest.filter(|&highest| highest > entry.key()).map(|_| NESTED_LIMIT);
        let mut patience = Patience::default();
        let mut hold = None;
        let (lock, mode) = (entry.block.lock(), entry.mode());
        blocking::wait_loop(|longest| {
            hold = lock.lock_for(mode, stream, Some(longest), &mut patience);
            hold.is_some() || limit.is_some_and(|limit| start.elapsed() >= limit)
        })?;
        match hold {
            Some(hold) => {
                entry.state = State::Held(hold);
                Ok(())
            }
            None => Err(HazardError::NestedTimeout {
                address: entry.block.address(),
                bytes: entry.block.size(),
                holding: held::len(),
                waited: start.elapsed(),
            }),
        }
    }

    /// Puts what is held and not yet listed on the thread's list.
    #[inline]
    fn list(&mut self) {
        let taken = self.entries.iter().filter(|entry| matches!(entry.state, State::Held(_)));
        for entry in taken.skip(self.listed) {
            held::push(entry.key());
            self.listed += 1;
        }
    }

    /// Takes them off again.
    #[inline]
    fn unlist(&self) {
        let mut own = self.entries.iter().filter(|entry| matches!(entry.state, State::Held(_)));
        // Sets of a thread normally end in the reverse of the order in which they began.
        if let Some(first) = own.next()
            && !held::truncate(first.key(), self.listed)
        {
            held::remove(first.key());
            own.take(self.listed - 1).for_each(|entry| held::remove(entry.key()));
        }
    }

    /// Device work that has to be complete before this op may touch its operands, of the own stream too: of each
    /// stream the highest value, without what `progress` knows to be complete.
    pub fn waits(&self, progress: &dyn Progress) -> Waits {
        let mut waits = Waits::new();
        for entry in &self.entries {
            let stamps = entry.block.stamps();
            if stamps.is_empty() {
                continue;
            }
            stamps.conflicts(entry.access, entry.block.lock().cells(), |point| {
                if progress.reached(point) {
                    return;
                }
                match waits.iter_mut().find(|other| other.stream == point.stream) {
                    Some(other) => other.value = other.value.max(point.value),
                    None => waits.push(point),
                }
            });
        }
        waits
    }

    /// Notes that the device will touch the operands at `value` of `stream`, after everything in
    /// [`OperandSet::waits`].
    pub fn stamp_device(&self, stream: StreamId, value: u64) {
        let point = Point { stream, value };
        for entry in &self.entries {
            let (stamps, cells) = (entry.block.stamps(), entry.block.lock().cells());
            match (entry.access, &entry.state) {
                (Access::Write, _) => stamps.record_write(point, cells),
                (Access::Read, State::Held(Hold::Cell(index))) => {
                    stamps.record_read(point, cells.get(usize::from(*index)).map(|cell| &**cell));
                }
                (Access::Read, _) => stamps.record_read(point, None),
            }
        }
    }

    /// Forgets the stamps that conflict with this op. The caller has waited for all of [`OperandSet::waits`].
    pub fn clear_waited(&self) {
        for entry in &self.entries {
            entry.block.stamps().clear_waited(entry.access, entry.block.lock().cells());
        }
    }

    /// As [`OperandSet::blocks`], with whether nobody else holds the block.
    pub(crate) fn holds(&self) -> impl Iterator<Item = (&'a Block, Access, bool)> + '_ {
        self.entries.iter().map(|entry| (entry.block, entry.access, entry.is_alone()))
    }

    /// The blocks, each once, with the stronger access.
    pub fn blocks(&self) -> impl Iterator<Item = (&'a Block, Access)> + '_ {
        self.entries.iter().map(|entry| (entry.block, entry.access))
    }
}

impl Drop for OperandSet<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.listed > 0 {
            self.unlist();
        }
        for entry in self.entries.iter().rev() {
            if let State::Held(hold) = entry.state {
                entry.block.lock().unlock(hold);
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::memory::{Allocator, Block};
    use rivulet_hal::sync::Arc;

    struct Done;

    impl Progress for Done {
        fn completed(&self, _: StreamId) -> u64 {
            u64::MAX
        }
    }

    #[test]
    fn a_nested_wait_out_of_order_times_out_and_one_in_order_does_not() {
        let stream = StreamId(1);
        let allocator = Allocator::new(rivulet_hal::host::open());
        let mut blocks: Vec<Arc<Block>> =
            (0..3).map(|_| allocator.allocate(stream, 100, &Done).unwrap()).collect();
        blocks.sort_by_key(|block| key(block));
        let acquire = |block: usize| {
            OperandSet::acquire(&[(&*blocks[block], Access::Write)], stream, Tracking::On).map(drop)
        };
        let (held, release) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let operands = [(&*blocks[0], Access::Read), (&*blocks[2], Access::Read)];
                let set = OperandSet::acquire(&operands, StreamId(2), Tracking::On);
                held.wait();
                release.wait();
                std::thread::sleep(2 * NESTED_LIMIT);
                drop(set);
            });
            held.wait();
            let outer = OperandSet::acquire(&[(&*blocks[1], Access::Read)], stream, Tracking::On).unwrap();
            let error = acquire(0).unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, HazardError::NestedTimeout { holding: 1, .. }), "{text}");
            assert!(text.contains(&format!("{:#x}", blocks[0].address())), "{text}");
            release.wait();
            assert_eq!(acquire(2), Ok(()), "waits as long as it takes");
            drop(outer);
        });
        assert!(blocks.iter().all(|block| block.lock().is_idle()));
        assert_eq!(held::len(), 0);
    }
}
