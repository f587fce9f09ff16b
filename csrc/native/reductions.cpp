// Many elements to one, and running totals.
#include <ATen/native/ReduceAllOps.h>
#include <ATen/native/ReduceOps.h>
#include <ATen/native/TensorCompare.h>

#include <cmath>

#include "native/call.h"
#include "native/composed.h"
#include "native/hook.h"
#include "native/hooks.h"

namespace rivulet {

namespace {

uint64_t reduced_dimensions(const at::TensorIteratorBase& iter) {
  uint64_t mask = 0;
  for (int dim = 0; dim < iter.ndim(); ++dim) {
    if (iter.is_dim_reduced(dim)) {
      mask |= uint64_t{1} << (iter.ndim() - 1 - dim);
    }
  }
  return mask;
}

bool reduce(uint32_t op, const at::TensorIteratorBase& iter, double factor = 1.0) {
  Views views;
  return op != RIVULET_NO_OP && iter.numel() != 0 && iter.noutputs() == 1 && views.iterator(iter) &&
      views.recorded(rivulet_reduce(op, views.at(0), nullptr, views.at(1), reduced_dimensions(iter), factor));
}

bool places(uint32_t op, const at::TensorIteratorBase& iter) {
  Views views;
  return op != RIVULET_NO_OP && iter.numel() != 0 && views.iterator(iter) &&
      views.recorded(rivulet_reduce(op, nullptr, views.at(0), views.at(1), reduced_dimensions(iter), 1.0));
}

template <Name name>
struct Reduce {
  bool operator()(const at::TensorIteratorBase& iter) const {
    return reduce(reduce_op<name>(), iter);
  }
};

template <Name name>
struct Place {
  bool operator()(const at::TensorIteratorBase& iter) const {
    return places(reduce_op<name>(), iter);
  }
};

// One dimension goes; results have it still or not.
bool along(
    uint32_t op, const at::TensorBase* values, const at::TensorBase* places, const at::Tensor& x, int64_t dim,
    bool keepdim) {
  if (op == RIVULET_NO_OP || x.numel() == 0) {
    return false;
  }
  // A tensor without dimensions has one element, which is its own extreme at place 0.
  bool flat = x.dim() == 0;
  auto expanded = [&](const at::TensorBase& result) {
    at::Tensor tensor(result);
    if (flat) {
      return tensor.reshape({1});
    }
    return (keepdim ? tensor : tensor.unsqueeze(dim)).expand(x.sizes());
  };
  Views views;
  at::Tensor first = values ? expanded(*values) : at::Tensor();
  at::Tensor second = places ? expanded(*places) : at::Tensor();
  at::Tensor input = flat ? x.reshape({1}) : x;
  dim = flat ? 0 : c10::maybe_wrap_dim(dim, x.dim());
  return views.output_if(first) && views.output_if(second) && views.input(input) &&
      views.recorded(rivulet_reduce(
          op, views.optional(0), views.optional(1), views.at(2), uint64_t{1} << dim, 1.0));
}

template <Name name>
struct Extreme {
  bool operator()(
      const at::Tensor& values, const at::Tensor& places, const at::Tensor& x, int64_t dim, bool keepdim) const {
    return along(reduce_op<name>(), &values, &places, x, dim, keepdim);
  }
};

template <Name name>
struct All {
  bool operator()(const at::Tensor& result, const at::Tensor& x) const {
    Views views;
    at::Tensor flat = result.dim() == 0 ? result.expand(x.sizes()) : result;
    return x.numel() != 0 && result.dim() == 0 && views.output(flat) && views.input(x) &&
        views.recorded(rivulet_reduce(
            reduce_op<name>(), views.at(0), nullptr, views.at(1), (uint64_t{1} << x.dim()) - 1, 1.0));
  }
};

template <uint32_t kind>
struct Scan {
  bool operator()(const at::Tensor& out, const at::Tensor& x, int64_t dim) const {
    Views views;
    if (x.numel() == 0 || x.dim() == 0) {
      return x.numel() == 0;
    }
    return views.output(out) && views.input(x) &&
        views.recorded(rivulet_scan(kind, views.at(0), views.at(1), c10::maybe_wrap_dim(dim, x.dim())));
  }
};

} // namespace

void hook_reductions() {
  using namespace at::native;
  hook(sum_stub, Reduce<"sum">{});
  hook(mean_stub, [](const at::TensorIteratorBase& iter) {
    double count = static_cast<double>(iter.numel()) / static_cast<double>(iter.num_output_elements());
    return reduce(reduce_op<"sum">(), iter, 1.0 / count);
  });
  // Reached by out= alone; without it there is a composition of kernels (matrices.cpp).
  hook(nansum_stub, [](const at::TensorIteratorBase&) { return false; });
  hook(prod_stub, Reduce<"prod">{});
  hook(and_stub, Reduce<"all">{});
  hook(or_stub, Reduce<"any">{});
  hook(max_values_stub, Reduce<"max">{});
  hook(min_values_stub, Reduce<"min">{});
  hook(argmax_stub, Place<"argmax">{});
  hook(argmin_stub, Place<"argmin">{});
  hook(max_stub, Extreme<"argmax">{});
  hook(min_stub, Extreme<"argmin">{});
  hook(max_all_stub, All<"max">{});
  hook(min_all_stub, All<"min">{});
  hook(norm_stub, [](const at::TensorIteratorBase& iter, const c10::Scalar& order) {
    double p = order.toDouble();
    return p == 2.0      ? reduce(reduce_op<"norm2">(), iter)
        : p == 1.0       ? reduce(reduce_op<"sum_abs">(), iter)
        : p == 0.0       ? reduce(reduce_op<"count_nonzero">(), iter)
        : p == INFINITY  ? reduce(reduce_op<"max_abs">(), iter)
        : p == -INFINITY ? reduce(reduce_op<"min_abs">(), iter)
                         : power_norm(iter, p);
  });
  hook(std_var_stub, [](const at::TensorIterator& iter, double correction, bool root) {
    double count = static_cast<double>(iter.numel()) / static_cast<double>(iter.num_output_elements());
    double divisor = std::max(count - correction, 0.0);
    return reduce(root ? reduce_op<"std">() : reduce_op<"var">(), iter, 1.0 / divisor);
  });
  hook(cumsum_stub, Scan<0>{});
  hook(cumprod_stub, Scan<1>{});
  hook(logcumsumexp_stub, [](const at::Tensor& out, const at::Tensor& x, int64_t dim) {
    return Scan<4>{}(out, x, dim);
  });
}

} // namespace rivulet
