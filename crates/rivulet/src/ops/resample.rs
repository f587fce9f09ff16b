use super::launch::{launch_once, word};
use super::refuse;
use super::view::View;
use crate::Device;
use crate::error::Result;
use crate::ids::Access::{Read, Write};
pub use rivulet_kernels::ResampleMode;
use rivulet_kernels::params::ResampleParams;
use rivulet_kernels::{Kernel, Resample};

fn run(
    device: &Device,
    op: &'static str,
    (out, x): (&View<'_>, &View<'_>),
    (size, resampled): ([u32; 4], [u32; 4]),
    scale: [f32; 3],
    (mode, backward): (ResampleMode, bool),
) -> Result<()> {
    x.check_dtype(op, "the input", out.dtype)?;
    let moves = !backward && matches!(mode, ResampleMode::Nearest | ResampleMode::NearestExact);
    if !moves && !out.dtype.is_float() {
        return refuse(op, format!("not defined for {}", out.dtype.name()));
    }
    if out.shape[0] != x.shape[0] {
        return refuse(op, format!("{} planes from {}; as many are allowed", out.shape[0], x.shape[0]));
    }
    if !scale.iter().all(|value| value.is_finite() && *value >= 0.0) {
        return refuse(op, format!("a scale of {scale:?}; it must be finite and not negative"));
    }
    if out.count() == 0 {
        return Ok(());
    }
    if x.count() == 0 {
        return refuse(op, format!("an input of shape {:?}; it must have elements", x.shape));
    }
    let params = ResampleParams {
        offsets: [out.first(), x.first(), 0, 0],
        size,
        resampled,
        scale: [scale[0], scale[1], scale[2], 1.0],
        count: word(out.count()),
        ..ResampleParams::default()
    };
    let key = Resample::new(mode, backward, out.dtype, out.first(), params.count);
    let groups = key.groups(out.first(), params.count);
    let operands = [(out, Write), (x, Read)];
    launch_once(device, op, &Kernel::Resample(key), &operands, bytemuck::bytes_of(&params), groups)
}

/// x in another resolution: both are dense `[planes, depth, height, width]` of one type, any for the nearest place's
/// value and float32, float16 or bfloat16 for values between two. `scale` is the number of places of x for each of the
/// output, of depth, height and width; a dimension that keeps its size is copied.
///
/// Any thread.
///
/// # Errors
/// [`Error::BadOperand`](crate::Error::BadOperand) where shapes or types do not fit or something is not dense;
/// [`Error::NoKernel`](crate::Error::NoKernel) where the device has no such kernel; what [`Device::record`] says.
pub fn resample(
    device: &Device,
    out: &View<'_>,
    x: &View<'_>,
    scale: [f32; 3],
    mode: ResampleMode,
) -> Result<()> {
    let op = "resample";
    let both = (x.image(op, "the input")?, out.image(op, "the output")?);
    run(device, op, (out, x), both, scale, (mode, false))
}

/// The gradient of the input of [`resample`], float32, float16 or bfloat16; sums in float32, in a fixed order.
///
/// Any thread.
///
/// # Errors
/// As [`resample`].
pub fn resample_backward(
    device: &Device,
    out: &View<'_>,
    gradient: &View<'_>,
    scale: [f32; 3],
    mode: ResampleMode,
) -> Result<()> {
    let op = "resample_backward";
    let both = (out.image(op, "the output")?, gradient.image(op, "the gradient")?);
    run(device, op, (out, gradient), both, scale, (mode, true))
}
