#include "native/scope.h"

#include <atomic>
#include <mutex>

#include "native/table.h"
#include "runtime/status.h"

namespace rivulet {

namespace {

thread_local uint32_t native_op = RIVULET_NO_OP;

} // namespace

bool has_kernels() {
  // What an adapter can do does not change while a process lives: a lost device comes back as the same one.
  static std::atomic<int32_t> answer{-1};
  int32_t known = answer.load(std::memory_order_acquire);
  if (C10_UNLIKELY(known < 0)) {
    check(rivulet_has_kernels(&known));
    if (known != 0) {
      static std::once_flag once;
      std::call_once(once, install_hooks);
    }
    answer.store(known, std::memory_order_release);
  }
  return known != 0;
}

uint32_t current_native_op() {
  return native_op;
}

namespace {

// Below a dispatch mode of Python's, PyTorch excludes every key above Python's, kNested with them.
c10::impl::LocalDispatchKeySet with_nested() {
  auto keys = c10::impl::tls_local_dispatch_key_set();
  keys.included_ = keys.included_.add(kNested);
  keys.excluded_ = keys.excluded_.remove(kNested);
  return keys;
}

} // namespace

NativeScope::NativeScope(uint32_t op) : previous_(native_op), memory_(Writer::Device), nested_(with_nested()) {
  native_op = op;
}

NativeScope::~NativeScope() {
  native_op = previous_;
}

bool writes_unmarked(std::string_view op, size_t index) {
  return op == "aten::native_batch_norm" && (index == 3 || index == 4);
}

void HostSection::add(const at::TensorBase& tensor, bool write) {
  if (!tensor.defined() || !tensor.has_storage()) {
    return;
  }
  if (auto* block = operand_block(*tensor.storage().unsafeGetStorageImpl())) {
    operands_.push_back({block, write ? 1u : 0u});
  }
}

void HostSection::add(const at::TensorIteratorBase& iter) {
  for (int arg = 0; arg < iter.ntensors(); ++arg) {
    add(iter.tensor_base(arg), arg < iter.noutputs());
    // torch.cat moves operands to tensors that the iterator does not name.
    if (auto* block = rivulet_block_of(iter.data_ptr(arg))) {
      operands_.push_back({block, arg < iter.noutputs() ? 1u : 0u});
    }
  }
}

void HostSection::note_value(const c10::IValue& value, bool write) {
  if (value.isTensor()) {
    add(value.toTensor(), write);
  } else if (value.isList()) {
    for (const c10::IValue& element : value.toListRef()) {
      if (element.isTensor()) {
        add(element.toTensor(), write);
      }
    }
  }
}

void HostSection::begin(uint32_t label) {
  inside_.emplace(label, operands_.data(), operands_.size());
}

HostSection::Inside::Inside(uint32_t label, const rivulet_operand* operands, size_t count)
    : not_nested(kNested), op(native_op) {
  if (count != 0) {
    scope.emplace(label, operands, count);
  } else {
    memory.emplace(Writer::Anybody);
  }
  native_op = RIVULET_NO_OP;
}

HostSection::Inside::~Inside() {
  native_op = op;
}

} // namespace rivulet
