//! What the device still has to do with a block: its last write and the reads since.
//!
//! Stamps are read and written under the block's [lock](super::lock): writes of the device under an exclusive hold,
//! reads under a shared one, so several readers may stamp at once. That lock gives the order; the atomics here are
//! `Relaxed` and only make shared holders' updates of one slot safe against each other.
//!
//! Nothing is allocated and nothing locked for one write and three reading streams. More go to a list. A reader
//! that holds the block through a cell leaves its stamp there, on its own cache line.

use crate::ids::{Access, Point, Progress, StreamId};
use rivulet_hal::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use rivulet_hal::sync::{CachePadded, Mutex, Rank};
use smallvec::SmallVec;

/// Reading streams that fit into a block without a list.
const INLINE_READS: usize = 3;

/// Bits of a packed point that hold the value; the stream has the rest.
const VALUE_BITS: u32 = 48;

/// A point in one word; 0 is none. Points that do not fit (stream above 65,535, value above 2^48) are kept in the
/// list instead.
#[inline]
fn pack(point: Point) -> Option<u64> {
    let fits = point.stream.0 <= 0xFFFF && point.value < 1 << VALUE_BITS;
    fits.then(|| u64::from(point.stream.0) << VALUE_BITS | point.value)
}

#[inline]
fn unpack(packed: u64) -> Option<Point> {
    let point =
        Point { stream: StreamId((packed >> VALUE_BITS) as u32), value: packed & ((1 << VALUE_BITS) - 1) };
    (packed != 0).then_some(point)
}

/// One stream's share of a block in cells mode.
#[derive(Debug)]
pub(crate) struct Cell {
    /// Readers inside.
    pub(crate) holders: AtomicU32,
    /// Last device read, packed.
    read: AtomicU64,
}

impl Cell {
    pub(crate) fn new() -> Self {
        Self { holders: AtomicU32::new(0), read: AtomicU64::new(0) }
    }
}

#[derive(Debug, Default)]
struct Overflow {
    writes: Vec<Point>,
    reads: Vec<Point>,
}

/// The stamps of one block.
#[derive(Debug)]
pub struct Stamps {
    write: AtomicU64,
    reads: [AtomicU64; INLINE_READS],
    /// True where `overflow` may hold something.
    more: AtomicBool,
    /// True where it may hold writes. Apart from `more`: who reads a weight that many streams have read needs no lock.
    more_writes: AtomicBool,
    /// True where a cell may hold something.
    in_cells: AtomicBool,
    // A leaf: nothing is taken or called while it is held.
    overflow: Mutex<Overflow>,
}

impl Default for Stamps {
    fn default() -> Self {
        Self::new()
    }
}

impl Stamps {
    /// No stamps.
    pub fn new() -> Self {
        Self {
            write: AtomicU64::new(0),
            reads: std::array::from_fn(|_| AtomicU64::new(0)),
            more: AtomicBool::new(false),
            more_writes: AtomicBool::new(false),
            in_cells: AtomicBool::new(false),
            overflow: Mutex::new(Rank::REGISTRY, Overflow::default()),
        }
    }

