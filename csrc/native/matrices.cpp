// Parts of matrices, permutations, membership: ops that PyTorch's CPU code does element by element itself.
#include <ATen/Functions.h>
#include <ATen/Operators.h>
#include <ATen/native/Resize.h>

#include "native/call.h"
#include "native/nested.h"
#include "native/scope.h"

namespace rivulet {

namespace {

using at::Tensor;

// The elements on one side of a diagonal, the others 0.
bool keep_side(uint32_t op, const Tensor& out, const Tensor& x, int64_t diagonal) {
  Views views;
  return x.dim() >= 2 && x.numel() != 0 && x.scalar_type() == out.scalar_type() && views.output(out) &&
      views.input(x) && call_pointwise(op, x.scalar_type(), views, {diagonal});
}

template <typename Op, Name name>
Tensor side(const Tensor& x, int64_t diagonal) {
  if (x.dim() >= 2) {
    Tensor out = at::empty(x.sizes(), x.options());
    if (keep_side(pointwise_op<name>(), out, x, diagonal)) {
      return out;
    }
  }
  return on_the_host<Op>(x, diagonal);
}

template <typename Op, Name name>
Tensor& side_(Tensor& x, int64_t diagonal) {
  if (keep_side(pointwise_op<name>(), x, x, diagonal)) {
    return x;
  }
  return on_the_host<Op>(x, diagonal);
}

template <typename Op, Name name>
Tensor& side_out(const Tensor& x, int64_t diagonal, Tensor& out) {
  if (x.dim() >= 2 && x.scalar_type() == out.scalar_type()) {
    at::native::resize_output(out, x.sizes());
    if (keep_side(pointwise_op<name>(), out, x, diagonal)) {
      return out;
    }
  }
  return on_the_host<Op>(x, diagonal, out);
}

Tensor& eye_out(int64_t rows, int64_t columns, Tensor& out) {
  if (rows > 0 && columns > 0) {
    out.resize_({rows, columns});
    Views views;
    if (views.output(out) && call_pointwise(pointwise_op<"eye">(), out.scalar_type(), views, {int64_t{0}})) {
      return out;
    }
  }
  return on_the_host<at::_ops::eye_m_out>(rows, columns, out);
}

Tensor& eye_square_out(int64_t size, Tensor& out) {
  return eye_out(size, size, out);
}

// Sorts random keys; with 31 bits, ties are too rare to matter up to this size.
constexpr int64_t kPermutation = 1 << 15;

Tensor& randperm_out(int64_t size, std::optional<at::Generator> generator, Tensor& out) {
  bool fits = size > 0 && size <= kPermutation && c10::isIntegralType(out.scalar_type(), false) &&
      (out.scalar_type() == c10::kLong || out.scalar_type() == c10::kInt || size <= 1 << 7);
  if (fits) {
    out.resize_({size});
    Tensor keys = at::empty({size}, out.options().dtype(c10::kInt));
    keys.random_(generator);
    out.copy_(std::get<1>(keys.sort(/*stable=*/true, 0, /*descending=*/false)));
    return out;
  }
  return on_the_host<at::_ops::randperm_generator_out>(size, std::move(generator), out);
}

// Comparisons of every element with every test element; beyond this many, sorting on the CPU is better.
constexpr int64_t kComparisons = int64_t{1} << 26;

Tensor isin(const Tensor& elements, const Tensor& tests, bool unique, bool invert) {
  if (elements.numel() != 0 && tests.numel() != 0 && elements.numel() <= kComparisons / tests.numel() &&
      !elements.is_complex() && !tests.is_complex()) {
    Tensor found = elements.unsqueeze(-1).eq(tests.reshape({-1})).any(-1);
    return invert ? found.logical_not() : found;
  }
  return on_the_host<at::_ops::isin_Tensor_Tensor>(elements, tests, unique, invert);
}

Tensor nansum(const Tensor& x, at::OptionalIntArrayRef dims, bool keepdim, std::optional<c10::ScalarType> dtype) {
  if (c10::isFloatingType(x.scalar_type())) {
    return at::sum(x.masked_fill(x.ne(x), 0), dims, keepdim, dtype);
  }
  return at::sum(x, dims, keepdim, dtype);
}

} // namespace

void register_nested_matrices(Nested& nested) {
  using namespace at::_ops;
  nested.impl("tril", side<tril, "tril">);
  nested.impl("tril_", side_<tril_, "tril">);
  nested.impl("tril.out", side_out<tril_out, "tril">);
  nested.impl("triu", side<triu, "triu">);
  nested.impl("triu_", side_<triu_, "triu">);
  nested.impl("triu.out", side_out<triu_out, "triu">);
  nested.impl("eye.out", eye_square_out);
  nested.impl("eye.m_out", eye_out);
  nested.impl("randperm.generator_out", randperm_out);
  nested.impl("isin.Tensor_Tensor", isin);
  nested.impl("nansum", nansum);
}

} // namespace rivulet
