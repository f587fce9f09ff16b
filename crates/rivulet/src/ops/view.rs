use super::launch::word;
use super::{DType, no_kernel, refuse};
use crate::error::Result;
use crate::memory::Block;
use rivulet_hal::{ByteRange, Operand};
use smallvec::SmallVec;

/// Dimensions that are held without allocating.
pub(super) const INLINE: usize = 6;

/// Sizes of a view.
pub(super) type Shape = SmallVec<[u64; INLINE]>;
/// Strides of a view.
pub(super) type Strides = SmallVec<[i64; INLINE]>;

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

/// Strides of a dense tensor, row-major.
pub(super) fn dense_strides(shape: &[u64]) -> Strides {
    let mut strides: Strides = SmallVec::from_elem(1, shape.len());
    for dim in (1..shape.len()).rev() {
        strides[dim - 1] = strides[dim].saturating_mul(i64::try_from(shape[dim].max(1)).unwrap_or(i64::MAX));
    }
    strides
}

impl<'b> View<'b> {
    /// All of a dense tensor that begins with the block.
    pub fn dense(block: &'b Block, dtype: DType, shape: &[u64]) -> Self {
        Self { block, dtype, offset: 0, shape: SmallVec::from_slice(shape), strides: dense_strides(shape) }
    }

