#include "aten/kernel_memory.h"

#include <c10/core/CPUAllocator.h>

#include <cstring>

#include "aten/alias.h"
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
  Writer writer;
  uint32_t next;
  Entry entries[kCapacity];

  void note(void* data, rivulet_block* block) {
    entries[next++ % kCapacity] = {data, block};
  }
  rivulet_block* find(const void* data) const {
    for (uint32_t age = 1; age <= kCapacity && age <= next; ++age) {
      const Entry& entry = entries[(next - age) % kCapacity];
      if (entry.data == data) {
        return entry.block;
      }
    }
    return nullptr;
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
    bool native = recent.writer == Writer::Device;
    if (C10_LIKELY(recent.writer == Writer::Anybody) || bytes == 0 || (native && bytes <= kHostResultBytes)) {
      return stock->allocate(bytes);
    }
    return allocate_kernel_memory(bytes);
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

namespace {

c10::DataPtr allocate_with(decltype(&rivulet_alloc) allocate, size_t bytes) {
  void* data = nullptr;
  rivulet_block* block = nullptr;
  check(allocate(bytes, &data, &block));
  recent.note(data, block);
  // The context is the address: raw_allocate() insists on it.
  return {data, data, &free_kernel_memory, c10::Device(c10::kCPU)};
}

} // namespace

c10::DataPtr allocate_kernel_memory(size_t bytes) {
  return allocate_with(recent.writer == Writer::Host ? &rivulet_alloc_host : &rivulet_alloc, bytes);
}

c10::DataPtr written_kernel_memory(const void* data, size_t bytes) {
  auto memory = allocate_with(&rivulet_alloc_host, bytes);
  std::memcpy(memory.mutable_get(), data, bytes);
  return memory;
}

rivulet_block* operand_block(const c10::StorageImpl& storage) {
  const c10::DataPtr& data = storage.data_ptr();
  if (C10_LIKELY(data.get_deleter() == &keep_nothing || data.get_deleter() == &free_block)) {
    return static_cast<rivulet_block*>(data.get_context());
  }
  if (data.get_deleter() != &free_kernel_memory) {
    return data.get() && rivulet_holds(data.get()) ? rivulet_block_of(data.get()) : nullptr;
  }
  rivulet_block* block = recent.find(data.get());
  return C10_LIKELY(block) ? block : rivulet_block_of(data.get());
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

KernelMemory::KernelMemory(Writer writer) : previous_(recent.writer) {
  recent.writer = writer;
}

KernelMemory::~KernelMemory() {
  recent.writer = previous_;
  if (previous_ == Writer::Anybody) {
    recent.next = 0;
  }
}

} // namespace rivulet
