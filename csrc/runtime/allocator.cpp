#include "runtime/allocator.h"

#include <cstring>
#include <mutex>
#include <unordered_set>

#include "runtime/status.h"

namespace rivulet {

namespace {

c10::CachingAllocator::Stat stat(uint64_t current, uint64_t peak, uint64_t allocated, uint64_t freed) {
  c10::CachingAllocator::Stat s;
  s.current = static_cast<int64_t>(current);
  s.peak = static_cast<int64_t>(peak);
  s.allocated = static_cast<int64_t>(allocated);
  s.freed = static_cast<int64_t>(freed);
  return s;
}

class MpsAllocator final : public c10::DeviceAllocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    return allocate_data(bytes);
  }
  c10::DeleterFnPtr raw_deleter() const override {
    return nullptr; // the context is the block, never the data pointer
  }
  // The one caller is clone() of a DataPtr, which PyTorch uses for host-visible memory.
  void copy_data(void* dest, const void* src, size_t count) const override {
    std::memcpy(dest, src, count);
  }
  bool initialized() override {
    return true;
  }
  void emptyCache(c10::MempoolId_t) override {
    check(rivulet_empty_cache());
  }
  void recordStream(const c10::DataPtr&, c10::Stream) override {
    // Every use of a block is stamped by the runtime; the call is a hint that adds nothing.
  }
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex) override {
    rivulet_memory_stats m;
    check(rivulet_memory(&m));
    c10::CachingDeviceAllocator::DeviceStats s;
    constexpr auto kAll = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    s.allocation[kAll] = stat(m.active_blocks, m.active_blocks, m.alloc_count, m.free_count);
    s.active[kAll] = s.allocation[kAll];
    s.allocated_bytes[kAll] = stat(m.allocated, m.peak_allocated, m.alloc_bytes, m.free_bytes);
    s.requested_bytes[kAll] = s.allocated_bytes[kAll];
    s.active_bytes[kAll] = s.allocated_bytes[kAll];
    s.reserved_bytes[kAll] = stat(m.reserved, m.peak_reserved, m.reserved, 0);
    s.num_ooms = static_cast<int64_t>(m.ooms);
    s.num_alloc_retries = static_cast<int64_t>(m.retries);
    return s;
  }
  void resetAccumulatedStats(c10::DeviceIndex) override {
    check(rivulet_memory_reset(0));
  }
  void resetPeakStats(c10::DeviceIndex) override {
    check(rivulet_memory_reset(1));
  }
  std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex) override {
    rivulet_memory_stats m;
    check(rivulet_memory(&m));
    size_t total = m.recommended_max;
    size_t used = m.driver < total ? m.driver : total;
    return {total - used, total};
  }
};

// Pointers handed out by the pinned allocator. Pinned tensors are few and long-lived; a lock is enough.
std::mutex pinned_mutex;
std::unordered_set<const void*>& pinned_pointers() {
  static auto* set = new std::unordered_set<const void*>();
  return *set;
}

struct Pinned {
  void* data;
  rivulet_block* block;
};

void free_pinned(void* context) {
  // A forked child may have inherited the lock in a locked state, and the memory is its parent's to free.
  if (rivulet_in_bad_fork()) {
    return;
  }
  auto* pinned = static_cast<Pinned*>(context);
  {
    std::lock_guard<std::mutex> lock(pinned_mutex);
    pinned_pointers().erase(pinned->data);
  }
  rivulet_free(pinned->block);
  delete pinned;
}

class PinnedAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) {
      return {nullptr, nullptr, nullptr, c10::Device(c10::kCPU)};
    }
    auto pinned = std::make_unique<Pinned>();
    check(rivulet_alloc(bytes, &pinned->data, &pinned->block));
    {
      std::lock_guard<std::mutex> lock(pinned_mutex);
      pinned_pointers().insert(pinned->data);
    }
    void* data = pinned->data;
    return {data, pinned.release(), &free_pinned, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override {
    return nullptr;
  }
  void copy_data(void* dest, const void* src, size_t count) const override {
    std::memcpy(dest, src, count);
  }
};

} // namespace

// Both are leaked: tensors may be freed after static destructors have run.
c10::DeviceAllocator& device_allocator() {
  static auto* allocator = new MpsAllocator();
  return *allocator;
}

c10::Allocator* present_allocator() {
  try {
    return c10::GetAllocator(c10::kMPS);
  } catch (const c10::Error&) {
    return nullptr; // how PyTorch says that there is none
  }
}

c10::Allocator& pinned_allocator() {
  static auto* allocator = new PinnedAllocator();
  return *allocator;
}

bool is_pinned(const void* data) {
  if (rivulet_in_bad_fork()) {
    return false;
  }
  std::lock_guard<std::mutex> lock(pinned_mutex);
  return pinned_pointers().count(data) != 0;
}

void free_block(void* block) {
  rivulet_free(static_cast<rivulet_block*>(block));
}

rivulet_block* block_of(const c10::StorageImpl& storage) {
  const c10::DataPtr& data = storage.data_ptr();
  if (C10_LIKELY(data.get_deleter() == &free_block)) {
    return static_cast<rivulet_block*>(data.get_context());
  }
  return data.get() ? rivulet_block_of(data.get()) : nullptr;
}

namespace {

template <typename Allocate>
c10::DataPtr allocate_with(Allocate allocate, size_t bytes) {
  if (bytes == 0) {
    return {nullptr, nullptr, nullptr, kDevice};
  }
  void* data = nullptr;
  rivulet_block* block = nullptr;
  check(allocate(bytes, &data, &block));
  return {data, block, &free_block, kDevice};
}

} // namespace

c10::DataPtr allocate_data(size_t bytes) {
  return allocate_with(rivulet_alloc, bytes);
}

c10::DataPtr allocate_host_data(size_t bytes) {
  return allocate_with(rivulet_alloc_host, bytes);
}

} // namespace rivulet
