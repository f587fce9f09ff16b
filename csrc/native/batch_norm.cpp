// Batch normalisation: statistics, their running means, and gradients. Sums are in float32.
#include <ATen/Functions.h>
#include <ATen/Operators.h>

#include <array>

#include "native/call.h"
#include "native/nested.h"
#include "native/scope.h"

namespace rivulet {

namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Three = std::tuple<Tensor, Tensor, Tensor>;

Tensor given(const OptionalTensor& tensor) {
  return tensor.has_value() ? *tensor : Tensor();
}

// All dimensions but that of the channels.
c10::DimVector places_of(const Tensor& x) {
  c10::DimVector dims{0};
  for (int64_t dim = 2; dim < x.dim(); ++dim) {
    dims.push_back(dim);
  }
  return dims;
}

// A vector of channels beside x.
Tensor beside(const Tensor& channels, const Tensor& x) {
  c10::DimVector sizes(x.dim(), 1);
  sizes[1] = x.size(1);
  return channels.view(sizes);
}

bool is_normalisable(const Tensor& x, std::initializer_list<Tensor> vectors) {
  bool fits = x.dim() >= 2 && x.numel() != 0 && dtype_of(x.scalar_type()) != RIVULET_NO_DTYPE &&
      c10::isFloatingType(x.scalar_type());
  for (const Tensor& vector : vectors) {
    fits = fits &&
        (!vector.defined() ||
         (vector.dim() == 1 && vector.numel() == x.size(1) &&
          (vector.scalar_type() == x.scalar_type() || vector.scalar_type() == c10::kFloat)));
  }
  return fits;
}

// The type of kept statistics: that of the parameters.
c10::ScalarType kept_type(const Tensor& x, std::initializer_list<Tensor> vectors) {
  for (const Tensor& vector : vectors) {
    if (vector.defined()) {
      return vector.scalar_type();
    }
  }
  return x.scalar_type();
}

Tensor in_float(const Tensor& tensor) {
  return tensor.to(c10::kFloat);
}

// (x - mean) spread weight + bias, with the variance or its inverse root for a spread. Undefined without a kernel.
Tensor normalise(
    const Tensor& x, const Tensor& mean, const Tensor& spread, bool is_variance, const Tensor& weight,
    const Tensor& bias, double eps) {
  if (weight.defined() && bias.defined() && weight.scalar_type() != bias.scalar_type()) {
    return Tensor();
  }
  Tensor out = at::empty(x.sizes(), x.options());
  auto dense = [](const Tensor& tensor) { return tensor.defined() ? tensor.contiguous() : tensor; };
  Views views;
  bool recorded = views.output(out) && views.input(x.contiguous()) && views.input(dense(mean)) &&
      views.input(dense(spread)) && views.input_if(dense(weight)) && views.input_if(dense(bias)) &&
      views.recorded(rivulet_batch_norm(
          views.at(0), views.at(1), views.at(2), views.at(3), is_variance, views.optional(4), views.optional(5), eps));
  return recorded ? out : Tensor();
}

Three normalised(
    const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& running_mean, const Tensor& running_var,
    bool train, double momentum, double eps) {
  if (!is_normalisable(x, {weight, bias, running_mean, running_var}) || (!train && !running_mean.defined())) {
    return {};
  }
  auto format = x.suggest_memory_format();
  auto kept = x.options().dtype(kept_type(x, {weight, bias, running_mean, running_var}));
  if (!train) {
    Tensor out = normalise(x, running_mean, running_var, true, weight, bias, eps);
    return {out.defined() ? out.contiguous(format) : out, at::empty({0}, kept), at::empty({0}, kept)};
  }
  auto [variance, mean] = at::var_mean(in_float(x), places_of(x), std::optional<at::Scalar>(0));
  Tensor rstd = variance.add(eps).rsqrt_();
  Tensor out = normalise(x, mean, rstd, false, weight, bias, eps);
  if (!out.defined()) {
    return {};
  }
  if (running_mean.defined()) {
    running_mean.lerp_(mean.to(running_mean.scalar_type()), momentum);
  }
  if (running_var.defined()) {
    double count = static_cast<double>(x.numel() / x.size(1));
    running_var.lerp_(variance.mul(count / (count - 1)).to(running_var.scalar_type()), momentum);
  }
  return {out.contiguous(format), mean.to(kept), rstd.to(kept)};
}

Three native_batch_norm(
    const Tensor& x, const OptionalTensor& weight, const OptionalTensor& bias, const OptionalTensor& running_mean,
    const OptionalTensor& running_var, bool train, double momentum, double eps) {
  auto made =
      normalised(x, given(weight), given(bias), given(running_mean), given(running_var), train, momentum, eps);
  return std::get<0>(made).defined()
      ? made
      : on_the_host<at::_ops::native_batch_norm>(
            x, weight, bias, running_mean, running_var, train, momentum, eps);
}

Three batch_norm_changing(
    const Tensor& x, const OptionalTensor& weight, const OptionalTensor& bias, Tensor& running_mean,
    Tensor& running_var, bool train, double momentum, double eps) {
  auto made = normalised(x, given(weight), given(bias), running_mean, running_var, train, momentum, eps);
  return std::get<0>(made).defined()
      ? made
      : on_the_host<at::_ops::_native_batch_norm_legit>(
            x, weight, bias, running_mean, running_var, train, momentum, eps);
}

Three batch_norm_without_stats(
    const Tensor& x, const OptionalTensor& weight, const OptionalTensor& bias, bool train, double momentum,
    double eps) {
  auto made = normalised(x, given(weight), given(bias), Tensor(), Tensor(), train, momentum, eps);
  return std::get<0>(made).defined()
      ? made
      : on_the_host<at::_ops::_native_batch_norm_legit_no_stats>(x, weight, bias, train, momentum, eps);
}

Three batch_norm_for_inference(
    const Tensor& x, const OptionalTensor& weight, const OptionalTensor& bias, const Tensor& running_mean,
    const Tensor& running_var, double momentum, double eps) {
  auto made = normalised(x, given(weight), given(bias), running_mean, running_var, false, momentum, eps);
  return std::get<0>(made).defined()
      ? made
      : on_the_host<at::_ops::_native_batch_norm_legit_no_training>(
            x, weight, bias, running_mean, running_var, momentum, eps);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> batch_norm_with_update(
    const Tensor& x, const OptionalTensor& weight, const OptionalTensor& bias, Tensor& running_mean,
    Tensor& running_var, double momentum, double eps) {
  auto made = normalised(x, given(weight), given(bias), running_mean, running_var, true, momentum, eps);
  if (std::get<0>(made).defined()) {
    return std::tuple_cat(made, std::tuple<Tensor>(at::empty({0}, x.options().dtype(c10::kByte))));
  }
  return on_the_host<at::_ops::_batch_norm_with_update>(
      x, weight, bias, running_mean, running_var, momentum, eps);
}

// With d the gradient of the output, n its elements of a channel and y = (x - mean) rstd, that of x is
// (d - sum(d) / n - y sum(d y) / n) rstd weight; statistics that are given make it d rstd weight.
Three gradients(
    const Tensor& grad, const Tensor& x, const Tensor& weight, const Tensor& running_mean, const Tensor& running_var,
    const Tensor& mean_given, const Tensor& rstd_given, bool train, double eps, std::array<bool, 3> wanted) {
  bool fits = is_normalisable(x, {weight, running_mean, running_var}) && grad.scalar_type() == x.scalar_type() &&
      (train ? mean_given.defined() && rstd_given.defined() : running_mean.defined() && running_var.defined());
  if (!fits) {
    return {};
  }
  auto dims = places_of(x);
  Tensor mean = in_float(train ? mean_given : running_mean);
  Tensor rstd = train ? in_float(rstd_given) : in_float(running_var).add(eps).rsqrt_();
  Tensor slope = in_float(grad);
  Tensor scale = weight.defined() ? rstd.mul(in_float(weight)) : rstd;
  bool projects = wanted[1] || (wanted[0] && train);
  Tensor sum = wanted[2] || (wanted[0] && train) ? at::sum(slope, dims) : Tensor();
  Tensor along = projects ? at::sum(x.sub(beside(mean, x)).mul_(slope), dims) : Tensor();
  Tensor grad_x;
  if (wanted[0] && train) {
    double share = 1.0 / static_cast<double>(x.numel() / x.size(1));
    Tensor factor = rstd.mul(rstd).mul_(along).mul_(scale).mul_(-share);
    grad_x = normalise(in_float(x), mean, factor, false, Tensor(), sum.mul(scale).mul_(-share), eps);
    if (!grad_x.defined()) {
      return {};
    }
    grad_x.addcmul_(slope, beside(scale, x));
  } else if (wanted[0]) {
    grad_x = slope.mul(beside(scale, x));
  }
  auto kept = kept_type(x, {weight, train ? mean_given : running_mean});
  return {
      wanted[0] ? grad_x.to(x.scalar_type()).contiguous(x.suggest_memory_format()) : Tensor(),
      wanted[1] ? along.mul_(rstd).to(kept) : Tensor(), wanted[2] ? sum.to(kept) : Tensor()};
}

bool is_made(const Three& gradients, std::array<bool, 3> wanted) {
  return (!wanted[0] || std::get<0>(gradients).defined()) && (!wanted[1] || std::get<1>(gradients).defined()) &&
      (!wanted[2] || std::get<2>(gradients).defined());
}

Three native_batch_norm_backward(
    const Tensor& grad, const Tensor& x, const OptionalTensor& weight, const OptionalTensor& running_mean,
    const OptionalTensor& running_var, const OptionalTensor& mean, const OptionalTensor& rstd, bool train, double eps,
    std::array<bool, 3> wanted) {
  auto made = gradients(
      grad, x, given(weight), given(running_mean), given(running_var), given(mean), given(rstd), train, eps, wanted);
  return is_made(made, wanted)
      ? made
      : on_the_host<at::_ops::native_batch_norm_backward>(
            grad, x, weight, running_mean, running_var, mean, rstd, train, eps, wanted);
}

Three batch_norm_backward(
    const Tensor& grad, const Tensor& x, const Tensor& weight, const OptionalTensor& running_mean,
    const OptionalTensor& running_var, const OptionalTensor& mean, const OptionalTensor& rstd, bool train, double eps,
    std::array<bool, 3> wanted, const Tensor& reserve) {
  auto made = gradients(
      grad, x, weight, given(running_mean), given(running_var), given(mean), given(rstd), train, eps, wanted);
  return is_made(made, wanted)
      ? made
      : on_the_host<at::_ops::batch_norm_backward>(
            grad, x, weight, running_mean, running_var, mean, rstd, train, eps, wanted, reserve);
}

} // namespace

void register_nested_batch_norm(Nested& nested) {
  using namespace at::_ops;
  nested.impl("native_batch_norm", rivulet::native_batch_norm);
  nested.impl("native_batch_norm.out", OnTheHost<native_batch_norm_out>::call);
  nested.impl("_native_batch_norm_legit.out", OnTheHost<_native_batch_norm_legit_out>::call);
  nested.impl("_native_batch_norm_legit.no_stats_out", OnTheHost<_native_batch_norm_legit_no_stats_out>::call);
  nested.impl("_batch_norm_with_update.out", OnTheHost<_batch_norm_with_update_out>::call);
  nested.impl("_native_batch_norm_legit", batch_norm_changing);
  nested.impl("_native_batch_norm_legit.no_stats", batch_norm_without_stats);
  nested.impl("_native_batch_norm_legit_no_training", batch_norm_for_inference);
  nested.impl("_batch_norm_with_update", batch_norm_with_update);
  nested.impl("native_batch_norm_backward", rivulet::native_batch_norm_backward);
  nested.impl("batch_norm_backward", rivulet::batch_norm_backward);
}

} // namespace rivulet
