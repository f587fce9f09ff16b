//! Parameters of a dispatch, as the kernels read them. Each struct mirrors `struct Params` of one WGSL file in
//! `wgsl/params`; the test `params_layout` holds the two together. All indices, strides and offsets count elements.

use bytemuck::{Pod, Zeroable};

/// Operands of a pointwise kernel: the output, then up to three inputs.
pub const POINTWISE_OPERANDS: usize = 4;
/// Dimensions that a strided kernel knows. Operands of more are collapsed or split by the dispatcher.
pub const MAX_RANK: usize = 4;
/// What every device takes as parameters of a dispatch.
pub const MAX_PARAM_BYTES: usize = 128;

/// Parameters of pointwise kernels with dense operands; also the first part of [`StridedParams`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct PointwiseParams {
    /// First element of each operand: output, then tensor inputs in binding order.
    pub offsets: [u32; POINTWISE_OPERANDS],
    /// Scalars of the op; see [`scalars`].
    pub scalars: [u32; 4],
    /// Two words more, for the ops that say so in their WGSL.
    pub extra: [u32; 2],
    /// Elements of the output.
    pub count: u32,
    /// Dimensions in use, at least 1; read by strided kernels only.
    pub rank: u32,
}

/// Parameters of pointwise kernels with strides.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct StridedParams {
    /// What dense kernels take too.
    pub dense: PointwiseParams,
    /// Sizes, innermost dimension first.
    pub shape: [u32; MAX_RANK],
    /// Strides of each dimension, operands in the order of the offsets. Negative ones are allowed.
    pub strides: [[i32; POINTWISE_OPERANDS]; MAX_RANK],
}

impl StridedParams {
    /// For gathers and scatters: the size of the indexed dimension, and its stride in the tensor that is read or
    /// written at indexed places.
    pub fn indexed(mut self, size: u32, stride: i32) -> Self {
        self.dense.extra = [size, stride.cast_unsigned()];
        self
    }
}

/// Tensors that a chain of pointwise ops reads, and scalars.
pub const FUSED_INPUTS: usize = 7;
/// See [`FUSED_INPUTS`].
pub const FUSED_SCALARS: usize = 8;

/// Parameters of a chain of pointwise ops.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct FusedParams {
    /// First element of the output, then of each input in binding order.
    pub offsets: [u32; 1 + FUSED_INPUTS],
    /// Elements after which an input begins again, in the same places; only where the key says that it does.
    pub periods: [u32; 1 + FUSED_INPUTS],
    /// Scalars, as float32.
    pub scalars: [u32; FUSED_SCALARS],
    /// Elements of the output.
    pub count: u32,
    /// Always 0.
    pub zero: u32,
    /// Fills the struct to a multiple of 16 bytes.
    pub unused: [u32; 2],
}

/// A scalar argument, converted to the type that the kernel computes in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    /// For kernels that compute floats.
    F32(f32),
    /// For kernels that compute in 32-bit integers.
    I32(i32),
    /// For kernels that compute in 64-bit integers; at most two of them.
    I64(i64),
}

/// The words of up to four scalars (two of 64 bits), in the order of the op's arguments. Others are left out.
pub fn scalars(values: &[Scalar]) -> [u32; 4] {
    let mut words = [0; 4];
    for (k, value) in values.iter().enumerate() {
        match *value {
            Scalar::F32(x) => put(&mut words, k, x.to_bits()),
            Scalar::I32(x) => put(&mut words, k, x.cast_unsigned()),
            Scalar::I64(x) => {
                put(&mut words, 2 * k, x as u32);
                put(&mut words, 2 * k + 1, (x >> 32) as u32);
            }
        }
    }
    words
}

fn put(words: &mut [u32; 4], at: usize, word: u32) {
    if let Some(slot) = words.get_mut(at) {
        *slot = word;
    }
}

/// Parameters of row and scan kernels. A tensor is `[outer, size, inner]`, dense.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct RowParams {
    /// First element of the output, the input, the weight (or second input), the bias.
    pub offsets: [u32; 4],
    /// Number of rows, `outer * inner`.
    pub rows: u32,
    /// Elements of a row.
    pub size: u32,
    /// Distance between the elements of a row.
    pub inner: u32,
    /// Added to the variance.
    pub eps: f32,
    /// First element of the kept mean and rstd.
    pub stats: [u32; 2],
    /// Of a group norm: groups of a sample. Of a sum that is normalised: first element of the summand.
    pub groups: u32,
    /// Of a group norm: elements of a channel, at least 1. Of a sum that is kept: its first element.
    pub places: u32,
}

