// index_select, embedding's inner op.
#include <ATen/Operators.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/empty.h>

#include "native/call.h"
#include "native/nested.h"
#include "native/scope.h"

namespace rivulet {

namespace {

using at::Tensor;

bool is_plain(const Tensor& self, const Tensor& index) {
  return self.dim() > 0 && index.dim() <= 1 && (index.scalar_type() == c10::kLong || index.scalar_type() == c10::kInt);
}

bool select(const Tensor& out, const Tensor& self, int64_t dim, const Tensor& index) {
  if (out.numel() == 0) {
    return true;
  }
  Views views;
  return views.output(out) && views.input(self) && views.input(index.dim() == 0 ? index.reshape({1}) : index) &&
      views.recorded(rivulet_index_select(views.at(0), views.at(1), dim, views.at(2)));
}

Tensor index_select(const Tensor& self, int64_t dim, const Tensor& index) {
  // What is not plain is the CPU kernel's to do or to refuse.
  if (is_plain(self, index)) {
    int64_t wrapped = c10::maybe_wrap_dim(dim, self.dim());
    c10::DimVector sizes(self.sizes());
    sizes[wrapped] = index.numel();
    Tensor out = at::empty(sizes, self.options());
    if (select(out, self, wrapped, index)) {
      return out;
    }
  }
  return on_the_host<at::_ops::index_select>(self, dim, index);
}

Tensor& index_select_out(const Tensor& self, int64_t dim, const Tensor& index, Tensor& out) {
  bool apart = !out.is_alias_of(self) && !out.is_alias_of(index);
  if (is_plain(self, index) && apart && out.scalar_type() == self.scalar_type()) {
    int64_t wrapped = c10::maybe_wrap_dim(dim, self.dim());
    c10::DimVector sizes(self.sizes());
    sizes[wrapped] = index.numel();
    at::native::resize_output(out, sizes);
    if (select(out, self, wrapped, index)) {
      return out;
    }
  }
  return on_the_host<at::_ops::index_select_out>(self, dim, index, out);
}

} // namespace

void register_nested_indexing(Nested& nested) {
  nested.impl("index_select", index_select);
  nested.impl("index_select.out", index_select_out);
}

} // namespace rivulet
