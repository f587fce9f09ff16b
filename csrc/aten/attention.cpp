#include <ATen/Functions.h>
#include <ATen/native/transformers/sdp_utils_cpp.h>

#include "aten/kernels.h"
#include "native/scope.h"

namespace rivulet {

namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// PyTorch picks the kernel of scaled_dot_product_attention through a stub that has no slot for mps in a build
// without Metal. This is its choice for the CPU: the flash kernel where it applies, the plain formula elsewhere.
Tensor scaled_dot_product_attention(
    const Tensor& query,
    const Tensor& key,
    const Tensor& value,
    const OptionalTensor& mask,
    double dropout,
    bool causal,
    std::optional<double> scale,
    bool grouped) {
  auto choice = static_cast<sdp::SDPBackend>(
      at::_fused_sdp_choice(query, key, value, mask, dropout, causal, scale, grouped));
  // The choice is made on stand-ins, which require no grad; the flash kernel gives none to a mask.
  bool mask_takes_grad = mask.has_value() && mask->defined() && mask->requires_grad();
  // The flash kernel's gradient has no kernel on the device; those of the formula's parts have.
  bool takes_grad = at::GradMode::is_enabled() && has_kernels() &&
      (query.requires_grad() || key.requires_grad() || value.requires_grad());
  if (choice != sdp::SDPBackend::flash_attention || mask_takes_grad || takes_grad) {
    return std::get<0>(
        at::_scaled_dot_product_attention_math(query, key, value, mask, dropout, causal, std::nullopt, scale, grouped));
  }
  // The flash kernel takes additive masks only.
  OptionalTensor additive = mask;
  if (mask.has_value() && mask->defined() && mask->dtype() == at::kBool) {
    additive = at::zeros_like(*mask, query.options()).masked_fill_(mask->logical_not(), -INFINITY);
  }
  return std::get<0>(at::_scaled_dot_product_flash_attention_for_cpu(
      query, key, value, dropout, causal, additive, scale));
}

} // namespace

void register_attention(torch::Library& aten, torch::Library& autograd) {
  aten.impl("scaled_dot_product_attention", scaled_dot_product_attention);
  autograd.impl("scaled_dot_product_attention", scaled_dot_product_attention);
}

} // namespace rivulet