/// Further tensors that the chain behind a row reads.
pub const TAIL_INPUTS: usize = 3;

/// Parameters of a row kernel that does a chain of pointwise ops to what it makes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct TailedRowParams {
    /// What other row kernels take too.
    pub row: RowParams,
    /// First element of each further input of the chain; the first of the list is unused, here and below.
    pub tail_offsets: [u32; 1 + TAIL_INPUTS],
    /// Elements after which it begins again, where the key says that it does.
    pub tail_periods: [u32; 1 + TAIL_INPUTS],
    /// Scalars, as float32.
    pub scalars: [u32; FUSED_SCALARS],
    /// Always 0.
    pub zero: u32,
    /// Fills the struct to a multiple of 16 bytes.
    pub unused: [u32; 3],
}

/// Parameters of a matrix product. Lists of four are in the order out, a, b, bias; where parts along k are put together, out,
/// parts, residual, bias.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct MatmulParams {
    /// First elements.
    pub offsets: [u32; 4],
    /// From one outer batch to the next.
    pub outer_strides: [u32; 4],
    /// From one inner batch to the next.
    pub batch_strides: [u32; 4],
    /// Of `a` along rows and along k, of `b` along k and along columns.
    pub strides: [u32; 4],
    /// Of the output along rows, of the bias along rows and along columns; then from one part's sums to the next's,
    /// or the first element of the residual.
    /// Columns of the output are neighbours.
    pub edges: [u32; 4],
    /// Rows of `a` and of the output.
    pub m: u32,
    /// Columns of `b` and of the output.
    pub n: u32,
    /// Columns of `a`, rows of `b`.
    pub k: u32,
    /// Inner batches, at least 1; the third dimension of the dispatch is outer times inner.
    pub batch: u32,
    /// Factor of the product.
    pub alpha: f32,
    /// Factor of the bias.
    pub beta: f32,
    /// Parts that k is cut into.
    pub parts: u32,
    /// Terms of a part: a multiple of 16.
    pub chunk: u32,
}

/// Parameters of a reduction. Results are dense, one for each kept place, and with several chunks
/// `[chunks, kept]`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct ReduceParams {
    /// Sizes of the dimensions that stay, innermost first.
    pub kept_shape: [u32; MAX_RANK],
    /// The input's strides along them.
    pub kept_strides: [i32; MAX_RANK],
    /// Sizes of the dimensions that go, innermost first; indices count along these.
    pub shape: [u32; MAX_RANK],
    /// The input's strides along them.
    pub strides: [i32; MAX_RANK],
    /// First element of the values, the indices, the input.
    pub offsets: [u32; 4],
    /// Number of kept places.
    pub kept: u32,
    /// Elements for each of them.
    pub count: u32,
    /// Elements of a chunk; `count` where there is one chunk.
    pub chunk: u32,
    /// Number of chunks, at least 1.
    pub chunks: u32,
    /// Dimensions that stay, at least 1.
    pub kept_rank: u32,
    /// Dimensions that go, at least 1.
    pub rank: u32,
    /// Factor of a sum, or of the squares of a variance.
    pub scale: f32,
    /// Exponent of [`crate::ReduceOp::SumPower`].
    pub power: f32,
}

/// Parameters of attention. Lists of four are in the order out, q, k, v; elements of a head are neighbours.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct AttentionParams {
    /// First elements.
    pub offsets: [u32; 4],
    /// From one batch to the next.
    pub batch_strides: [u32; 4],
    /// From one head to the next.
    pub head_strides: [u32; 4],
    /// From one query or key to the next.
    pub row_strides: [u32; 4],
    /// The mask's strides along batch, head, query, key.
    pub mask_strides: [u32; 4],
    /// First element of the mask.
    pub mask_offset: u32,
    /// Number of queries.
    pub queries: u32,
    /// Number of keys, at least 1.
    pub keys: u32,
    /// Head size.
    pub dim: u32,
    /// Heads of q that share a head of k and v.
    pub group: u32,
    /// Of a causal mask: 0 for PyTorch's `is_causal`.
    pub diagonal: i32,
    /// Factor of the scores.
    pub scale: f32,
    /// First element of the logarithms of sums.
    pub logsumexp_offset: u32,
    /// Their strides along batch, head, query; then the bits of the number that a mask puts in the place of scores.
    pub logsumexp_strides: [u32; 4],
}

