#include <ATen/EmptyTensor.h>
#include <ATen/Functions.h>
#include <ATen/native/Resize.h>

#include <cstring>

#include "aten/alias.h"
#include "aten/host_scope.h"
#include "aten/kernels.h"
#include "runtime/allocator.h"

namespace rivulet {

namespace {

using at::Tensor;

constexpr c10::DispatchKeySet kFactoryKeys(c10::DispatchKey::MPS);

void check_options(std::optional<c10::Layout> layout, std::optional<bool> pinned, std::optional<c10::Device> device) {
  TORCH_CHECK(!layout || *layout == c10::kStrided, "expected layout torch.strided for an mps tensor, got ", *layout);
  TORCH_CHECK(!pinned || !*pinned, "only dense CPU tensors can be pinned");
  TORCH_CHECK(
      !device || device->index() <= 0,
      "invalid device ordinal: mps has 1 device (index 0), got index ",
      device ? static_cast<int>(device->index()) : 0);
}

Tensor empty(
    at::IntArrayRef size,
    std::optional<c10::ScalarType> dtype,
    std::optional<c10::Layout> layout,
    std::optional<c10::Device> device,
    std::optional<bool> pinned,
    std::optional<c10::MemoryFormat> format) {
  check_options(layout, pinned, device);
  return at::detail::empty_generic(size, &device_allocator(), kFactoryKeys, c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(
    at::IntArrayRef size,
    at::IntArrayRef stride,
    std::optional<c10::ScalarType> dtype,
    std::optional<c10::Layout> layout,
    std::optional<c10::Device> device,
    std::optional<bool> pinned) {
  check_options(layout, pinned, device);
  return at::detail::empty_strided_generic(size, stride, &device_allocator(), kFactoryKeys, c10::dtype_or_default(dtype));
}

// Tensors of zeros without bytes, which forward-mode autograd makes.
struct ZeroAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t) override {
    return {nullptr, nullptr, nullptr, kDevice};
  }
  void copy_data(void*, const void*, size_t) const override {}
};

Tensor efficient_zero(
    at::IntArrayRef size,
    std::optional<c10::ScalarType> dtype,
    std::optional<c10::Layout> layout,
    std::optional<c10::Device> device,
    std::optional<bool> pinned) {
  check_options(layout, pinned, device);
  static auto* allocator = new ZeroAllocator();
  auto keys = kFactoryKeys | c10::DispatchKeySet(c10::DispatchKey::ZeroTensor);
  return at::detail::empty_generic(size, allocator, keys, c10::dtype_or_default(dtype), std::nullopt);
}

// Grows a storage to at least `bytes`; what it held stays.
void grow(c10::StorageImpl* storage, size_t bytes) {
  size_t held = storage->nbytes();
  if (bytes <= held) {
    return;
  }
  TORCH_CHECK(storage->resizable(), "Trying to resize storage that is not resizable");
  c10::DataPtr data = allocate_data(bytes);
  if (held != 0) {
    static const uint32_t op = rivulet_op_id("aten::resize_");
    rivulet_operand operands[] = {
        {block_of(*storage), 0}, {static_cast<rivulet_block*>(data.get_context()), 1}};
    HostScope scope(op, operands[0].block ? operands : operands + 1, operands[0].block ? 2 : 1);
    std::memcpy(data.mutable_get(), storage->data(), held);
  }
  storage->set_data_ptr_noswap(std::move(data));
  storage->set_nbytes(bytes);
}

const Tensor& resize_(const Tensor& self, at::IntArrayRef size, std::optional<c10::MemoryFormat> format) {
  auto* impl = self.unsafeGetTensorImpl();
  if (size != self.sizes()) {
    at::detail::check_size_nonnegative(size);
    size_t bytes = at::detail::computeStorageNbytesContiguous(
        size, self.dtype().itemsize(), static_cast<size_t>(self.storage_offset()));
    if (c10::multiply_integers(size) > 0) {
      grow(self.storage().unsafeGetStorageImpl(), bytes);
    }
    impl->set_sizes_contiguous(size);
  }
  if (format.has_value()) {
    TORCH_CHECK(*format != c10::MemoryFormat::Preserve, "Unsupported memory format ", *format);
    impl->empty_tensor_restride(*format);
  }
  return self;
}

Tensor& set_storage_(
    Tensor& self, at::Storage source, int64_t offset, at::IntArrayRef size, at::IntArrayRef stride) {
  at::native::checkSetStorage(self, source, offset, size, stride);
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_storage_offset(offset);
  c10::DimVector contiguous;
  if (stride.data() == nullptr) {
    contiguous = c10::contiguous_strides(size);
    stride = contiguous;
  }
  size_t bytes = c10::multiply_integers(size) == 0
      ? 0
      : at::detail::computeStorageNbytes(
            size, stride, self.dtype().itemsize(), static_cast<size_t>(offset));
  grow(self.storage().unsafeGetStorageImpl(), bytes);
  impl->set_sizes_and_strides(size, stride, offset);
  return self;
}

Tensor& set_whole_storage_(Tensor& self, at::Storage source) {
  int64_t size = static_cast<int64_t>(source.nbytes() / self.dtype().itemsize());
  return set_storage_(self, std::move(source), 0, {size}, {});
}

Tensor& set_tensor_(Tensor& self, const Tensor& source) {
  if (self.unsafeGetTensorImpl() != source.unsafeGetTensorImpl()) {
    return set_storage_(self, source.storage(), source.storage_offset(), source.sizes(), source.strides());
  }
  return self;
}

Tensor& set_nothing_(Tensor& self) {
  at::Storage storage(
      at::Storage::use_byte_size_t(), 0, allocate_data(0), &device_allocator(), /*resizable=*/true);
  return set_storage_(self, std::move(storage), 0, {0}, {});
}

} // namespace

void register_factories(torch::Library& aten) {
  aten.impl("empty.memory_format", empty);
  aten.impl("empty_strided", empty_strided);
  aten.impl("_efficientzerotensor", efficient_zero);
  aten.impl("resize_", resize_);
  aten.impl("set_.source_Storage", set_whole_storage_);
  aten.impl("set_.source_Storage_storage_offset", set_storage_);
  aten.impl("set_.source_Tensor", set_tensor_);
  aten.impl("set_", set_nothing_);
}

} // namespace rivulet
