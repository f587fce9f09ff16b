#include "aten/kernel_threads.h"

#include <ATen/Parallel.h>
#include <dlfcn.h>

#include "rivulet.h"

namespace rivulet {

namespace {

// What PyTorch's kernels ask for their number of threads. Null where PyTorch was built without it.
struct Runtimes {
  // Of OpenMP, whose number is one of the calling thread.
  void (*set_threads)(int) = nullptr;
  // Of MKL. torch.set_num_threads gives it a number of the process, which it takes before OpenMP's; one of the calling
  // thread goes before both, 0 takes it away again.
  int (*set_mkl_threads)(int) = nullptr;

  Runtimes() {
    if (void* library = dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD)) {
      set_mkl_threads = reinterpret_cast<int (*)(int)>(dlsym(library, "MKL_Set_Num_Threads_Local"));
    }
    for (const char* name : {"libgomp.so.1", "libomp.so.5", "libiomp5.so", "libomp.dylib"}) {
      if (void* library = dlopen(name, RTLD_LAZY | RTLD_NOLOAD)) {
        set_threads = reinterpret_cast<void (*)(int)>(dlsym(library, "omp_set_num_threads"));
        return;
      }
    }
  }
};

const Runtimes& runtimes() {
  static const Runtimes runtimes;
  return runtimes;
}

int default_threads = 0;

// The calling thread's number; 0 for the default.
void set_kernel_threads(int threads) {
  runtimes().set_threads(threads == 0 ? default_threads : threads);
  if (runtimes().set_mkl_threads != nullptr) {
    runtimes().set_mkl_threads(threads);
  }
}

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
  ours_ = runtimes().set_threads != nullptr;
  set(rivulet_kernel_threads());
}

void KernelThreads::set(int threads) {
  if (!ours_ || threads <= 0) {
    return;
  }
  int limit = threads < default_threads ? threads : 0;
  if (limit == limit_) {
    return;
  }
  if (limit_ == 0 && at::get_num_threads() != default_threads) {
    ours_ = false;
    return;
  }
  set_kernel_threads(limit);
  limit_ = limit;
}

KernelThreads::~KernelThreads() {
  if (limit_ != 0) {
    set_kernel_threads(0);
  }
}

} // namespace rivulet
