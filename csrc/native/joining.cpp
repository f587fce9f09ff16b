// torch.cat. PyTorch's CPU code copies the bytes of small dense tensors itself.
#include <ATen/Functions.h>
#include <ATen/Operators.h>
#include <ATen/native/Resize.h>
#include <ATen/native/TypeProperties.h>

#include "native/joining.h"
#include "native/nested.h"
#include "native/scope.h"
#include "native/views.h"
#include "runtime/allocator.h"
#include "runtime/status.h"

namespace rivulet {

DenseRow DenseRow::of(const at::Tensor& tensor) {
  if (!tensor.is_mps() || !tensor.is_contiguous() || tensor.is_conj() || tensor.is_neg()) {
    return {};
  }
  auto* block = block_of(*tensor.storage().unsafeGetStorageImpl());
  return {block, tensor.const_data_ptr(), tensor.numel(), dtype_of(tensor.scalar_type())};
}

bool join_rows(const at::Tensor& out, at::ArrayRef<DenseRow> rows) {
  static constexpr int64_t kStride = 1;
  auto view = [](const DenseRow& row) {
    return rivulet_view{row.block, row.data, &row.count, &kStride, {}, 1, row.dtype};
  };
  auto to = DenseRow::of(out);
  if (!to) {
    return false;
  }
  c10::SmallVector<rivulet_view, 32> views;
  for (const auto& row : rows) {
    if (!row || row.dtype != to.dtype) {
      return false;
    }
    views.push_back(view(row));
  }
  auto joined = view(to);
  return taken(rivulet_join(&joined, views.data(), views.size()));
}

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
  if (out.is_contiguous() && std::all_of(out.sizes().begin(), out.sizes().begin() + dim, [](int64_t s) { return s == 1; })) {
    c10::SmallVector<DenseRow, 8> rows;
    for (const Tensor& tensor : tensors) {
      if (tensor.numel() != 0) {
        rows.push_back(DenseRow::of(tensor));
      }
    }
    if (join_rows(out, rows)) {
      return;
    }
  }
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
