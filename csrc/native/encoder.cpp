// Note [Whole layers]
// torch.nn's modules for transformers run as one op where no gradient is wanted (python/rivulet/_fast_path.py brings mps
// there), so that a layer is one way through Python and its lock and not fifteen. The ops are made of other ops of mps
// here, on every adapter.
//
// PyTorch's own CPU kernels serve what these do not take, and no more: they take a mask that is added for a boolean one, and give
// NaN for a query that sees no key, where the modules' ordinary way adds the mask and gives 0.
#include <ATen/Functions.h>
#include <ATen/Operators.h>

#include <cmath>
#include <initializer_list>
#include <limits>

#include "aten/hot.h"
#include "native/encoder.h"

namespace rivulet {

namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// Of PyTorch's numbering: [queries, keys]; [batch, keys]; [batch, heads, queries, keys].
constexpr int64_t kSourceMask = 0;
constexpr int64_t kPaddingMask = 1;
constexpr int64_t kWholeMask = 2;

bool is_given(const OptionalTensor& tensor) {
  return tensor.has_value() && tensor->defined();
}

// Dense operands of the device and of one floating type.
bool are_dense(c10::ScalarType dtype, std::initializer_list<std::reference_wrapper<const Tensor>> operands) {
  if (dtype != c10::kFloat && dtype != c10::kHalf && dtype != c10::kBFloat16) {
    return false;
  }
  for (const Tensor& operand : operands) {
    if (!operand.defined() || !operand.is_mps() || operand.layout() != c10::kStrided || operand.is_neg() ||
        operand.scalar_type() != dtype) {
      return false;
    }
  }
  return true;
}

// The mask as attention takes it; undefined where there is none or where it has an unusual form.
Tensor as_attention_mask(const OptionalTensor& mask, std::optional<int64_t> type) {
  if (!is_given(mask) || !mask->is_mps() || mask->layout() != c10::kStrided) {
    return Tensor();
  }
  int64_t kind = type.value_or(-1);
  if (kind == kSourceMask && mask->dim() == 2) {
    return mask->unsqueeze(0).unsqueeze(0);
  }
  if (kind == kPaddingMask && mask->dim() == 2) {
    return mask->unsqueeze(1).unsqueeze(1);
  }
  return kind == kWholeMask && mask->dim() == 4 ? *mask : Tensor();
}

// What attention adds to its scores: true in a boolean mask of these ops means unseen.
Tensor as_addend(const Tensor& mask, const Tensor& x) {
  if (mask.scalar_type() != c10::kBool) {
    return mask;
  }
  return at::zeros(mask.sizes(), x.options()).masked_fill_(mask, -std::numeric_limits<double>::infinity());
}

// Each [batch, heads, length, size], over the memory of the products.
struct Projected {
  Tensor q, k, v;
};

Projected project(
    const Tensor& query, const Tensor& key, const Tensor& value, int64_t heads, const Tensor& weight,
    const Tensor& bias) {
  int64_t size = query.size(2) / heads;
  if (query.is_same(key) && key.is_same(value)) {
    Tensor parts = at::linear(query, weight, bias)
                       .reshape({query.size(0), query.size(1), 3, heads, size})
                       .permute({2, 0, 3, 1, 4});
    return {parts.select(0, 0), parts.select(0, 1), parts.select(0, 2)};
  }
  auto weights = weight.chunk(3);
  auto biases = bias.chunk(3);
  auto part = [&](const Tensor& x, size_t which) {
    return at::linear(x, weights[which], biases[which])
        .reshape({x.size(0), x.size(1), heads, size})
        .transpose(1, 2);
  };
  return {part(query, 0), part(key, 1), part(value, 2)};
}

// The scores of every query and key, after softmax: [batch, heads, queries, keys].
Tensor attention_weights(const Tensor& q, const Tensor& k, const Tensor& addend) {
  Tensor scores = at::matmul(q.mul(1.0 / std::sqrt(static_cast<double>(q.size(-1)))), k.transpose(-2, -1));
  return at::softmax(addend.defined() ? scores.add_(addend) : scores, -1);
}

bool fits_attention(
    const Tensor& query, const Tensor& key, const Tensor& value, int64_t embedding, int64_t heads, const Tensor& weight,
    const Tensor& bias, const Tensor& out_weight, const Tensor& out_bias, const OptionalTensor& mask,
    std::optional<int64_t> mask_type) {
  if (!are_dense(query.scalar_type(), {query, key, value, weight, bias, out_weight, out_bias})) {
    return false;
  }
  if (is_given(mask)) {
    Tensor seen = as_attention_mask(mask, mask_type);
    if (!seen.defined() || (seen.scalar_type() != c10::kBool && seen.scalar_type() != query.scalar_type())) {
      return false;
    }
  }
  return query.dim() == 3 && key.dim() == 3 && value.dim() == 3 && query.numel() != 0 && key.numel() != 0 &&
      query.size(2) == embedding && key.size(2) == embedding && value.size(2) == embedding && heads > 0 &&
      embedding % heads == 0 && weight.dim() == 2 && weight.size(0) == 3 * embedding && bias.dim() == 1;
}

std::tuple<Tensor, Tensor> attend(
    const Tensor& query, const Tensor& key, const Tensor& value, int64_t heads, const Tensor& weight,
    const Tensor& bias, const Tensor& out_weight, const Tensor& out_bias, const OptionalTensor& mask, bool need_weights,
    bool average_weights, std::optional<int64_t> mask_type) {
  auto [q, k, v] = project(query, key, value, heads, weight, bias);
  Tensor seen = as_attention_mask(mask, mask_type);
  Tensor addend = seen.defined() ? as_addend(seen, query) : Tensor();
  Tensor weights, joined;
  if (need_weights) {
    weights = attention_weights(q, k, addend);
    joined = at::matmul(weights, v);
  } else {
    joined = at::scaled_dot_product_attention(q, k, v, addend.defined() ? OptionalTensor(addend) : std::nullopt);
  }
  Tensor out = at::linear(joined.transpose(1, 2).reshape(query.sizes()), out_weight, out_bias);
  return {out, need_weights && average_weights ? weights.mean(1) : weights};
}

std::tuple<Tensor, Tensor> native_multi_head_attention(
    const Tensor& query, const Tensor& key, const Tensor& value, int64_t embedding, int64_t heads, const Tensor& weight,
    const Tensor& bias, const Tensor& out_weight, const Tensor& out_bias, const OptionalTensor& mask, bool need_weights,
    bool average_weights, std::optional<int64_t> mask_type) {
  bool fits = fits_attention(
      query, key, value, embedding, heads, weight, bias, out_weight, out_bias, mask, mask_type);
  return fits
      ? attend(
            query, key, value, heads, weight, bias, out_weight, out_bias, mask, need_weights, average_weights,
            mask_type)
      : hot::Hot<at::_ops::_native_multi_head_attention>::call(
            query, key, value, embedding, heads, weight, bias, out_weight, out_bias, mask, need_weights,
            average_weights, mask_type);
}

Tensor transformer_encoder_layer_fwd(
    const Tensor& src, int64_t embedding, int64_t heads, const Tensor& qkv_weight, const Tensor& qkv_bias,
    const Tensor& out_weight, const Tensor& out_bias, bool use_gelu, bool norm_first, double eps,
    const Tensor& norm_weight_1, const Tensor& norm_bias_1, const Tensor& norm_weight_2, const Tensor& norm_bias_2,
    const Tensor& weight_1, const Tensor& bias_1, const Tensor& weight_2, const Tensor& bias_2,
    const OptionalTensor& mask, std::optional<int64_t> mask_type) {
  bool fits = are_dense(
                  src.scalar_type(), {norm_weight_1, norm_bias_1, norm_weight_2, norm_bias_2, weight_1, bias_1,
                                      weight_2, bias_2}) &&
      fits_attention(src, src, src, embedding, heads, qkv_weight, qkv_bias, out_weight, out_bias, mask, mask_type);
  if (!fits) {
    return hot::Hot<at::_ops::_transformer_encoder_layer_fwd>::call(
        src, embedding, heads, qkv_weight, qkv_bias, out_weight, out_bias, use_gelu, norm_first, eps, norm_weight_1,
        norm_bias_1, norm_weight_2, norm_bias_2, weight_1, bias_1, weight_2, bias_2, mask, mask_type);
  }
  auto norm = [&](const Tensor& x, const Tensor& weight, const Tensor& bias) {
    return at::layer_norm(x, {embedding}, weight, bias, eps);
  };
  Tensor attended_from = norm_first ? norm(src, norm_weight_1, norm_bias_1) : src;
  Tensor x = std::get<0>(attend(
      attended_from, attended_from, attended_from, heads, qkv_weight, qkv_bias, out_weight, out_bias, mask,
      /*need_weights=*/false, /*average_weights=*/false, mask_type));
  x.add_(src);
  if (!norm_first) {
    x = norm(x, norm_weight_1, norm_bias_1);
  }
  Tensor hidden = at::linear(norm_first ? norm(x, norm_weight_2, norm_bias_2) : x, weight_1, bias_1);
  Tensor out = at::linear(use_gelu ? at::gelu(hidden) : at::relu(hidden), weight_2, bias_2);
  out.add_(x);
  return norm_first ? out : norm(out, norm_weight_2, norm_bias_2);
}

} // namespace

void register_encoder(torch::Library& aten) {
  aten.impl("_native_multi_head_attention", native_multi_head_attention);
  aten.impl("_transformer_encoder_layer_fwd", transformer_encoder_layer_fwd);
}

} // namespace rivulet
