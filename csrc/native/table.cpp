#include "native/table.h"

#include <unordered_set>

#include "native/hook.h"
#include "native/hooks.h"
#include "native/nested.h"

namespace rivulet {

namespace {

// In-place and out= forms are the same ops.
const std::unordered_set<std::string>& names() {
  static const auto* set = new std::unordered_set<std::string>{
      // unary
      "abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "bitwise_not", "ceil", "conj_physical", "cos", "cosh",
      "digamma", "erf", "erfc", "erfinv", "exp", "exp2", "expm1", "floor", "frac", "i0", "isnan", "isneginf",
      "isposinf",
      "lgamma", "log", "log10", "log1p", "log2", "logical_not", "logit", "nan_to_num", "neg", "reciprocal", "round",
      "rsqrt", "sgn", "sigmoid", "sign", "signbit", "sin", "sinc", "sinh", "special_entr", "special_erfcx",
      "special_i0e", "special_i1", "special_i1e", "special_log_ndtr", "special_ndtri", "sqrt", "tan", "tanh", "trunc",
      // binary
      "add", "atan2", "bitwise_and", "bitwise_left_shift", "bitwise_or", "bitwise_right_shift", "bitwise_xor",
      "copysign", "div", "eq", "fmax", "fmin", "fmod", "gcd", "ge", "gt", "heaviside", "hypot", "igamma", "igammac",
      "lcm", "le", "logaddexp", "logaddexp2", "logical_and", "logical_or", "logical_xor", "lt", "maximum", "minimum",
      "mul", "ne", "nextafter", "pow", "remainder", "rsub", "special_xlog1py", "sub", "xlogy", "floor_divide",
      "__lshift__", "__ilshift__", "__rshift__", "__irshift__",
      // ternary
      "addcdiv", "addcmul", "clamp", "clamp_max", "clamp_min", "lerp", "masked_fill", "where",
      // activations, losses, gradients
      "elu", "gelu", "gelu_backward", "hardshrink", "hardshrink_backward", "hardsigmoid",
      "hardsigmoid_backward", "hardswish", "hardswish_backward", "hardtanh", "hardtanh_backward", "leaky_relu",
      "leaky_relu_backward", "mish", "mish_backward", "_prelu_kernel", "relu", "sigmoid_backward", "silu",
      "silu_backward", "softplus", "softplus_backward", "softshrink", "softshrink_backward", "tanh_backward",
      "threshold", "threshold_backward", "mse_loss", "smooth_l1_loss", "huber_loss",
      "_prelu_kernel_backward", "addr", "elu_backward", "glu", "glu_backward", "huber_loss_backward",
      "log_sigmoid_backward", "log_sigmoid_forward", "logit_backward", "mse_loss_backward", "polygamma",
      "smooth_l1_loss_backward", "special_zeta",
      "binary_cross_entropy", "binary_cross_entropy_backward",
      // copies and creation
      "arange", "cat", "channel_shuffle", "clone", "eye", "fill", "flip", "linspace", "native_channel_shuffle",
      "pixel_shuffle", "pixel_unshuffle", "roll", "tril", "triu", "unfold_backward", "zero",
      // reductions and running totals
      "_cummax_helper", "_cummin_helper", "_logcumsumexp", "all", "amax", "amin", "any", "argmax", "argmin", "cumprod",
      "cumsum", "linalg_vector_norm", "max", "mean", "min",
      "aminmax", "count_nonzero", "equal", "median", "nanmedian", "nansum", "norm", "prod", "renorm", "std",
      "std_mean", "sum", "trace", "var",
      "var_mean",
      // rows
      "_log_softmax", "_log_softmax_backward_data", "_softmax", "_softmax_backward_data", "native_group_norm",
      "native_layer_norm",
      "native_layer_norm_backward", "sort", "topk",
      // products
      "_addmm_activation", "addbmm", "addmm", "convolution", "convolution_backward", "addmv", "baddbmm", "bmm", "dot",
      "linalg_cross", "mm", "vdot",
      // batch normalisation
      "_batch_norm_with_update", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
      "batch_norm_backward", "native_batch_norm", "native_batch_norm_backward", "native_dropout_backward",
      // images
      "_adaptive_avg_pool2d", "_adaptive_avg_pool2d_backward",
      "_upsample_nearest_exact1d", "_upsample_nearest_exact1d_backward", "_upsample_nearest_exact2d",
      "_upsample_nearest_exact2d_backward", "_upsample_nearest_exact3d", "_upsample_nearest_exact3d_backward",
      "adaptive_avg_pool2d", "adaptive_max_pool2d",
      "adaptive_max_pool2d_backward", "avg_pool2d",
      "avg_pool2d_backward", "col2im", "im2col", "max_pool2d_with_indices",
      "max_pool2d_with_indices_backward", "max_pool3d_with_indices", "max_pool3d_with_indices_backward",
      "max_unpool2d", "max_unpool3d",
      "upsample_bilinear2d", "upsample_bilinear2d_backward", "upsample_linear1d", "upsample_linear1d_backward",
      "upsample_nearest1d", "upsample_nearest1d_backward", "upsample_nearest2d", "upsample_nearest2d_backward",
      "upsample_nearest3d", "upsample_nearest3d_backward", "upsample_trilinear3d", "upsample_trilinear3d_backward",
      // attention
      "_fused_sdp_choice", "_scaled_dot_product_flash_attention_for_cpu",
      // indexing
      "embedding", "embedding_dense_backward", "gather", "index", "isin", "_index_put_impl", "index_select", "scatter",
      "scatter_add", "scatter_reduce",
      "_assert_async",
      "index_add", "index_copy", "index_fill", "index_reduce", "masked_scatter", "masked_select", "nonzero", "put",
      "take",
      "_cdist_forward", "_unique2", "bincount", "bucketize", "repeat_interleave", "searchsorted",
      // random numbers
      "bernoulli", "exponential", "multinomial", "normal", "randperm", "random", "uniform",
      // losses over classes, padding
      "nll_loss2d_backward", "nll_loss2d_forward", "nll_loss_backward", "nll_loss_forward", "reflection_pad1d",
      "reflection_pad1d_backward", "reflection_pad2d", "reflection_pad2d_backward", "reflection_pad3d",
      "reflection_pad3d_backward", "replication_pad1d", "replication_pad1d_backward", "replication_pad2d",
      "replication_pad2d_backward", "replication_pad3d", "replication_pad3d_backward"};
  return *set;
}

} // namespace

bool is_native(const c10::OperatorName& op) {
  constexpr size_t kNamespace = sizeof("aten::") - 1;
  if (op.name.rfind("aten::", 0) != 0) {
    return false;
  }
  auto name = op.name.substr(kNamespace);
  bool in_place = names().count(name) == 0 && name.size() > 1 && name.back() == '_';
  if (in_place) {
    name.pop_back();
  }
  // An op has kernels at kNested because PyTorch's code touches data itself. Its other overloads do so too, but for
  // these.
  static const std::unordered_set<std::string> apart = {"aten::fill_.Tensor", "aten::nansum.out"};
  return names().count(name) != 0 &&
      (!has_nested(name) || native_key(op) == kNested || apart.count(c10::toString(op)) != 0);
}

std::vector<Slot>& slots() {
  static auto* slots = new std::vector<Slot>();
  return *slots;
}

void install_hooks() {
  for (const Slot& slot : slots()) {
    *slot.original = slot.pointer->load(std::memory_order_relaxed);
    // Release: who sees the hook sees the original.
    slot.pointer->store(slot.call, std::memory_order_release);
  }
}

void prepare_hooks() {
  hook_pointwise();
  hook_activations();
  hook_reductions();
  hook_rows();
  hook_indexing();
  hook_random();
  hook_attention();
  hook_padding();
  hook_gradients();
  hook_placing();
  hook_pooling();
  hook_resampling();
  hook_composed();
}

} // namespace rivulet
