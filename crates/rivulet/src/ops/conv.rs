use super::launch::{FILL, Operands, launch_once, word};
use super::refuse;
use super::view::View;
use crate::Device;
use crate::error::Result;
use crate::ids::Access::{Read, Write};
use rivulet_kernels::params::ConvParams;
use rivulet_kernels::{Conv, ConvKind, Kernel, MAX_GROUPS};

/// How patches of an image lie. Pairs are height, width; a 1-d convolution has a height of 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvGeometry {
    /// From one patch to the next, at least 1.
    pub stride: [u32; 2],
    /// Zeros around the image.
    pub padding: [u32; 2],
    /// From one element of a patch to the next, at least 1.
    pub dilation: [u32; 2],
    /// Groups of channels, at least 1.
    pub groups: u32,
}

impl ConvGeometry {
    /// Patches along dimension `d` of an image of `size` elements.
    fn patches(&self, d: usize, size: u64, kernel: u64) -> Option<u64> {
        let reach = u64::from(self.dilation[d]) * kernel.checked_sub(1)? + 1;
        let padded = size + 2 * u64::from(self.padding[d]);
        Some(padded.checked_sub(reach)? / u64::from(self.stride[d]) + 1)
    }

    /// Sizes of the images on both sides and of the weight are those of one convolution.
    fn check(&self, op: &'static str, image: &View<'_>, weight: &View<'_>, patches: &View<'_>) -> Result<()> {
        if self.groups == 0 || self.stride.contains(&0) || self.dilation.contains(&0) {
            return refuse(op, format!("{self:?}; stride, dilation and groups must be at least 1"));
        }
        for view in [image, weight, patches] {
            if view.shape.len() != 4 {
                return refuse(
                    op,
                    format!("an operand has shape {:?}; it must have 4 dimensions", view.shape),
                );
            }
            view.check_dtype(op, "an operand", image.dtype)?;
        }
        if !image.dtype.is_float() {
            return refuse(op, format!("not defined for {}", image.dtype.name()));
        }
        let groups = u64::from(self.groups);
        let sizes = [2, 3].map(|d| self.patches(d - 2, image.shape[d], weight.shape[d]));
        let fits = image.shape[1] == weight.shape[1] * groups
            && patches.shape[1] == weight.shape[0]
            && weight.shape[0].is_multiple_of(groups)
            && image.shape[0] == patches.shape[0]
            && sizes == [Some(patches.shape[2]), Some(patches.shape[3])];
        if fits {
            return Ok(());
        }
        let (image, weight, patches) = (&image.shape, &weight.shape, &patches.shape);
        refuse(op, format!("images {image:?} and {patches:?} do not fit a weight {weight:?} and {self:?}"))
    }
}

/// Strides as kernels take them; a negative one as its two's complement.
fn strides(view: &View<'_>) -> [u32; 4] {
    std::array::from_fn(|d| view.strides.get(d).map_or(0, |&stride| stride as u32))
}

fn swapped([a, b, c, d]: [u32; 4]) -> [u32; 4] {
    [b, a, c, d]
}

fn sizes(view: &View<'_>) -> [u32; 2] {
    [word(view.shape[2]), word(view.shape[3])]
}

