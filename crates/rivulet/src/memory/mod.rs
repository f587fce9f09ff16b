//! Device memory.
mod block;
pub use block::{Block, BlockKind};