    /// True where the device never touched the block, or all it did is cleared.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.write.load(Ordering::Relaxed) == 0
            && self.reads.iter().all(|read| read.load(Ordering::Relaxed) == 0)
            && !self.more.load(Ordering::Relaxed)
            && !self.in_cells.load(Ordering::Relaxed)
    }

    /// The device writes the block at `point`, after everything stamped before. Needs the exclusive hold.
    pub(crate) fn record_write(&self, point: Point, cells: &[CachePadded<Cell>]) {
        self.clear_reads(cells);
        match pack(point) {
            Some(packed) => {
                if self.more.load(Ordering::Relaxed) {
                    self.clear_overflow();
                }
                self.write.store(packed, Ordering::Relaxed);
            }
            None => {
                self.write.store(0, Ordering::Relaxed);
                let mut overflow = self.overflow.lock();
                overflow.reads.clear();
                overflow.writes.clear();
                overflow.writes.push(point);
                self.more_writes.store(true, Ordering::Relaxed);
                self.more.store(true, Ordering::Relaxed);
            }
        }
    }

    /// The device reads the block at `point`. Needs a hold; `cell` is the one it is held through.
    pub(crate) fn record_read(&self, point: Point, cell: Option<&Cell>) {
        let Some(packed) = pack(point) else { return self.overflow_read(point) };
        if let Some(cell) = cell {
            if !self.in_cells.load(Ordering::Relaxed) {
                self.in_cells.store(true, Ordering::Relaxed);
            }
            let before = cell.read.swap(packed, Ordering::Relaxed);
            // Streams beyond the cells share one; a read of the same stream is superseded, another's is kept.
            match unpack(before) {
                Some(other) if other.stream != point.stream => self.add_read(other, before),
                Some(own) if own.value > point.value => self.add_read(own, before),
                _ => {}
            }
            return;
        }
        self.add_read(point, packed);
    }

    fn add_read(&self, point: Point, packed: u64) {
        for slot in &self.reads {
            let mut now = slot.load(Ordering::Relaxed);
            while now == 0 || now >> VALUE_BITS == packed >> VALUE_BITS {
                if now >= packed && now != 0 {
                    return;
                }
                match slot.compare_exchange_weak(now, packed, Ordering::Relaxed, Ordering::Relaxed) {
                    Ok(_) => return,
                    Err(other) => now = other,
                }
            }
        }
        self.overflow_read(point);
    }

    #[cold]
    fn overflow_read(&self, point: Point) {
        let mut overflow = self.overflow.lock();
        match overflow.reads.iter_mut().find(|read| read.stream == point.stream) {
            Some(read) => read.value = read.value.max(point.value),
            None => overflow.reads.push(point),
        }
        self.more.store(true, Ordering::Relaxed);
    }

    #[cold]
    fn clear_overflow(&self) {
        let mut overflow = self.overflow.lock();
        overflow.writes.clear();
        overflow.reads.clear();
        self.more_writes.store(false, Ordering::Relaxed);
        self.more.store(false, Ordering::Relaxed);
    }

    /// Calls `each` with every stamp that an access conflicts with: a read with writes, a write with everything.
    #[inline]
    pub(crate) fn conflicts(&self, access: Access, cells: &[CachePadded<Cell>], mut each: impl FnMut(Point)) {
        if let Some(write) = unpack(self.write.load(Ordering::Relaxed)) {
            each(write);
        }
        if access == Access::Write {
            for read in self.reads.iter().filter_map(|read| unpack(read.load(Ordering::Relaxed))) {
                each(read);
            }
            if self.in_cells.load(Ordering::Relaxed) {
                for read in cells.iter().filter_map(|cell| unpack(cell.read.load(Ordering::Relaxed))) {
                    each(read);
                }
            }
        }
        let listed = if access == Access::Write { &self.more } else { &self.more_writes };
        if listed.load(Ordering::Relaxed) {
            let overflow = self.overflow.lock();
            overflow.writes.iter().copied().for_each(&mut each);
            if access == Access::Write {
                overflow.reads.iter().copied().for_each(&mut each);
            }
        }
    }

    /// True where everything stamped is complete. Needs that nobody holds the block.
    pub(crate) fn all_complete(&self, cells: &[CachePadded<Cell>], progress: &dyn Progress) -> bool {
        let mut complete = true;
        if !self.is_empty() {
            self.conflicts(Access::Write, cells, |point| {
                complete = complete && progress.completed(point.stream) >= point.value;
            });
        }
        complete
    }

    /// Forgets what `access` conflicts with: the holder has waited for it.
    #[inline]
    pub(crate) fn clear_waited(&self, access: Access, cells: &[CachePadded<Cell>]) {
        if self.is_empty() {
            return;
        }
        match access {
            // Shared holders may do this side by side: no write can be stamped meanwhile.
            Access::Read => {
                if self.write.load(Ordering::Relaxed) != 0 {
                    self.write.store(0, Ordering::Relaxed);
                }
                if self.more_writes.load(Ordering::Relaxed) {
                    let mut overflow = self.overflow.lock();
                    overflow.writes.clear();
                    self.more_writes.store(false, Ordering::Relaxed);
                }
            }
            Access::Write => self.clear(cells),
        }
    }

    /// Forgets everything. Needs the exclusive hold, or that nobody can reach the block.
    pub(crate) fn clear(&self, cells: &[CachePadded<Cell>]) {
        self.write.store(0, Ordering::Relaxed);
        self.clear_reads(cells);
        if self.more.load(Ordering::Relaxed) {
            self.clear_overflow();
        }
    }

    fn clear_reads(&self, cells: &[CachePadded<Cell>]) {
        for read in &self.reads {
            if read.load(Ordering::Relaxed) != 0 {
                read.store(0, Ordering::Relaxed);
            }
        }
        if self.in_cells.load(Ordering::Relaxed) {
            for cell in cells {
                cell.read.store(0, Ordering::Relaxed);
            }
            self.in_cells.store(false, Ordering::Relaxed);
        }
    }

    /// Moves the cells' reads to the block itself, before it leaves cells mode. Needs the exclusive hold.
    pub(crate) fn merge_cells(&self, cells: &[CachePadded<Cell>]) {
        if !self.in_cells.load(Ordering::Relaxed) {
            return;
        }
        for cell in cells {
            let packed = cell.read.swap(0, Ordering::Relaxed);
            if let Some(read) = unpack(packed) {
                self.add_read(read, packed);
            }
        }
        self.in_cells.store(false, Ordering::Relaxed);
    }

    /// A copy, without what is complete.
    pub(crate) fn copy(&self, cells: &[CachePadded<Cell>], progress: &dyn Progress) -> StampSet {
        let mut set = StampSet::default();
        if !self.is_empty() {
            self.conflicts(Access::Read, cells, |write| set.join_write(write));
            // The writes come again as reads, which changes nothing: whoever waits for reads waits for writes.
            self.conflicts(Access::Write, cells, |read| set.join_read(read));
            set.prune(progress);
        }
        set
    }

    /// Replaces the stamps. Needs that nobody can reach the block.
    pub(crate) fn load(&self, set: &StampSet) {
        self.clear(&[]);
        for (index, &write) in set.writes.iter().enumerate() {
            match pack(write) {
                Some(packed) if index == 0 => self.write.store(packed, Ordering::Relaxed),
                _ => {
                    self.overflow.lock().writes.push(write);
                    self.more_writes.store(true, Ordering::Relaxed);
                    self.more.store(true, Ordering::Relaxed);
                }
            }
        }
        for &read in &set.reads {
            match pack(read) {
                Some(packed) => self.add_read(read, packed),
                None => self.overflow_read(read),
            }
        }
    }
}

