// Note [Memory of CPU kernels]
// A CPU kernel allocates its results from PyTorch's CPU allocator. Where the device computes in host memory, that
// allocator passes requests made inside an op on to the runtime, so that a result is a block already: it only changes
// its device, without a copy, and a large one is reused instead of being mapped anew for every op. Outside an op, and
// on the threads that a kernel starts, the allocator that was there before goes on serving.
#pragma once
#include <c10/core/Allocator.h>

namespace rivulet {

// Puts the allocator in place. Called once, while PyTorch is loaded.
void register_kernel_memory();

// Makes device memory of what a CPU kernel allocated inside an op. False, and nothing changed, where it is not ours.
bool claim_kernel_memory(c10::DataPtr& data);

// Memory that the allocator which was there before allocated and that nothing else refers to.
bool is_stock_memory(const c10::DataPtr& data);

// What the calling thread allocates on the CPU until it goes out of scope are blocks of its stream.
class KernelMemory {
 public:
  KernelMemory();
  ~KernelMemory();
  KernelMemory(const KernelMemory&) = delete;
  KernelMemory& operator=(const KernelMemory&) = delete;

 private:
  bool previous_;
};

} // namespace rivulet
