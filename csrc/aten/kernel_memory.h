// Note [Memory of CPU kernels]
// A CPU kernel allocates its results from PyTorch's CPU allocator. Where the device computes in host memory, that
// allocator passes requests made inside an op on to the runtime, so that a result is a block already: it only changes
// its device, without a copy, and a large one is reused instead of being mapped anew for every op. Outside an op, and
// on the threads that a kernel starts, the allocator that was there before goes on serving.
//
// Inside a native op nothing but kernels of the device may touch a block. What PyTorch writes on the CPU there are
// single numbers, so that requests of that size stay in the CPU's own memory.
#pragma once
#include <c10/core/Allocator.h>
#include <c10/core/StorageImpl.h>

#include "rivulet.h"

namespace rivulet {

// Requests up to this size are served in the CPU's own memory inside a native op.
constexpr size_t kHostResultBytes = 16;

// Puts the allocator in place. Called once, while PyTorch is loaded.
void register_kernel_memory();

// Makes device memory of what a CPU kernel allocated inside an op. False, and nothing changed, where it is not ours.
bool claim_kernel_memory(c10::DataPtr& data);

// Memory that the allocator which was there before allocated and that nothing else refers to.
bool is_stock_memory(const c10::DataPtr& data);

// The block behind a CPU storage: of a stand-in, or of what was allocated inside an op. Null where there is none.
rivulet_block* operand_block(const c10::StorageImpl& storage);

// A block as what a CPU kernel allocates inside an op.
c10::DataPtr allocate_kernel_memory(size_t bytes);
// The same with a copy of the CPU's bytes.
c10::DataPtr written_kernel_memory(const void* data, size_t bytes);

// Who writes what the calling thread allocates.
enum class Writer : uint8_t {
  Anybody, // no op
  Host,    // a CPU kernel
  Device,  // kernels of the device
};

// What the calling thread allocates on the CPU until it goes out of scope are blocks of its stream.
class KernelMemory {
 public:
  explicit KernelMemory(Writer writer);
  ~KernelMemory();
  KernelMemory(const KernelMemory&) = delete;
  KernelMemory& operator=(const KernelMemory&) = delete;

 private:
  Writer previous_;
};

} // namespace rivulet