/// Stamps of a range of memory that is no block at the moment: they survive free, split and merge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StampSet {
    writes: SmallVec<[Point; 1]>,
    reads: SmallVec<[Point; 1]>,
}

fn join(points: &mut SmallVec<[Point; 1]>, point: Point) {
    match points.iter_mut().find(|other| other.stream == point.stream) {
        Some(other) => other.value = other.value.max(point.value),
        None => points.push(point),
    }
}

impl StampSet {
    /// True where nothing is stamped.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.reads.is_empty()
    }

    fn join_write(&mut self, point: Point) {
        join(&mut self.writes, point);
    }

    fn join_read(&mut self, point: Point) {
        if !self.writes.contains(&point) {
            join(&mut self.reads, point);
        }
    }

    /// Takes in the stamps of a neighbour: of each stream the later write, and all reads.
    pub fn join(&mut self, other: &Self) {
        for &write in &other.writes {
            self.join_write(write);
        }
        for &read in &other.reads {
            self.join_read(read);
        }
    }

    /// Forgets what is complete.
    pub fn prune(&mut self, progress: &dyn Progress) {
        let late = |point: &mut Point| progress.completed(point.stream) < point.value;
        self.writes.retain(late);
        self.reads.retain(late);
    }

    /// Every point, in no order.
    pub fn points(&self) -> impl Iterator<Item = Point> + '_ {
        self.writes.iter().chain(&self.reads).copied()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    struct Done(u64);
    impl Progress for Done {
        fn completed(&self, _: StreamId) -> u64 {
            self.0
        }
    }

    fn at(stream: u32, value: u64) -> Point {
        Point { stream: StreamId(stream), value }
    }

    fn list(stamps: &Stamps, access: Access, cells: &[CachePadded<Cell>]) -> Vec<(u32, u64)> {
        let mut points = Vec::new();
        stamps.conflicts(access, cells, |point| points.push((point.stream.0, point.value)));
        points.sort_unstable();
        points
    }

    #[test]
    fn a_read_conflicts_with_the_write_and_a_write_with_all() {
        let stamps = Stamps::new();
        stamps.record_write(at(1, 5), &[]);
        stamps.record_read(at(2, 7), None);
        stamps.record_read(at(2, 9), None);
        stamps.record_read(at(2, 8), None);
        assert_eq!(list(&stamps, Access::Read, &[]), [(1, 5)]);
        assert_eq!(list(&stamps, Access::Write, &[]), [(1, 5), (2, 9)]);
        stamps.record_write(at(3, 1), &[]);
        assert_eq!(list(&stamps, Access::Write, &[]), [(3, 1)]);
    }

    #[test]
    fn many_readers_and_wide_points_overflow_and_are_kept() {
        let stamps = Stamps::new();
        for stream in 0..10 {
            stamps.record_read(at(stream, 100 + u64::from(stream)), None);
        }
        stamps.record_read(at(70_000, 1), None);
        stamps.record_read(at(3, 1 << 50), None);
        let points = list(&stamps, Access::Write, &[]);
        assert!(
            points.contains(&(9, 109)) && points.contains(&(70_000, 1)) && points.contains(&(3, 1 << 50))
        );
        stamps.record_write(at(1 << 20, 4), &[]);
        assert_eq!(list(&stamps, Access::Read, &[]), [(1 << 20, 4)]);
        stamps.clear_waited(Access::Read, &[]);
        assert!(list(&stamps, Access::Write, &[]).is_empty());
    }

    #[test]
    fn cells_that_streams_share_keep_both_reads() {
        let cells = [CachePadded::new(Cell::new())];
        let stamps = Stamps::new();
        stamps.record_read(at(1, 5), Some(&cells[0]));
        stamps.record_read(at(33, 6), Some(&cells[0]));
        assert_eq!(list(&stamps, Access::Write, &cells), [(1, 5), (33, 6)]);
        stamps.merge_cells(&cells);
        assert_eq!(list(&stamps, Access::Write, &[]), [(1, 5), (33, 6)]);
    }

    #[test]
    fn copies_survive_split_merge_and_reload() {
        let stamps = Stamps::new();
        stamps.record_write(at(1, 5), &[]);
        stamps.record_read(at(2, 7), None);
        let mut left = stamps.copy(&[], &Done(0));
        let other = Stamps::new();
        other.record_write(at(1, 9), &[]);
        other.record_write(at(4, 2), &[]);
        other.record_read(at(2, 3), None);
        left.join(&other.copy(&[], &Done(0)));
        let merged = Stamps::new();
        merged.load(&left);
        assert_eq!(list(&merged, Access::Read, &[]), [(1, 5), (4, 2)]);
        assert_eq!(list(&merged, Access::Write, &[]), [(1, 5), (2, 7), (4, 2)]);
        assert!(merged.copy(&[], &Done(7)).is_empty());
        assert!(merged.all_complete(&[], &Done(7)) && !merged.all_complete(&[], &Done(6)));
    }
}
