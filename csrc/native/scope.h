// Note [Native ops]
// PyTorch's ops do their work on the CPU in inner kernels that they reach through stubs: at::native::add_stub gets an
// iterator with the operands laid out, types settled and the output allocated. On an adapter with kernels, the stubs
// lead to those (native/hook.h). An op is PyTorch's own up to there, so that shapes, types, errors and aliasing are
// PyTorch's too.
//
// A native op runs on stand-ins like the CPU path, but nothing waits for the device and nobody may touch the bytes: an
// op is native only where PyTorch reaches data through stubs that are ours (native/table.cpp). What a stub's kernel
// cannot take goes to the CPU kernel that was there before, in a HostSection. Ops that PyTorch calls inside another
// and that touch data without a stub, such as copy_, are redirected by a dispatch key that is switched on for the time
// of the op.
#pragma once
#include <ATen/TensorIterator.h>
#include <ATen/core/IListRef.h>
#include <ATen/core/Tensor.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <optional>
#include <string_view>

#include "aten/host_scope.h"
#include "rivulet.h"

namespace rivulet {

// True where the adapter in use has kernels. Opens the device where none is open.
bool has_kernels();

// The key that nested ops of a native op go through.
constexpr c10::DispatchKey kNested = c10::DispatchKey::TESTING_ONLY_GenericMode;

const c10::DispatchKeySet kCpu(c10::DispatchKey::CPU);

// The native op that the calling thread is in; RIVULET_NO_OP outside.
uint32_t current_native_op();
inline bool in_native_op() {
  return current_native_op() != RIVULET_NO_OP;
}

// The calling thread is in a native op until it goes out of scope.
class NativeScope {
 public:
  explicit NativeScope(uint32_t op);
  ~NativeScope();
  NativeScope(const NativeScope&) = delete;
  NativeScope& operator=(const NativeScope&) = delete;

 private:
  uint32_t previous_;
  KernelMemory memory_;
  c10::impl::ForceDispatchKeyGuard nested_;
};

// True for an operand that an op changes though its schema does not mark it.
bool writes_unmarked(std::string_view op, size_t index);

// Inside a native op: operands' bytes are the CPU's from begin() until it goes out of scope. Counted as a fallback of
// the op where an operand is the device's.
class HostSection {
 public:
  HostSection() = default;
  void add(const at::TensorIteratorBase& iter);
  void add(const at::TensorBase& tensor, bool write = true);
  // Any argument of a kernel.
  template <typename T>
  void note(const T& argument, bool write = true) {
    if constexpr (std::is_base_of_v<at::TensorIteratorBase, T>) {
      add(argument);
    } else if constexpr (std::is_base_of_v<at::TensorBase, T>) {
      add(argument, write);
    } else if constexpr (std::is_same_v<T, std::optional<at::Tensor>> || std::is_same_v<T, at::Tensor*>) {
      if (argument) {
        add(*argument, write);
      }
    } else if constexpr (std::is_same_v<T, at::ITensorListRef>) {
      for (const at::Tensor& tensor : argument) {
        add(tensor, write);
      }
    }
  }
  // A boxed argument.
  void note_value(const c10::IValue& value, bool write);
  void begin() {
    begin(current_native_op());
  }
  // As something else than the op, which is not counted: what the user asked for.
  void begin(uint32_t label);

 private:
  c10::SmallVector<rivulet_operand, 8> operands_;
  struct Inside {
    Inside(uint32_t label, const rivulet_operand* operands, size_t count);
    ~Inside();
    // Without operands of the device nothing has to wait, and what is allocated is the CPU's own.
    std::optional<HostScope> scope;
    std::optional<KernelMemory> memory;
    c10::impl::ExcludeDispatchKeyGuard not_nested;
    uint32_t op;
  };
  std::optional<Inside> inside_;
};

template <typename Op, typename Signature = typename Op::schema>
struct OnTheHost;

template <typename Op, typename Outcome, typename... Args>
struct OnTheHost<Op, Outcome(Args...)> {
  static Outcome call(Args... args) {
    HostSection section;
    size_t index = 0;
    auto writes = [&](bool marked) { return writes_unmarked(Op::name, index++) || marked; };
    (section.note(args, writes(std::is_same_v<Args, at::Tensor&>)), ...);
    section.begin();
    return Op::redispatch(kCpu, std::forward<Args>(args)...);
  }
};

// Inside a native op: an op of at::_ops by the CPU's kernel, for what there is no kernel of ours for.
template <typename Op, typename... Given>
decltype(auto) on_the_host(Given&&... given) {
  return OnTheHost<Op>::call(std::forward<Given>(given)...);
}

} // namespace rivulet
