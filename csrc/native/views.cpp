#include "native/views.h"

#include <cstring>

#include "aten/alias.h"
#include "aten/kernel_memory.h"
#include "runtime/status.h"

namespace rivulet {

namespace {

constexpr uint32_t kNoDtype = RIVULET_NO_DTYPE;

// The number that a tensor of one element in the CPU's memory holds.
rivulet_scalar read_scalar(c10::ScalarType type, const void* data) {
  if (c10::isFloatingType(type)) {
    return scalar_of(c10::fetch_and_cast<double>(type, data));
  }
  return scalar_of(c10::fetch_and_cast<int64_t>(type, data));
}

bool holds(const c10::StorageImpl& storage, const void* data) {
  auto* start = static_cast<const char*>(storage.data());
  auto* at = static_cast<const char*>(data);
  return at >= start && at < start + storage.nbytes();
}

// True where a tensor has every element of its storage.
bool covers(const at::TensorBase& tensor, const c10::StorageImpl& storage) {
  size_t bytes = tensor.itemsize();
  for (int64_t dim = 0; dim < tensor.dim(); ++dim) {
    bytes *= tensor.stride(dim) == 0 ? 1 : tensor.size(dim);
  }
  return bytes >= storage.nbytes();
}

} // namespace

uint32_t dtype_of(c10::ScalarType type) {
  switch (type) {
    case c10::kFloat:
      return RIVULET_F32;
    case c10::kHalf:
      return RIVULET_F16;
    case c10::kBFloat16:
      return RIVULET_BF16;
    case c10::kLong:
      return RIVULET_I64;
    case c10::kInt:
      return RIVULET_I32;
    case c10::kShort:
      return RIVULET_I16;
    case c10::kChar:
      return RIVULET_I8;
    case c10::kByte:
      return RIVULET_U8;
    case c10::kBool:
      return RIVULET_BOOL;
    default:
      return kNoDtype;
  }
}

rivulet_scalar scalar_of(const c10::Scalar& value) {
  rivulet_scalar scalar{};
  if (value.isFloatingPoint()) {
    scalar.is_float = 1;
    scalar.real = value.toDouble();
    scalar.integer = 0;
  } else if (value.isComplex()) {
    scalar.is_float = 1;
    scalar.real = value.toComplexDouble().real();
  } else {
    scalar.integer = value.isBoolean() ? value.toBool() : value.toLong();
    scalar.real = static_cast<double>(scalar.integer);
  }
  return scalar;
}

Views::~Views() {
  // The runtime frees a block when the work that was given to the device is done with it.
  for (size_t i = 0; i < temporaries_; ++i) {
    rivulet_free(temporary_[i]);
  }
}

bool Views::recorded(int32_t status) {
  if (!taken(status)) {
    return false;
  }
  for (auto& moved : moved_) {
    moved.storage->set_data_ptr_noswap(std::move(moved.data));
  }
  moved_.clear();
  return true;
}

bool Views::skip() {
  if (count_ == kMax) {
    return false;
  }
  present_[count_++] = false;
  return true;
}

bool Views::number(const c10::Scalar& value) {
  if (count_ == kMax) {
    return false;
  }
  rivulet_view& view = views_[count_];
  view = views_[0];
  view.block = nullptr;
  view.scalar = scalar_of(value);
  present_[count_++] = true;
  return true;
}

bool Views::place(const at::TensorBase& tensor, Use use, void* data) {
  if (C10_UNLIKELY(count_ == kMax || !tensor.has_storage() || tensor.is_conj() || tensor.is_neg())) {
    return false;
  }
  rivulet_view& view = views_[count_];
  view.dtype = dtype_of(tensor.scalar_type());
  if (C10_UNLIKELY(view.dtype == kNoDtype)) {
    return false;
  }
  auto* storage = tensor.storage().unsafeGetStorageImpl();
  // torch.cat moves an iterator's operands to other tensors without naming those.
  bool moved = C10_UNLIKELY(tensor.numel() != 0 && !holds(*storage, data));
  view.block = moved ? rivulet_block_of(data) : operand_block(*storage);
  bool ours = view.block != nullptr;
  view.data = data;
  if (C10_UNLIKELY(!view.block && tensor.numel() != 0)) {
    if (moved) {
      return false;
    }
    if (use != Use::Read) {
      if (storage->nbytes() > kHostResultBytes) {
        return false;
      }
      size_t offset = static_cast<const char*>(data) - static_cast<const char*>(storage->data());
      // What the op leaves alone stays what it was.
      bool keeps = use == Use::Change || !covers(tensor, *storage);
      auto fresh = keeps ? written_kernel_memory(storage->data(), storage->nbytes())
                         : allocate_kernel_memory(storage->nbytes());
      view.block = rivulet_block_of(fresh.get());
      view.data = static_cast<char*>(fresh.get()) + offset;
      moved_.push_back({storage, std::move(fresh)});
    } else if (tensor.numel() == 1) {
      view.scalar = read_scalar(tensor.scalar_type(), data);
    } else {
      void* copy = nullptr;
      rivulet_block* block = nullptr;
      check(rivulet_alloc_host(storage->nbytes(), &copy, &block));
      temporary_[temporaries_++] = block;
      std::memcpy(copy, storage->data(), storage->nbytes());
      size_t offset = static_cast<const char*>(data) - static_cast<const char*>(storage->data());
      view.block = block;
      view.data = static_cast<char*>(copy) + offset;
    }
  }
  on_device_ = on_device_ || ours;
  present_[count_] = true;
  return true;
}

bool Views::own_shape(const at::TensorBase& tensor) {
  size_t rank = tensor.dim();
  if (C10_UNLIKELY(rank > kMaxRank)) {
    return false;
  }
  Shape& shape = shapes_[count_];
  std::copy_n(tensor.sizes().data(), rank, shape.sizes.data());
  std::copy_n(tensor.strides().data(), rank, shape.strides.data());
  rivulet_view& view = views_[count_++];
  view.sizes = shape.sizes.data();
  view.strides = shape.strides.data();
  view.rank = static_cast<uint32_t>(rank);
  return true;
}

bool Views::output(const at::TensorBase& tensor) {
  return place(tensor, Use::Write, const_cast<void*>(tensor.const_data_ptr())) && own_shape(tensor);
}

bool Views::changed(const at::TensorBase& tensor) {
  return place(tensor, Use::Change, const_cast<void*>(tensor.const_data_ptr())) && own_shape(tensor);
}

bool Views::input(const at::TensorBase& tensor) {
  return place(tensor, Use::Read, const_cast<void*>(tensor.const_data_ptr())) && own_shape(tensor);
}

bool Views::matrix(
    const at::TensorBase& tensor, std::array<int64_t, 2> sizes, std::array<int64_t, 2> strides) {
  // An output here is memory of the device already.
  if (!place(tensor, Use::Read, const_cast<void*>(tensor.const_data_ptr()))) {
    return false;
  }
  Shape& shape = shapes_[count_];
  std::copy_n(sizes.data(), 2, shape.sizes.data());
  std::copy_n(strides.data(), 2, shape.strides.data());
  rivulet_view& view = views_[count_++];
  view.sizes = shape.sizes.data();
  view.strides = shape.strides.data();
  view.rank = 2;
  return true;
}

bool Views::rows(const at::TensorBase& tensor) {
  int64_t size = tensor.size(-1);
  return matrix(tensor, {tensor.numel() / std::max<int64_t>(size, 1), size}, {size, 1});
}

bool Views::transposed(const at::TensorBase& tensor) {
  return matrix(tensor, {tensor.size(1), tensor.size(0)}, {tensor.stride(1), tensor.stride(0)});
}

bool Views::repeated_row(const at::TensorBase& tensor, int64_t count) {
  return matrix(tensor, {count, tensor.size(0)}, {0, tensor.stride(0)});
}

bool Views::iterator(const at::TensorIteratorBase& iter, Use outputs) {
  size_t rank = iter.ndim();
  size_t operands = iter.ntensors();
  if (C10_UNLIKELY(rank > kMaxRank || operands > kMax)) {
    return false;
  }
  // An iterator counts dimensions from the innermost.
  auto& sizes = shapes_[0].sizes;
  for (size_t dim = 0; dim < rank; ++dim) {
    sizes[rank - 1 - dim] = iter.shape()[dim];
  }
  for (size_t arg = 0; arg < operands; ++arg) {
    Use use = arg < static_cast<size_t>(iter.noutputs()) ? outputs : Use::Read;
    if (!place(iter.tensor_base(arg), use, iter.data_ptr(arg))) {
      return false;
    }
    auto& strides = shapes_[arg].strides;
    auto bytes = iter.strides(arg);
    int64_t size = iter.element_size(arg);
    for (size_t dim = 0; dim < rank; ++dim) {
      strides[rank - 1 - dim] = bytes[dim] / size;
    }
    rivulet_view& view = views_[count_++];
    view.sizes = sizes.data();
    view.strides = strides.data();
    view.rank = static_cast<uint32_t>(rank);
  }
  return true;
}

} // namespace rivulet
