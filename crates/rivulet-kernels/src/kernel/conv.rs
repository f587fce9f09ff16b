//! Convolutions of images, forward and transposed, with strides, padding, dilation and groups.

use super::matmul::{Shape, Tile};
use crate::dtype::{DType, Native};
use crate::features::Features;
use crate::params::ConvParams;
use crate::shader::{Access, Shader};

/// What a convolution computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConvKind {
    /// The convolution.
    Forward,
    /// The transposed convolution, which is the gradient of the input of a convolution. Its weight's strides are given
    /// along output channel first, as for a forward one.
    Transposed,
    /// The gradient of the weight: a convolution of the input by the gradient of the output. Samples are input channels
    /// of a group, input channels the samples; the output is the weight's gradient with its first two dimensions
    /// swapped, the weight the gradient of the output with the same swapped; stride and dilation change places.
    WeightGradient,
}

/// Key of a convolution. Bindings: out, x, weight, bias where there is one. Tensors have any strides; the bias is dense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv {
    /// Element type. Products are summed up in float32.
    pub dtype: DType,
    /// What is computed.
    pub kind: ConvKind,
    /// True where there is a bias.
    pub bias: bool,
    /// How the output is cut up: rows of the product are output channels, columns places. One of the square tiles.
    pub tile: Tile,
}

impl Conv {
    /// What suits `channels` output channels of a group and `places` places of all samples, given how many workgroups
    /// fill the device.
    pub fn tile(channels: u32, places: u32, groups: u32, fill: u32) -> Tile {
        let tiles =
            |side: u32| channels.div_ceil(side).saturating_mul(places.div_ceil(side)).saturating_mul(groups);
        if channels > 64 && tiles(128) >= fill {
            Tile::Large
        } else if channels > 32 && tiles(64) >= fill {
            Tile::Medium
        } else {
            Tile::Small
        }
    }

    fn shape(&self) -> Shape {
        self.tile.shape().unwrap_or(Shape::SMALL)
    }

    /// Workgroups for `channels` output channels of a group and `places` places of all samples: at most 65535 in the
    /// second and third dimension, which the caller sees to.
    pub fn groups(&self, channels: u32, places: u32, groups: u32) -> [u32; 3] {
        let shape = self.shape();
        [places.div_ceil(shape.columns), channels.div_ceil(shape.rows), groups]
    }

    pub(super) fn workgroup(&self) -> [u32; 3] {
        [self.shape().threads(), 1, 1]
    }

    pub(super) fn label(&self) -> String {
        let kind = match self.kind {
            ConvKind::Forward => "",
            ConvKind::Transposed => "_transposed",
            ConvKind::WeightGradient => "_weight_gradient",
        };
        let bias = if self.bias { "_bias" } else { "" };
        format!("conv{kind}_{}_{}{bias}", self.dtype.name(), self.tile.label())
    }

    pub(super) fn bindings(&self) -> u32 {
        3 + u32::from(self.bias)
    }

    pub(super) fn param_bytes(&self) -> u32 {
        size_of::<ConvParams>() as u32
    }

    pub(super) fn requires(&self) -> Features {
        Features::of(self.dtype)
    }

    pub(super) fn wgsl(&self) -> String {
        let shape = self.shape();
        let mut shader = Shader::new(
            include_str!("../../wgsl/params/conv.wgsl"),
            include_str!("../../wgsl/kernel/conv.wgsl"),
        )
        .compute(Native::F32)
        .operand("out", self.dtype, Access::Store)
        .operand("x", self.dtype, Access::Load)
        .operand("weight", self.dtype, Access::Load);
        let mut bias = "";
        if self.bias {
            shader = shader.operand("bias", self.dtype, Access::Load);
            bias = " + load_bias(bias + channel)";
        }
        // A place of the output is where patches begin, or for a transposed convolution where they end up.
        let (corner, at) = if self.kind == ConvKind::Transposed {
            (
                "corner = vec2<i32>(own.yz + p.padding);",
                "let reach = corner - vec2<i32>(t.yz * p.dilation);\n\
                 let at = reach / vec2<i32>(p.stride);\n\
                 if (reach.x < 0 || reach.y < 0 || any(at * vec2<i32>(p.stride) != reach)) {\n    return 0.0;\n}",
            )
        } else {
            (
                "corner = vec2<i32>(own.yz * p.stride) - vec2<i32>(p.padding);",
                "let at = corner + vec2<i32>(t.yz * p.dilation);",
            )
        };
        let weight_group = if self.kind == ConvKind::Transposed {
            "p.in_channels * p.weight_strides.y"
        } else {
            "p.out_channels * p.weight_strides.x"
        };
        let x_group = match self.kind {
            ConvKind::WeightGradient => "p.batch * p.x_strides.x",
            _ => "p.in_channels * p.x_strides.y",
        };
        shader = shader
            .set("WEIGHT_GROUP", weight_group)
            .set("X_GROUP", x_group)
            .set("BIAS", bias)
            .set("CORNER", corner)
            .set("AT", at)
            .set("THREADS", shape.threads().to_string());
        shape.fill(shader, "out_base, bias_base").finish()
    }
}
