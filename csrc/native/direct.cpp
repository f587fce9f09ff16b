// Note [Direct ops]
// The ops that models call most go to their kernels without stand-ins and without a second way through the dispatcher:
// PyTorch's meta function checks the operands and lays out the iterator on the mps tensors themselves. Whatever a
// kernel does not take goes the way of every other op.
#include <ATen/EmptyTensor.h>
#include <ATen/Operators.h>
#include <ATen/TensorIterator.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/abs_native.h>
#include <ATen/ops/add_native.h>
#include <ATen/ops/addmm_native.h>
#include <ATen/ops/baddbmm_native.h>
#include <ATen/ops/bmm_native.h>
#include <ATen/ops/cos_native.h>
#include <ATen/ops/div_native.h>
#include <ATen/ops/eq_native.h>
#include <ATen/ops/exp_native.h>
#include <ATen/ops/ge_native.h>
#include <ATen/ops/gelu_native.h>
#include <ATen/ops/gt_native.h>
#include <ATen/ops/le_native.h>
#include <ATen/ops/linear_native.h>
#include <ATen/ops/lt_native.h>
#include <ATen/ops/mm_native.h>
#include <ATen/ops/mul_native.h>
#include <ATen/ops/ne_native.h>
#include <ATen/ops/neg_native.h>
#include <ATen/ops/pow_native.h>
#include <ATen/ops/rsqrt_native.h>
#include <ATen/ops/sigmoid_native.h>
#include <ATen/ops/silu_native.h>
#include <ATen/ops/sin_native.h>
#include <ATen/ops/sqrt_native.h>
#include <ATen/ops/sub_native.h>
#include <ATen/ops/tanh_native.h>

#include "aten/hot.h"
#include "native/call.h"
#include "native/direct.h"
#include "native/products.h"
#include "native/result.h"
#include "runtime/allocator.h"

