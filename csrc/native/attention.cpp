#include <ATen/native/transformers/attention.h>

#include <cmath>

#include "native/call.h"
#include "native/hook.h"
#include "native/hooks.h"

namespace rivulet {

namespace {

using at::Tensor;

// out is [batch, queries, heads, size] and logsumexp [batch, queries, heads]; q, k and v are [batch, heads, length,
// size]. A mask has two dimensions or four.
bool attention(
    const Tensor& out, const Tensor& logsumexp, const Tensor& q, const Tensor& k, const Tensor& v, double dropout,
    bool causal, const std::optional<Tensor>& mask, std::optional<double> scale) {
  if (dropout != 0.0 || q.numel() == 0 || k.numel() == 0) {
    return false;
  }
  Tensor seen;
  if (mask.has_value() && mask->defined()) {
    seen = mask->expand({q.size(0), q.size(1), q.size(2), k.size(2)});
  }
  Views views;
  return views.output(out.transpose(1, 2)) && views.output(logsumexp.transpose(1, 2)) && views.input(q) &&
      views.input(k) && views.input(v) && views.input_if(seen) &&
      views.recorded(rivulet_attention(
          views.at(0), views.at(1), views.at(2), views.at(3), views.at(4), views.optional(5), causal,
          scale.value_or(1.0 / std::sqrt(static_cast<double>(q.size(3))))));
}

} // namespace

void hook_attention() {
  using namespace at::native;
  hook(
      flash_attention_kernel,
      [](const Tensor& out, const Tensor& logsumexp, const Tensor& q, const Tensor& k, const Tensor& v, double dropout,
         bool causal, const std::optional<Tensor>& mask, std::optional<double> scale) {
        return attention(out, logsumexp, q, k, v, dropout, causal, mask, scale);
      });
}

} // namespace rivulet
