// Matrix products.
#include <ATen/Operators.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_addmm_activation_native.h>
#include <ATen/ops/addmm_native.h>
#include <ATen/ops/addmv_native.h>
#include <ATen/ops/baddbmm_native.h>
#include <ATen/ops/bmm_native.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/mm_native.h>

#include "native/call.h"
#include "native/nested.h"
#include "native/products.h"
#include "native/result.h"
#include "native/scope.h"

namespace rivulet {

using at::IntArrayRef;
using at::Scalar;
using at::Tensor;

bool product(
    const Tensor& out, const Tensor& a, const Tensor& b, const Tensor* bias, const Scalar& beta, const Scalar& alpha,
    uint32_t activation) {
  if (out.numel() == 0) {
    return true;
  }
  if (!c10::isFloatingType(out.scalar_type())) {
    return activation == RIVULET_NO_OP && int_product(out, a, b, bias, beta, alpha);
  }
  double factor = beta.isComplex() ? 0.0 : beta.toDouble();
  Tensor addend = bias && factor != 0.0 ? bias->expand(out.sizes()) : Tensor();
  Views views;
  return views.output(out) && views.input(a) && views.input(b) && views.input_if(addend) &&
      views.recorded(rivulet_matmul(
          views.at(0), views.at(1), views.at(2), views.optional(3), alpha.toDouble(), factor, activation));
}

bool linear_product(const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& bias) {
  Views views;
  bool taken = views.rows(out) && views.rows(x) && views.transposed(weight);
  if (taken && bias.defined()) {
    taken = views.repeated_row(bias, views.at(0)->sizes[0]);
  } else if (taken) {
    taken = views.input_if(bias);
  }
  return taken && c10::isFloatingType(out.scalar_type()) &&
      views.recorded(rivulet_matmul(
          views.at(0), views.at(1), views.at(2), views.optional(3), 1.0, 1.0, RIVULET_NO_OP));
}

namespace {

// A fresh tensor, or the one given by out=.
struct OnHost {
  static void settle(Tensor& out, IntArrayRef sizes, IntArrayRef strides, at::TensorOptions options) {
    if (!out.defined()) {
      out = strides.empty() ? at::empty(sizes, options) : at::empty_strided(sizes, strides, options);
      return;
    }
    TORCH_CHECK(
        options.dtype() == out.dtype(), "Expected out tensor to have dtype ", options.dtype(), ", but got ",
        out.dtype(), " instead");
    at::native::resize_output(out, sizes);
  }
};

template <typename Meta>
using HostResult = Result<Meta, OnHost>;

Tensor mm(const Tensor& a, const Tensor& b) {
  HostResult<at::meta::structured_mm> result;
  result.meta(a, b);
  return product(result.out, a, b) ? result.out : on_the_host<at::_ops::mm>(a, b);
}

Tensor& mm_out(const Tensor& a, const Tensor& b, Tensor& out) {
  HostResult<at::meta::structured_mm> result(out);
  result.meta(a, b);
  return product(out, a, b) ? out : on_the_host<at::_ops::mm_out>(a, b, out);
}

Tensor bmm(const Tensor& a, const Tensor& b) {
  HostResult<at::meta::structured_bmm> result;
  result.meta(a, b);
  return product(result.out, a, b) ? result.out : on_the_host<at::_ops::bmm>(a, b);
}

Tensor& bmm_out(const Tensor& a, const Tensor& b, Tensor& out) {
  HostResult<at::meta::structured_bmm> result(out);
  result.meta(a, b);
  return product(out, a, b) ? out : on_the_host<at::_ops::bmm_out>(a, b, out);
}

Tensor addmm(const Tensor& self, const Tensor& a, const Tensor& b, const Scalar& beta, const Scalar& alpha) {
  HostResult<at::meta::structured_addmm> result;
  result.meta(self, a, b, beta, alpha);
  return product(result.out, a, b, &self, beta, alpha) ? result.out
                                                       : on_the_host<at::_ops::addmm>(self, a, b, beta, alpha);
}

Tensor& addmm_out(
    const Tensor& self, const Tensor& a, const Tensor& b, const Scalar& beta, const Scalar& alpha, Tensor& out) {
  HostResult<at::meta::structured_addmm> result(out);
  result.meta(self, a, b, beta, alpha);
  return product(out, a, b, &self, beta, alpha)
      ? out
      : on_the_host<at::_ops::addmm_out>(self, a, b, beta, alpha, out);
}

Tensor& addmm_(Tensor& self, const Tensor& a, const Tensor& b, const Scalar& beta, const Scalar& alpha) {
  return addmm_out(self, a, b, beta, alpha, self);
}

Tensor addmm_activation(
    const Tensor& self, const Tensor& a, const Tensor& b, const Scalar& beta, const Scalar& alpha, bool gelu) {
  HostResult<at::meta::structured__addmm_activation> result;
  result.meta(self, a, b, beta, alpha, gelu);
  uint32_t activation = gelu ? pointwise_op<"gelu">() : pointwise_op<"relu">();
  return product(result.out, a, b, &self, beta, alpha, activation)
      ? result.out
      : on_the_host<at::_ops::_addmm_activation>(self, a, b, beta, alpha, gelu);
}

Tensor baddbmm(const Tensor& self, const Tensor& a, const Tensor& b, const Scalar& beta, const Scalar& alpha) {
  HostResult<at::meta::structured_baddbmm> result;
  result.meta(self, a, b, beta, alpha);
  return product(result.out, a, b, &self, beta, alpha) ? result.out
                                                       : on_the_host<at::_ops::baddbmm>(self, a, b, beta, alpha);
}

Tensor& baddbmm_out(
    const Tensor& self, const Tensor& a, const Tensor& b, const Scalar& beta, const Scalar& alpha, Tensor& out) {
  HostResult<at::meta::structured_baddbmm> result(out);
  result.meta(self, a, b, beta, alpha);
  return product(out, a, b, &self, beta, alpha)
      ? out
      : on_the_host<at::_ops::baddbmm_out>(self, a, b, beta, alpha, out);
}

Tensor& baddbmm_(Tensor& self, const Tensor& a, const Tensor& b, const Scalar& beta, const Scalar& alpha) {
  return baddbmm_out(self, a, b, beta, alpha, self);
}

bool product_with_vector(
    const Tensor& out, const Tensor& self, const Tensor& a, const Tensor& x, const Scalar& beta, const Scalar& alpha) {
  Tensor addend = self.expand(out.sizes()).unsqueeze(1);
  return product(out.unsqueeze(1), a, x.unsqueeze(1), &addend, beta, alpha);
}

Tensor addmv(const Tensor& self, const Tensor& a, const Tensor& x, const Scalar& beta, const Scalar& alpha) {
  HostResult<at::meta::structured_addmv> result;
  result.meta(self, a, x, beta, alpha);
  return product_with_vector(result.out, self, a, x, beta, alpha)
      ? result.out
      : on_the_host<at::_ops::addmv>(self, a, x, beta, alpha);
}

Tensor& addmv_out(
    const Tensor& self, const Tensor& a, const Tensor& x, const Scalar& beta, const Scalar& alpha, Tensor& out) {
  HostResult<at::meta::structured_addmv> result(out);
  result.meta(self, a, x, beta, alpha);
  return product_with_vector(out, self, a, x, beta, alpha)
      ? out
      : on_the_host<at::_ops::addmv_out>(self, a, x, beta, alpha, out);
}

Tensor& addmv_(Tensor& self, const Tensor& a, const Tensor& x, const Scalar& beta, const Scalar& alpha) {
  return addmv_out(self, a, x, beta, alpha, self);
}

Tensor dot(const Tensor& a, const Tensor& b) {
  if (a.dim() == 1 && b.dim() == 1 && a.numel() == b.numel() && a.dtype() == b.dtype() && a.numel() > 0) {
    Tensor out = at::empty({1, 1}, a.options());
    if (product(out, a.unsqueeze(0), b.unsqueeze(1))) {
      return out.view(IntArrayRef());
    }
  }
  return on_the_host<at::_ops::dot>(a, b);
}

} // namespace

void register_nested_products(Nested& nested) {
  nested.impl("mm", mm);
  nested.impl("mm.out", mm_out);
  nested.impl("bmm", bmm);
  nested.impl("bmm.out", bmm_out);
  nested.impl("addmm", addmm);
  nested.impl("addmm.out", addmm_out);
  nested.impl("addmm_", addmm_);
  nested.impl("_addmm_activation", addmm_activation);
  nested.impl("baddbmm", baddbmm);
  nested.impl("baddbmm.out", baddbmm_out);
  nested.impl("baddbmm_", baddbmm_);
  nested.impl("addmv", addmv);
  nested.impl("addmv.out", addmv_out);
  nested.impl("addmv_", addmv_);
  nested.impl("dot", dot);
}

} // namespace rivulet
