// Tensors as kernels for dense rows and images want them.
#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

namespace rivulet {

// A contiguous tensor whose last `spatial` dimensions are an image, as [planes, depth, height, width].
inline at::Tensor volume(const at::Tensor& tensor, int64_t spatial) {
  c10::DimVector sizes{1, 1, 1, 1};
  int64_t outer = 1;
  for (int64_t dim = 0; dim < tensor.dim() - spatial; ++dim) {
    outer *= tensor.size(dim);
  }
  sizes[0] = outer;
  for (int64_t k = 0; k < spatial; ++k) {
    sizes[4 - spatial + k] = tensor.size(tensor.dim() - spatial + k);
  }
  return tensor.view(sizes);
}

// A result that a kernel wants contiguous, made beside where it is not.
struct DenseResult {
  explicit DenseResult(const at::Tensor& result)
      : given(result), dense(result.is_contiguous() ? result : at::empty(result.sizes(), result.options())) {}
  // Copies what was made beside; always true.
  bool finish() {
    if (!dense.is_same(given)) {
      given.copy_(dense);
    }
    return true;
  }
  at::Tensor given;
  at::Tensor dense;
};

} // namespace rivulet
