// A CPU access to device memory as an operation of the calling thread's stream.
#pragma once
#include <optional>

#include "aten/kernel_memory.h"
#include "aten/kernel_threads.h"
#include "runtime/status.h"

namespace rivulet {

// Waits for conflicting work on the operands and holds them until it goes out of scope. Never outlives the op.
class HostScope {
 public:
  HostScope(uint32_t op, const rivulet_operand* operands, size_t count) {
    check(rivulet_host_begin(op, operands, count, &scope_));
    inside_.emplace();
  }
  template <typename Operands>
  HostScope(uint32_t op, const Operands& operands) : HostScope(op, operands.data(), operands.size()) {}
  ~HostScope() {
    inside_.reset();
    rivulet_host_end(&scope_);
  }
  // The kernels from here on use so many threads; 0 leaves them as they are.
  void set_threads(int threads) {
    inside_->threads.set(threads);
  }
  HostScope(const HostScope&) = delete;
  HostScope& operator=(const HostScope&) = delete;

 private:
  rivulet_host_scope scope_;
  struct Inside {
    KernelThreads threads;
    KernelMemory memory{Writer::Host};
  };
  std::optional<Inside> inside_;
};

} // namespace rivulet
