// c10's view of the runtime's memory.
#pragma once
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Storage.h>

#include "rivulet.h"

namespace rivulet {

inline const c10::Device kDevice{c10::kMPS, 0};

// The allocator behind every mps storage. Thread-safe; a new allocation belongs to the calling thread's stream.
c10::DeviceAllocator& device_allocator();

// The allocator that PyTorch has for mps now; null where there is none.
c10::Allocator* present_allocator();

// Host memory that the device may read in place; `is_pinned` is true for its pointers alone.
c10::Allocator& pinned_allocator();
bool is_pinned(const void* data);

// Deleter of every storage that owns a block; the DataPtr's context is the block.
void free_block(void* block);

// The block behind a storage, also where another library made the storage over our bytes. Null for storages
// without bytes and for memory that is not ours.
rivulet_block* block_of(const c10::StorageImpl& storage);

// A DataPtr that owns `bytes` fresh bytes; a null one for 0 bytes.
c10::DataPtr allocate_data(size_t bytes);
// The same, for bytes that the CPU writes first.
c10::DataPtr allocate_host_data(size_t bytes);

} // namespace rivulet
