//! Rows that lie anywhere in a few memories, one after another.

use crate::dtype::{DType, Native};
use crate::features::Features;
use crate::params::JoinRowsParams;
use crate::shader::{Access, Shader};

/// Key of a kernel that copies rows of 32-bit words. Bindings: out, and the source or eight of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct JoinRows {
    /// Rows lie in up to [`JoinRows::SOURCES`] memories; bindings that are not needed name any of them.
    pub several: bool,
}

impl JoinRows {
    /// Rows of one dispatch, at most: all of 128 bytes of parameters, which every device takes.
    pub const MOST: usize = 28;
    /// Bindings of the kernel that reads several memories.
    pub const SOURCES: usize = 8;
    /// The first word of a row of several memories is below this.
    pub const REACH: u32 = 1 << 29;

    /// What [`JoinRowsParams::first`] holds for a row of a source.
    pub fn first(self, source: usize, word: u32) -> u32 {
        if self.several { word << 3 | source as u32 } else { word }
    }

    /// Workgroups for `rows` rows of `words` words.
    pub fn groups(self, words: u32, rows: u32) -> [u32; 3] {
        [words.div_ceil(256), rows, 1]
    }

    pub(super) fn label(self) -> String {
        if self.several { "join_rows_several".to_owned() } else { "join_rows".to_owned() }
    }

    pub(super) fn bindings(self) -> u32 {
        1 + if self.several { Self::SOURCES as u32 } else { 1 }
    }

    pub(super) fn param_bytes(self) -> u32 {
        size_of::<JoinRowsParams>() as u32
    }

    pub(super) fn requires(self) -> Features {
        Features::NONE
    }

    pub(super) fn wgsl(self) -> String {
        const NAMES: [&str; JoinRows::SOURCES] =
            ["source0", "source1", "source2", "source3", "source4", "source5", "source6", "source7"];
        let (body, sources): (_, &[&str]) = match self.several {
            false => (
                concat!(
                    include_str!("../../wgsl/kernel/row_of_one.wgsl"),
                    include_str!("../../wgsl/kernel/join_rows.wgsl")
                ),
                &["source"],
            ),
            true => (
                concat!(
                    include_str!("../../wgsl/kernel/row_of_eight.wgsl"),
                    include_str!("../../wgsl/kernel/join_rows.wgsl")
                ),
                &NAMES,
            ),
        };
        let shader = Shader::new(include_str!("../../wgsl/params/join_rows.wgsl"), body)
            .compute(Native::I32)
            .operand("out", DType::I32, Access::Store);
        sources.iter().fold(shader, |shader, name| shader.operand(name, DType::I32, Access::Load)).finish()
    }
}
