// Softmax, normalisations, sorting: what goes over a row as a whole.
#include <ATen/native/DispatchStub.h>
#include <ATen/native/Sorting.h>
// These headers give different types one name.
#define forward_fn softmax_forward_fn
#define backward_fn softmax_backward_fn
#include <ATen/native/cpu/SoftmaxKernel.h>
#undef forward_fn
#undef backward_fn
#define forward_fn layer_norm_forward_fn
#define backward_fn layer_norm_backward_fn
#include <ATen/native/layer_norm.h>
#undef forward_fn
#undef backward_fn
#define forward_fn group_norm_forward_fn
#define backward_fn group_norm_backward_fn
#include <ATen/native/group_norm.h>
#undef forward_fn
#undef backward_fn

#include "native/call.h"
#include "native/hook.h"
#include "native/hooks.h"

namespace rivulet {

namespace {

using at::Tensor;

template <bool logarithm>
struct Softmax {
  bool operator()(const Tensor& out, const Tensor& x, int64_t dim = -1) const {
    Views views;
    dim = c10::maybe_wrap_dim(dim, x.dim());
    return x.numel() == 0 ||
        (x.dim() > 0 && views.output(out) && views.input(x) &&
         recorded(rivulet_softmax(logarithm, views.at(0), views.at(1), dim)));
  }
};

template <bool logarithm>
struct SoftmaxBackward {
  bool operator()(const Tensor& out, const Tensor& grad, const Tensor& output, int64_t dim = -1) const {
    Views views;
    dim = c10::maybe_wrap_dim(dim, grad.dim());
    return grad.numel() == 0 ||
        (grad.dim() > 0 && views.output(out) && views.input(grad) && views.input(output) &&
         recorded(rivulet_softmax_backward(logarithm, views.at(0), views.at(1), views.at(2), dim)));
  }
};

bool layer_norm(
    const Tensor& x, const Tensor& weight, const Tensor& bias, int64_t rows, int64_t size, double eps, Tensor* out,
    Tensor* mean, Tensor* rstd) {
  if (x.numel() == 0) {
    return rows == 0;
  }
  auto as_rows = [&](const Tensor& tensor) { return tensor.view({rows, size}); };
  auto as_row = [&](const Tensor& tensor) { return tensor.defined() ? tensor.view({size}) : tensor; };
  auto as_column = [&](const Tensor* tensor) { return tensor && tensor->defined() ? tensor->view({rows}) : Tensor(); };
  Views views;
  return views.output(as_rows(*out)) && views.output_if(as_column(mean)) && views.output_if(as_column(rstd)) &&
      views.input(as_rows(x)) && views.input_if(as_row(weight)) && views.input_if(as_row(bias)) &&
      recorded(rivulet_layer_norm(
          views.at(0), views.optional(1), views.optional(2), views.at(3), views.optional(4), views.optional(5), eps));
}

} // namespace

void hook_rows() {
  using namespace at::native;
  hook(softmax_lastdim_kernel, Softmax<false>{});
  hook(log_softmax_lastdim_kernel, Softmax<true>{});
  hook(softmax_kernel, Softmax<false>{});
  hook(log_softmax_kernel, Softmax<true>{});
  hook(softmax_backward_lastdim_kernel, SoftmaxBackward<false>{});
  hook(log_softmax_backward_lastdim_kernel, SoftmaxBackward<true>{});
  hook(softmax_backward_kernel, SoftmaxBackward<false>{});
  hook(log_softmax_backward_kernel, SoftmaxBackward<true>{});
  hook(
      LayerNormKernel,
      [](const Tensor& x, const Tensor& weight, const Tensor& bias, int64_t rows, int64_t size, double eps, Tensor* out,
         Tensor* mean, Tensor* rstd) { return layer_norm(x, weight, bias, rows, size, eps, out, mean, rstd); });
}

} // namespace rivulet
