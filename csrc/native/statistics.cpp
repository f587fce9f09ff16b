// Variance and its root. PyTorch's CPU code reads the elements itself where everything is reduced.
#include <ATen/Functions.h>
#include <ATen/Operators.h>
#include <ATen/native/Resize.h>

#include "native/call.h"
#include "native/nested.h"
#include "native/scope.h"

namespace rivulet {

namespace {

using at::OptionalIntArrayRef;
using at::Tensor;
using Correction = std::optional<at::Scalar>;

// Bit d: dimension d is reduced. All of them where none is named.
uint64_t reduced_dimensions(const Tensor& x, OptionalIntArrayRef dims) {
  uint64_t all = (uint64_t{1} << x.dim()) - 1;
  if (!dims.has_value() || dims->empty()) {
    return all;
  }
  uint64_t mask = 0;
  for (int64_t dim : *dims) {
    mask |= uint64_t{1} << c10::maybe_wrap_dim(dim, x.dim());
  }
  return mask;
}

// Undefined where there is no kernel.
Tensor deviation(uint32_t op, const Tensor& x, OptionalIntArrayRef dims, const Correction& correction, bool keepdim) {
  if (x.numel() == 0 || x.dim() == 0 || x.dim() > 16 || !c10::isFloatingType(x.scalar_type())) {
    return Tensor();
  }
  uint64_t mask = reduced_dimensions(x, dims);
  c10::DimVector kept;
  c10::DimVector result;
  double count = 1;
  for (int64_t dim = 0; dim < x.dim(); ++dim) {
    bool reduced = (mask >> dim & 1) != 0;
    count *= reduced ? static_cast<double>(x.size(dim)) : 1.0;
    kept.push_back(reduced ? 1 : x.size(dim));
    if (!reduced || keepdim) {
      result.push_back(kept.back());
    }
  }
  double divisor = std::max(count - correction.value_or(1).toDouble(), 0.0);
  Tensor out = at::empty(result, x.options());
  Views views;
  bool recorded = views.output(out.view(kept).expand(x.sizes())) && views.input(x) &&
      views.recorded(rivulet_reduce(op, views.at(0), nullptr, views.at(1), mask, 1.0 / divisor));
  return recorded ? out : Tensor();
}

template <typename Op, Name name>
Tensor one(const Tensor& x, OptionalIntArrayRef dims, const Correction& correction, bool keepdim) {
  Tensor out = deviation(reduce_op<name>(), x, dims, correction, keepdim);
  if (out.defined()) {
    return out;
  }
  return on_the_host<Op>(x, dims, correction, keepdim);
}

template <typename Op, Name name>
Tensor& one_out(
    const Tensor& x, OptionalIntArrayRef dims, const Correction& correction, bool keepdim, Tensor& out) {
  if (out.scalar_type() == x.scalar_type()) {
    Tensor made = deviation(reduce_op<name>(), x, dims, correction, keepdim);
    if (made.defined()) {
      at::native::resize_output(out, made.sizes());
      return out.copy_(made);
    }
  }
  return on_the_host<Op>(x, dims, correction, keepdim, out);
}

template <typename Op, Name name>
std::tuple<Tensor, Tensor> with_mean(
    const Tensor& x, OptionalIntArrayRef dims, const Correction& correction, bool keepdim) {
  Tensor out = deviation(reduce_op<name>(), x, dims, correction, keepdim);
  if (out.defined()) {
    return {out, at::mean(x, dims, keepdim)};
  }
  return on_the_host<Op>(x, dims, correction, keepdim);
}

} // namespace

void register_nested_statistics(Nested& nested) {
  using namespace at::_ops;
  nested.impl("var.correction", one<var_correction, "var">);
  nested.impl("std.correction", one<std_correction, "std">);
  nested.impl("var.correction_out", one_out<var_correction_out, "var">);
  nested.impl("std.correction_out", one_out<std_correction_out, "std">);
  nested.impl("var_mean.correction", with_mean<var_mean_correction, "var">);
  nested.impl("std_mean.correction", with_mean<std_mean_correction, "std">);
}

} // namespace rivulet
