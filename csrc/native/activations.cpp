// Activations, losses and their gradients, element by element.
#include <ATen/Functions.h>
#include <ATen/Operators.h>
#include <ATen/native/Activation.h>
#include <ATen/native/BinaryOps.h>
#include <ATen/native/PointwiseOps.h>
#include <ATen/native/Resize.h>

#include "native/call.h"
#include "native/hook.h"
#include "native/hooks.h"
#include "native/nested.h"
#include "native/scope.h"

namespace rivulet {

namespace {

// threshold(x) and its gradient are one stub: value where x <= threshold, else the second input.
bool threshold(const at::TensorIteratorBase& iter, const c10::Scalar& threshold, const c10::Scalar& value) {
  if (iter.data_ptr(1) == iter.data_ptr(2)) {
    Views views;
    return iter.numel() == 0 ||
        (views.output(iter.output_base()) && views.input(iter.input_base(0)) &&
         call_pointwise(pointwise_op<"threshold">(), iter.dtype(0), views, {threshold, value}));
  }
  return value.equal(0) && GradientLast<"threshold_backward">{}(iter, threshold);
}

// PyTorch's CPU code gives dense tensors of gelu and its gradient to oneDNN, without a stub.
bool gelu_elements(const at::Tensor& out, const at::Tensor& x, std::string_view approximate) {
  if (out.numel() == 0) {
    return true;
  }
  Views views;
  return views.output(out) && views.input(x) &&
      call_pointwise(
             approximate == "tanh" ? pointwise_op<"gelu_tanh">() : pointwise_op<"gelu">(), x.scalar_type(), views);
}

at::Tensor gelu(const at::Tensor& x, std::string_view approximate) {
  if (c10::isFloatingType(x.scalar_type())) {
    at::Tensor out = at::empty_like(x);
    if (gelu_elements(out, x, approximate)) {
      return out;
    }
  }
  return on_the_host<at::_ops::gelu>(x, approximate);
}

at::Tensor& gelu_out(const at::Tensor& x, std::string_view approximate, at::Tensor& out) {
  if (c10::isFloatingType(x.scalar_type()) && out.scalar_type() == x.scalar_type()) {
    at::native::resize_output(out, x.sizes());
    if (gelu_elements(out, x, approximate)) {
      return out;
    }
  }
  return on_the_host<at::_ops::gelu_out>(x, approximate, out);
}

at::Tensor& gelu_(at::Tensor& x, std::string_view approximate) {
  return gelu_out(x, approximate, x);
}

at::Tensor gelu_backward(const at::Tensor& grad, const at::Tensor& x, std::string_view approximate) {
  if (grad.sizes() == x.sizes() && grad.scalar_type() == x.scalar_type()) {
    at::Tensor out = at::empty_like(grad);
    Views views;
    bool recorded = views.output(out) && views.input(grad) && views.input(x) &&
        call_pointwise(
            approximate == "tanh" ? pointwise_op<"gelu_tanh_backward">() : pointwise_op<"gelu_backward">(),
            x.scalar_type(), views);
    if (recorded) {
      return out;
    }
  }
  return on_the_host<at::_ops::gelu_backward>(grad, x, approximate);
}

at::Tensor& gelu_backward_out(
    const at::Tensor& grad, const at::Tensor& x, std::string_view approximate, at::Tensor& out) {
  return on_the_host<at::_ops::gelu_backward_grad_input>(grad, x, approximate, out);
}

} // namespace

void register_nested_activations(Nested& nested) {
  nested.impl("gelu", gelu);
  nested.impl("gelu.out", gelu_out);
  nested.impl("gelu_", gelu_);
  nested.impl("gelu_backward", gelu_backward);
  nested.impl("gelu_backward.grad_input", gelu_backward_out);
}

void hook_activations() {
  using namespace at::native;
  hook(elu_stub, Pointwise<"elu">{});
  hook(
      elu_backward_stub,
      [](const at::TensorIteratorBase& iter, const c10::Scalar& alpha, const c10::Scalar& scale,
         const c10::Scalar& input_scale, bool is_result) {
        return call_pointwise(
            is_result ? pointwise_op<"elu_backward_result">() : pointwise_op<"elu_backward">(), iter,
            {alpha, scale, input_scale});
      });
  hook(softplus_stub, Pointwise<"softplus">{});
  hook(softplus_backward_stub, Pointwise<"softplus_backward">{});
  hook(threshold_stub, [](const at::TensorIteratorBase& iter, const c10::Scalar& limit, const c10::Scalar& value) {
    return threshold(iter, limit, value);
  });
  hook(hardtanh_backward_stub, Pointwise<"hardtanh_backward">{});
  hook(hardsigmoid_stub, Pointwise<"hardsigmoid">{});
  hook(hardsigmoid_backward_stub, Pointwise<"hardsigmoid_backward">{});
  hook(hardswish_stub, Pointwise<"hardswish">{});
  hook(hardswish_backward_stub, Pointwise<"hardswish_backward">{});
  hook(hardshrink_stub, Pointwise<"hardshrink">{});
  hook(softshrink_stub, Pointwise<"softshrink">{});
  hook(shrink_backward_stub, Pointwise<"shrink_backward">{});
  hook(leaky_relu_stub, Pointwise<"leaky_relu">{});
  hook(leaky_relu_backward_stub, GradientLast<"leaky_relu_backward">{});
  hook(silu_stub, Pointwise<"silu">{});
  hook(silu_backward_stub, Pointwise<"silu_backward">{});
  hook(mish_stub, Pointwise<"mish">{});
  hook(mish_backward_stub, Pointwise<"mish_backward">{});
  hook(prelu_stub, Pointwise<"prelu">{});
  hook(sigmoid_backward_stub, Pointwise<"sigmoid_backward">{});
  hook(tanh_backward_stub, Pointwise<"tanh_backward">{});
  hook(mse_stub, Pointwise<"mse">{});
  hook(smooth_l1_stub, Pointwise<"smooth_l1">{});
  hook(huber_stub, Pointwise<"huber">{});
}

} // namespace rivulet