namespace rivulet {

namespace {

using at::IntArrayRef;
using at::Scalar;
using at::Tensor;

constexpr c10::DispatchKeySet kKeys(c10::DispatchKey::MPS);

// A fresh mps tensor, or the op's own operand.
struct OnDevice {
  static void settle(Tensor& out, IntArrayRef sizes, IntArrayRef strides, at::TensorOptions options) {
    auto dtype = c10::typeMetaToScalarType(options.dtype());
    if (out.defined()) {
      // In place: the op may not change what its operand is.
      TORCH_CHECK(
          out.scalar_type() == dtype || c10::canCast(dtype, out.scalar_type()), "result type ", dtype,
          " can't be cast to the desired output type ", out.scalar_type());
      TORCH_CHECK(
          out.sizes() == sizes, "output with shape ", out.sizes(), " doesn't match the broadcast shape ", sizes);
    } else if (strides.empty()) {
      out = at::detail::empty_generic(sizes, &device_allocator(), kKeys, dtype, options.memory_format_opt());
    } else {
      out = at::detail::empty_strided_generic(sizes, strides, &device_allocator(), kKeys, dtype);
    }
  }
};

// Tensors that the direct way is for: of the device, dense, without lazy bits; numbers of the CPU beside them.
bool is_plain(const Tensor& tensor) {
  return tensor.is_mps() ? tensor.layout() == c10::kStrided && !tensor.is_conj() && !tensor.is_neg() &&
          !(tensor.requires_grad() && !is_accelerator())
                         : tensor.is_cpu() && tensor.dim() == 0 && !tensor.requires_grad();
}

template <typename T>
bool is_plain_argument(const T& argument) {
  if constexpr (std::is_same_v<T, Tensor>) {
    return is_plain(argument);
  } else {
    return true;
  }
}

// Runs an iterator's op; numbers of the CPU keep their own type, and the kernel converts.
template <Name name, typename... Scalars>
bool run(const at::TensorIteratorBase& iter, const Scalars&... scalars) {
  if (iter.numel() == 0) {
    return true;
  }
  Views views;
  return views.iterator(iter) &&
      call_pointwise(pointwise_op<name>(), iter.common_dtype(), views, {Scalar(scalars)...});
}

// The scalars of an op's schema as its kernel wants them; most have none.
template <Name name>
struct Plain {
  template <typename... Args>
  bool operator()(const at::TensorIteratorBase& iter, const Args&...) const {
    return run<name>(iter);
  }
};

struct Add {
  bool operator()(const at::TensorIteratorBase& iter, const Tensor&, const Tensor&, const Scalar& alpha) const {
    return alpha.equal(1) ? run<"add">(iter) : run<"add_alpha">(iter, alpha);
  }
};

struct Sub {
  bool operator()(const at::TensorIteratorBase& iter, const Tensor&, const Tensor&, const Scalar& alpha) const {
    return alpha.equal(1) ? run<"sub">(iter) : run<"add_alpha">(iter, -alpha);
  }
};

struct Gelu {
  bool operator()(const at::TensorIteratorBase& iter, const Tensor&, std::string_view approximate) const {
    return approximate == "tanh" ? run<"gelu_tanh">(iter) : run<"gelu">(iter);
  }
};

struct Product {
  template <typename Made>
  bool operator()(const Made& made, const Tensor& a, const Tensor& b) const {
    return product(made.out, a, b);
  }
  template <typename Made>
  bool operator()(
      const Made& made, const Tensor& self, const Tensor& a, const Tensor& b, const Scalar& beta,
      const Scalar& alpha) const {
    return product(made.out, a, b, &self, beta, alpha);
  }
};

template <typename Op, typename Meta, typename Native, bool in_place = false, typename Signature = typename Op::schema>
struct Direct;

template <typename Op, typename Meta, typename Native, bool in_place, typename R, typename... Args>
struct Direct<Op, Meta, Native, in_place, R(Args...)> {
  static R call(Args... args) {
    if (C10_LIKELY(has_kernels() && (is_plain_argument(args) && ...))) {
      Result<Meta, OnDevice> result;
      if constexpr (in_place) {
        result.out = std::get<0>(std::tie(args...));
      }
      result.meta(args...);
      if (Native{}(result, args...)) {
        if constexpr (in_place) {
          return std::get<0>(std::tie(args...));
        } else {
          return std::move(result.out);
        }
      }
    }
    return hot::Hot<Op>::call(args...);
  }
};

template <typename Op, typename Meta, typename Native, bool in_place = false>
void take(torch::Library& aten) {
  aten.impl(
      c10::toString(c10::OperatorName(Op::name, Op::overload_name)).c_str(),
      torch::CppFunction::makeFromUnboxedFunction(TORCH_FN((Direct<Op, Meta, Native, in_place>::call))));
}

// relu has no meta class.
Tensor relu(const Tensor& self) {
  if (C10_LIKELY(has_kernels() && self.is_mps() && is_plain(self))) {
    Tensor fresh;
    auto iter = at::TensorIterator::unary_op(fresh, self);
    if (run<"relu">(iter)) {
      return iter.output();
    }
  }
  return hot::Hot<at::_ops::relu>::call(self);
}

bool wants_gradient(const Tensor& tensor) {
  return tensor.requires_grad() || tensor._fw_grad(0).defined();
}

// What PyTorch does in three steps: the transposed weight, the rows of x, addmm. Undefined where those are wanted.
Tensor fused_linear(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  bool fits = has_kernels() && x.is_mps() && weight.is_mps() && x.dim() >= 1 && weight.dim() == 2 &&
      x.size(-1) == weight.size(1) && x.scalar_type() == weight.scalar_type() && x.numel() != 0 &&
      x.is_contiguous() && is_plain(x) && is_plain(weight);
  if (!fits) {
    return Tensor();
  }
  int64_t columns = weight.size(0);
  if (bias.defined() &&
      (!bias.is_mps() || bias.dim() != 1 || bias.size(0) != columns || bias.scalar_type() != x.scalar_type())) {
    return Tensor();
  }
  c10::DimVector sizes(x.sizes());
  sizes.back() = columns;
  Tensor out = at::detail::empty_generic(sizes, &device_allocator(), kKeys, x.scalar_type(), std::nullopt);
  return linear_product(out, x, weight, bias) ? out : Tensor();
}

Tensor linear_below_autograd(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  Tensor out = fused_linear(x, weight, bias.has_value() ? *bias : Tensor());
  return out.defined() ? out : at::native::linear(x, weight, bias);
}

// Fake tensors and dispatch modes come after autograd, and a kernel that is called from here would pass them by.
bool is_seen_by_python(const Tensor& tensor) {
  return tensor.key_set().has(c10::DispatchKey::Python) ||
      c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::Python);
}

Tensor linear_autograd(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  bool gradient = c10::GradMode::is_enabled() &&
      (wants_gradient(x) || wants_gradient(weight) || (bias.has_value() && bias->defined() && wants_gradient(*bias)));
  if (gradient || is_seen_by_python(x) || is_seen_by_python(weight)) {
    return at::native::linear(x, weight, bias);
  }
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return linear_below_autograd(x, weight, bias);
}

} // namespace

