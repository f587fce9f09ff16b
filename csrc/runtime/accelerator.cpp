#include "runtime/accelerator.h"

#include <ATen/detail/CUDAHooksInterface.h>
#include <unistd.h>

#include <cstring>

#include "runtime/hooks.h"

// Note [One accelerator a process]
// Autograd, pinned memory and torch.accelerator work for the one device type that at::getAccelerator() returns. It
// asks the hooks of each type isBuilt(), and two that say yes are an error at every backward. PyTorch's wheels for
// Linux are built with CUDA, so on a machine without a CUDA device CUDA's hooks have to say no for mps to have
// autograd. The hooks object exists by the time a backend is loaded and cannot be replaced through its registry, so
// its isBuilt() is answered through a copy of its vtable. Nothing else reads that slot.
// Beside a live CUDA device either can be chosen (RIVULET_ACCELERATOR); the other then has no autograd.

namespace rivulet {

namespace {

bool not_built(const void*) {
  return false;
}

// Index of a virtual member in its class's vtable (Itanium C++ ABI: a pointer to a virtual member function holds
// 1 + the slot's offset in bytes; on arm64 the 1 is in the adjustment word).
template <typename Member>
size_t vtable_slot(Member member) {
  uintptr_t words[2];
  static_assert(sizeof(member) == sizeof(words));
  std::memcpy(words, &member, sizeof(words));
#if defined(__aarch64__)
  return words[0] / sizeof(void*);
#else
  return (words[0] - 1) / sizeof(void*);
#endif
}

void silence_cuda_is_built() {
  auto* hooks = const_cast<at::CUDAHooksInterface*>(&at::detail::getCUDAHooks());
  if (!hooks->isBuilt()) {
    return;
  }
  // More slots than the interface has; what lies behind its end is copied but never called.
  constexpr size_t kSlots = 192;
  constexpr size_t kPrefix = 2; // offset to top, type_info
  auto*** vptr = reinterpret_cast<void***>(hooks);
  auto** copy = new void*[kPrefix + kSlots]; // leaked: the hooks object lives for ever
  std::memcpy(copy, *vptr - kPrefix, (kPrefix + kSlots) * sizeof(void*));
  copy[kPrefix + vtable_slot(&at::AcceleratorHooksInterface::isBuilt)] = reinterpret_cast<void*>(&not_built);
  *vptr = copy + kPrefix;
}

// Asking CUDA would initialise its driver and break a later fork; device files tell enough.
bool cuda_device_present() {
  return access("/dev/nvidiactl", F_OK) == 0 || access("/dev/kfd", F_OK) == 0 || access("/dev/dxg", F_OK) == 0;
}

} // namespace

void choose_accelerator(AcceleratorChoice choice) {
  bool mps = choice == AcceleratorChoice::Mps || (choice == AcceleratorChoice::Auto && !cuda_device_present());
  set_is_accelerator(mps);
  if (mps) {
    silence_cuda_is_built();
  }
}

} // namespace rivulet
