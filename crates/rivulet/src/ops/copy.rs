//! Copies, conversions and fills.

use super::pointwise::{Call, run, scalar_words};
use super::view::View;
use super::{Op, Scalar};
use crate::Device;
use crate::error::Result;

/// Copies `input` to `out`, of the same shape and any strides, converted to its type by PyTorch's rules; between equal
/// types every bit is kept. A stride of 0 in `input` repeats a dimension. Any thread; the two must not overlap unless
/// they are the same view.
///
/// # Errors
/// As [`super::pointwise()`].
pub fn copy(device: &Device, out: &View<'_>, input: &View<'_>) -> Result<()> {
    run(device, &Call::new(Op::Copy, out.dtype), out, &[input])
}

/// Sets every element of `out` to `value`, converted to its type. Any thread.
///
/// # Errors
/// As [`super::pointwise()`].
pub fn fill(device: &Device, out: &View<'_>, value: Scalar) -> Result<()> {
    let words = scalar_words(Op::Fill, out.dtype, &[value]);
    run(device, &Call { words, ..Call::new(Op::Fill, out.dtype) }, out, &[])
}
