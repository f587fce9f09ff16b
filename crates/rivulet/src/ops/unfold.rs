use super::launch::{launch_once, word};
use super::refuse;
use super::view::View;
use crate::Device;
use crate::error::Result;
use crate::ids::Access::{Read, Write};
use rivulet_kernels::params::UnfoldParams;
use rivulet_kernels::{Kernel, Unfold};

/// The blocks of an image; pairs are height, width.
#[derive(Clone, Copy, Debug)]
pub struct Blocks {
    /// Size of a block.
    pub kernel: [u32; 2],
    /// Places from one block to the next; not 0.
    pub stride: [u32; 2],
    /// Zeros before the first place and behind the last.
    pub padding: [u32; 2],
    /// Places from one element of a block to the next; not 0.
    pub dilation: [u32; 2],
}

fn describe(op: &'static str, image: &View<'_>, columns: &View<'_>, blocks: &Blocks) -> Result<UnfoldParams> {
    image.check_dense(op, "the image")?;
    columns.check_dense(op, "the columns")?;
    columns.check_dtype(op, "the columns", image.dtype)?;
    let &[samples, channels, height, width] = image.shape.as_slice() else {
        let shape = &image.shape;
        return refuse(
            op,
            format!("the image has shape {shape:?}; it must be [samples, channels, height, width]"),
        );
    };
    let Blocks { kernel, stride, padding, dilation } = *blocks;
    if [kernel, stride, dilation].iter().flatten().any(|&value| value == 0)
        || padding.iter().any(|&value| value > i32::MAX as u32)
    {
        return refuse(op, format!("{blocks:?}; kernel, stride and dilation may not be 0"));
    }
    let count = |size: u64, dim: usize| {
        let reach = u64::from(dilation[dim]) * u64::from(kernel[dim] - 1) + 1;
        let room = size + 2 * u64::from(padding[dim]);
        if room < reach { 0 } else { (room - reach) / u64::from(stride[dim]) + 1 }
    };
    let along = [count(height, 0), count(width, 1)];
    let parts = channels * u64::from(kernel[0]) * u64::from(kernel[1]);
    columns.check_shape(op, "the columns", &[samples, parts, along[0] * along[1]])?;
    Ok(UnfoldParams {
        size: [word(height), word(width)],
        blocks: along.map(word),
        kernel,
        stride,
        padding: padding.map(u32::cast_signed),
        dilation,
        channels: word(channels),
        ..UnfoldParams::default()
    })
}

fn run(
    device: &Device,
    op: &'static str,
    fold: bool,
    out: &View<'_>,
    x: &View<'_>,
    params: UnfoldParams,
) -> Result<()> {
    if out.count() == 0 {
        return Ok(());
    }
    let params = UnfoldParams { offsets: [out.first(), x.first(), 0, 0], count: word(out.count()), ..params };
    let key = Unfold::new(fold, out.dtype, out.first(), params.count);
    let groups = key.groups(out.first(), params.count);
    let operands = [(out, Write), (x, Read)];
    launch_once(device, op, &Kernel::Unfold(key), &operands, bytemuck::bytes_of(&params), groups)
}

/// The blocks of an image as columns: out is `[samples, channels * block, blocks]`, image
/// `[samples, channels, height, width]`, both dense and of one type.
///
/// Any thread.
///
/// # Errors
/// [`Error::BadOperand`](crate::Error::BadOperand) where shapes or types do not fit or something is not dense;
/// [`Error::NoKernel`](crate::Error::NoKernel) where the device has no such kernel; what [`Device::record`] says.
pub fn unfold(device: &Device, out: &View<'_>, image: &View<'_>, blocks: &Blocks) -> Result<()> {
    let op = "unfold";
    let params = describe(op, image, out, blocks)?;
    run(device, op, false, out, image, params)
}

/// The image that columns add up to: [`unfold`]'s way back, and its gradient. Floats are summed in float32.
///
/// Any thread.
///
/// # Errors
/// As [`unfold`].
pub fn fold(device: &Device, out: &View<'_>, columns: &View<'_>, blocks: &Blocks) -> Result<()> {
    let op = "fold";
    let params = describe(op, out, columns, blocks)?;
    run(device, op, true, out, columns, params)
}