fn dispatch(
    device: &Device,
    op: &'static str,
    kind: ConvKind,
    geometry: &ConvGeometry,
    params: ConvParams,
    views: [&View<'_>; 3],
    bias: Option<&View<'_>>,
) -> Result<()> {
    let [out, x, weight] = views;
    if let Some(bias) = bias {
        bias.check_dense(op, "the bias")?;
        bias.check_dtype(op, "the bias", out.dtype)?;
        bias.check_shape(op, "the bias", &[out.shape[1]])?;
    }
    for (view, name) in [(out, "the output"), (x, "x"), (weight, "the weight")] {
        view.check(op, name)?;
    }
    if out.count() == 0 {
        return Ok(());
    }
    if geometry.groups > MAX_GROUPS {
        return refuse(op, format!("{} groups; kernels take {MAX_GROUPS}", geometry.groups));
    }
    let area = u64::from(params.out_size[0]) * u64::from(params.out_size[1]);
    let places = word(area.saturating_mul(u64::from(params.batch)));
    let tile = Conv::tile(params.out_channels, places, geometry.groups, FILL);
    let key = Conv { dtype: x.dtype, kind, bias: bias.is_some(), tile };
    let mut bound = Operands::new();
    bound.extend([(out, Write), (x, Read), (weight, Read)]);
    bound.extend(bias.map(|bias| (bias, Read)));
    // Samples of one dispatch, so that its groups are no more than a device takes.
    let most = (u64::from(MAX_GROUPS) * 32 / area).max(1);
    if kind == ConvKind::WeightGradient && u64::from(params.batch) > most {
        return refuse(op, format!("{} input channels of a group; kernels take {most}", params.batch));
    }
    let mut params = ConvParams {
        offsets: [out.first(), x.first(), weight.first(), bias.map_or(0, View::first)],
        padding: geometry.padding,
        ..params
    };
    let mut left = params.batch;
    while left > 0 {
        params.batch = left.min(word(most));
        let places = params.batch * word(area);
        let groups = key.groups(params.out_channels, places, geometry.groups);
        if groups[0] > MAX_GROUPS {
            return refuse(op, format!("{places} places of one sample; kernels take fewer"));
        }
        launch_once(device, op, &Kernel::Conv(key), &bound, bytemuck::bytes_of(&params), groups)?;
        left -= params.batch;
        params.offsets[0] = params.offsets[0].wrapping_add(params.batch.wrapping_mul(params.out_strides[0]));
        params.offsets[1] = params.offsets[1].wrapping_add(params.batch.wrapping_mul(params.x_strides[0]));
    }
    Ok(())
}

/// Convolution of images: x `[batch, in, height, width]`, weight `[out, in / groups, rows, columns]`, bias `[out]`,
/// out `[batch, out, ...]`, all float32, float16 or bfloat16, sums in float32. Any strides, also negative and 0; the
/// bias is dense.
///
/// Any thread.
///
/// # Errors
/// [`Error::BadOperand`](crate::Error::BadOperand) where shapes or types do not fit, elements lie outside their blocks,
/// or the device has no such kernel; what [`Device::record`] says.
pub fn conv2d(
    device: &Device,
    out: &View<'_>,
    x: &View<'_>,
    weight: &View<'_>,
    bias: Option<&View<'_>>,
    geometry: &ConvGeometry,
) -> Result<()> {
    let op = "conv2d";
    geometry.check(op, x, weight, out)?;
    let params = ConvParams {
        out_strides: strides(out),
        x_strides: strides(x),
        weight_strides: strides(weight),
        x_size: sizes(x),
        out_size: sizes(out),
        kernel: sizes(weight),
        stride: geometry.stride,
        dilation: geometry.dilation,
        batch: word(x.shape[0]),
        in_channels: word(weight.shape[1]),
        out_channels: word(weight.shape[0]) / geometry.groups,
        ..ConvParams::default()
    };
    dispatch(device, op, ConvKind::Forward, geometry, params, [out, x, weight], bias)
}

/// Transposed convolution, which is also the gradient of the input of a convolution: x `[batch, in, ...]`, weight
/// `[in, out / groups, rows, columns]`, bias `[out]`, out `[batch, out, height, width]`, of a size that a convolution
/// would turn into that of x. Types and strides as [`conv2d`].
///
/// Any thread.
///
/// # Errors
/// As [`conv2d`].
pub fn conv2d_transposed(
    device: &Device,
    out: &View<'_>,
    x: &View<'_>,
    weight: &View<'_>,
    bias: Option<&View<'_>>,
    geometry: &ConvGeometry,
) -> Result<()> {
    let op = "conv2d_transposed";
    geometry.check(op, out, weight, x)?;
    let params = ConvParams {
        out_strides: strides(out),
        x_strides: strides(x),
        weight_strides: swapped(strides(weight)),
        x_size: sizes(x),
        out_size: sizes(out),
        kernel: sizes(weight),
        stride: geometry.stride,
        dilation: geometry.dilation,
        batch: word(x.shape[0]),
        in_channels: word(weight.shape[0]) / geometry.groups,
        out_channels: word(weight.shape[1]),
        ..ConvParams::default()
    };
    dispatch(device, op, ConvKind::Transposed, geometry, params, [out, x, weight], bias)
}

/// The gradient of a convolution's weight: out as the weight of [`conv2d`], gradient as its output, x as its input.
///
/// Any thread.
///
/// # Errors
/// As [`conv2d`].
pub fn conv2d_weight_gradient(
    device: &Device,
    out: &View<'_>,
    gradient: &View<'_>,
    x: &View<'_>,
    geometry: &ConvGeometry,
) -> Result<()> {
    let op = "conv2d_weight_gradient";
    geometry.check(op, x, out, gradient)?;
    let params = ConvParams {
        out_strides: swapped(strides(out)),
        x_strides: swapped(strides(x)),
        weight_strides: swapped(strides(gradient)),
        x_size: sizes(x),
        out_size: sizes(out),
        kernel: sizes(gradient),
        stride: geometry.dilation,
        dilation: geometry.stride,
        batch: word(out.shape[1]),
        in_channels: word(x.shape[0]),
        out_channels: word(out.shape[0]) / geometry.groups,
        ..ConvParams::default()
    };
    dispatch(device, op, ConvKind::WeightGradient, geometry, params, [out, x, gradient], None)
}
