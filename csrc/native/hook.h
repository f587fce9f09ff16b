// A stub of PyTorch that leads to a native kernel; see Note [Native ops].
#pragma once
#include <ATen/native/DispatchStub.h>

#include <atomic>
#include <vector>

#include "native/scope.h"

namespace rivulet {

template <typename Stub, typename Native, typename Function = typename Stub::FnPtr>
struct Hook;

// CPU kernels end so: outputs of another type than the iterator's are converted.
template <typename T>
void finish(T& argument) {
  if constexpr (std::is_base_of_v<at::TensorIteratorBase, T>) {
    argument.cast_outputs();
  }
}

// `Native` takes what the stub takes and tells whether the device does the work. Outside native ops the CPU's kernel is
// called as before.
template <typename Stub, typename Native, typename... Args>
struct Hook<Stub, Native, void (*)(Args...)> {
  static inline void (*original)(Args...) = nullptr;

  static void call(Args... args) {
    if (C10_LIKELY(!in_native_op())) {
      original(args...);
    } else if (Native{}(args...)) {
      (finish(args), ...);
    } else {
      HostSection section;
      (section.note(args), ...);
      section.begin();
      original(args...);
    }
  }
};

// Stubs and what they are to lead to.
struct Slot {
  std::atomic<void*>* pointer;
  void** original;
  void* call;
};
std::vector<Slot>& slots();

// Prepares a hook. Called while PyTorch is loaded; nothing changes for the CPU before install_hooks().
template <typename Stub, typename Native>
void hook(Stub& stub, Native) {
  using at::native::DispatchStubImpl;
  using Installed = Hook<Stub, Native>;
  if (!stub.is_device_supported(c10::kCPU)) {
    return;
  }
  // The stub's one member; it has no accessor for the CPU's slot.
  static_assert(sizeof(Stub) == sizeof(DispatchStubImpl));
  auto& impl = reinterpret_cast<DispatchStubImpl&>(stub);
  // Made to choose its CPU kernel now, so that no thread does so later and takes the hook away.
  void* chosen = impl.get_call_ptr(
      c10::kCPU, reinterpret_cast<void*>(Stub::DEFAULT)
#ifdef HAVE_AVX512_CPU_DEFINITION
      , reinterpret_cast<void*>(Stub::AVX512)
#endif
#ifdef HAVE_AVX2_CPU_DEFINITION
      , reinterpret_cast<void*>(Stub::AVX2)
#endif
  );
  impl.cpu_dispatch_ptr.store(chosen, std::memory_order_relaxed);
  slots().push_back(
      {&impl.cpu_dispatch_ptr, reinterpret_cast<void**>(&Installed::original),
       reinterpret_cast<void*>(&Installed::call)});
}

} // namespace rivulet
