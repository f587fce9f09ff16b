//! The kernels of Rivulet: WGSL texts, the typed keys that choose among their variants, the parameters of a dispatch,
//! and the way to a driver.
//!
//! # From WGSL to a driver
//!
//! 1. A [`Kernel`] is a value: family, op, element types, layout. It is the key of every pipeline cache.
//! 2. [`Kernel::wgsl`] puts the text together. WGSL has no generics and no includes, so there are two small tools: a
//!    *template* replaces markers (`$C` is the type computed in, `$NAME` an operand), and a *linker* appends the
//!    functions of `wgsl/lib` that the text names. `wgsl/kernel` holds entry points, `wgsl/operand` loads and stores,
//!    `wgsl/params` the parameters.
//! 3. [`translate`] checks it with naga and writes SPIR-V or MSL. SPIR-V gets `NoContraction` on every float operation:
//!    rounding is where the text says, and fusing is asked for by `fma`.
//! 4. The driver compiles it: entry point and label from here, [`Kernel::bindings`] storage buffers,
//!    [`Kernel::param_bytes`] of push constants, [`Kernel::workgroup`] invocations, where the device has what
//!    [`Kernel::requires`] names.
//! 5. A dispatch passes a struct of [`params`] as bytes and the groups that the key's `groups` gives.
//!
//! # Elements and words
//!
//! WGSL's smallest element in a buffer is a 32-bit word. Narrower ones ([`DType::lanes`] to a word) are read by shift
//! and mask. They are written a word at a time where the words belong to the output alone, and by atomic and-then-or
//! where a neighbour's element may share the word. [`Layout`] and [`RowStore`] say which; their `choose` decides.
//! float16 and bfloat16 are computed in float32 and rounded to nearest even, integers below 64 bits in 32 bits and
//! wrapped, bool is 0 or 1. Buffers are bound from a multiple of 4 bytes, and to one.
//!
//! NaN and infinity are tested on bits, since a compiler may assume of float comparisons that neither occurs.
//!
//! # Families
//!
//! | family | bindings, in order | parameters |
//! | --- | --- | --- |
//! | [`Pointwise`]: [`Op`], casts, fills, ranges, random numbers | out, tensor inputs | [`params::PointwiseParams`], with strides [`params::StridedParams`] |
//! | [`Row`]: softmax, log_softmax, layer_norm, rms_norm and their gradients, group_norm | out, x, then what the op has ([`RowOp`]) | [`params::RowParams`] |
//! | [`HeldRow`]: softmax, log_softmax, layer_norm, rms_norm of short contiguous rows, the latter two of sums too | as [`Row`], then summand and sum where there are such ([`RowSum`]) | [`params::RowParams`] |
//! | [`Reduce`]: sums, products, extremes and their places, any, all, norms, variance | values, indices (either or both), x | [`params::ReduceParams`] |
//! | [`Scan`]: cumsum, cumprod, logcumsumexp, cummax, cummin | out, x, indices where there are such | [`params::RowParams`] |
//! | [`Matmul`]: in batches, bias, activation | out, a, b, bias | [`params::MatmulParams`] |
//! | [`MatmulJoin`]: what a product in parts along k ends with | out, parts, bias | [`params::MatmulParams`] |
//! | [`MatmulSimd`]: as [`Matmul`], on Metal's 8 x 8 matrices | out, a, b, bias | [`params::MatmulParams`] |
//! | [`Gather`]: gather, index_select, embedding, index | out, index, source | [`params::StridedParams`], `indexed` |
//! | [`Scatter`]: scatter, scatter_add, scatter_reduce, index_put | out, index, source | [`params::StridedParams`], `indexed` |
//! | [`NormColumns`]: gradients of the weight and bias of layer_norm and rms_norm | weight, bias, gradient, x, mean, rstd | [`params::NormColumnsParams`] |
//! | [`ChannelNorm`]: batch_norm by given statistics | out, x, mean, variance, weight, bias | [`params::ChannelNormParams`] |
//! | [`Sort`]: in steps; also topk | as [`SortStep`] says | [`params::SortParams`] |
//! | [`Conv`]: of images, forward and transposed | out, x, weight, bias | [`params::ConvParams`] |
//! | [`Nll`]: nll_loss and its gradient | as [`NllPass`] says | [`params::NllParams`] |
//! | [`EmbeddingGradient`] | out, sorted indices, order, gradient | [`params::EmbeddingGradientParams`] |
//! | [`Pad`]: reflection, replication, and their gradients | out, x | [`params::PadParams`] |
//! | [`Pool`]: averages and places of maxima, the gradient of averages | out, x | [`params::PoolParams`] |
//! | [`Resample`]: nearest, linear, and their gradients | out, x | [`params::ResampleParams`] |
//! | [`Unfold`]: columns of an image, and back | out, x | [`params::UnfoldParams`] |
//! | [`Search`]: places in sorted rows | out, rows, values, order | [`params::SearchParams`] |
//! | [`IntMatmul`]: in batches | out, a, b | [`params::IntMatmulParams`] |
//! | [`JoinRows`]: of one memory or eight | out, source… | [`params::JoinRowsParams`] |
//! | [`Attention`]: masks, causal, grouped heads | out, q, k, v, mask | [`params::AttentionParams`] |
//! | [`AttentionSimd`]: as [`Attention`], on Metal's 8 x 8 matrices | out, q, k, v, mask | [`params::AttentionParams`] |
//!
//! `cat`, `flip`, `expand`, `pad` and the like are strided copies: [`Pointwise::cast`] with equal types.
//!
//! # To add a pointwise op
//!
//! 1. A row in `src/kernel/ops.rs`: variant, label, number of inputs, whether the position matters, element types,
//!    whether it yields a truth value.
//! 2. Its function in `wgsl/lib`: `f_label` for floats, `i_label` with `$C` for integers. A new file is named in
//!    `src/library.rs`.
//! 3. A case in `tests/gpu`. That every variant translates is tested without further ado.
#![forbid(unsafe_code)]

mod dtype;
mod features;
mod kernel;
mod library;
pub mod params;
mod shader;
mod template;
mod translate;

pub use dtype::{DType, Native};
pub use features::Features;
pub use kernel::{
    Attention, AttentionSimd, AttentionTile, Blocks, ChannelNorm, Conv, ConvKind, EmbeddingGradient, Extent,
    FUSED_STEPS, Fused, FusedInput, FusedSource, FusedStep, Gather, HeadSize, HeldRow, IntMatmul, JoinRows,
    Kernel, Layout, LossReduction, MAX_GROUPS, Mask, Matmul, MatmulJoin, MatmulSimd, Nll, NllPass, Norm,
    NormBackward, NormColumns, Op, Pad, PadMode, Pointwise, Pool, PoolOp, ProductStore, Reduce, ReduceOp,
    ReduceOutput, ReduceStage, ReduceThreads, Resample, ResampleMode, Row, RowOp, RowStore, RowSum,
    RowThreads, Scan, ScanOp, Scatter, ScatterOp, Search, Sort, SortStep, Tile, Unfold,
};
pub use translate::{FloatControls, Target, TranslateError, Translated, translate, translate_wgsl};
