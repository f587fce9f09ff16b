// Losses over classes, gradients of embeddings, padding, and extremes so far.
#include <ATen/Functions.h>
#include <ATen/Operators.h>
#include <ATen/native/Padding.h>

#include "native/call.h"
#include "native/hook.h"
#include "native/hooks.h"
#include "native/nested.h"
#include "native/scope.h"

namespace rivulet {

namespace {

using at::IntArrayRef;
using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// Classes of a batch; everything else is PyTorch's to refuse.
bool is_plain_loss(const Tensor& x, const Tensor& target, const OptionalTensor& weight) {
  if (x.numel() == 0 || x.dim() < 1 || target.dim() != std::max<int64_t>(x.dim() - 1, 0) ||
      !c10::isFloatingType(x.scalar_type()) || target.scalar_type() != c10::kLong) {
    return false;
  }
  for (int64_t dim = 0; dim < target.dim(); ++dim) {
    if (target.size(dim) != x.size(dim == 0 ? 0 : dim + 1)) {
      return false;
    }
  }
  int64_t classes = x.size(x.dim() == 1 ? 0 : 1);
  return !weight.has_value() || !weight->defined() ||
      (weight->dim() == 1 && weight->numel() == classes && weight->scalar_type() == x.scalar_type());
}

Tensor contiguous_weight(const OptionalTensor& weight) {
  return weight.has_value() && weight->defined() ? weight->contiguous() : Tensor();
}

template <typename Op>
std::tuple<Tensor, Tensor> nll_loss(
    const Tensor& x, const Tensor& target, const OptionalTensor& weight, int64_t reduction, int64_t ignored) {
  if (is_plain_loss(x, target, weight)) {
    Tensor out = at::empty(reduction == at::Reduction::None ? target.sizes() : IntArrayRef(), x.options());
    Tensor total = at::empty(IntArrayRef(), x.options());
    Views views;
    bool recorded = views.output(out) && views.output(total) && views.input(x.contiguous()) &&
        views.input(target.contiguous()) && views.input_if(contiguous_weight(weight)) &&
        views.recorded(rivulet_nll_loss(
            0, views.at(0), reduction == at::Reduction::None ? nullptr : views.at(1), views.at(2), views.at(3),
            views.optional(4), static_cast<uint32_t>(reduction), ignored));
    if (recorded) {
      if (reduction == at::Reduction::None) {
        total.zero_();
      }
      return {out, total};
    }
  }
  return on_the_host<Op>(x, target, weight, reduction, ignored);
}

template <typename Op>
Tensor nll_loss_backward(
    const Tensor& grad, const Tensor& x, const Tensor& target, const OptionalTensor& weight, int64_t reduction,
    int64_t ignored, const Tensor& total) {
  if (is_plain_loss(x, target, weight) && grad.scalar_type() == x.scalar_type()) {
    Tensor out = at::empty(x.sizes(), x.options());
    Views views;
    bool recorded = views.output(out) && views.input(grad.contiguous()) && views.input(target.contiguous()) &&
        views.input_if(contiguous_weight(weight)) && views.input(total) &&
        views.recorded(rivulet_nll_loss(
            1, views.at(0), reduction == at::Reduction::None ? nullptr : views.at(4), views.at(1), views.at(2),
            views.optional(3), static_cast<uint32_t>(reduction), ignored));
    if (recorded) {
      return out;
    }
  }
  return on_the_host<Op>(grad, x, target, weight, reduction, ignored, total);
}

Tensor embedding_dense_backward(
    const Tensor& grad, const Tensor& indices, int64_t rows, int64_t padding, bool by_frequency) {
  bool fits = grad.dim() >= 1 && indices.numel() != 0 && grad.numel() != 0 && rows > 0 &&
      c10::isFloatingType(grad.scalar_type()) &&
      (indices.scalar_type() == c10::kLong || indices.scalar_type() == c10::kInt);
  if (fits) {
    int64_t size = grad.size(-1);
    Tensor out = at::empty({rows, size}, grad.options());
    Views views;
    bool recorded = views.output(out) && views.input(grad.contiguous().view({-1, size})) &&
        views.input(indices.contiguous().view({-1})) &&
        views.recorded(
            rivulet_embedding_backward(views.at(0), views.at(1), views.at(2), padding, by_frequency));
    if (recorded) {
      return out;
    }
  }
  return on_the_host<at::_ops::embedding_dense_backward>(grad, indices, rows, padding, by_frequency);
}

template <bool largest>
void extremes(const Tensor& x, Tensor& values, Tensor& places, int64_t dim) {
  Views views;
  bool recorded = x.numel() == 0 ||
      (x.dim() > 0 && places.is_contiguous() && views.output(values) && views.output(places) && views.input(x) &&
       views.recorded(rivulet_scan_places(
           largest, views.at(0), views.at(1), views.at(2), c10::maybe_wrap_dim(dim, x.dim()))));
  if (recorded) {
    return;
  }
  if constexpr (largest) {
    on_the_host<at::_ops::_cummax_helper>(x, values, places, dim);
  } else {
    on_the_host<at::_ops::_cummin_helper>(x, values, places, dim);
  }
}

template <bool replicate, bool backward>
struct Pad {
  bool operator()(const Tensor& out, const Tensor& x, IntArrayRef padding) const {
    Views views;
    return x.numel() != 0 && out.is_contiguous() && views.output(out) && views.input(x.contiguous()) &&
        views.recorded(
            rivulet_pad(replicate, backward, views.at(0), views.at(1), padding.data(), padding.size() / 2));
  }
};

} // namespace

void register_nested_losses(Nested& nested) {
  using namespace at::_ops;
  nested.impl("nll_loss_forward", nll_loss<nll_loss_forward>);
  nested.impl("nll_loss2d_forward", nll_loss<nll_loss2d_forward>);
  nested.impl("nll_loss_backward", nll_loss_backward<at::_ops::nll_loss_backward>);
  nested.impl("nll_loss2d_backward", nll_loss_backward<nll_loss2d_backward>);
  nested.impl("embedding_dense_backward", embedding_dense_backward);
  nested.impl("_cummax_helper", extremes<true>);
  nested.impl("_cummin_helper", extremes<false>);
}

void hook_padding() {
  using namespace at::native;
  hook(reflection_pad1d_kernel, Pad<false, false>{});
  hook(reflection_pad2d_kernel, Pad<false, false>{});
  hook(reflection_pad3d_kernel, Pad<false, false>{});
  hook(replication_pad1d_kernel, Pad<true, false>{});
  hook(replication_pad2d_kernel, Pad<true, false>{});
  hook(replication_pad3d_kernel, Pad<true, false>{});
  hook(reflection_pad1d_backward_kernel, Pad<false, true>{});
  hook(reflection_pad2d_backward_kernel, Pad<false, true>{});
  hook(reflection_pad3d_backward_kernel, Pad<false, true>{});
  hook(replication_pad1d_backward_kernel, Pad<true, true>{});
  hook(replication_pad2d_backward_kernel, Pad<true, true>{});
  hook(replication_pad3d_backward_kernel, Pad<true, true>{});
}

} // namespace rivulet
