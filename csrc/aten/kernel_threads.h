// Note [Threads inside a CPU kernel]
// PyTorch's CPU kernels split themselves over all cores. Several threads that each do so get in each other's way, so
// while others are inside an op too, a kernel uses its share of the cores only. A number that the user has chosen, by
// torch.set_num_threads or the environment, stays.
#pragma once

namespace rivulet {

// Remembers the number of threads that kernels use where nobody has chosen one. Called once, while PyTorch is loaded.
void note_default_kernel_threads();

// Limits the calling thread's kernels until it goes out of scope. Only inside a HostScope.
class KernelThreads {
 public:
  KernelThreads();
  ~KernelThreads();
  // From now on this many; 0 leaves them as they are.
  void set(int threads);
  KernelThreads(const KernelThreads&) = delete;
  KernelThreads& operator=(const KernelThreads&) = delete;

 private:
  // 0 where nothing was changed.
  int limit_ = 0;
  // False where the user chose the number.
  bool ours_;
};

} // namespace rivulet
