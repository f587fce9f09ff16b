//! Dense copies of operands, for kernels that want them.

use super::copy::copy;
use super::view::View;
use super::{DType, dtype_bytes};
use crate::Device;
use crate::error::Result;
use crate::memory::Block;
use rivulet_hal::sync::Arc;
use smallvec::SmallVec;
use std::borrow::Cow;

/// Memory for the duration of an op. It goes back when the op is recorded: who gets it next waits for the op.
#[derive(Debug)]
pub(super) struct Temporary<'d> {
    device: &'d Device,
    block: Arc<Block>,
}

impl<'d> Temporary<'d> {
    /// Room for `count` elements.
    pub(super) fn new(device: &'d Device, dtype: DType, count: u64) -> Result<Self> {
        let bytes = dtype_bytes(dtype, count).max(4);
        Ok(Self { device, block: device.allocate(bytes)? })
    }

    /// The memory as a dense tensor.
    pub(super) fn view(&self, dtype: DType, shape: &[u64]) -> View<'_> {
        View::dense(&self.block, dtype, shape)
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        self.device.free(Arc::clone(&self.block));
    }
}

/// A view as it was given, or a dense copy of it.
#[derive(Debug)]
pub(super) enum Input<'d, 'v, 'b> {
    Given(&'v View<'b>),
    Copied(Temporary<'d>, DType, SmallVec<[u64; 6]>),
}

impl<'d, 'v, 'b> Input<'d, 'v, 'b> {
    /// `view` where it is `fit` and of type `dtype`, else a dense copy of that type.
    pub(super) fn new(device: &'d Device, view: &'v View<'b>, dtype: DType, fit: bool) -> Result<Self> {
        if fit && view.dtype == dtype {
            return Ok(Self::Given(view));
        }
        let made = Temporary::new(device, dtype, view.count())?;
        copy(device, &made.view(dtype, &view.shape), view)?;
        Ok(Self::Copied(made, dtype, view.shape.clone()))
    }

    /// Row-major and of type `dtype`.
    pub(super) fn dense(device: &'d Device, view: &'v View<'b>, dtype: DType) -> Result<Self> {
        Self::new(device, view, dtype, view.is_dense())
    }

    pub(super) fn view(&self) -> Cow<'_, View<'_>> {
        match self {
            Self::Given(view) => Cow::Borrowed(view),
            Self::Copied(made, dtype, shape) => Cow::Owned(made.view(*dtype, shape)),
        }
    }
}

/// Where a kernel writes what belongs into a view: there, or into a dense tensor that is copied over.
#[derive(Debug)]
pub(super) struct Output<'d, 'v, 'b> {
    given: &'v View<'b>,
    made: Option<(Temporary<'d>, DType)>,
}

impl<'d, 'v, 'b> Output<'d, 'v, 'b> {
    /// `view` where it is `fit` and of type `dtype`, else a dense tensor of that type.
    pub(super) fn new(device: &'d Device, view: &'v View<'b>, dtype: DType, fit: bool) -> Result<Self> {
        let made = if fit && view.dtype == dtype {
            None
        } else {
            Some((Temporary::new(device, dtype, view.count())?, dtype))
        };
        Ok(Self { given: view, made })
    }

    /// Row-major and of type `dtype`.
    pub(super) fn dense(device: &'d Device, view: &'v View<'b>, dtype: DType) -> Result<Self> {
        Self::new(device, view, dtype, view.is_dense())
    }

    pub(super) fn view(&self) -> Cow<'_, View<'_>> {
        match &self.made {
            None => Cow::Borrowed(self.given),
            Some((made, dtype)) => Cow::Owned(made.view(*dtype, &self.given.shape)),
        }
    }

    /// To be called when the kernel is recorded.
    pub(super) fn finish(self) -> Result<()> {
        match &self.made {
            None => Ok(()),
            Some((made, dtype)) => copy(made.device, self.given, &made.view(*dtype, &self.given.shape)),
        }
    }
}
