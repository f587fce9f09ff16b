//! What a program is made of, for people and tests.

/// One command of a [`Program`](super::Program).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandReport {
    /// The op that it comes from.
    pub label: &'static str,
    /// The kernel's label, `copy` or `fill`.
    pub kernel: String,
    /// Commands of one level run beside each other.
    pub level: u32,
}

/// A program's commands and memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramReport {
    /// In the order in which they are recorded.
    pub commands: Vec<CommandReport>,
    /// Commands of the noted run.
    pub noted: usize,
    /// What was put together or left out, one line each.
    pub fusions: Vec<String>,
    /// Barriers between the commands.
    pub barriers: usize,
    /// Ops that a run is recorded as.
    pub parts: usize,
    /// Bytes of activations, allocated for each run.
    pub arena_bytes: u64,
    /// Bytes of outputs, allocated for each run.
    pub fresh_bytes: u64,
    /// Most bytes of activations and outputs that lived at one time of the noted run, each in whole 256 bytes.
    pub eager_peak_bytes: u64,
    /// Blocks that all runs share.
    pub shared_blocks: usize,
}
