//! Rows that lie anywhere in one memory, one after another.

use crate::dtype::{DType, Native};
use crate::features::Features;
use crate::params::JoinRowsParams;
use crate::shader::{Access, Shader};

/// Key of a kernel that copies rows of 32-bit words. Bindings: out, source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct JoinRows;

impl JoinRows {
    /// Rows of one dispatch, at most: all of 128 bytes of parameters, which every device takes.
    pub const MOST: usize = 28;

    /// Workgroups for `rows` rows of `words` words.
    pub fn groups(self, words: u32, rows: u32) -> [u32; 3] {
        [words.div_ceil(256), rows, 1]
    }

    pub(super) fn label(self) -> String {
        "join_rows".to_owned()
    }

    pub(super) fn bindings(self) -> u32 {
        2
    }

    pub(super) fn param_bytes(self) -> u32 {
        size_of::<JoinRowsParams>() as u32
    }

    pub(super) fn requires(self) -> Features {
        Features::NONE
    }

    pub(super) fn wgsl(self) -> String {
        Shader::new(
            include_str!("../../wgsl/params/join_rows.wgsl"),
            include_str!("../../wgsl/kernel/join_rows.wgsl"),
        )
        .compute(Native::I32)
        .operand("out", DType::I32, Access::Store)
        .operand("source", DType::I32, Access::Load)
        .finish()
    }
}
