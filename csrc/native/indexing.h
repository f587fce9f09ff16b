// Elements put to places along a dimension.
#pragma once
#include <ATen/core/Tensor.h>

namespace rivulet {

// Kinds of rivulet_scatter.
enum Scatter : uint32_t { kAssign = 0, kAdd = 1, kMultiply = 2, kMaximum = 3, kMinimum = 4 };

// A tensor without dimensions counts as one of one element.
at::Tensor with_dimension(const at::Tensor& tensor);

// Changes `out` at the places that `index` holds; false where there is no kernel.
bool scatter(Scatter kind, const at::Tensor& out, int64_t dim, const at::Tensor& index, const at::Tensor& source);

} // namespace rivulet