/// Parameters of the sums over rows that are a normalisation's gradients of weight and bias.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct NormColumnsParams {
    /// First element of the gradients of weight and bias, of the gradient of the output, of x.
    pub offsets: [u32; 4],
    /// First element of mean and rstd.
    pub stats: [u32; 2],
    /// Rows of x.
    pub rows: u32,
    /// Elements of a row.
    pub size: u32,
    /// Rows that are summed up together.
    pub chunk: u32,
    /// Fills the struct to a multiple of 16 bytes.
    pub unused: [u32; 3],
}

/// Parameters of the normalisation of channels by given statistics.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct ChannelNormParams {
    /// First element of the output, x, the weight, the bias.
    pub offsets: [u32; 4],
    /// First element of the mean and of the variance or rstd.
    pub stats: [u32; 2],
    /// Elements of x.
    pub count: u32,
    /// Channels of a sample.
    pub channels: u32,
    /// Elements of a channel, at least 1.
    pub places: u32,
    /// Added to the variance.
    pub eps: f32,
    /// Fills the struct to a multiple of 16 bytes.
    pub unused: [u32; 2],
}

/// Parameters of a step of a sort. A tensor is `[outer, size, inner]`, dense.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct SortParams {
    /// First element of the values, the indices, x; the last is unused.
    pub offsets: [u32; 4],
    /// Number of rows, `outer * inner`.
    pub rows: u32,
    /// Elements of a row.
    pub size: u32,
    /// Distance between the elements of a row.
    pub inner: u32,
    /// Elements of a row of the output, the first of the sorted ones.
    pub keep: u32,
    /// Length of a sorted run: of those that are made, or of those that are merged. A power of two.
    pub width: u32,
    /// Runs of a row.
    pub runs: u32,
    /// Fills the struct to a multiple of 16 bytes.
    pub unused: [u32; 2],
}

/// Parameters of a convolution. Pairs are in the order height, width; channels are those of one group.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct ConvParams {
    /// The output's strides along batch, channel, row, column.
    pub out_strides: [u32; 4],
    /// The input's strides along the same.
    pub x_strides: [u32; 4],
    /// The weight's strides along output channel, input channel, row, column.
    pub weight_strides: [u32; 4],
    /// First element of the output, the input, the weight, the bias.
    pub offsets: [u32; 4],
    /// Size of the input.
    pub x_size: [u32; 2],
    /// Size of the output.
    pub out_size: [u32; 2],
    /// Size of the kernel.
    pub kernel: [u32; 2],
    /// Places from one patch to the next.
    pub stride: [u32; 2],
    /// Zeros around the input; of a transposed convolution what is cut off around the output.
    pub padding: [u32; 2],
    /// Places from one element of a patch to the next.
    pub dilation: [u32; 2],
    /// Samples.
    pub batch: u32,
    /// Input channels of a group.
    pub in_channels: u32,
    /// Output channels of a group.
    pub out_channels: u32,
    /// Fills the struct to a multiple of 16 bytes.
    pub unused: u32,
}

/// Parameters of a negative log likelihood of `[samples, classes, inner]`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct NllParams {
    /// First element of the output, of x or the gradient of the loss, of the target, of the weight.
    pub offsets: [u32; 4],
    /// Element that holds the sum of the weights.
    pub total: u32,
    /// Targets: samples times inner.
    pub rows: u32,
    /// Classes.
    pub classes: u32,
    /// Targets of a sample, at least 1.
    pub inner: u32,
    /// The target that counts for nothing.
    pub ignored: i32,
    /// Fills the struct to a multiple of 16 bytes.
    pub unused: [u32; 3],
}

/// Parameters of the gradient of an embedding's table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct EmbeddingGradientParams {
    /// First element of the output, the sorted indices, their order, the gradient.
    pub offsets: [u32; 4],
    /// Number of indices.
    pub count: u32,
    /// Elements of a row.
    pub size: u32,
    /// The row that gets no gradient; -1 for none.
    pub padding: i32,
    /// Fills the struct to a multiple of 16 bytes.
    pub unused: u32,
}

