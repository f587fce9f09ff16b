// Ops whose CPU code reads elements itself, made of ops with kernels; places in sorted rows.
#include <ATen/Functions.h>
#include <ATen/Operators.h>
#include <ATen/native/Cross.h>
#include <ATen/native/UnfoldBackward.h>

#include "native/call.h"
#include "native/composed.h"
#include "native/hook.h"
#include "native/hooks.h"
#include "native/nested.h"
#include "native/scope.h"

namespace rivulet {

namespace {

using at::IntArrayRef;
using at::Scalar;
using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

bool has_dtype(const Tensor& x) {
  return dtype_of(x.scalar_type()) != RIVULET_NO_DTYPE;
}

Tensor trace(const Tensor& x) {
  return x.dim() == 2 && has_dtype(x) ? x.diagonal().sum() : on_the_host<at::_ops::trace>(x);
}

Tensor vdot(const Tensor& a, const Tensor& b) {
  return a.is_complex() || b.is_complex() ? on_the_host<at::_ops::vdot>(a, b) : at::dot(a, b);
}

Tensor count_nonzero(const Tensor& x, IntArrayRef dims) {
  return has_dtype(x) ? x.ne(0).sum(dims) : on_the_host<at::_ops::count_nonzero_dim_IntList>(x, dims);
}

bool equal(const Tensor& a, const Tensor& b) {
  if (!has_dtype(a) || a.scalar_type() != b.scalar_type()) {
    return on_the_host<at::_ops::equal>(a, b);
  }
  return a.sizes() == b.sizes() && (a.numel() == 0 || a.eq(b).all().item<bool>());
}

// --- losses ---

Tensor reduced_loss(const Tensor& losses, int64_t reduction) {
  return reduction == at::Reduction::Mean ? losses.mean() : reduction == at::Reduction::Sum ? losses.sum() : losses;
}

bool is_binary_loss(const Tensor& x, const Tensor& target, const OptionalTensor& weight) {
  return x.numel() != 0 && has_dtype(x) && c10::isFloatingType(x.scalar_type()) && x.sizes() == target.sizes() &&
      x.scalar_type() == target.scalar_type() &&
      (!weight.has_value() || !weight->defined() || weight->scalar_type() == x.scalar_type());
}

Tensor binary_cross_entropy(
    const Tensor& x, const Tensor& target, const OptionalTensor& weight, int64_t reduction) {
  if (!is_binary_loss(x, target, weight)) {
    return on_the_host<at::_ops::binary_cross_entropy>(x, target, weight, reduction);
  }
  Tensor of_false = x.neg().log1p_().clamp_min_(-100);
  // Step by step: the CPU rounds each to the type of 16-bit losses, which nearly cancel.
  Tensor losses = target.sub(1).mul_(of_false).sub_(x.log().clamp_min_(-100).mul_(target));
  return reduced_loss(weight.has_value() && weight->defined() ? losses.mul(*weight) : losses, reduction);
}

Tensor binary_cross_entropy_backward(
    const Tensor& grad, const Tensor& x, const Tensor& target, const OptionalTensor& weight, int64_t reduction) {
  if (!is_binary_loss(x, target, weight) || grad.scalar_type() != x.scalar_type()) {
    return on_the_host<at::_ops::binary_cross_entropy_backward>(grad, x, target, weight, reduction);
  }
  Tensor slope = x.sub(target).div_(x.neg().add_(1).mul_(x).clamp_min_(1e-12)).mul_(grad);
  if (weight.has_value() && weight->defined()) {
    slope = slope.mul(*weight);
  }
  return reduction == at::Reduction::Mean ? slope.div_(static_cast<double>(x.numel())) : slope;
}

// --- the middle of sorted elements ---

Tensor median(const Tensor& x) {
  if (!has_dtype(x) || x.numel() == 0) {
    return on_the_host<at::_ops::median>(x);
  }
  Tensor sorted = std::get<0>(x.reshape({-1}).sort());
  Tensor middle = sorted.select(0, (x.numel() - 1) / 2);
  if (!c10::isFloatingType(x.scalar_type())) {
    return middle.clone();
  }
  // A NaN comes last, and makes the median one.
  Tensor last = sorted.select(0, -1);
  return at::where(last.isnan(), last, middle);
}

Tensor nanmedian(const Tensor& x) {
  if (!c10::isFloatingType(x.scalar_type())) {
    return rivulet::median(x);
  }
  if (!has_dtype(x) || x.numel() == 0) {
    return on_the_host<at::_ops::nanmedian>(x);
  }
  Tensor flat = x.reshape({-1});
  Tensor sorted = std::get<0>(flat.sort());
  Tensor place = flat.isnan().logical_not_().sum().sub_(1).clamp_min_(0).div_(2, "floor");
  return sorted.index_select(0, place.reshape({1})).reshape(IntArrayRef());
}

// --- counts ---

Tensor bincount(const Tensor& x, const OptionalTensor& weights, c10::SymInt least) {
  bool weighted = weights.has_value() && weights->defined();
  int64_t length = least.guard_int(__FILE__, __LINE__);
  bool fits = x.dim() == 1 && x.numel() != 0 && c10::isIntegralType(x.scalar_type(), false) && length >= 0 &&
      (!weighted || (weights->scalar_type() == c10::kFloat && weights->sizes() == x.sizes()));
  if (fits && x.min().item<int64_t>() >= 0) {
    length = std::max(length, x.max().item<int64_t>() + 1);
    Tensor places = x.to(c10::kLong);
    auto options = x.options().dtype(weighted ? c10::kFloat : c10::kLong);
    return at::zeros({length}, options).scatter_add_(0, places, weighted ? *weights : at::ones(x.sizes(), options));
  }
  return on_the_host<at::_ops::bincount>(x, weights, std::move(least));
}

// --- places in sorted rows ---

// Undefined where PyTorch has an error to raise, or there is no kernel.
Tensor search(
    const Tensor& rows, const Tensor& values, bool narrow, bool right, std::optional<std::string_view> side,
    const OptionalTensor& order) {
  bool ordered = order.has_value() && order->defined();
  bool fits = rows.dim() >= 1 && rows.numel() != 0 && rows.scalar_type() == values.scalar_type() && has_dtype(rows) &&
      rows.scalar_type() != c10::kBool && values.numel() != 0 &&
      (!ordered || (order->sizes() == rows.sizes() && order->scalar_type() == c10::kLong)) &&
      (!side.has_value() || *side == "right" || (*side == "left" && !right));
  fits = fits &&
      (rows.dim() == 1 ||
       (values.dim() == rows.dim() &&
        values.sizes().slice(0, rows.dim() - 1) == rows.sizes().slice(0, rows.dim() - 1)));
  if (!fits) {
    return Tensor();
  }
  Tensor out = at::empty(values.sizes(), values.options().dtype(narrow ? c10::kInt : c10::kLong));
  Views views;
  bool recorded = views.output(out) && views.input(rows.contiguous()) && views.input(values.contiguous()) &&
      views.input_if(ordered ? order->contiguous() : Tensor()) &&
      views.recorded(rivulet_search(
          views.at(0), views.at(1), views.at(2), views.optional(3), right || (side.has_value() && *side == "right")));
  return recorded ? out : Tensor();
}

Tensor searchsorted(
    const Tensor& rows, const Tensor& values, bool narrow, bool right, std::optional<std::string_view> side,
    const OptionalTensor& order) {
  Tensor out = search(rows, values, narrow, right, side, order);
  return out.defined()
      ? out
      : on_the_host<at::_ops::searchsorted_Tensor>(rows, values, narrow, right, side, order);
}

Tensor searchsorted_number(
    const Tensor& rows, const Scalar& value, bool narrow, bool right, std::optional<std::string_view> side,
    const OptionalTensor& order) {
  Tensor out = search(rows, at::full({}, value, rows.options()), narrow, right, side, order);
  return out.defined()
      ? out
      : on_the_host<at::_ops::searchsorted_Scalar>(rows, value, narrow, right, side, order);
}

Tensor bucketize(const Tensor& values, const Tensor& bounds, bool narrow, bool right) {
  Tensor out = bounds.dim() == 1 ? search(bounds, values, narrow, right, std::nullopt, std::nullopt) : Tensor();
  return out.defined() ? out : on_the_host<at::_ops::bucketize_Tensor>(values, bounds, narrow, right);
}

Tensor bucketize_number(const Scalar& value, const Tensor& bounds, bool narrow, bool right) {
  bool fits = bounds.dim() == 1 && has_dtype(bounds) &&
      (c10::isFloatingType(bounds.scalar_type()) || value.isIntegral(false)) && !value.isComplex();
  Tensor out = fits ? search(bounds, at::full({}, value, bounds.options()), narrow, right, std::nullopt, std::nullopt)
                    : Tensor();
  return out.defined() ? out : on_the_host<at::_ops::bucketize_Scalar>(value, bounds, narrow, right);
}

// Each of a row's elements as often as it is asked for; their number is read from the device where it is not given.
Tensor repeat_interleave(const Tensor& repeats, std::optional<c10::SymInt> size) {
  bool fits = repeats.dim() == 1 && repeats.numel() != 0 &&
      (repeats.scalar_type() == c10::kLong || repeats.scalar_type() == c10::kInt) &&
      repeats.min().item<int64_t>() >= 0;
  if (fits) {
    Tensor ends = repeats.cumsum(0, c10::kLong);
    int64_t count = ends.select(0, -1).item<int64_t>();
    if (!size.has_value() || *size == count) {
      Tensor all = at::arange(count, ends.options());
      Tensor places = count == 0 ? all : search(ends, all, false, true, std::nullopt, std::nullopt);
      if (places.defined()) {
        return places.to(repeats.scalar_type());
      }
    }
  }
  return on_the_host<at::_ops::repeat_interleave_Tensor>(repeats, std::move(size));
}

// --- pairs and runs ---

// x1 - x2 for each pair of rows, while those are not too many.
constexpr int64_t kPairs = int64_t{1} << 26;

Tensor cdist_forward(const Tensor& a, const Tensor& b, double order, std::optional<int64_t> mode) {
  bool fits = has_dtype(a) && a.scalar_type() == b.scalar_type() && c10::isFloatingType(a.scalar_type()) &&
      a.dim() >= 2 && b.dim() >= 2 && a.size(-1) == b.size(-1) && a.numel() != 0 && b.numel() != 0 &&
      a.numel() <= kPairs / b.numel();
  if (fits) {
    return at::linalg_vector_norm(a.unsqueeze(-2).sub(b.unsqueeze(-3)), order, {-1});
  }
  return on_the_host<at::_ops::_cdist_forward>(a, b, order, mode);
}

// Sorted elements, where runs of equal ones begin, and from those what was asked for.
std::tuple<Tensor, Tensor, Tensor> unique2(const Tensor& x, bool sorted, bool inverse, bool counts) {
  if (!has_dtype(x) || x.numel() == 0 || x.scalar_type() == c10::kBool) {
    return on_the_host<at::_ops::_unique2>(x, sorted, inverse, counts);
  }
  auto [values, order] = x.reshape({-1}).sort();
  int64_t count = x.numel();
  Tensor begins = at::ones({count}, x.options().dtype(c10::kBool));
  if (count > 1) {
    begins.narrow(0, 1, count - 1).copy_(values.narrow(0, 1, count - 1).ne(values.narrow(0, 0, count - 1)));
  }
  Tensor starts = true_places(begins);
  Tensor back = at::empty({0}, starts.options());
  Tensor lengths = at::empty({0}, starts.options());
  if (inverse) {
    back = at::empty({count}, starts.options());
    back.scatter_(0, order, begins.cumsum(0, c10::kLong).sub_(1));
    back = back.view(x.sizes());
  }
  if (counts) {
    lengths = at::cat({starts.narrow(0, 1, starts.numel() - 1), at::full({1}, count, starts.options())}).sub_(starts);
  }
  return {values.index_select(0, starts), back, lengths};
}

// --- stubs ---

bool cross(const Tensor& out, const Tensor& a, const Tensor& b, int64_t dim) {
  if (!has_dtype(out)) {
    return false;
  }
  for (int64_t k = 0; k < 3 && out.numel() != 0; ++k) {
    int64_t next = (k + 1) % 3;
    int64_t last = (k + 2) % 3;
    Tensor product = a.select(dim, next).mul(b.select(dim, last));
    out.select(dim, k).copy_(product.addcmul_(a.select(dim, last), b.select(dim, next), -1));
  }
  return true;
}

// Windows that overlap: each of their places in turn.
bool unfold_gradient(const Tensor& out, const Tensor& grad, int64_t dim, int64_t size, int64_t step) {
  if (!has_dtype(out) || out.dim() == 0) {
    return false;
  }
  int64_t windows = grad.size(dim);
  for (int64_t k = 0; k < size && windows != 0; ++k) {
    out.slice(dim, k, k + (windows - 1) * step + 1, step).add_(grad.select(-1, k));
  }
  return true;
}

} // namespace

void register_nested_composed(Nested& nested) {
  using namespace at::_ops;
  nested.impl("trace", rivulet::trace);
  nested.impl("vdot", rivulet::vdot);
  nested.impl("count_nonzero.dim_IntList", rivulet::count_nonzero);
  nested.impl("equal", rivulet::equal);
  nested.impl("binary_cross_entropy", rivulet::binary_cross_entropy);
  nested.impl("binary_cross_entropy.out", OnTheHost<binary_cross_entropy_out>::call);
  nested.impl("binary_cross_entropy_backward", rivulet::binary_cross_entropy_backward);
  nested.impl("binary_cross_entropy_backward.grad_input", OnTheHost<binary_cross_entropy_backward_grad_input>::call);
  nested.impl("median", rivulet::median);
  nested.impl("median.dim_values", OnTheHost<median_dim_values>::call);
  nested.impl("nanmedian", rivulet::nanmedian);
  nested.impl("nanmedian.dim_values", OnTheHost<nanmedian_dim_values>::call);
  nested.impl("bincount", rivulet::bincount);
  nested.impl("searchsorted.Tensor", rivulet::searchsorted);
  nested.impl("searchsorted.Scalar", searchsorted_number);
  nested.impl("searchsorted.Tensor_out", OnTheHost<searchsorted_Tensor_out>::call);
  nested.impl("searchsorted.Scalar_out", OnTheHost<searchsorted_Scalar_out>::call);
  nested.impl("bucketize.Tensor", rivulet::bucketize);
  nested.impl("bucketize.Scalar", bucketize_number);
  nested.impl("bucketize.Tensor_out", OnTheHost<bucketize_Tensor_out>::call);
  nested.impl("_cdist_forward", cdist_forward);
  nested.impl("_unique2", unique2);
  nested.impl("repeat_interleave.Tensor", rivulet::repeat_interleave);
}

bool power_norm(const at::TensorIteratorBase& iter, double order) {
  Tensor out(iter.tensor_base(0));
  Tensor x(iter.tensor_base(1));
  if (!has_dtype(x) || !has_dtype(out) || !c10::isFloatingType(x.scalar_type()) || out.dim() != x.dim()) {
    return false;
  }
  c10::DimVector reduced;
  for (int64_t dim = 0; dim < x.dim(); ++dim) {
    if (out.size(dim) == 1) {
      reduced.push_back(dim);
    }
  }
  Tensor powers = x.to(c10::kFloat).abs().pow_(order);
  out.copy_((reduced.empty() ? powers : powers.sum(reduced, true)).pow_(1.0 / order));
  return true;
}

void hook_composed() {
  using namespace at::native;
  hook(cross_stub, [](const Tensor& out, const Tensor& a, const Tensor& b, int64_t dim) {
    return rivulet::cross(out, a, b, dim);
  });
  hook(unfold_backward_stub, [](Tensor& out, const Tensor& grad, int64_t dim, int64_t size, int64_t step) {
    return unfold_gradient(out, grad, dim, size, step);
  });
}

} // namespace rivulet
