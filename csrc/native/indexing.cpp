// Elements at places that a tensor of indices holds.
#include <ATen/native/IndexKernel.h>
#include <ATen/native/ReductionType.h>
#include <ATen/native/TensorAdvancedIndexing.h>

#include "native/call.h"
#include "native/hook.h"
#include "native/hooks.h"
#include "native/indexing.h"

namespace rivulet {

using at::Tensor;

Tensor with_dimension(const Tensor& tensor) {
  return tensor.dim() == 0 ? tensor.reshape({1}) : tensor;
}

bool scatter(Scatter kind, const Tensor& out, int64_t dim, const Tensor& index, const Tensor& source) {
  if (index.numel() == 0) {
    return true;
  }
  Tensor target = with_dimension(out);
  Views views;
  return views.changed(target) && views.input(with_dimension(index)) && views.input(with_dimension(source)) &&
      views.recorded(rivulet_scatter(
          kind, views.at(0), c10::maybe_wrap_dim(dim, target.dim()), views.at(1), views.at(2), {}));
}

namespace {

using at::IntArrayRef;
using at::native::ReductionType;

Scatter kind_of(ReductionType type) {
  switch (type) {
    case ReductionType::PROD:
      return kMultiply;
    case ReductionType::MAX:
      return kMaximum;
    case ReductionType::MIN:
      return kMinimum;
    // PyTorch divides a mean's sums by their counts itself.
    default:
      return kAdd;
  }
}

bool gather(const Tensor& out, const Tensor& x, int64_t dim, const Tensor& index) {
  if (index.numel() == 0) {
    return true;
  }
  Tensor source = with_dimension(x);
  Views views;
  return views.output(with_dimension(out)) && views.input(source) && views.input(with_dimension(index)) &&
      views.recorded(rivulet_gather(views.at(0), views.at(1), c10::maybe_wrap_dim(dim, source.dim()), views.at(2)));
}

bool scatter_value(Scatter kind, const Tensor& out, int64_t dim, const Tensor& index, const c10::Scalar& value) {
  if (index.numel() == 0) {
    return true;
  }
  Tensor target = with_dimension(out);
  Views views;
  return views.changed(target) && views.input(with_dimension(index)) &&
      views.recorded(rivulet_scatter(
          kind, views.at(0), c10::maybe_wrap_dim(dim, target.dim()), views.at(1), nullptr, scalar_of(value)));
}

// Strides of indexed dimensions come in bytes.
c10::DimVector in_elements(IntArrayRef bytes, int64_t size) {
  c10::DimVector strides;
  for (int64_t stride : bytes) {
    strides.push_back(stride / size);
  }
  return strides;
}

} // namespace

void hook_indexing() {
  using namespace at::native;
  hook(index_stub, [](const at::TensorIteratorBase& iter, IntArrayRef sizes, IntArrayRef strides) {
    Views views;
    auto elements = in_elements(strides, iter.element_size(0));
    return iter.numel() == 0 ||
        (views.iterator(iter) &&
         views.recorded(rivulet_index(views.data(), views.size() - 2, sizes.data(), elements.data())));
  });
  hook(index_put_stub, [](const at::TensorIteratorBase& iter, IntArrayRef sizes, IntArrayRef strides, bool accumulate) {
    Views views;
    auto elements = in_elements(strides, iter.element_size(0));
    return iter.numel() == 0 ||
        (views.changing_iterator(iter) &&
         views.recorded(rivulet_index_put(views.data(), views.size() - 2, sizes.data(), elements.data(), accumulate)));
  });
  hook(gather_stub, [](const Tensor& out, const Tensor& x, int64_t dim, const Tensor& index) {
    return gather(out, x, dim, index);
  });
  hook(gather_expanded_index_stub, [](const Tensor& out, const Tensor& x, const Tensor& index) {
    return gather(out, x, 0, index);
  });
  hook(scatter_stub, [](const Tensor& out, int64_t dim, const Tensor& index, const Tensor& source) {
    return scatter(kAssign, out, dim, index, source);
  });
  hook(scatter_fill_stub, [](const Tensor& out, int64_t dim, const Tensor& index, const c10::Scalar& value) {
    return scatter_value(kAssign, out, dim, index, value);
  });
  hook(scatter_add_stub, [](const Tensor& out, int64_t dim, const Tensor& index, const Tensor& source) {
    return scatter(kAdd, out, dim, index, source);
  });
  hook(scatter_add_expanded_index_stub, [](const Tensor& out, const Tensor& index, const Tensor& source) {
    return scatter(kAdd, out, 0, index, source);
  });
  hook(scatter_reduce_stub, [](const Tensor& out, int64_t dim, const Tensor& index, const Tensor& source, ReductionType type) {
    return scatter(kind_of(type), out, dim, index, source);
  });
  hook(scatter_scalar_reduce_stub, [](const Tensor& out, int64_t dim, const Tensor& index, const c10::Scalar& value, ReductionType type) {
    return scatter_value(kind_of(type), out, dim, index, value);
  });
  hook(scatter_reduce_two_stub, [](const Tensor& out, int64_t dim, const Tensor& index, const Tensor& source, ReductionType type) {
    return scatter(kind_of(type), out, dim, index, source);
  });
}

} // namespace rivulet