/// Parameters of a padding of dense `[outer, depth, height, width]`. Lists of four are depth, height, width and one that
/// is unused.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct PadParams {
    /// First element of the output and of x; the rest is unused.
    pub offsets: [u32; 4],
    /// Sizes without the padding.
    pub size: [u32; 4],
    /// Sizes with it.
    pub padded: [u32; 4],
    /// Places before the first.
    pub before: [i32; 4],
    /// Elements of the output.
    pub count: u32,
    /// Fills the struct to a multiple of 16 bytes.
    pub unused: [u32; 3],
}

/// Parameters of a pooling of dense `[outer, depth, height, width]`. Lists of four are depth, height, width and one
/// that is unused.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct PoolParams {
    /// First element of the output and of x; the rest is unused.
    pub offsets: [u32; 4],
    /// Sizes of x, or of its gradient.
    pub size: [u32; 4],
    /// Sizes of the pooled side.
    pub pooled: [u32; 4],
    /// Sizes of a window; without meaning for adaptive ones, as are the next three.
    pub kernel: [u32; 4],
    /// Places from one window to the next.
    pub stride: [u32; 4],
    /// Places before the first.
    pub padding: [i32; 4],
    /// Places from one element of a window to the next; 1 for averages.
    pub dilation: [u32; 4],
    /// Elements of the output.
    pub count: u32,
    /// What the sum over a window is divided by; 0 for the number of its places.
    pub divisor: i32,
    /// 1 where places of the padding count too.
    pub include_padding: u32,
    /// Fills the struct to a multiple of 16 bytes.
    pub unused: u32,
}

/// Parameters of a change of resolution of dense `[outer, depth, height, width]`. Lists of four are depth, height,
/// width and one that is unused.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct ResampleParams {
    /// First element of the output and of x; the rest is unused.
    pub offsets: [u32; 4],
    /// Sizes of the input, or of its gradient.
    pub size: [u32; 4],
    /// Sizes of the resampled side.
    pub resampled: [u32; 4],
    /// Places of the input for each of the output.
    pub scale: [f32; 4],
    /// Elements of the output.
    pub count: u32,
    /// Fills the struct to a multiple of 16 bytes.
    pub unused: [u32; 3],
}

/// Parameters of the columns of an image, `[samples, channels * kernel, blocks]`, and of the image of columns. Pairs
/// are height, width.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct UnfoldParams {
    /// First element of the output and of x; the rest is unused.
    pub offsets: [u32; 4],
    /// Size of the image.
    pub size: [u32; 2],
    /// Blocks along each dimension.
    pub blocks: [u32; 2],
    /// Size of a block.
    pub kernel: [u32; 2],
    /// Places from one block to the next.
    pub stride: [u32; 2],
    /// Zeros before the first place.
    pub padding: [i32; 2],
    /// Places from one element of a block to the next.
    pub dilation: [u32; 2],
    /// Elements of the output.
    pub count: u32,
    /// Channels of the image.
    pub channels: u32,
    /// Fills the struct to a multiple of 16 bytes.
    pub unused: [u32; 2],
}

/// Parameters of a dispatch that joins rows. All in 32-bit words.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct JoinRowsParams {
    /// First word of the output.
    pub out: u32,
    /// Words of a row.
    pub words: u32,
    /// Rows, at most 28.
    pub rows: u32,
    /// Fills the struct to a multiple of 16 bytes.
    pub unused: u32,
    /// Where each row begins, see [`JoinRows::first`](crate::JoinRows::first).
    pub first: [u32; 28],
}

/// Parameters of a search in sorted rows.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct SearchParams {
    /// First element of the output, the sorted rows, the values, the order of the rows.
    pub offsets: [u32; 4],
    /// Elements of the output.
    pub count: u32,
    /// Elements of a sorted row.
    pub size: u32,
    /// Values for each row; 0 where there is one row for all.
    pub values: u32,
    /// Fills the struct to a multiple of 16 bytes.
    pub unused: u32,
}

/// Parameters of a product of matrices of integers. Lists of four are in the order out, a, b and one that is unused.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct IntMatmulParams {
    /// First elements.
    pub offsets: [u32; 4],
    /// From one matrix to the next.
    pub batch_strides: [u32; 4],
    /// Of `a` along rows and along k, of `b` along k and along columns.
    pub strides: [u32; 4],
    /// Rows of `a` and of the output, which is dense.
    pub m: u32,
    /// Columns of `b` and of the output.
    pub n: u32,
    /// Columns of `a`, rows of `b`.
    pub k: u32,
    /// Matrices.
    pub batch: u32,
}
