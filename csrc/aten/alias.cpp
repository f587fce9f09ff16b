#include "aten/alias.h"

#include <ATen/Functions.h>
#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <cstring>

#include "aten/kernel_memory.h"
#include "aten/sparse.h"
#include "native/scope.h"
#include "runtime/allocator.h"
#include "runtime/status.h"

namespace rivulet {

namespace {

// Below this a copy into a cached block is cheaper than registering foreign memory.
constexpr size_t kAdoptThreshold = 16 * 1024;

const c10::DispatchKeySet kHostKeys(c10::DispatchKey::CPU);
const c10::DispatchKeySet kDeviceKeys(c10::DispatchKey::MPS);

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
  if (C10_LIKELY(claim_kernel_memory(host))) {
    return std::move(host);
  }
  // Only memory of the CPU's own allocator is ours to keep; anything else may be freed or changed behind us. A GPU
  // cannot use it where it is.
  if (nbytes >= kAdoptThreshold && is_stock_memory(host) && !has_kernels()) {
    return adopt(std::move(host), nbytes);
  }
  c10::DataPtr device = allocate_host_data(nbytes);
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

namespace {

// Stand-ins that no op uses at the moment, each with a storage of its own.
struct Pool {
  static constexpr size_t kCapacity = 8;
  c10::SmallVector<at::Tensor, kCapacity> idle;
};

Pool& pool() {
  static thread_local Pool pool;
  return pool;
}

c10::DataPtr borrowed(void* data, rivulet_block* block) {
  return {data, block, &keep_nothing, c10::Device(c10::kCPU)};
}

// A CPU tensor with the metadata of `meta` over `data`.
at::Tensor make_stand_in(const at::Tensor& meta, void* data, rivulet_block* block, size_t nbytes, bool resizable) {
  auto& idle = pool().idle;
  if (idle.empty()) {
    c10::Storage storage(
        c10::Storage::use_byte_size_t(), nbytes, borrowed(data, block), c10::GetCPUAllocator(), resizable);
    return make_like(meta, std::move(storage), kHostKeys);
  }
  at::Tensor host = std::move(idle.back());
  idle.pop_back();
  auto* storage = host.storage().unsafeGetStorageImpl();
  storage->set_data_ptr_noswap(borrowed(data, block));
  storage->set_nbytes(nbytes);
  storage->set_resizable(resizable);
  auto* impl = host.unsafeGetTensorImpl();
  if (impl->dtype() != meta.dtype()) {
    impl->set_storage_and_dtype(host.storage(), meta.dtype());
  }
  impl->set_sizes_and_strides(meta.sizes(), meta.strides(), meta.storage_offset());
  copy_bits(meta, host);
  return host;
}

// Puts a stand-in back where nobody else has kept it or its storage.
void recycle(at::Tensor&& host) {
  auto& idle = pool().idle;
  if (idle.size() < Pool::kCapacity && host.use_count() == 1 && host.storage().use_count() == 1 &&
      !host.is_conj() && !host.is_neg()) {
    host.storage().unsafeGetStorageImpl()->set_data_ptr_noswap(borrowed(nullptr, nullptr));
    idle.push_back(std::move(host));
  }
}

} // namespace

void keep_nothing(void*) {}

AliasSet::~AliasSet() {
  for (auto& entry : entries_) {
    if (entry.pooled) {
      recycle(std::move(entry.host));
    }
  }
}

AliasSet::Storage* AliasSet::find_storage(const c10::StorageImpl* device) {
  for (auto& storage : storages_) {
    if (storage.device == device) {
      return &storage;
    }
  }
  return nullptr;
}

void AliasSet::allow_write(Storage& storage) {
  writes_ = true;
  if (!storage.write) {
    storage.write = true;
    storage.host->set_resizable(true);
    if (auto* block = block_of(*storage.device)) {
      operands_.push_back({block, 1});
    }
  }
}

size_t AliasSet::push(c10::MaybeOwned<at::Tensor> tensor, at::Tensor host, bool write, bool pooled) {
  entries_.push_back({std::move(tensor), std::move(host), write, pooled});
  return entries_.size() - 1;
}

size_t AliasSet::add(c10::MaybeOwned<at::Tensor> owned, bool write) {
  const at::Tensor& tensor = *owned;
  for (size_t index = 0; index < entries_.size(); ++index) {
    Entry& entry = entries_[index];
    if (entry.device->is_same(tensor)) {
      if (C10_UNLIKELY(write && !entry.write)) {
        entry.write = writes_ = true;
        if (is_plain(tensor)) {
          allow_write(*find_storage(tensor.storage().unsafeGetStorageImpl()));
        }
      }
      return index;
    }
  }
  writes_ = writes_ || write;
  if (C10_UNLIKELY(!is_plain(tensor))) {
    auto part = [&](const at::Tensor& component) { return alias(component, write); };
    auto host = sparse_like(tensor, c10::Device(c10::kCPU), part);
    return push(std::move(owned), std::move(host), write, false);
  }
  auto* device = tensor.storage().unsafeGetStorageImpl();
  if (auto* known = find_storage(device)) {
    if (write) {
      allow_write(*known);
    }
    c10::Storage storage(c10::intrusive_ptr<c10::StorageImpl>::reclaim_copy(known->host));
    return push(std::move(owned), make_like(tensor, std::move(storage), kHostKeys), write, false);
  }
  void* data = const_cast<void*>(device->data_ptr().get());
  size_t nbytes = device->nbytes();
  auto* block = block_of(*device);
  if (block) {
    operands_.push_back({block, write ? 1u : 0u});
  }
  auto host = make_stand_in(tensor, data, block, nbytes, write);
  storages_.push_back({device, host.storage().unsafeGetStorageImpl(), data, nbytes, write});
  return push(std::move(owned), std::move(host), write, true);
}

// A kernel that resized its output has put fresh CPU memory into the stand-in.
void AliasSet::carry_back_storage(Storage& storage) {
  auto* host = storage.host;
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
  if (!writes_) {
    return;
  }
  for (auto& storage : storages_) {
    if (storage.write) {
      carry_back_storage(storage);
    }
  }
  for (auto& entry : entries_) {
    if (!entry.write) {
      continue;
    }
    if (C10_UNLIKELY(!is_plain(entry.host))) {
      carry_back_sparse(entry.host, *entry.device, [&](at::Tensor part) { return restore(std::move(part)); });
      continue;
    }
    const at::Tensor& tensor = *entry.device;
    if (C10_UNLIKELY(entry.host.sizes() != tensor.sizes() || entry.host.strides() != tensor.strides() ||
                     entry.host.storage_offset() != tensor.storage_offset())) {
      tensor.unsafeGetTensorImpl()->set_sizes_and_strides(entry.host.sizes(), entry.host.strides(), entry.host.storage_offset());
    }
  }
}

at::Tensor AliasSet::restore(at::Tensor result) {
  if (!result.defined() || !result.is_cpu()) {
    return result;
  }
  for (auto& entry : entries_) {
    if (entry.host.is_same(result)) {
      return *entry.device;
    }
  }
  if (C10_UNLIKELY(!is_plain(result))) {
    return sparse_like(result, kDevice, [&](const at::Tensor& part) { return restore(part); });
  }
  auto* storage = result.storage().unsafeGetStorageImpl();
  for (auto& known : storages_) {
    if (known.host == storage) {
      return make_like(
          result, c10::Storage(c10::intrusive_ptr<c10::StorageImpl>::reclaim_copy(known.device)), kDeviceKeys);
    }
  }
  return to_device(std::move(result));
}

c10::Storage stand_in_storage(const c10::StorageImpl& device) {
  void* data = const_cast<void*>(device.data_ptr().get());
  return {c10::Storage::use_byte_size_t(), device.nbytes(), borrowed(data, block_of(device)), c10::GetCPUAllocator(),
          /*resizable=*/false};
}

at::Tensor host_tensor_over(const at::Tensor& device, c10::Storage storage) {
  return make_like(device, std::move(storage), kHostKeys);
}

at::Tensor device_tensor_over(const at::Tensor& host, c10::Storage storage) {
  return make_like(host, std::move(storage), kDeviceKeys);
}

namespace {

void storage_to_device(c10::StorageImpl& storage) {
  c10::DataPtr data = storage.set_data_ptr(c10::DataPtr(nullptr, kDevice));
  storage.set_data_ptr_noswap(data_to_device(std::move(data), storage.nbytes()));
  storage.set_allocator(&device_allocator());
}

} // namespace

at::Tensor AliasSet::restore_result(at::Tensor result) {
  if (!result.defined() || !is_plain(result)) {
    return restore(std::move(result));
  }
  auto* storage = result.storage().unsafeGetStorageImpl();
  if (storage->device_type() == kDevice.type()) {
    return make_like(result, result.storage(), kDeviceKeys); // moved with an earlier result
  }
  bool known = std::any_of(storages_.begin(), storages_.end(), [&](auto& one) { return one.host == storage; });
  if (known) {
    return restore(std::move(result));
  }
  storage_to_device(*storage);
  if (result.use_count() != 1 || !result.unsafeGetTensorImpl()->allow_tensor_metadata_change()) {
    return make_like(result, result.storage(), kDeviceKeys);
  }
  auto* impl = result.unsafeGetTensorImpl();
  impl->_change_backend_component_keys(kDevice);
  impl->set_storage_keep_dtype(result.storage());
  return result;
}

at::Tensor to_device(at::Tensor host) {
  auto* impl = host.unsafeGetTensorImpl();
  c10::StorageImpl* storage = host.storage().unsafeGetStorageImpl();
  bool fresh = host.use_count() == 1 && host.storage().use_count() == 1 && impl->allow_tensor_metadata_change();
  if (!fresh) {
    // Somebody else keeps this CPU tensor: it stays what it is.
    auto nbytes = storage->nbytes();
    c10::DataPtr data = allocate_host_data(nbytes);
    if (nbytes != 0) {
      std::memcpy(data.mutable_get(), storage->data(), nbytes);
    }
    c10::Storage copy(
        c10::Storage::use_byte_size_t(), nbytes, std::move(data), &device_allocator(), /*resizable=*/true);
    return make_like(host, std::move(copy), kDeviceKeys);
  }
  // Nobody else has seen it: tensor and storage change their device in place.
  storage_to_device(*storage);
  impl->_change_backend_component_keys(kDevice);
  impl->set_storage_keep_dtype(host.storage());
  return host;
}

} // namespace rivulet
