// Softmax, normalisations, sorting: what goes over a row as a whole.
#include <ATen/Functions.h>
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
#include "native/volumes.h"

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
         views.recorded(rivulet_softmax(logarithm, views.at(0), views.at(1), dim)));
  }
};

template <bool logarithm>
struct SoftmaxBackward {
  bool operator()(const Tensor& out, const Tensor& grad, const Tensor& output, int64_t dim = -1) const {
    Views views;
    dim = c10::maybe_wrap_dim(dim, grad.dim());
    return grad.numel() == 0 ||
        (grad.dim() > 0 && views.output(out) && views.input(grad) && views.input(output) &&
         views.recorded(rivulet_softmax_backward(logarithm, views.at(0), views.at(1), views.at(2), dim)));
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
      views.recorded(rivulet_layer_norm(
          views.at(0), views.optional(1), views.optional(2), views.at(3), views.optional(4), views.optional(5), eps));
}

bool layer_norm_backward(
    const Tensor& grad, const Tensor& x, const Tensor& mean, const Tensor& rstd, const Tensor& weight, int64_t rows,
    int64_t size, Tensor* grad_x, Tensor* grad_weight, Tensor* grad_bias) {
  if (x.numel() == 0) {
    return false;
  }
  auto shaped = [](const Tensor* tensor, c10::IntArrayRef sizes) {
    return tensor && tensor->defined() ? tensor->view(sizes) : Tensor();
  };
  Views views;
  return views.output_if(shaped(grad_x, {rows, size})) && views.output_if(shaped(grad_weight, {size})) &&
      views.output_if(shaped(grad_bias, {size})) && views.input(shaped(&grad, {rows, size})) &&
      views.input(shaped(&x, {rows, size})) && views.input(shaped(&mean, {rows})) &&
      views.input(shaped(&rstd, {rows})) && views.input_if(shaped(&weight, {size})) &&
      views.recorded(rivulet_layer_norm_backward(
          views.optional(0), views.optional(1), views.optional(2), views.at(3), views.at(4), views.at(5), views.at(6),
          views.optional(7)));
}

bool group_norm(
    const Tensor& x, const Tensor& weight, const Tensor& bias, int64_t samples, int64_t channels, int64_t places,
    int64_t groups, double eps, const Tensor& out, const Tensor& mean, const Tensor& rstd) {
  if (x.numel() == 0 || !x.is_contiguous() || !out.is_contiguous()) {
    return false;
  }
  Views views;
  return views.output(out.view({samples, channels, places})) && views.output(mean.view({samples, groups})) &&
      views.output(rstd.view({samples, groups})) && views.input(x.view({samples, channels, places})) &&
      views.input_if(weight) && views.input_if(bias) &&
      views.recorded(rivulet_group_norm(
          views.at(0), views.at(1), views.at(2), views.at(3), views.optional(4), views.optional(5),
          static_cast<uint32_t>(groups), eps));
}

// The kernel wants rows that lie dense; results that do not are made beside and copied.
bool sort(
    const at::TensorBase& x_base, const at::TensorBase& values_base, const at::TensorBase& indices_base, int64_t dim,
    bool descending) {
  if (x_base.numel() == 0) {
    return true;
  }
  Tensor x(x_base);
  DenseResult values((Tensor(values_base)));
  DenseResult indices((Tensor(indices_base)));
  Views views;
  return x.dim() > 0 && values.given.numel() != 0 && views.output(values.dense) && views.output(indices.dense) &&
      views.input(x.contiguous()) &&
      views.recorded(rivulet_sort(
          views.at(0), views.at(1), views.at(2), c10::maybe_wrap_dim(dim, x.dim()), descending)) &&
      values.finish() && indices.finish();
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
  hook(
      LayerNormBackwardKernel,
      [](const Tensor& grad, const Tensor& x, const Tensor& mean, const Tensor& rstd, const Tensor& weight,
         int64_t rows, int64_t size, Tensor* grad_x, Tensor* grad_weight, Tensor* grad_bias) {
        return layer_norm_backward(grad, x, mean, rstd, weight, rows, size, grad_x, grad_weight, grad_bias);
      });
  hook(
      GroupNormKernel,
      [](const Tensor& x, const Tensor& weight, const Tensor& bias, int64_t samples, int64_t channels, int64_t places,
         int64_t groups, double eps, const Tensor& out, const Tensor& mean, const Tensor& rstd) {
        return group_norm(x, weight, bias, samples, channels, places, groups, eps, out, mean, rstd);
      });
  hook(
      sort_stub,
      [](const at::TensorBase& x, const at::TensorBase& values, const at::TensorBase& indices, int64_t dim,
         bool descending, bool) { return sort(x, values, indices, dim, descending); });
  hook(
      topk_stub,
      [](const at::TensorBase& values, const at::TensorBase& indices, const at::TensorBase& x, int64_t, int64_t dim,
         bool largest, bool) { return sort(x, values, indices, dim, largest); });
}

} // namespace rivulet
