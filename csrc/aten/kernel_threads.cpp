#include "aten/kernel_threads.h"

#include <ATen/Parallel.h>
#include <dlfcn.h>

#include "rivulet.h"

namespace rivulet {

namespace {

// The OpenMP runtime that PyTorch has loaded; null where it uses another way to run in parallel.
struct OpenMp {
  void (*set_threads)(int) = nullptr;

  OpenMp() {
    for (const char* name : {"libgomp.so.1", "libomp.so.5", "libiomp5.so", "libomp.dylib"}) {
      if (void* library = dlopen(name, RTLD_LAZY | RTLD_NOLOAD)) {
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

int default_threads = 0;

} // namespace

void note_default_kernel_threads() {
  default_threads = at::get_num_threads();
}

KernelThreads::KernelThreads() {
  // PyTorch gives a thread the user's number when the thread is first asked for it, which some kernels never do.
  static thread_local const int asked = at::get_num_threads();
  (void)asked;
  // A number of this thread in OpenMP, which PyTorch sets when it is first asked for. Anything but the default was
  // chosen by the user.
  ours_ = open_mp().set_threads != nullptr;
  follow();
}

void KernelThreads::follow() {
  if (!ours_) {
    return;
  }
  int share = rivulet_kernel_threads();
  if (share <= 0) {
    return;
  }
  int limit = share < default_threads ? share : 0;
  if (limit == limit_) {
    return;
  }
  if (limit_ == 0 && at::get_num_threads() != default_threads) {
    ours_ = false;
    return;
  }
  open_mp().set_threads(limit == 0 ? default_threads : limit);
  limit_ = limit;
}

KernelThreads::~KernelThreads() {
  if (limit_ != 0) {
    open_mp().set_threads(default_threads);
  }
}

} // namespace rivulet
