// Element by element.
#include <ATen/native/BinaryOps.h>
#include <ATen/native/Copy.h>
#include <ATen/native/Fill.h>
#include <ATen/native/IndexKernel.h>
#include <ATen/native/Lerp.h>
#include <ATen/native/PointwiseOps.h>
#include <ATen/native/Pow.h>
#include <ATen/native/RangeFactories.h>
#include <ATen/native/TensorCompare.h>
#include <ATen/native/UnaryOps.h>

#include <limits>

#include "native/call.h"
#include "native/hook.h"
#include "native/hooks.h"

namespace rivulet {

bool call_pointwise(
    uint32_t op, c10::ScalarType common, Views& views, std::initializer_list<c10::Scalar> scalars) {
  uint32_t dtype = dtype_of(common);
  if (op == RIVULET_NO_OP || dtype == RIVULET_NO_DTYPE || !views.on_device()) {
    return false;
  }
  std::array<rivulet_scalar, 4> numbers;
  size_t count = 0;
  for (const auto& scalar : scalars) {
    numbers[count++] = scalar_of(scalar);
  }
  return views.recorded(rivulet_pointwise(op, dtype, views.data(), views.size(), numbers.data(), count));
}

bool call_pointwise(uint32_t op, const at::TensorIteratorBase& iter, std::initializer_list<c10::Scalar> scalars) {
  if (iter.numel() == 0) {
    return true;
  }
  Views views;
  auto common = iter.ninputs() > 0 ? iter.input_dtype(iter.ninputs() - 1) : iter.dtype(0);
  return views.iterator(iter) && call_pointwise(op, common, views, scalars);
}

namespace {

// The CPU's kernels of these ops take a number as the second input of 16-bit floats as it was given, where the iterator
// has it rounded to their type.
template <Name name>
struct ByNumber {
  bool operator()(at::TensorIteratorBase& iter) const {
    if (iter.numel() == 0) {
      return true;
    }
    Views views;
    if (!views.iterator(iter)) {
      return false;
    }
    auto common = iter.input_dtype(1);
    if (at::isReducedFloatingType(common) && views.is_number(2)) {
      views.set_number(2, iter.original_scalar_value<double>(2));
    }
    return call_pointwise(pointwise_op<name>(), common, views);
  }
};

// The output is an input too.
template <Name name>
struct InPlace {
  bool operator()(const at::TensorIteratorBase& iter, const c10::Scalar& value) const {
    if (iter.numel() == 0) {
      return true;
    }
    Views views;
    if (!views.changing_iterator(iter) || !views.repeat(0)) {
      return false;
    }
    views.swap(1, 2);
    return call_pointwise(pointwise_op<name>(), iter.dtype(0), views, {value});
  }
};

const c10::Scalar kInfinity = std::numeric_limits<double>::infinity();

c10::Scalar highest(c10::ScalarType type) {
  return c10::isFloatingType(type) ? kInfinity : c10::Scalar(std::numeric_limits<int64_t>::max());
}

c10::Scalar lowest(c10::ScalarType type) {
  return c10::isFloatingType(type) ? -kInfinity : c10::Scalar(std::numeric_limits<int64_t>::lowest());
}

double largest_finite(c10::ScalarType type) {
  switch (type) {
    case c10::kHalf:
      return 65504.0;
    case c10::kBFloat16:
      return 3.3895313892515355e38;
    default:
      return std::numeric_limits<float>::max();
  }
}

void hook_unary() {
  using namespace at::native;
  hook(abs_stub, Pointwise<"abs">{});
  hook(acos_stub, Pointwise<"acos">{});
  hook(acosh_stub, Pointwise<"acosh">{});
  hook(asin_stub, Pointwise<"asin">{});
  hook(asinh_stub, Pointwise<"asinh">{});
  hook(atan_stub, Pointwise<"atan">{});
  hook(atanh_stub, Pointwise<"atanh">{});
  hook(bitwise_not_stub, Pointwise<"bitwise_not">{});
  hook(logical_not_stub, Pointwise<"logical_not">{});
  hook(ceil_stub, Pointwise<"ceil">{});
  hook(conj_physical_stub, Pointwise<"copy">{});
  hook(cos_stub, Pointwise<"cos">{});
  hook(cosh_stub, Pointwise<"cosh">{});
  hook(digamma_stub, Pointwise<"digamma">{});
  hook(special_entr_stub, Pointwise<"entr">{});
  hook(special_erfcx_stub, Pointwise<"erfcx">{});
  hook(erf_stub, Pointwise<"erf">{});
  hook(erfc_stub, Pointwise<"erfc">{});
  hook(erfinv_stub, Pointwise<"erfinv">{});
  hook(exp_stub, Pointwise<"exp">{});
  hook(exp2_stub, Pointwise<"exp2">{});
  hook(expm1_stub, Pointwise<"expm1">{});
  hook(floor_stub, Pointwise<"floor">{});
  hook(frac_stub, Pointwise<"frac">{});
  hook(i0_stub, Pointwise<"i0">{});
  hook(special_i0e_stub, Pointwise<"i0e">{});
  hook(special_i1_stub, Pointwise<"i1">{});
  hook(special_i1e_stub, Pointwise<"i1e">{});
  hook(lgamma_stub, Pointwise<"lgamma">{});
  hook(log_stub, Pointwise<"log">{});
  hook(log10_stub, Pointwise<"log10">{});
  hook(log1p_stub, Pointwise<"log1p">{});
  hook(log2_stub, Pointwise<"log2">{});
  hook(special_log_ndtr_stub, Pointwise<"log_ndtr">{});
  hook(special_ndtri_stub, Pointwise<"ndtri">{});
  hook(neg_stub, Pointwise<"neg">{});
  hook(reciprocal_stub, Pointwise<"reciprocal">{});
  hook(round_stub, Pointwise<"round">{});
  hook(rsqrt_stub, Pointwise<"rsqrt">{});
  hook(sgn_stub, Pointwise<"sign">{});
  hook(sigmoid_stub, Pointwise<"sigmoid">{});
  hook(sign_stub, Pointwise<"sign">{});
  hook(signbit_stub, Pointwise<"signbit">{});
  hook(sin_stub, Pointwise<"sin">{});
  hook(sinc_stub, Pointwise<"sinc">{});
  hook(sinh_stub, Pointwise<"sinh">{});
  hook(sqrt_stub, Pointwise<"sqrt">{});
  hook(tan_stub, Pointwise<"tan">{});
  hook(tanh_stub, Pointwise<"tanh">{});
  hook(trigamma_stub, Pointwise<"trigamma">{});
  hook(trunc_stub, Pointwise<"trunc">{});
  hook(isposinf_stub, Pointwise<"isposinf">{});
  hook(isneginf_stub, Pointwise<"isneginf">{});
  hook(logit_stub, [](const at::TensorIteratorBase& iter, const c10::Scalar& eps) {
    // A negative eps stands for none.
    double edge = eps.toDouble();
    return edge < 0 ? call_pointwise(pointwise_op<"logit">(), iter)
                    : call_pointwise(pointwise_op<"logit_eps">(), iter, {eps});
  });
  hook(
      nan_to_num_stub,
      [](const at::TensorIteratorBase& iter, std::optional<double> nan, std::optional<double> above,
         std::optional<double> below) {
        double limit = largest_finite(iter.dtype(0));
        return call_pointwise(
            pointwise_op<"nan_to_num">(), iter, {nan.value_or(0.0), above.value_or(limit), below.value_or(-limit)});
      });
}

void hook_binary() {
  using namespace at::native;
  hook(add_stub, [](const at::TensorIteratorBase& iter, const c10::Scalar& alpha) {
    return alpha.equal(1) ? call_pointwise(pointwise_op<"add">(), iter)
                          : call_pointwise(pointwise_op<"add_alpha">(), iter, {alpha});
  });
  hook(mul_stub, ByNumber<"mul">{});
  hook(div_true_stub, ByNumber<"div">{});
  hook(div_floor_stub, ByNumber<"div_floor">{});
  hook(div_trunc_stub, ByNumber<"div_trunc">{});
  hook(atan2_stub, Pointwise<"atan2">{});
  hook(remainder_stub, Pointwise<"remainder">{});
  hook(bitwise_and_stub, Pointwise<"bitwise_and">{});
  hook(bitwise_or_stub, Pointwise<"bitwise_or">{});
  hook(bitwise_xor_stub, Pointwise<"bitwise_xor">{});
  hook(lshift_stub, Pointwise<"shift_left">{});
  hook(rshift_stub, Pointwise<"shift_right">{});
  hook(logical_xor_stub, Pointwise<"logical_xor">{});
  hook(logical_and_stub, Pointwise<"logical_and">{});
  hook(logical_or_stub, Pointwise<"logical_or">{});
  hook(lt_stub, Pointwise<"lt">{});
  hook(le_stub, Pointwise<"le">{});
  hook(gt_stub, Pointwise<"gt">{});
  hook(ge_stub, Pointwise<"ge">{});
  hook(eq_stub, Pointwise<"eq">{});
  hook(ne_stub, Pointwise<"ne">{});
  hook(maximum_stub, Pointwise<"maximum">{});
  hook(minimum_stub, Pointwise<"minimum">{});
  hook(fmax_stub, Pointwise<"fmax">{});
  hook(fmin_stub, Pointwise<"fmin">{});
  hook(fmod_stub, Pointwise<"fmod">{});
  hook(logaddexp_stub, Pointwise<"logaddexp">{});
  hook(logaddexp2_stub, Pointwise<"logaddexp2">{});
  hook(gcd_stub, Pointwise<"gcd">{});
  hook(lcm_stub, Pointwise<"lcm">{});
  hook(hypot_stub, Pointwise<"hypot">{});
  hook(igamma_stub, Pointwise<"igamma">{});
  hook(igammac_stub, Pointwise<"igammac">{});
  hook(nextafter_stub, Pointwise<"nextafter">{});
  hook(heaviside_stub, Pointwise<"heaviside">{});
  hook(copysign_stub, Pointwise<"copysign">{});
  hook(xlogy_stub, Pointwise<"xlogy">{});
  hook(xlog1py_stub, Pointwise<"xlog1py">{});
  hook(pow_tensor_tensor_stub, Pointwise<"pow">{});
  hook(pow_tensor_scalar_stub, [](const at::TensorIteratorBase& iter, const c10::Scalar& exponent) {
    if (iter.numel() == 0) {
      return true;
    }
    // The exponents that PyTorch's own kernels know too.
    double value = exponent.isComplex() ? 0.0 : exponent.toDouble();
    uint32_t simple = value == 2.0 ? pointwise_op<"square">()
        : value == 0.5            ? pointwise_op<"sqrt">()
        : value == -0.5           ? pointwise_op<"rsqrt">()
        : value == -1.0           ? pointwise_op<"reciprocal">()
                                  : RIVULET_NO_OP;
    if (simple != RIVULET_NO_OP && (value == 2.0 || c10::isFloatingType(iter.dtype(0)))) {
      return call_pointwise(simple, iter);
    }
    Views views;
    return views.iterator(iter) && views.number(exponent) &&
        call_pointwise(pointwise_op<"pow">(), iter.dtype(0), views);
  });
}

void hook_ternary() {
  using namespace at::native;
  hook(where_kernel, Pointwise<"where">{});
  hook(clamp_stub, Pointwise<"clamp_tensors">{});
  hook(clamp_scalar_stub, Pointwise<"clamp">{});
  hook(clamp_min_scalar_stub, [](const at::TensorIteratorBase& iter, const c10::Scalar& min) {
    return call_pointwise(pointwise_op<"clamp">(), iter, {min, highest(iter.dtype(0))});
  });
  hook(clamp_max_scalar_stub, [](const at::TensorIteratorBase& iter, const c10::Scalar& max) {
    return call_pointwise(pointwise_op<"clamp">(), iter, {lowest(iter.dtype(0)), max});
  });
  hook(addcmul_stub, Pointwise<"addcmul">{});
  hook(addcdiv_stub, Pointwise<"addcdiv">{});
  hook(lerp_kernel_scalar_weight, Pointwise<"lerp_scalar">{});
  hook(lerp_kernel_tensor_weight, Pointwise<"lerp">{});
  hook(masked_fill_stub, InPlace<"masked_fill">{});
}

void hook_copies() {
  using namespace at::native;
  hook(copy_stub, [](const at::TensorIteratorBase& iter, bool) {
    return iter.numel() == 0 || call_pointwise(pointwise_op<"copy">(), iter);
  });
  hook(fill_stub, Pointwise<"fill">{});
  hook(arange_stub, [](const at::TensorIteratorBase& iter, const c10::Scalar& start, const c10::Scalar&,
                       const c10::Scalar& step) {
    return call_pointwise(pointwise_op<"arange">(), iter, {start, step});
  });
  hook(linspace_stub, [](const at::TensorIteratorBase& iter, const c10::Scalar& start, const c10::Scalar& end,
                         int64_t steps) {
    double distance = steps > 1 ? (end.toDouble() - start.toDouble()) / static_cast<double>(steps - 1) : 0.0;
    return call_pointwise(pointwise_op<"linspace">(), iter, {start, end, distance});
  });
  hook(flip_stub, [](const at::TensorIteratorBase& iter, bool) {
    // The output runs backwards already; the last operand told PyTorch which dimensions do.
    Views views;
    if (iter.numel() != 0 && !views.iterator(iter)) {
      return false;
    }
    views.truncate(2);
    return iter.numel() == 0 || call_pointwise(pointwise_op<"copy">(), iter.dtype(0), views);
  });
}

} // namespace

void hook_pointwise() {
  hook_unary();
  hook_binary();
  hook_ternary();
  hook_copies();
}

} // namespace rivulet
