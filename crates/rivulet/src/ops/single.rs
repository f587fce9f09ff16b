use super::view::View;
use super::{DType, refuse};
use crate::Device;
use crate::error::Result;
use crate::ids::Access;
use crate::memory::Block;
use rivulet_hal::sync::Arc;
use rivulet_kernels::Kernel;
use smallvec::SmallVec;

/// Workgroups that keep any device busy; more parts than that only cost memory.
pub(super) const FILL: u32 = 512;

/// Operands of one dispatch, in binding order.
pub(super) type Operands<'v, 'b> = SmallVec<[(&'v View<'b>, Access); 8]>;

/// Records one dispatch of `kernel`, compiled if need be.
pub(super) fn launch(
    device: &Device,
    op: &'static str,
    kernel: &Kernel,
    operands: &[(&View<'_>, Access)],
    params: &[u8],
    groups: [u32; 3],
) -> Result<()> {
    super::launch::launch(device, op, kernel, operands, |dispatcher| dispatcher.run(params, groups))
}

/// Memory for what lies between two kernels of one op; given back, in stream order, when it is dropped.
pub(super) struct Scratch<'d> {
    device: &'d Device,
    block: Option<Arc<Block>>,
}

impl<'d> Scratch<'d> {
    pub(super) fn new(device: &'d Device, dtype: DType, count: u64) -> Result<Self> {
        let block = device.allocate((count * u64::from(dtype.size())).next_multiple_of(4).max(4))?;
        Ok(Self { device, block: Some(block) })
    }

    /// All of it, as a dense tensor. Nothing once it was given back.
    pub(super) fn view(&self, op: &'static str, dtype: DType, shape: &[u64]) -> Result<View<'_>> {
        match &self.block {
            Some(block) => Ok(View::dense(block, dtype, shape)),
            None => refuse(op, "its scratch memory was given back".to_owned()),
        }
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            self.device.free(block);
        }
    }
}

impl View<'_> {
    /// Fails unless elements follow one another in row-major order, inside the block.
    pub(super) fn check_dense(&self, op: &'static str, name: &str) -> Result<()> {
        self.check(op, name)?;
        let mut wanted = 1_i64;
        for (&size, &stride) in self.shape.iter().zip(&self.strides).rev() {
            if size != 1 && stride != wanted && self.count() != 0 {
                let (shape, strides) = (&self.shape, &self.strides);
                return refuse(
                    op,
                    format!("{name} of shape {shape:?} has strides {strides:?}; it must be dense"),
                );
            }
            wanted = wanted.saturating_mul(i64::try_from(size).unwrap_or(i64::MAX));
        }
        Ok(())
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
}

/// A number of elements as kernels count; a checked view holds no more.
pub(super) fn word(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
