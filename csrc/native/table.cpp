#include "native/table.h"

#include <unordered_set>

#include "native/hook.h"
#include "native/hooks.h"

namespace rivulet {

namespace {

// In-place and out= forms are the same ops.
const std::unordered_set<std::string>& names() {
  static const auto* set = new std::unordered_set<std::string>{
      // unary
      "abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "bitwise_not", "ceil", "conj_physical", "cos", "cosh",
      "digamma", "erf", "erfc", "erfinv", "exp", "exp2", "expm1", "floor", "frac", "i0", "isnan", "isneginf", "isposinf",
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
      // copies and creation
      "arange", "cat", "clone", "eye", "fill", "flip", "linspace", "roll", "tril", "triu", "zero",
      // reductions and running totals
      "_cummax_helper", "_cummin_helper", "_logcumsumexp", "all", "amax", "amin", "any", "argmax", "argmin", "cumprod", "cumsum", "linalg_vector_norm", "max", "mean", "min",
      "nansum", "norm", "prod", "std", "std_mean", "sum", "var",
      "var_mean",
      // rows
      "_log_softmax", "_log_softmax_backward_data", "_softmax", "_softmax_backward_data", "native_group_norm", "native_layer_norm",
      "native_layer_norm_backward", "sort", "topk",
      // products
      "_addmm_activation", "addmm", "convolution", "convolution_backward", "addmv", "baddbmm", "bmm", "dot", "mm",
      // attention
      "_fused_sdp_choice", "_scaled_dot_product_flash_attention_for_cpu",
      // indexing
      "embedding", "embedding_dense_backward", "gather", "index", "isin", "_index_put_impl", "index_select", "scatter", "scatter_add", "scatter_reduce",
      "_assert_async",
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

bool is_native(const std::string& full) {
  constexpr size_t kNamespace = sizeof("aten::") - 1;
  if (full.rfind("aten::", 0) != 0) {
    return false;
  }
  auto name = full.substr(kNamespace);
  if (names().count(name) != 0) {
    return true;
  }
  return !name.empty() && name.back() == '_' && names().count(name.substr(0, name.size() - 1)) != 0;
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
}

} // namespace rivulet
