#include "aten/alias.h"

#include <ATen/Functions.h>
#include <c10/core/CPUAllocator.h>

#include <cstring>

#include "aten/sparse.h"
#include "runtime/allocator.h"
#include "runtime/status.h"

namespace rivulet {

namespace {

// Below this a copy into a cached block is cheaper than registering foreign memory.
constexpr size_t kAdoptThreshold = 16 * 1024;

const c10::DispatchKeySet kHostKeys(c10::DispatchKey::CPU);
const c10::DispatchKeySet kDeviceKeys(c10::DispatchKey::MPS);

void keep_nothing(void*) {}

void drop_data(void* owner) {
  delete static_cast<c10::DataPtr*>(owner);
}

// Takes over memory that a CPU kernel allocated.
c10::DataPtr adopt(c10::DataPtr&& host, size_t nbytes) {
  void* data = host.mutable_get();
  rivulet_block* block = nullptr;
  auto* owner = new c10::DataPtr(std::move(host));
  int32_t status = rivulet_adopt(data, nbytes, owner, &drop_data, &block);
  if (status != RIVULET_OK) {
    delete owner;
    raise_status(status);
  }
  return {data, block, &free_block, kDevice};
}

c10::DataPtr data_to_device(c10::DataPtr&& host, size_t nbytes) {
  if (nbytes == 0) {
    return allocate_data(0);
  }
  // Only memory of the CPU's own allocator is ours to keep; anything else may be freed or changed behind us.
  bool ordinary = host.get_deleter() == c10::GetCPUAllocator()->raw_deleter();
  if (nbytes >= kAdoptThreshold && ordinary) {
    return adopt(std::move(host), nbytes);
  }
  c10::DataPtr device = allocate_data(nbytes);
  std::memcpy(device.mutable_get(), host.get(), nbytes);
  return device;
}

void copy_bits(const at::Tensor& from, const at::Tensor& to) {
  if (C10_UNLIKELY(from.is_conj())) {
    to._set_conj(true);
  }
  if (C10_UNLIKELY(from.is_neg())) {
    to._set_neg(true);
  }
}

at::Tensor make_like(const at::Tensor& meta, c10::Storage storage, c10::DispatchKeySet keys) {
  auto result = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), keys, meta.dtype());
  result.unsafeGetTensorImpl()->set_sizes_and_strides(meta.sizes(), meta.strides(), meta.storage_offset());
  copy_bits(meta, result);
  return result;
}

bool is_plain(const at::Tensor& tensor) {
  return tensor.layout() == c10::kStrided && tensor.has_storage();
}

} // namespace

AliasSet::Storage& AliasSet::alias_storage(const at::Tensor& tensor, bool write) {
  c10::StorageImpl* device = tensor.storage().unsafeGetStorageImpl();
  for (auto& known : storages_) {
    if (known.device == device) {
      if (write && !known.host.resizable()) {
        known.host.unsafeGetStorageImpl()->set_resizable(true);
        operands_.push_back({block_of(*device), 1});
      }
      return known;
    }
  }
  void* data = const_cast<void*>(device->data_ptr().get());
  size_t nbytes = device->nbytes();
  rivulet_block* block = block_of(*device);
  if (block != nullptr) {
    operands_.push_back({block, write ? 1u : 0u});
  }
  c10::Storage host(
      c10::Storage::use_byte_size_t(),
      nbytes,
      c10::DataPtr(data, nullptr, &keep_nothing, c10::Device(c10::kCPU)),
      c10::GetCPUAllocator(),
      /*resizable=*/write);
  storages_.push_back({device, std::move(host), data, nbytes});
  return storages_.back();
}

at::Tensor AliasSet::alias(const at::Tensor& tensor, bool write) {
  if (!tensor.defined() || !tensor.is_mps()) {
    return tensor;
  }
  for (auto& entry : entries_) {
    if (entry.device.is_same(tensor)) {
      if (write && !entry.write) {
        entry.write = true;
        if (is_plain(tensor)) {
          alias_storage(tensor, true);
        }
      }
      return entry.host;
    }
  }
  if (C10_UNLIKELY(!is_plain(tensor))) {
    return alias_sparse(tensor, write);
  }
  auto host = make_like(tensor, alias_storage(tensor, write).host, kHostKeys);
  entries_.push_back({tensor, host, write});
  return host;
}

