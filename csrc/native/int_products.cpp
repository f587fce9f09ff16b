// Matrix products of integers.
#include <ATen/Functions.h>

#include "native/call.h"
#include "native/products.h"

namespace rivulet {

using at::Scalar;
using at::Tensor;

bool int_product(
    const Tensor& out, const Tensor& a, const Tensor& b, const Tensor* bias, const Scalar& beta, const Scalar& alpha) {
  if (a.scalar_type() != out.scalar_type() || b.scalar_type() != out.scalar_type() || out.scalar_type() == c10::kBool ||
      !c10::isIntegralType(out.scalar_type(), false) || dtype_of(out.scalar_type()) == RIVULET_NO_DTYPE) {
    return false;
  }
  bool plain = !bias && alpha.equal(1);
  Tensor made = plain && out.is_contiguous() ? out : at::empty(out.sizes(), out.options());
  auto batch = [](const Tensor& matrix) { return matrix.dim() == 2 ? matrix.unsqueeze(0) : matrix; };
  Views views;
  bool recorded = views.output(batch(made)) && views.input(batch(a)) && views.input(batch(b)) &&
      views.recorded(rivulet_int_matmul(views.at(0), views.at(1), views.at(2)));
  if (!recorded || made.is_same(out)) {
    return recorded;
  }
  if (!alpha.equal(1)) {
    made.mul_(alpha.toLong());
  }
  if (bias && !beta.equal(0)) {
    made.add_(bias->expand(out.sizes()), beta.toLong());
  }
  out.copy_(made);
  return true;
}

} // namespace rivulet
