// Convolutions in one and two dimensions, and their gradients.
#include <ATen/Functions.h>
#include <ATen/Operators.h>

#include <array>

#include "native/call.h"
#include "native/nested.h"
#include "native/scope.h"

namespace rivulet {

namespace {

using at::IntArrayRef;
using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

enum Kind : uint32_t { kForward = 0, kTransposed = 1, kWeight = 2 };

// Stride, padding and dilation for height and width, then groups. One dimension is an image of height 1.
using Geometry = std::array<uint32_t, 7>;

std::optional<Geometry> geometry_of(
    const Tensor& x, const Tensor& weight, IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation,
    int64_t groups) {
  int64_t spatial = x.dim() - 2;
  if (spatial < 1 || spatial > 2 || weight.dim() != x.dim() || groups < 1) {
    return std::nullopt;
  }
  Geometry geometry{1, 1, 0, 0, 1, 1, static_cast<uint32_t>(groups)};
  IntArrayRef parts[] = {stride, padding, dilation};
  for (int part = 0; part < 3; ++part) {
    for (int64_t dim = 0; dim < spatial; ++dim) {
      auto given = parts[part];
      int64_t value = given.size() == 1 ? given[0] : given[dim];
      if (value < 0 || value > INT32_MAX) {
        return std::nullopt;
      }
      geometry[part * 2 + (2 - spatial) + dim] = static_cast<uint32_t>(value);
    }
  }
  return geometry;
}

// [batch, channels, length] as an image of height 1.
Tensor image(const Tensor& tensor) {
  return tensor.dim() == 3 ? tensor.unsqueeze(2) : tensor;
}

bool run(
    Kind kind, const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& bias,
    const Geometry& geometry) {
  Views views;
  return views.output(image(out)) && views.input(image(x)) && views.input(image(weight)) && views.input_if(bias) &&
      views.recorded(rivulet_convolution(
          kind, views.at(0), views.at(1), views.at(2), views.optional(3), geometry.data()));
}

Tensor bias_of(const OptionalTensor& bias) {
  return bias.has_value() && bias->defined() ? *bias : Tensor();
}

// Undefined where there is no kernel, or where PyTorch has an error to raise.
Tensor forward(
    const Tensor& x, const Tensor& weight, const Tensor& bias, IntArrayRef stride, IntArrayRef padding,
    IntArrayRef dilation, bool transposed, IntArrayRef output_padding, int64_t groups) {
  auto geometry = geometry_of(x, weight, stride, padding, dilation, groups);
  bool fits = geometry && x.numel() != 0 && weight.numel() != 0 && x.scalar_type() == weight.scalar_type() &&
      c10::isFloatingType(x.scalar_type()) && weight.size(0) % groups == 0 &&
      x.size(1) == (transposed ? weight.size(0) : weight.size(1) * groups);
  if (!fits) {
    return Tensor();
  }
  c10::DimVector sizes{x.size(0), transposed ? weight.size(1) * groups : weight.size(0)};
  for (int64_t dim = 0; dim < x.dim() - 2; ++dim) {
    auto at = [&](IntArrayRef given) { return given.size() == 1 ? given[0] : given[dim]; };
    int64_t reach = at(dilation) * (weight.size(dim + 2) - 1) + 1;
    int64_t size = transposed
        ? (x.size(dim + 2) - 1) * at(stride) - 2 * at(padding) + reach + at(output_padding)
        : (x.size(dim + 2) + 2 * at(padding) - reach) / std::max<int64_t>(at(stride), 1) + 1;
    if (size < 1 || at(stride) < 1 || at(dilation) < 1) {
      return Tensor();
    }
    sizes.push_back(size);
  }
  Tensor out = at::empty(sizes, x.options());
  Tensor addend = bias.defined() ? bias.contiguous() : bias;
  return run(transposed ? kTransposed : kForward, out, x, weight, addend, *geometry) ? out : Tensor();
}

Tensor convolution(
    const Tensor& x, const Tensor& weight, const OptionalTensor& bias, IntArrayRef stride, IntArrayRef padding,
    IntArrayRef dilation, bool transposed, IntArrayRef output_padding, int64_t groups) {
  Tensor out = forward(x, weight, bias_of(bias), stride, padding, dilation, transposed, output_padding, groups);
  if (out.defined()) {
    return out;
  }
  HostSection section;
  section.add(x, false);
  section.add(weight, false);
  section.note(bias, false);
  section.begin();
  return at::convolution(x, weight, bias, stride, padding, dilation, transposed, output_padding, groups);
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(
    const Tensor& grad, const Tensor& x, const Tensor& weight, at::OptionalIntArrayRef bias_sizes, IntArrayRef stride,
    IntArrayRef padding, IntArrayRef dilation, bool transposed, IntArrayRef output_padding, int64_t groups,
    std::array<bool, 3> wanted) {
  auto geometry = geometry_of(x, weight, stride, padding, dilation, groups);
  bool fits = geometry && !transposed && grad.numel() != 0 && x.scalar_type() == grad.scalar_type() &&
      x.scalar_type() == weight.scalar_type() && c10::isFloatingType(x.scalar_type()) && x.numel() != 0;
  if (fits) {
    Tensor grad_x = wanted[0] ? at::empty(x.sizes(), x.options()) : Tensor();
    Tensor grad_weight = wanted[1] ? at::empty(weight.sizes(), weight.options()) : Tensor();
    bool recorded = (!wanted[0] || run(kTransposed, grad_x, grad, weight, Tensor(), *geometry)) &&
        (!wanted[1] || run(kWeight, grad_weight, grad, x, Tensor(), *geometry));
    if (recorded) {
      c10::DimVector places{0};
      for (int64_t dim = 2; dim < grad.dim(); ++dim) {
        places.push_back(dim);
      }
      return {grad_x, grad_weight, wanted[2] ? grad.sum(places) : Tensor()};
    }
  }
  HostSection section;
  section.add(grad, false);
  section.add(x, false);
  section.add(weight, false);
  section.begin();
  return at::convolution_backward(
      grad, x, weight, bias_sizes, stride, padding, dilation, transposed, output_padding, groups, wanted);
}

} // namespace

void register_nested_convolutions(Nested& nested) {
  nested.impl("convolution", convolution);
  nested.impl("convolution_backward", convolution_backward);
}

} // namespace rivulet