void register_direct(torch::Library& aten, torch::Library& autograd) {
  namespace ops = at::_ops;
  namespace meta = at::meta;
  take<ops::add_Tensor, meta::structured_add_Tensor, Add>(aten);
  take<ops::sub_Tensor, meta::structured_sub_Tensor, Sub>(aten);
  take<ops::mul_Tensor, meta::structured_mul_Tensor, Plain<"mul">>(aten);
  take<ops::div_Tensor, meta::structured_div_Tensor, Plain<"div">>(aten);
  take<ops::add__Tensor, meta::structured_add_Tensor, Add, true>(aten);
  take<ops::sub__Tensor, meta::structured_sub_Tensor, Sub, true>(aten);
  take<ops::mul__Tensor, meta::structured_mul_Tensor, Plain<"mul">, true>(aten);
  take<ops::eq_Tensor, meta::structured_eq_Tensor, Plain<"eq">>(aten);
  take<ops::ne_Tensor, meta::structured_ne_Tensor, Plain<"ne">>(aten);
  take<ops::lt_Tensor, meta::structured_lt_Tensor, Plain<"lt">>(aten);
  take<ops::le_Tensor, meta::structured_le_Tensor, Plain<"le">>(aten);
  take<ops::gt_Tensor, meta::structured_gt_Tensor, Plain<"gt">>(aten);
  take<ops::ge_Tensor, meta::structured_ge_Tensor, Plain<"ge">>(aten);
  take<ops::neg, meta::structured_neg, Plain<"neg">>(aten);
  take<ops::exp, meta::structured_exp, Plain<"exp">>(aten);
  take<ops::sin, meta::structured_sin, Plain<"sin">>(aten);
  take<ops::cos, meta::structured_cos, Plain<"cos">>(aten);
  take<ops::sqrt, meta::structured_sqrt, Plain<"sqrt">>(aten);
  take<ops::rsqrt, meta::structured_rsqrt, Plain<"rsqrt">>(aten);
  take<ops::tanh, meta::structured_tanh, Plain<"tanh">>(aten);
  take<ops::sigmoid, meta::structured_sigmoid, Plain<"sigmoid">>(aten);
  take<ops::silu, meta::structured_silu, Plain<"silu">>(aten);
  take<ops::gelu, meta::structured_gelu, Gelu>(aten);
  aten.impl("relu", relu);
  take<ops::mm, meta::structured_mm, Product>(aten);
  take<ops::bmm, meta::structured_bmm, Product>(aten);
  take<ops::addmm, meta::structured_addmm, Product>(aten);
  take<ops::baddbmm, meta::structured_baddbmm, Product>(aten);
  aten.impl("linear", linear_below_autograd);
  autograd.impl("linear", linear_autograd);
}

} // namespace rivulet
