// Elements put to and taken from places along a dimension, or where a mask is true.
#include <ATen/Functions.h>
#include <ATen/ExpandUtils.h>
#include <ATen/Operators.h>
#include <ATen/native/IndexKernel.h>

#include "native/call.h"
#include "native/composed.h"
#include "native/hook.h"
#include "native/hooks.h"
#include "native/indexing.h"
#include "native/nested.h"
#include "native/scope.h"

namespace rivulet {

namespace {

using at::Scalar;
using at::Tensor;

// --- stubs: the output of the iterator stands still along the indexed dimension ---

bool index_fill(
    const at::TensorIteratorBase& iter, int64_t size, int64_t stride, const Scalar& value) {
  if (iter.numel() == 0) {
    return true;
  }
  Views views;
  if (!views.changing_iterator(iter) || !views.number(value)) {
    return false;
  }
  views.swap(1, 2);
  return views.recorded(rivulet_index_put(views.data(), 1, &size, &stride, 0));
}

bool index_copy(const at::TensorIteratorBase& iter, int64_t size, int64_t stride) {
  if (iter.numel() == 0) {
    return true;
  }
  Views views;
  if (!views.changing_iterator(iter)) {
    return false;
  }
  views.swap(1, 2);
  return views.recorded(rivulet_index_put(views.data(), 1, &size, &stride, 0));
}

// A tensor as the one row that flat indices go along, repeated for each of them.
Tensor standing(const Tensor& tensor, int64_t count) {
  return tensor.as_strided({count}, {0}, tensor.storage_offset());
}

bool put(const at::TensorIteratorBase& iter, const Tensor& target, bool accumulate) {
  int64_t size = target.numel();
  int64_t stride = 1;
  if (iter.numel() == 0 || size == 0) {
    return iter.numel() == 0;
  }
  Tensor source = Tensor(iter.tensor_base(0)).reshape({-1});
  Tensor index = Tensor(iter.tensor_base(1)).reshape({-1});
  Views views;
  return target.is_contiguous() && views.changed(standing(target, source.numel())) && views.input(source) &&
      views.input(index) && views.recorded(rivulet_index_put(views.data(), 1, &size, &stride, accumulate));
}

bool take(const at::TensorIteratorBase& iter, const Tensor& source) {
  int64_t size = source.numel();
  int64_t stride = 1;
  if (iter.numel() == 0 || size == 0) {
    return iter.numel() == 0;
  }
  Tensor out(iter.tensor_base(0));
  Tensor dense = source.contiguous();
  Tensor index(iter.tensor_base(1));
  c10::DimVector still(out.dim(), 0);
  Views views;
  return out.sizes() == index.sizes() && views.output(out) &&
      views.input(dense.as_strided(out.sizes(), still, dense.storage_offset())) && views.input(index) &&
      views.recorded(rivulet_index(views.data(), 1, &size, &stride));
}

// --- along a dimension ---

// An index as long as the source's dimension, beside every element of the source. Undefined where PyTorch has an error
// to raise.
Tensor beside_source(const Tensor& target, int64_t dim, const Tensor& index, const Tensor& source) {
  bool fits = index.dim() <= 1 && source.dim() == target.dim() && source.scalar_type() == target.scalar_type() &&
      (index.scalar_type() == c10::kLong || index.scalar_type() == c10::kInt) && source.size(dim) == index.numel();
  for (int64_t other = 0; fits && other < target.dim(); ++other) {
    fits = other == dim || source.size(other) == target.size(other);
  }
  if (!fits) {
    return Tensor();
  }
  c10::DimVector sizes(source.dim(), 1);
  sizes[dim] = index.numel();
  return index.reshape(sizes).expand(source.sizes());
}

bool add_at(const Tensor& out, int64_t dim, const Tensor& index, const Tensor& source, const Scalar& alpha) {
  Tensor target = with_dimension(out);
  Tensor summand = with_dimension(source);
  dim = c10::maybe_wrap_dim(dim, target.dim());
  Tensor places = beside_source(target, dim, index, summand);
  return places.defined() && dtype_of(out.scalar_type()) != RIVULET_NO_DTYPE && out.scalar_type() != c10::kBool &&
      scatter(kAdd, target, dim, places, alpha.equal(1) ? summand : summand.mul(alpha));
}

Tensor index_add(const Tensor& x, int64_t dim, const Tensor& index, const Tensor& source, const Scalar& alpha) {
  Tensor out = x.clone(at::MemoryFormat::Contiguous);
  return add_at(out, dim, index, source, alpha)
      ? out
      : on_the_host<at::_ops::index_add>(x, dim, index, source, alpha);
}

Tensor& index_add_(Tensor& x, int64_t dim, const Tensor& index, const Tensor& source, const Scalar& alpha) {
  return add_at(x, dim, index, source, alpha)
      ? x
      : on_the_host<at::_ops::index_add_>(x, dim, index, source, alpha);
}

// What each kind of reduction does to elements and their source, and where it begins without the element itself.
struct Reduction {
  Scatter kind;
  Scalar neutral;
};

std::optional<Reduction> reduction_of(std::string_view name, c10::ScalarType type) {
  bool is_float = c10::isFloatingType(type);
  constexpr double kInf = std::numeric_limits<double>::infinity();
  if (name == "prod") {
    return Reduction{kMultiply, 1};
  }
  if (name == "mean") {
    return Reduction{kAdd, 0};
  }
  if (name == "amax") {
    return Reduction{kMaximum, is_float ? Scalar(-kInf) : Scalar(std::numeric_limits<int64_t>::lowest())};
  }
  if (name == "amin") {
    return Reduction{kMinimum, is_float ? Scalar(kInf) : Scalar(std::numeric_limits<int64_t>::max())};
  }
  return std::nullopt;
}

bool reduce_at(
    const Tensor& out, int64_t dim, const Tensor& index, const Tensor& source, std::string_view name,
    bool include_self) {
  Tensor target = with_dimension(out);
  Tensor operand = with_dimension(source);
  dim = c10::maybe_wrap_dim(dim, target.dim());
  auto reduction = reduction_of(name, out.scalar_type());
  Tensor places = beside_source(target, dim, index, operand);
  // Kernels multiply and compare no int64, and an integer's limits are those of int64 above.
  bool fits = reduction && places.defined() && c10::isFloatingType(out.scalar_type()) &&
      dtype_of(out.scalar_type()) != RIVULET_NO_DTYPE;
  if (!fits || source.numel() == 0) {
    return fits;
  }
  bool is_mean = name == "mean";
  Tensor counts;
  if (!include_self || is_mean) {
    counts = at::zeros(target.sizes(), target.options().dtype(c10::kInt));
    scatter(kAdd, counts, dim, places, at::ones({1}, counts.options()).expand(operand.sizes()));
  }
  if (!include_self) {
    target.masked_fill_(counts.ne(0), reduction->neutral);
  }
  if (!scatter(reduction->kind, target, dim, places, operand)) {
    return false;
  }
  if (is_mean) {
    target.div_(include_self ? counts.add_(1) : counts.clamp_min_(1));
  }
  return true;
}

Tensor index_reduce(
    const Tensor& x, int64_t dim, const Tensor& index, const Tensor& source, std::string_view name,
    bool include_self) {
  Tensor out = x.clone(at::MemoryFormat::Contiguous);
  return reduce_at(out, dim, index, source, name, include_self)
      ? out
      : on_the_host<at::_ops::index_reduce>(x, dim, index, source, name, include_self);
}

Tensor& index_reduce_(
    Tensor& x, int64_t dim, const Tensor& index, const Tensor& source, std::string_view name, bool include_self) {
  return reduce_at(x, dim, index, source, name, include_self)
      ? x
      : on_the_host<at::_ops::index_reduce_>(x, dim, index, source, name, include_self);
}

// --- where a mask is true ---

bool is_countable(const Tensor& x) {
  return x.numel() != 0 && x.numel() <= INT32_MAX && dtype_of(x.scalar_type()) != RIVULET_NO_DTYPE;
}

} // namespace

Tensor true_places(const Tensor& mask) {
  Tensor running = mask.cumsum(0, c10::kLong);
  int64_t count = running.select(0, -1).item<int64_t>();
  Tensor places = at::empty({count}, running.options());
  if (count != 0) {
    // What is false goes beyond the end, where nothing is written.
    Tensor target = running.sub_(1).masked_fill_(mask.logical_not(), count);
    Tensor all = at::arange(mask.numel(), running.options());
    Views views;
    bool recorded = views.changed(places) && views.input(target) && views.input(all) &&
        views.recorded(rivulet_scatter(kAssign, views.at(0), 0, views.at(1), views.at(2), {}));
    TORCH_INTERNAL_ASSERT(recorded, "no kernel for the places of a mask");
  }
  return places;
}

namespace {

Tensor nonzero(const Tensor& x) {
  if (!is_countable(x) || x.dim() == 0) {
    return on_the_host<at::_ops::nonzero>(x);
  }
  Tensor flat = x.scalar_type() == c10::kBool ? x : x.ne(0);
  Tensor places = true_places(flat.reshape({-1}));
  // As on the CPU a dimension's coordinates lie together.
  Tensor out = at::empty_strided({places.numel(), x.dim()}, {1, places.numel()}, places.options());
  int64_t inner = x.numel();
  for (int64_t dim = 0; dim < x.dim() && places.numel() != 0; ++dim) {
    inner /= x.size(dim);
    Tensor coordinate = inner == 1 ? places : places.div(inner, "floor");
    out.select(1, dim).copy_(dim == 0 ? coordinate : coordinate.remainder(x.size(dim)));
  }
  return out;
}

Tensor masked_select(const Tensor& x, const Tensor& mask) {
  if (!is_countable(x) || !is_countable(mask) || mask.scalar_type() != c10::kBool) {
    return on_the_host<at::_ops::masked_select>(x, mask);
  }
  auto [wide_mask, wide] = at::expand_outplace(mask, x);
  Tensor places = true_places(wide_mask->reshape({-1}));
  return wide->reshape({-1}).index_select(0, places);
}

Tensor& masked_scatter_(Tensor& x, const Tensor& mask, const Tensor& source) {
  bool fits = is_countable(x) && mask.scalar_type() == c10::kBool && source.scalar_type() == x.scalar_type() &&
      at::is_expandable_to(mask.sizes(), x.sizes());
  if (fits) {
    Tensor wide = mask.expand(x.sizes());
    Tensor running = wide.reshape({-1}).cumsum(0, c10::kLong);
    // The CPU refuses a source that is too small.
    fits = source.numel() >= x.numel() || running.select(0, -1).item<int64_t>() <= source.numel();
    if (fits && source.numel() == 0) {
      return x;
    }
    if (fits) {
      Tensor picked = source.reshape({-1}).index_select(0, running.sub_(1).clamp_min_(0));
      return x.copy_(at::where(wide, picked.view(x.sizes()), x));
    }
  }
  return on_the_host<at::_ops::masked_scatter_>(x, mask, source);
}

} // namespace

void register_nested_placing(Nested& nested) {
  using namespace at::_ops;
  nested.impl("index_add", rivulet::index_add);
  nested.impl("index_add_", rivulet::index_add_);
  nested.impl("index_add.out", OnTheHost<index_add_out>::call);
  nested.impl("index_reduce", rivulet::index_reduce);
  nested.impl("index_reduce_", rivulet::index_reduce_);
  nested.impl("index_reduce.out", OnTheHost<index_reduce_out>::call);
  nested.impl("nonzero", rivulet::nonzero);
  nested.impl("nonzero.out", OnTheHost<nonzero_out>::call);
  nested.impl("masked_select", rivulet::masked_select);
  nested.impl("masked_select.out", OnTheHost<masked_select_out>::call);
  nested.impl("masked_scatter_", rivulet::masked_scatter_);
}

void hook_placing() {
  using namespace at::native;
  hook(
      index_fill_stub,
      [](const at::TensorIteratorBase& iter, int64_t, int64_t size, int64_t stride, const Scalar& value) {
        return rivulet::index_fill(iter, size, stride, value);
      });
  hook(index_copy_stub, [](const at::TensorIteratorBase& iter, int64_t, int64_t size, int64_t stride) {
    return rivulet::index_copy(iter, size, stride);
  });
  hook(put_stub, [](const at::TensorIteratorBase& iter, const at::TensorBase& target, bool accumulate) {
    return rivulet::put(iter, Tensor(target), accumulate);
  });
  hook(take_stub, [](const at::TensorIteratorBase& iter, const at::TensorBase& source) {
    return rivulet::take(iter, Tensor(source));
  });
}

} // namespace rivulet