at::Tensor AliasSet::alias_sparse(const at::Tensor& tensor, bool write) {
  auto host = sparse_like(tensor, c10::Device(c10::kCPU), [&](const at::Tensor& part) { return alias(part, write); });
  entries_.push_back({tensor, host, write});
  return host;
}

// A kernel that resized its output has put fresh CPU memory into the stand-in.
void AliasSet::carry_back_storage(Storage& storage) {
  auto* host = storage.host.unsafeGetStorageImpl();
  if (host->data_ptr().get() == storage.data && host->nbytes() == storage.nbytes) {
    return;
  }
  size_t nbytes = host->nbytes();
  c10::DataPtr fresh = host->set_data_ptr(c10::DataPtr(nullptr, c10::Device(c10::kCPU)));
  TORCH_CHECK(
      storage.device->resizable(), "Trying to resize storage that is not resizable");
  storage.device->set_data_ptr_noswap(data_to_device(std::move(fresh), nbytes));
  storage.device->set_nbytes(nbytes);
  storage.data = storage.device->mutable_data();
  storage.nbytes = nbytes;
}

void AliasSet::carry_back() {
  for (auto& storage : storages_) {
    if (storage.host.resizable()) {
      carry_back_storage(storage);
    }
  }
  for (auto& entry : entries_) {
    if (!entry.write) {
      continue;
    }
    if (C10_UNLIKELY(!is_plain(entry.host))) {
      carry_back_sparse(entry.host, entry.device, [&](at::Tensor part) { return restore(std::move(part)); });
      continue;
    }
    auto* device = entry.device.unsafeGetTensorImpl();
    // set_() and friends may have given the stand-in another operand's storage.
    if (C10_UNLIKELY(entry.host.sizes() != entry.device.sizes() || entry.host.strides() != entry.device.strides() ||
                     entry.host.storage_offset() != entry.device.storage_offset())) {
      device->set_sizes_and_strides(entry.host.sizes(), entry.host.strides(), entry.host.storage_offset());
    }
  }
}

at::Tensor AliasSet::restore(at::Tensor result) {
  if (!result.defined() || !result.is_cpu()) {
    return result;
  }
  for (auto& entry : entries_) {
    if (entry.host.is_same(result)) {
      return entry.device;
    }
  }
  if (C10_UNLIKELY(!is_plain(result))) {
    return sparse_like(result, kDevice, [&](const at::Tensor& part) { return restore(part); });
  }
  auto* storage = result.storage().unsafeGetStorageImpl();
  for (auto& known : storages_) {
    if (known.host.unsafeGetStorageImpl() == storage) {
      return make_like(
          result, c10::Storage(c10::intrusive_ptr<c10::StorageImpl>::reclaim_copy(known.device)), kDeviceKeys);
    }
  }
  return to_device(std::move(result));
}

at::Tensor to_device(at::Tensor host) {
  auto* impl = host.unsafeGetTensorImpl();
  c10::StorageImpl* storage = host.storage().unsafeGetStorageImpl();
  bool fresh = host.use_count() == 1 && host.storage().use_count() == 1 && impl->allow_tensor_metadata_change();
  if (!fresh) {
    // Somebody else keeps this CPU tensor: it stays what it is.
    auto nbytes = storage->nbytes();
    c10::DataPtr data = allocate_data(nbytes);
    if (nbytes != 0) {
      std::memcpy(data.mutable_get(), storage->data(), nbytes);
    }
    c10::Storage copy(
        c10::Storage::use_byte_size_t(), nbytes, std::move(data), &device_allocator(), /*resizable=*/true);
    return make_like(host, std::move(copy), kDeviceKeys);
  }
  // Nobody else has seen it: tensor and storage change their device in place.
  c10::DataPtr data = storage->set_data_ptr(c10::DataPtr(nullptr, kDevice));
  storage->set_data_ptr_noswap(data_to_device(std::move(data), storage->nbytes()));
  storage->set_allocator(&device_allocator());
  impl->_change_backend_component_keys(kDevice);
  impl->set_storage_keep_dtype(host.storage());
  return host;
}

} // namespace rivulet