    /// Number of elements.
    #[inline]
    pub fn count(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Number of dimensions.
    pub(super) fn rank(&self) -> usize {
        self.shape.len()
    }

    /// The same elements under other sizes and strides.
    pub(super) fn with(&self, shape: &[u64], strides: &[i64]) -> Self {
        Self {
            block: self.block,
            dtype: self.dtype,
            offset: self.offset,
            shape: SmallVec::from_slice(shape),
            strides: SmallVec::from_slice(strides),
        }
    }

    /// The same sizes, strides and type in other memory: for an operand without elements, which may have none.
    pub(super) fn with_block_of(&self, other: &Self) -> Self {
        Self { block: other.block, offset: 0, ..self.clone() }
    }

    /// The dimensions in another order: dimension `k` of the answer is `order[k]` of this view.
    pub(super) fn permuted(&self, order: &[usize]) -> Self {
        let shape: Shape = order.iter().map(|&dim| self.shape[dim]).collect();
        let strides: Strides = order.iter().map(|&dim| self.strides[dim]).collect();
        Self { shape, strides, ..self.clone() }
    }

    /// True where the elements follow one another in row-major order.
    pub(super) fn is_dense(&self) -> bool {
        let mut expected = 1;
        for (&size, &stride) in self.shape.iter().zip(&self.strides).rev() {
            if size != 1 {
                if stride != expected {
                    return false;
                }
                expected *= size as i64;
            }
        }
        true
    }

    /// Fails where an element lies outside the block, or further than kernels reach.
    #[inline]
    pub(super) fn check(&self, op: &'static str, name: &str) -> Result<()> {
        if self.strides.len() != self.shape.len() {
            return self.wrong_rank(op, name);
        }
        let offset = i64::try_from(self.offset).unwrap_or(i64::MAX);
        let (mut first, mut last, mut empty, mut wide) = (offset, offset, false, false);
        for (&size, &stride) in self.shape.iter().zip(&self.strides) {
            empty |= size == 0;
            wide |= size > i32::MAX as u64;
            // A saturated reach lies outside every block.
            let reach = stride.saturating_mul(i64::try_from(size).unwrap_or(i64::MAX).wrapping_sub(1));
            if reach < 0 {
                first = first.saturating_add(reach);
            } else {
                last = last.saturating_add(reach);
            }
        }
        let elements = (self.block.size() / u64::from(self.dtype.size())) as i64;
        // Kernels count in 32 bits.
        if empty || (!wide && first >= 0 && last < elements && last <= i64::from(i32::MAX)) {
            return Ok(());
        }
        self.out_of_reach(op, name, first, last, elements)
    }

    #[cold]
    fn wrong_rank(&self, op: &'static str, name: &str) -> Result<()> {
        let (sizes, strides) = (self.shape.len(), self.strides.len());
        refuse(op, format!("{name} has {sizes} sizes and {strides} strides; there must be as many"))
    }

    #[cold]
    fn out_of_reach(&self, op: &'static str, name: &str, first: i64, last: i64, elements: i64) -> Result<()> {
        if first < 0 || last >= elements {
            return refuse(
                op,
                format!("{name} has elements {first} to {last} of a block that holds {elements}"),
            );
        }
        let shape = &self.shape;
        no_kernel(op, format!("{name} of {shape:?} reaches element {last}; kernels reach {}", i32::MAX))
    }

    /// Fails unless elements follow one another in row-major order, inside the block.
    pub(super) fn check_dense(&self, op: &'static str, name: &str) -> Result<()> {
        self.check(op, name)?;
        if self.count() == 0 || self.is_dense() {
            return Ok(());
        }
        let (shape, strides) = (&self.shape, &self.strides);
        refuse(op, format!("{name} of shape {shape:?} has strides {strides:?}; it must be dense"))
    }

    /// Fails unless the shape is `shape`.
    pub(super) fn check_shape(&self, op: &'static str, name: &str, shape: &[u64]) -> Result<()> {
        if self.shape.as_slice() == shape {
            return Ok(());
        }
        refuse(op, format!("{name} has shape {:?}; it must be {shape:?}", self.shape))
    }

    /// Fails unless the element type is `dtype`.
    pub(super) fn check_dtype(&self, op: &'static str, name: &str, dtype: DType) -> Result<()> {
        if self.dtype == dtype {
            return Ok(());
        }
        refuse(op, format!("{name} is {}; it must be {}", self.dtype.name(), dtype.name()))
    }

    /// Depth, height and width of dense planes of images, and a 1 that fills the vector. Fails for other shapes.
    pub(super) fn image(&self, op: &'static str, name: &str) -> Result<[u32; 4]> {
        self.check_dense(op, name)?;
        match *self.shape.as_slice() {
            [_, depth, height, width] => Ok([word(depth), word(height), word(width), 1]),
            ref shape => {
                refuse(op, format!("{name} has shape {shape:?}; it must be [planes, depth, height, width]"))
            }
        }
    }

    /// The bytes of the block from the first to the last that an element lies in; an empty range without elements.
    pub(crate) fn bytes(&self) -> ByteRange {
        let size = i64::from(self.dtype.size());
        let offset = self.offset as i64;
        let (mut first, mut end) = (offset, offset + 1);
        for (&count, &stride) in self.shape.iter().zip(&self.strides) {
            if count == 0 {
                end = first;
                break;
            }
            let reach = stride.saturating_mul(count as i64 - 1);
            first += reach.min(0);
            end += reach.max(0);
        }
        let byte = |element: i64| element.max(0).saturating_mul(size) as u64;
        ByteRange { start: byte(first), end: byte(end.max(first)) }
    }

    /// The whole block as an operand of a dispatch.
    #[inline]
    pub(super) fn operand(&self, op: &'static str, write: bool, most: u64) -> Result<Operand<'b>> {
        let bytes = self.block.size();
        match self.block.memory() {
            Some(memory) if bytes <= most => {
                let start = self.block.offset();
                Ok(Operand { memory, range: ByteRange { start, end: start + bytes }, write })
            }
            Some(_) => {
                no_kernel(op, format!("an operand lies in a block of {bytes} bytes; kernels reach {most}"))
            }
            None => no_kernel(op, "an operand is memory that only the CPU can reach".to_owned()),
        }
    }

    /// True where no element of another tensor can share the last word of this dense view.
    pub(super) fn owns_tail(&self) -> bool {
        let end = (self.offset + self.count()) * u64::from(self.dtype.size());
        end.is_multiple_of(4) || end >= self.block.requested()
    }

    /// The first element, as kernels take it. What a view reaches was seen to fit into 31 bits.
    pub(super) fn first(&self) -> u32 {
        self.offset as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_reach_from_the_lowest_element_to_the_highest() {
        let device = crate::Device::host();
        let block = device.allocate(1024).unwrap();
        let view = |offset, shape: &[u64], strides: &[i64]| View {
            block: &block,
            dtype: DType::F16,
            offset,
            shape: SmallVec::from_slice(shape),
            strides: SmallVec::from_slice(strides),
        };
        for (view, start, end) in [
            (view(3, &[], &[]), 6, 8),
            (view(3, &[2, 5], &[5, 1]), 6, 26),
            (view(3, &[2, 5], &[20, 2]), 6, 64),
            (view(30, &[2, 5], &[-5, -1]), 42, 62),
            (view(3, &[7, 5], &[0, 1]), 6, 16),
            (view(3, &[7, 0], &[1, 1]), 6, 6),
        ] {
            assert_eq!(view.bytes(), ByteRange { start, end }, "{view:?}");
        }
        device.free(block);
    }
}
