//! Vector clocks.

/// For each agent (a queue, or last the host) how many of its accesses are known to have happened before.
///
/// One number an agent is enough because every ordering covers a prefix: a barrier and a signal cover all that their
/// queue got before them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Clock(Box<[u64]>);

impl Clock {
    pub(super) fn new(agents: usize) -> Self {
        Self(vec![0; agents].into())
    }

    pub(super) fn get(&self, agent: usize) -> u64 {
        self.0[agent]
    }

    pub(super) fn set(&mut self, agent: usize, index: u64) {
        self.0[agent] = index;
    }

    /// Knows from now on what `other` knows, too.
    pub(super) fn join(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine = (*mine).max(*theirs);
        }
    }
}
