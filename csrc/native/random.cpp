// Random numbers. The generator that reaches a stub is the temporary one of the op (aten/random.h): its seed is the
// draw from the device's generator, and kernels count on from it.
#include <ATen/Functions.h>
#include <ATen/native/UnaryOps.h>

#include "native/call.h"
#include "native/hook.h"
#include "native/hooks.h"

namespace rivulet {

namespace {

using at::Tensor;
using at::TensorBase;
using Generator = std::optional<at::Generator>;

bool random(
    uint32_t op, const TensorBase& out, const Generator& generator, std::initializer_list<c10::Scalar> scalars) {
  if (out.numel() == 0) {
    return true;
  }
  if (!generator.has_value() || !generator->defined()) {
    return false;
  }
  std::array<rivulet_scalar, 2> numbers;
  size_t count = 0;
  for (const auto& scalar : scalars) {
    numbers[count++] = scalar_of(scalar);
  }
  Views views;
  return views.output(out) &&
      views.recorded(rivulet_random(op, views.at(0), numbers.data(), count, generator->current_seed()));
}

// Draws with replacement: the place of a uniform number among the running totals of its row. What is no distribution
// is the CPU's to refuse.
bool multinomial(Tensor& out, const Tensor& weights, int64_t count, const Generator& generator) {
  if (weights.numel() == 0) {
    return false;
  }
  Tensor chances = weights.to(at::kFloat);
  Tensor totals = chances.cumsum(-1);
  Tensor total = totals.narrow(-1, totals.size(-1) - 1, 1);
  bool fits = chances.ge(0).all().logical_and(total.gt(0).all()).logical_and(total.lt(INFINITY).all()).item<bool>();
  Tensor uniform = at::empty(out.sizes(), chances.options());
  if (!fits || !random(pointwise_op<"uniform">(), uniform, generator, {0.0, 1.0})) {
    return false;
  }
  // Below the total also after rounding, which 1 - 2^-24, the largest number drawn, may not be.
  uniform.mul_(total).mul_(1.0 - 0x1p-22);
  out.copy_(at::searchsorted(totals, uniform, /*out_int32=*/false, /*right=*/true));
  return true;
}

// How many integers random_() chooses among: all that the type holds exactly, from 0 on. 0 where the kernel cannot.
int64_t integers_of(c10::ScalarType type) {
  switch (type) {
    case c10::kFloat:
      return (int64_t{1} << 24) + 1;
    case c10::kHalf:
      return (int64_t{1} << 11) + 1;
    case c10::kBFloat16:
      return (int64_t{1} << 8) + 1;
    case c10::kInt:
      return int64_t{1} << 31;
    case c10::kShort:
      return int64_t{1} << 15;
    case c10::kChar:
      return int64_t{1} << 7;
    case c10::kByte:
      return int64_t{1} << 8;
    case c10::kBool:
      return 2;
    default:
      return 0;
  }
}

} // namespace

void hook_random() {
  using namespace at::native;
  hook(bernoulli_scalar_stub, [](const TensorBase& out, double p, const Generator& generator) {
    return random(pointwise_op<"bernoulli">(), out, generator, {p});
  });
  hook(bernoulli_tensor_stub, [](const TensorBase& out, const TensorBase& p, const Generator& generator) {
    Tensor chances(p);
    Tensor uniform = at::empty(out.sizes(), chances.options().dtype(at::kFloat));
    bool recorded = out.numel() == 0 || random(pointwise_op<"uniform">(), uniform, generator, {0.0, 1.0});
    if (recorded && out.numel() != 0) {
      Tensor(out).copy_(uniform.lt(chances));
    }
    return recorded;
  });
  hook(exponential_stub, [](const at::TensorIteratorBase& iter, double rate, const Generator& generator) {
    return random(pointwise_op<"exponential">(), iter.output_base(), generator, {rate});
  });
  hook(uniform_stub, [](const at::TensorIteratorBase& iter, double from, double to, const Generator& generator) {
    return random(pointwise_op<"uniform">(), iter.output_base(), generator, {from, to});
  });
  hook(normal_stub, [](const TensorBase& out, double mean, double deviation, const Generator& generator) {
    return random(pointwise_op<"normal">(), out, generator, {mean, deviation});
  });
  hook(
      random_from_to_stub,
      [](const at::TensorIteratorBase& iter, uint64_t range, int64_t base, const Generator& generator) {
        return range <= (uint64_t{1} << 32) &&
            random(
                pointwise_op<"randint">(), iter.output_base(), generator, {base, base + static_cast<int64_t>(range)});
      });
  hook(
      multinomial_with_replacement_stub,
      [](Tensor& out, const Tensor& weights, int64_t count, const Generator& generator) {
        return multinomial(out, weights, count, generator);
      });
  hook(random_stub, [](const at::TensorIteratorBase& iter, const Generator& generator) {
    int64_t range = integers_of(iter.dtype(0));
    return range != 0 && random(pointwise_op<"randint">(), iter.output_base(), generator, {int64_t{0}, range});
  });
}

} // namespace rivulet
