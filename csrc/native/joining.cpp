// torch.cat. PyTorch's CPU code copies the bytes of small dense tensors itself.
#include <ATen/Functions.h>
#include <ATen/Operators.h>
#include <ATen/native/Resize.h>
#include <ATen/native/TypeProperties.h>

#include "native/nested.h"
#include "native/scope.h"

namespace rivulet {

namespace {

using at::Tensor;

// Empty vectors count for nothing, whatever the other tensors are.
bool counts(const Tensor& tensor) {
  return tensor.dim() != 1 || tensor.size(0) != 0;
}

struct Layout {
  c10::DimVector sizes;
  c10::MemoryFormat format;
  int64_t dim;
};

// None where PyTorch has an error to raise, or something unusual to do.
std::optional<Layout> layout_of(const at::MaterializedITensorListRef& tensors, int64_t dim) {
  std::optional<Layout> layout;
  for (const Tensor& tensor : tensors) {
    if (!tensor.defined() || tensor.layout() != c10::kStrided || tensor.dim() == 0) {
      return std::nullopt;
    }
    if (!counts(tensor)) {
      continue;
    }
    auto format = tensor.suggest_memory_format();
    if (!layout) {
      if (dim < -tensor.dim() || dim >= tensor.dim()) {
        return std::nullopt;
      }
      layout = Layout{c10::DimVector(tensor.sizes()), format, c10::maybe_wrap_dim(dim, tensor.dim())};
      continue;
    }
    if (tensor.dim() != static_cast<int64_t>(layout->sizes.size())) {
      return std::nullopt;
    }
    if (format != layout->format) {
      layout->format = c10::MemoryFormat::Contiguous;
    }
    for (int64_t d = 0; d < tensor.dim(); ++d) {
      if (d != layout->dim && tensor.size(d) != layout->sizes[d]) {
        return std::nullopt;
      }
    }
    layout->sizes[layout->dim] += tensor.size(layout->dim);
  }
  return layout;
}

void join(const Tensor& out, const at::MaterializedITensorListRef& tensors, int64_t dim) {
  int64_t start = 0;
  for (const Tensor& tensor : tensors) {
    if (counts(tensor)) {
      int64_t size = tensor.size(dim);
      out.narrow(dim, start, size).copy_(tensor);
      start += size;
    }
  }
}

Tensor cat(const at::ITensorListRef& list, int64_t dim) {
  auto tensors = list.materialize();
  if (auto layout = layout_of(tensors, dim)) {
    auto options = tensors[0].get().options().dtype(at::native::result_type(list));
    Tensor out = at::empty(layout->sizes, options, layout->format);
    join(out, tensors, layout->dim);
    return out;
  }
  return on_the_host<at::_ops::cat>(list, dim);
}

Tensor& cat_out(const at::ITensorListRef& list, int64_t dim, Tensor& out) {
  auto tensors = list.materialize();
  auto layout = layout_of(tensors, dim);
  bool apart = true;
  for (const Tensor& tensor : tensors) {
    apart = apart && tensor.defined() && (tensor.numel() == 0 || !tensor.is_alias_of(out));
  }
  if (layout && apart && c10::canCast(at::native::result_type(list), out.scalar_type())) {
    if (at::native::resize_output(out, layout->sizes)) {
      out.unsafeGetTensorImpl()->empty_tensor_restride(layout->format);
    }
    join(out, tensors, layout->dim);
    return out;
  }
  return on_the_host<at::_ops::cat_out>(list, dim, out);
}

} // namespace

void register_nested_joining(Nested& nested) {
  nested.impl("cat", cat);
  nested.impl("cat.out", cat_out);
}

} // namespace rivulet
