// The CPU path of one op: operands down to the CPU, results back up.
#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/util/Exception.h>
#include <torch/library.h>

#include <optional>
#include <string>

#include "aten/alias.h"
#include "aten/host_scope.h"
#include "native/scope.h"
#include "runtime/hooks.h"

namespace rivulet {

// Collects the operands of one call and checks them as a whole.
class Lowering {
 public:
  // Notes an operand; true where it is on mps and has to be taken.
  bool device_operand(const at::Tensor& tensor, bool write) {
    if (C10_UNLIKELY(!tensor.defined())) {
      return false;
    }
    if (C10_LIKELY(tensor.is_mps())) {
      device_operands_ = true;
      if (C10_UNLIKELY(tensor.layout() != c10::kStrided)) {
        (tensor.layout() == c10::kSparse ? sparse_ : compressed_) = true;
      }
      needs_grad_ = needs_grad_ || tensor.requires_grad();
      return true;
    }
    // A number on the CPU may join any op, as on every device.
    if (tensor.dim() != 0 || write) {
      foreign_ = tensor.device();
    }
    return false;
  }
  at::Tensor take(at::Tensor tensor, bool write) {
    return aliases_.host(aliases_.add(c10::MaybeOwned<at::Tensor>::owned(std::move(tensor)), write));
  }
  size_t borrow(const at::Tensor& tensor, bool write) {
    return aliases_.add(c10::MaybeOwned<at::Tensor>::borrowed(tensor), write);
  }
  // Raises where the operands cannot be used together.
  void check(const char* op, bool accepts_cpu) const {
    if (C10_UNLIKELY(foreign_.has_value() || (needs_grad_ && !is_accelerator()))) {
      check_slow(op, accepts_cpu);
    }
  }
  // The dispatch key of the CPU kernel; `otherwise` where no operand is sparse.
  c10::DispatchKeySet keys(c10::DispatchKey otherwise = c10::DispatchKey::CPU) const {
    return c10::DispatchKeySet(
        compressed_   ? c10::DispatchKey::SparseCsrCPU
            : sparse_ ? c10::DispatchKey::SparseCPU
                      : otherwise);
  }
  bool is_dense() const {
    return !sparse_ && !compressed_;
  }
  AliasSet& aliases() {
    return aliases_;
  }
  const c10::SmallVectorImpl<rivulet_operand>& operands() const {
    return aliases_.operands();
  }

 private:
  void check_slow(const char* op, bool accepts_cpu) const;

  AliasSet aliases_;
  std::optional<c10::Device> foreign_;
  bool device_operands_ = false;
  bool needs_grad_ = false;
  bool sparse_ = false;
  bool compressed_ = false;
};

// What an op with its operands lowered runs in: a native op on an adapter with kernels, a CPU access otherwise.
class OpScope {
 public:
  OpScope(uint32_t op, const Lowering& lowering, bool native) {
    if (native && has_kernels() && lowering.is_dense()) {
      native_.emplace(op);
    } else {
      host_.emplace(op, lowering.operands());
    }
  }
  bool is_native() const {
    return native_.has_value();
  }

 private:
  std::optional<HostScope> host_;
  std::optional<NativeScope> native_;
};

// Inside a catch block: an allocation failure of a CPU kernel becomes torch.OutOfMemoryError naming the op;
// anything else goes on as it is.
[[noreturn]] void rethrow_as_device_error(const c10::Error& error, const std::string& op);

// Registers the CPU path of one op by its name. `layout`: the CPU's key of the tensors it is called for.
void take_cpu_path(torch::Library& library, const c10::OperatorHandle& op, c10::DispatchKey layout);

// Whether ops without a kernel at this key go the CPU path by the fallback of ours; another's cannot be replaced.
bool has_our_fallback(c10::DispatchKey key);

} // namespace rivulet
