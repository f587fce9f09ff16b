#include "aten/kernel_memory.h"

#include <c10/core/CPUAllocator.h>

#include "runtime/allocator.h"
#include "runtime/status.h"

namespace rivulet {

namespace {

// What the calling thread has allocated in its present op, so that the block of an address is found without a search.
struct Recent {
  static constexpr uint32_t kCapacity = 8;
  struct Entry {
    void* data;
    rivulet_block* block;
  };
  bool inside;
  uint32_t next;
  Entry entries[kCapacity];

  void note(void* data, rivulet_block* block) {
    entries[next++ % kCapacity] = {data, block};
  }
  rivulet_block* take(void* data) {
    for (uint32_t age = 1; age <= kCapacity && age <= next; ++age) {
      Entry& entry = entries[(next - age) % kCapacity];
      if (entry.data == data) {
        entry.data = nullptr;
        return entry.block;
      }
    }
    return nullptr;
  }
};

thread_local Recent recent{};

rivulet_block* take_block(void* data) {
  rivulet_block* block = recent.take(data);
  return C10_LIKELY(block) ? block : rivulet_block_of(data);
}

c10::Allocator* stock = nullptr;

// oneDNN frees by address alone, what it got inside an op and what it got outside.
void free_kernel_memory(void* data) {
  if (!data) {
    return;
  }
  rivulet_block* block = recent.take(data);
  if (!block && rivulet_holds(data)) {
    block = rivulet_block_of(data);
    if (!block) {
      return; // after shutdown, or of the process that this one was forked from
    }
  }
  if (block) {
    rivulet_free(block);
  } else {
    stock->raw_deleter()(data);
  }
}

class KernelAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (C10_LIKELY(!recent.inside) || bytes == 0) {
      return stock->allocate(bytes);
    }
    void* data = nullptr;
    rivulet_block* block = nullptr;
    check(rivulet_alloc(bytes, &data, &block));
    recent.note(data, block);
    // The context is the address: raw_allocate() insists on it.
    return {data, data, &free_kernel_memory, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override {
    return &free_kernel_memory;
  }
  bool is_simple_data_ptr(const c10::DataPtr& data) const override {
    return stock->is_simple_data_ptr(data);
  }
  void copy_data(void* dest, const void* src, size_t count) const override {
    stock->copy_data(dest, src, count);
  }
};

} // namespace

void register_kernel_memory() {
  stock = c10::GetCPUAllocator();
  // Leaked, like every allocator: storages keep a pointer to theirs. The lowest priority, so that a program that sets
  // an allocator of its own gets it.
  c10::SetCPUAllocator(new KernelAllocator(), 0);
}

bool claim_kernel_memory(c10::DataPtr& data) {
  if (data.get_deleter() != &free_kernel_memory) {
    return false;
  }
  rivulet_block* block = take_block(data.get());
  if (C10_UNLIKELY(!block)) {
    return false;
  }
  void* address = data.release_context();
  data = {address, block, &free_block, kDevice};
  return true;
}

bool is_stock_memory(const c10::DataPtr& data) {
  return data.get_deleter() == stock->raw_deleter();
}

KernelMemory::KernelMemory() : previous_(recent.inside) {
  recent.inside = true;
}

KernelMemory::~KernelMemory() {
  recent.inside = previous_;
  recent.next = 0;
}

} // namespace rivulet
