//! Who touched which bytes of one memory last.

use super::clock::Clock;
use crate::ByteRange;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One access, as a point on its agent's clock.
#[derive(Clone, Debug)]
pub(super) struct Access {
    pub(super) agent: usize,
    pub(super) index: u64,
    /// Name for reports.
    pub(super) who: Arc<str>,
}

impl Access {
    fn before(&self, known: &Clock) -> bool {
        known.get(self.agent) >= self.index
    }

    fn is(&self, other: &Self) -> bool {
        (self.agent, self.index) == (other.agent, other.index)
    }
}

/// An earlier access that nothing orders before the new one.
#[derive(Debug)]
pub(super) struct Conflict {
    pub(super) earlier: Access,
    pub(super) earlier_writes: bool,
    /// Bytes that both touch, as far as they form one stretch.
    pub(super) range: ByteRange,
}

#[derive(Clone, Debug)]
struct Segment {
    end: u64,
    /// The last write is enough: earlier ones were ordered before it, or already reported.
    write: Option<Access>,
    /// Last read of each agent since that write.
    reads: Vec<Access>,
}

impl Segment {
    fn unordered(&self, write: bool, by: &Access, known: &Clock) -> Option<(&Access, bool)> {
        let open = |access: &&Access| !access.is(by) && !access.before(known);
        let reads = self.reads.iter().filter(|_| write).find(open).map(|read| (read, false));
        self.write.as_ref().filter(open).map(|write| (write, true)).or(reads)
    }
}

/// The bytes of one memory as stretches with equal history. Stretches that nobody touched are left out.
#[derive(Debug, Default)]
pub(super) struct History {
    segments: BTreeMap<u64, Segment>,
}

impl History {
    /// Notes an access and gives the first earlier one that `known` does not cover.
    pub(super) fn access(
        &mut self,
        range: ByteRange,
        write: bool,
        by: &Access,
        known: &Clock,
    ) -> Option<Conflict> {
        let conflict = self.conflict(range, write, by, known);
        self.note(range, write, by);
        conflict
    }

    /// The first access to these bytes that `known` does not cover.
    pub(super) fn conflict(
        &self,
        range: ByteRange,
        write: bool,
        by: &Access,
        known: &Clock,
    ) -> Option<Conflict> {
        if range.is_empty() {
            return None;
        }
        // Only the last stretch that starts before the range can reach into it.
        let first =
            self.segments.range(..range.start).next_back().filter(|(_, segment)| segment.end > range.start);
        first.into_iter().chain(self.segments.range(range.start..range.end)).find_map(|(&start, segment)| {
            let (earlier, earlier_writes) = segment.unordered(write, by, known)?;
            let range = ByteRange { start: start.max(range.start), end: segment.end.min(range.end) };
            Some(Conflict { earlier: earlier.clone(), earlier_writes, range })
        })
    }

    /// Notes an access.
    pub(super) fn note(&mut self, range: ByteRange, write: bool, by: &Access) {
        if range.is_empty() {
            return;
        }
        self.split_at(range.start);
        self.split_at(range.end);
        if write {
            self.note_write(range, by);
        } else {
            self.note_read(range, by);
        }
    }

    /// An access that `known` does not cover.
    pub(super) fn any_unordered(&self, known: &Clock) -> Option<&Access> {
        let all = self.segments.values().flat_map(|segment| segment.write.iter().chain(&segment.reads));
        all.into_iter().find(|access| !access.before(known))
    }

    fn split_at(&mut self, at: u64) {
        let Some((_, segment)) = self.segments.range_mut(..at).next_back() else { return };
        if segment.end > at {
            let tail = segment.clone();
            segment.end = at;
            self.segments.insert(at, tail);
        }
    }

    fn note_write(&mut self, range: ByteRange, by: &Access) {
        let covered: Vec<u64> =
            self.segments.range(range.start..range.end).map(|(&start, _)| start).collect();
        for start in covered {
            self.segments.remove(&start);
        }
        let segment = Segment { end: range.end, write: Some(by.clone()), reads: Vec::new() };
        self.segments.insert(range.start, segment);
    }

