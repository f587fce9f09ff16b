// Note [Hot ops]
// The CPU path of cpu_path.cpp takes any op from a stack of boxed values. For ops on small tensors that boxing costs
// as much as the op, so the ones that inference calls most have typed entries. They do nothing else differently.
#pragma once
#include <ATen/Operators.h>
#include <ATen/core/LegacyTypeDispatch.h>

#include <string>
#include <tuple>

#include "aten/cpu_path.h"
#include "aten/host_scope.h"
#include "aten/kernels.h"
#include "aten/takeover.h"
#include "native/nested.h"
#include "native/table.h"

namespace rivulet::hot {

using at::Tensor;

constexpr size_t kNotOurs = SIZE_MAX;

// Arguments that hold no tensor pass as they are.
template <typename T>
struct Lower {
  using Held = std::tuple<>;
  static Held in(Lowering&, const std::remove_reference_t<T>&) {
    return {};
  }
  static T out(Lowering&, Held, T value) {
    return static_cast<T>(value);
  }
};

template <bool write>
struct LowerTensor {
  using Held = size_t;
  static Held in(Lowering& lowering, const Tensor& tensor) {
    return lowering.device_operand(tensor, write) ? lowering.borrow(tensor, write) : kNotOurs;
  }
};

template <>
struct Lower<const Tensor&> : LowerTensor<false> {
  static const Tensor& out(Lowering& lowering, Held held, const Tensor& tensor) {
    return held == kNotOurs ? tensor : lowering.aliases().host(held);
  }
};

template <>
struct Lower<Tensor&> : LowerTensor<true> {
  static Tensor& out(Lowering& lowering, Held held, Tensor& tensor) {
    return held == kNotOurs ? tensor : const_cast<Tensor&>(lowering.aliases().host(held));
  }
};

template <>
struct Lower<const std::optional<Tensor>&> {
  // The optional that the kernel sees; `held` where it is a stand-in.
  struct Held {
    size_t held = kNotOurs;
    std::optional<Tensor> host;
  };
  static Held in(Lowering& lowering, const std::optional<Tensor>& tensor) {
    bool ours = tensor.has_value() && lowering.device_operand(*tensor, false);
    return {ours ? lowering.borrow(*tensor, false) : kNotOurs, std::nullopt};
  }
  static const std::optional<Tensor>& out(Lowering& lowering, Held& held, const std::optional<Tensor>& tensor) {
    if (held.held == kNotOurs) {
      return tensor;
    }
    held.host = lowering.aliases().host(held.held);
    return held.host;
  }
};

inline Tensor raise(AliasSet& aliases, Tensor result) {
  return aliases.restore(std::move(result));
}

template <typename... Results>
std::tuple<Results...> raise(AliasSet& aliases, std::tuple<Results...> results) {
  return std::apply(
      [&](auto&... result) { return std::tuple<Results...>{raise(aliases, std::move(result))...}; }, results);
}

template <typename T>
T raise(AliasSet&, T value) {
  return value;
}

struct Facts {
  uint32_t id;
  bool native;
  c10::DispatchKey native_key;
};

template <typename Op>
Facts facts_of() {
  c10::OperatorName name(Op::name, Op::overload_name);
  return {rivulet_op_id(c10::toString(name).c_str()), is_native(name), native_key(name)};
}

template <typename Op, typename Signature = typename Op::schema>
struct Hot;

template <typename Op, typename Result, typename... Args>
struct Hot<Op, Result(Args...)> {
  static Result call(Args... args) {
    Lowering lowering;
    // Braces: operands are noted from left to right.
    std::tuple<typename Lower<Args>::Held...> held{Lower<Args>::in(lowering, args)...};
    lowering.check(Op::name, false);
    static const Facts facts = facts_of<Op>();
    OpScope scope(facts.id, lowering, facts.native);
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    auto keys = lowering.keys(scope.is_native() ? facts.native_key : c10::DispatchKey::CPU);
    return run(lowering, keys, held, std::index_sequence_for<Args...>(), args...);
  }

 private:
  template <typename Held, size_t... I>
  static Result run(
      Lowering& lowering, c10::DispatchKeySet keys, Held& held, std::index_sequence<I...>, Args... args) {
    try {
      if constexpr (std::is_same_v<Result, Tensor&>) {
        // In place: the result is the first argument.
        Op::redispatch(keys, Lower<Args>::out(lowering, std::get<I>(held), args)...);
        lowering.aliases().carry_back();
        return std::get<0>(std::tie(args...));
      } else {
        return raise(
            lowering.aliases(),
            Op::redispatch(keys, Lower<Args>::out(lowering, std::get<I>(held), args)...));
      }
    } catch (const c10::Error& error) {
      rethrow_as_device_error(error, Op::name);
    }
  }
};

template <typename Op>
void take(torch::Library& aten) {
  auto op = c10::Dispatcher::singleton().findSchema({Op::name, Op::overload_name});
  if (op && has_ours(*op, c10::DispatchKey::MPS)) {
    return; // has a shorter way
  }
  aten.impl(
      c10::toString(c10::OperatorName(Op::name, Op::overload_name)).c_str(),
      torch::CppFunction::makeFromUnboxedFunction(TORCH_FN((Hot<Op>::call))));
}

template <typename... Ops>
void take_all(torch::Library& aten) {
  (take<Ops>(aten), ...);
}

} // namespace rivulet::hot
