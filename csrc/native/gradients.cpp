// Gradients of activations and losses, and the functions beside them that have stubs of their own.
#include <ATen/Functions.h>
#include <ATen/Operators.h>
#include <ATen/native/Activation.h>
#include <ATen/native/BinaryOps.h>
#include <ATen/native/LinearAlgebra.h>
#include <ATen/native/Normalization.h>
#include <ATen/native/PointwiseOps.h>
#include <ATen/native/ReduceOps.h>
#include <ATen/native/Resize.h>
#include <ATen/native/UnaryOps.h>

#include <cmath>

#include "native/call.h"
#include "native/hook.h"
#include "native/hooks.h"
#include "native/nested.h"
#include "native/scope.h"

namespace rivulet {

namespace {

using at::Scalar;
using at::Tensor;

// Two outputs, of input, weight and gradient: one kernel each.
bool prelu_backward(const at::TensorIteratorBase& iter) {
  if (iter.numel() == 0) {
    return true;
  }
  Views views;
  if (!views.iterator(iter)) {
    return false;
  }
  views.swap(1, 4);
  views.truncate(4);
  if (!call_pointwise(pointwise_op<"prelu_backward">(), iter.dtype(0), views)) {
    return false;
  }
  views.truncate(5);
  views.swap(0, 4);
  views.truncate(3);
  return call_pointwise(pointwise_op<"prelu_weight_backward">(), iter.dtype(0), views);
}

bool elementwise(uint32_t op, const Tensor& out, std::initializer_list<Tensor> inputs) {
  Views views;
  bool taken = views.output(out);
  for (const Tensor& input : inputs) {
    taken = taken && input.scalar_type() == out.scalar_type() && input.sizes() == out.sizes() && views.input(input);
  }
  return taken && call_pointwise(op, out.scalar_type(), views);
}

// The buffer is for the CPU's gradient alone; the kernel for the gradient needs none.
std::tuple<Tensor, Tensor> log_sigmoid_forward(const Tensor& x) {
  Tensor out = at::empty_like(x, at::MemoryFormat::Contiguous);
  if (x.numel() != 0 && elementwise(pointwise_op<"log_sigmoid">(), out, {x})) {
    return {out, at::empty({0}, x.options())};
  }
  return on_the_host<at::_ops::log_sigmoid_forward>(x);
}

Tensor log_sigmoid_backward(const Tensor& grad, const Tensor& x, const Tensor& buffer) {
  Tensor out = at::empty_like(grad);
  if (grad.numel() != 0 && elementwise(pointwise_op<"log_sigmoid_backward">(), out, {grad, x})) {
    return out;
  }
  return on_the_host<at::_ops::log_sigmoid_backward>(grad, x, buffer);
}

// The halves that PyTorch's iterator for its stub names are gone when the stub is called.
Tensor glu(const Tensor& x, int64_t dim) {
  if (x.numel() != 0 && x.dim() != 0 && x.size(dim) % 2 == 0) {
    int64_t half = x.size(dim) / 2;
    c10::DimVector sizes(x.sizes());
    sizes[c10::maybe_wrap_dim(dim, x.dim())] = half;
    Tensor out = at::empty(sizes, x.options());
    if (elementwise(pointwise_op<"glu">(), out, {x.narrow(dim, 0, half), x.narrow(dim, half, half)})) {
      return out;
    }
  }
  return on_the_host<at::_ops::glu>(x, dim);
}

bool glu_gradient(const Tensor& out, const Tensor& grad, const Tensor& x, int64_t dim) {
  if (x.numel() == 0 || x.dim() == 0 || x.size(dim) % 2 != 0) {
    return false;
  }
  int64_t half = x.size(dim) / 2;
  Tensor first = x.narrow(dim, 0, half);
  Tensor second = x.narrow(dim, half, half);
  return elementwise(pointwise_op<"glu">(), out.narrow(dim, 0, half), {grad, second}) &&
      elementwise(pointwise_op<"glu_backward">(), out.narrow(dim, half, half), {grad, first, second});
}

Tensor glu_backward(const Tensor& grad, const Tensor& x, int64_t dim) {
  Tensor out = at::empty(x.sizes(), x.options());
  return glu_gradient(out, grad, x, dim) ? out : on_the_host<at::_ops::glu_backward>(grad, x, dim);
}


// Renormalised rows: the factor that a norm beyond the largest allowed one asks for.
void renorm_factor(const Tensor& factor, const Tensor& norm, double largest) {
  Tensor scaled = norm.add(1e-7).reciprocal_().mul_(largest);
  factor.copy_(scaled.masked_fill_(norm.le(largest), 1));
}

} // namespace

void register_nested_gradients(Nested& nested) {
  nested.impl("log_sigmoid_forward", log_sigmoid_forward);
  nested.impl("log_sigmoid_forward.output", OnTheHost<at::_ops::log_sigmoid_forward_output>::call);
  nested.impl("log_sigmoid_backward", log_sigmoid_backward);
  nested.impl("log_sigmoid_backward.grad_input", OnTheHost<at::_ops::log_sigmoid_backward_grad_input>::call);
  nested.impl("glu", glu);
  nested.impl("glu.out", OnTheHost<at::_ops::glu_out>::call);
  nested.impl("glu_backward", glu_backward);
  nested.impl("glu_backward.grad_input", OnTheHost<at::_ops::glu_backward_grad_input>::call);
}

void hook_gradients() {
  using namespace at::native;
  hook(addr_stub, [](const at::TensorIteratorBase& iter, const Scalar& beta, const Scalar& alpha) {
    return call_pointwise(pointwise_op<"addr">(), iter, {beta, alpha});
  });
  hook(polygamma_stub, Pointwise<"polygamma">{});
  hook(zeta_stub, Pointwise<"zeta">{});
  hook(round_decimals_stub, [](const at::TensorIteratorBase& iter, int64_t decimals) {
    return call_pointwise(
        pointwise_op<"round_decimals">(), iter, {std::pow(10.0, std::abs(decimals)), decimals < 0 ? 1.0 : 0.0});
  });
  hook(logit_backward_stub, Pointwise<"logit_backward">{});
  hook(prelu_backward_stub, [](const at::TensorIteratorBase& iter) { return prelu_backward(iter); });
  hook(mse_backward_stub, GradientLast<"mse_backward">{});
  hook(smooth_l1_backward_stub, GradientLast<"smooth_l1_backward">{});
  hook(huber_backward_stub, GradientLast<"huber_backward">{});
  hook(renorm_scale_factor_stub, [](const at::TensorIteratorBase& iter, double largest) {
    if (dtype_of(iter.dtype(0)) == RIVULET_NO_DTYPE) {
      return false;
    }
    renorm_factor(Tensor(iter.tensor_base(0)), Tensor(iter.tensor_base(1)), largest);
    return true;
  });
  hook(aminmax_stub, [](const Tensor& x, int64_t dim, bool keepdim, Tensor& least, Tensor& most) {
    if (dtype_of(x.scalar_type()) == RIVULET_NO_DTYPE) {
      return false;
    }
    at::amin_out(least, x, dim, keepdim);
    at::amax_out(most, x, dim, keepdim);
    return true;
  });
  hook(aminmax_allreduce_stub, [](const Tensor& x, Tensor& least, Tensor& most) {
    if (dtype_of(x.scalar_type()) == RIVULET_NO_DTYPE) {
      return false;
    }
    at::amin_out(least, x, {}, false);
    at::amax_out(most, x, {}, false);
    return true;
  });
}

} // namespace rivulet
