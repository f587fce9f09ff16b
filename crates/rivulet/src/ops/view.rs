use super::{DType, refuse};
use crate::error::Result;
use crate::memory::Block;
use rivulet_hal::Binding;
use smallvec::SmallVec;

/// Dimensions that are held without allocating.
const INLINE: usize = 6;

/// Elements of a block: what a tensor is to a kernel. Sizes, strides and the offset count elements.
#[derive(Clone, Debug)]
pub struct View<'b> {
    /// The memory.
    pub block: &'b Block,
    /// Type of the elements.
    pub dtype: DType,
    /// First element.
    pub offset: u64,
    /// Sizes, outermost dimension first. Empty for one element.
    pub shape: SmallVec<[u64; INLINE]>,
    /// Strides, as many as sizes; 0 repeats a dimension, and negative ones are allowed.
    pub strides: SmallVec<[i64; INLINE]>,
}

impl<'b> View<'b> {
    /// All of a dense tensor that begins with the block.
    pub fn dense(block: &'b Block, dtype: DType, shape: &[u64]) -> Self {
        let mut strides: SmallVec<[i64; INLINE]> = shape.iter().map(|_| 1).collect();
        for dim in (1..shape.len()).rev() {
            strides[dim - 1] = strides[dim] * i64::try_from(shape[dim].max(1)).unwrap_or(i64::MAX);
        }
        Self { block, dtype, offset: 0, shape: SmallVec::from_slice(shape), strides }
    }

    /// Number of elements.
    pub fn count(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Fails where an element lies outside the block.
    pub(super) fn check(&self, op: &'static str, name: &str) -> Result<()> {
        if self.strides.len() != self.shape.len() {
            let (sizes, strides) = (self.shape.len(), self.strides.len());
            return refuse(op, format!("{name} has {sizes} sizes and {strides} strides"));
        }
        if self.count() == 0 {
            return Ok(());
        }
        let (mut first, mut last) = (i128::from(self.offset), i128::from(self.offset));
        for (&size, &stride) in self.shape.iter().zip(&self.strides) {
            let reach = i128::from(stride) * i128::from(size - 1);
            if reach < 0 { first += reach } else { last += reach }
        }
        let elements = i128::from(self.block.size() / u64::from(self.dtype.size()));
        if first < 0 || last >= elements {
            return refuse(
                op,
                format!("{name} has elements {first} to {last} of a block that holds {elements}"),
            );
        }
        // Kernels count in 32 bits.
        if last > i128::from(i32::MAX) {
            return refuse(op, format!("{name} reaches element {last}; kernels reach {}", i32::MAX));
        }
        Ok(())
    }

    /// The whole block as an operand of a dispatch.
    pub(super) fn binding(&self, op: &'static str, write: bool, most: u64) -> Result<Binding> {
        let Some(buffer) = self.block.buffer() else {
            return refuse(op, "an operand is memory that only the CPU can reach".to_owned());
        };
        if buffer.range.len() > most {
            let bytes = buffer.range.len();
            return refuse(op, format!("an operand lies in a block of {bytes} bytes; kernels reach {most}"));
        }
        Ok(Binding { buffer, write })
    }

    /// True where no element of another tensor can share the last word.
    pub(super) fn owns_tail(&self) -> bool {
        let end = (self.offset + self.count()) * u64::from(self.dtype.size());
        end.is_multiple_of(4) || end >= self.block.requested()
    }
}