    fn note_read(&mut self, range: ByteRange, by: &Access) {
        let mut gaps = Vec::new();
        let mut at = range.start;
        for (&start, segment) in self.segments.range_mut(range.start..range.end) {
            if at < start {
                gaps.push((at, start));
            }
            at = segment.end;
            match segment.reads.iter_mut().find(|read| read.agent == by.agent) {
                Some(read) => *read = by.clone(),
                None => segment.reads.push(by.clone()),
            }
        }
        if at < range.end {
            gaps.push((at, range.end));
        }
        for (start, end) in gaps {
            self.segments.insert(start, Segment { end, write: None, reads: vec![by.clone()] });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Access, Clock, History};
    use crate::ByteRange;

    const AGENTS: usize = 3;

    fn access(agent: usize, index: u64) -> Access {
        Access { agent, index, who: format!("{agent}.{index}").into() }
    }

    fn bytes(start: u64, end: u64) -> ByteRange {
        ByteRange { start, end }
    }

    #[test]
    fn conflicts_need_a_shared_byte_and_a_write() {
        let mut history = History::default();
        let nothing = Clock::new(AGENTS);
        assert!(history.access(bytes(0, 16), true, &access(0, 1), &nothing).is_none());
        assert!(history.access(bytes(16, 32), false, &access(1, 1), &nothing).is_none());
        assert!(history.access(bytes(24, 40), false, &access(2, 1), &nothing).is_none());
        let conflict = history.access(bytes(30, 50), true, &access(0, 2), &nothing).unwrap();
        assert_eq!(
            (conflict.earlier.agent, conflict.earlier_writes, conflict.range),
            (1, false, bytes(30, 32))
        );
        let conflict = history.access(bytes(15, 16), false, &access(2, 2), &nothing).unwrap();
        assert_eq!(
            (conflict.earlier.agent, conflict.earlier_writes, conflict.range),
            (0, true, bytes(15, 16))
        );
    }

    #[test]
    fn what_is_known_is_no_conflict() {
        let mut history = History::default();
        let mut known = Clock::new(AGENTS);
        history.access(bytes(0, 64), true, &access(0, 5), &known);
        known.set(0, 4);
        assert!(history.access(bytes(0, 8), false, &access(1, 1), &known).is_some());
        known.set(0, 5);
        assert!(history.access(bytes(8, 16), false, &access(1, 2), &known).is_none());
        assert_eq!(history.any_unordered(&known).unwrap().agent, 1);
        known.set(1, 2);
        assert!(history.any_unordered(&known).is_none());
    }

    /// A second, plain form of the same rules, byte by byte, against random accesses.
    #[test]
    fn agrees_with_a_byte_by_byte_oracle() {
        const BYTES: usize = 24;
        let mut random = 1_u64;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        for _ in 0..200 {
            let mut history = History::default();
            let mut oracle: Vec<Vec<(Access, bool)>> = vec![Vec::new(); BYTES];
            let mut indices = [0_u64; AGENTS];
            for _ in 0..40 {
                let agent = next(AGENTS as u64) as usize;
                indices[agent] += 1;
                let by = access(agent, indices[agent]);
                let start = next(BYTES as u64);
                let range = bytes(start, start + next(BYTES as u64 - start + 1));
                let write = next(3) == 0;
                // Everything up to a random point of each agent is known, own accesses always.
                let mut known = Clock::new(AGENTS);
                (0..AGENTS).for_each(|other| known.set(other, next(indices[other] + 1)));
                known.set(agent, indices[agent]);
                let touched = &mut oracle[range.start as usize..range.end as usize];
                let expected = touched.iter().any(|byte| {
                    let last_write = byte.iter().rposition(|(_, write)| *write);
                    let open =
                        |(access, theirs): &(Access, bool)| (write || *theirs) && !access.before(&known);
                    byte[last_write.unwrap_or(0)..].iter().any(open)
                });
                touched.iter_mut().for_each(|byte| byte.push((by.clone(), write)));
                assert_eq!(history.access(range, write, &by, &known).is_some(), expected);
            }
        }
    }
}
