#include "aten/kernel_threads.h"

#include <ATen/Parallel.h>
#include <dlfcn.h>

#include "rivulet.h"

namespace rivulet {

namespace {

// The OpenMP runtime that PyTorch has loaded; both null where it uses another way to run in parallel.
struct OpenMp {
  int (*threads)() = nullptr;
  void (*set_threads)(int) = nullptr;

  OpenMp() {
    for (const char* name : {"libgomp.so.1", "libomp.so.5", "libiomp5.so", "libomp.dylib"}) {
      if (void* library = dlopen(name, RTLD_LAZY | RTLD_NOLOAD)) {
        threads = reinterpret_cast<int (*)()>(dlsym(library, "omp_get_max_threads"));
        set_threads = reinterpret_cast<void (*)(int)>(dlsym(library, "omp_set_num_threads"));
        return;
      }
    }
  }
};

const OpenMp& open_mp() {
  static const OpenMp open_mp;
  return open_mp;
}

} // namespace

KernelThreads::KernelThreads() {
  int share = rivulet_kernel_threads();
  if (share <= 0) {
    return;
  }
  static const int all = at::intraop_default_num_threads();
  if (share >= all || !open_mp().set_threads) {
    return;
  }
  // Per thread in OpenMP. Anything but the default was chosen by the user.
  if (open_mp().threads() == all) {
    previous_ = all;
    open_mp().set_threads(share);
  }
}

KernelThreads::~KernelThreads() {
  if (previous_ != 0) {
    open_mp().set_threads(previous_);
  }
}

} // namespace rivulet
