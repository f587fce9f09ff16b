#include <ATen/Functions.h>
#include <ATen/core/LegacyTypeDispatch.h>

#include "aten/alias.h"
#include "aten/copies.h"
#include "aten/cpu_path.h"
#include "aten/host_scope.h"
#include "aten/kernels.h"
#include "native/nested.h"
#include "native/scope.h"

namespace rivulet {

using at::Tensor;

// Both directions and mps to mps. A copy is complete when the call returns, so that non_blocking needs no care for
// the source's lifetime; tensors of a third device go through the CPU.
Tensor& copy_(Tensor& self, const Tensor& source, bool non_blocking) {
  // Not counted as a fallback, unlike a copy inside the device that has no kernel.
  static const uint32_t transfer = rivulet_op_id("copy_ from or to the CPU");
  static const uint32_t op = rivulet_op_id("aten::copy_");
  if (self.is_same(source)) {
    return self;
  }
  // Zeros without bytes, from forward-mode autograd.
  if (C10_UNLIKELY(source._is_zerotensor())) {
    return self.zero_();
  }
  if (!source.is_cpu() && !source.is_mps()) {
    return copy_(self, source.cpu(), non_blocking);
  }
  if (!self.is_cpu() && !self.is_mps()) {
    self.copy_(source.cpu(), non_blocking);
    return self;
  }
  bool inside = self.is_mps() && source.is_mps();
  if (inside && has_kernels() && copy_elements(self, source)) {
    return self;
  }
  AliasSet aliases;
  Tensor to = aliases.alias(self, true);
  Tensor from = aliases.alias(source, false);
  HostScope scope(inside ? op : transfer, aliases.operands().data(), aliases.operands().size());
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  to.copy_(from);
  aliases.carry_back();
  return self;
}

namespace {

Tensor copy_from(const Tensor& self, const Tensor& target, bool non_blocking) {
  Tensor to = target;
  copy_(to, self, non_blocking);
  return target;
}

Tensor copy_from_and_resize(const Tensor& self, const Tensor& target) {
  target.resize_(self.sizes());
  return copy_from(self, target, false);
}

at::Scalar local_scalar_dense(const Tensor& self) {
  static const uint32_t op = rivulet_op_id("reading a number");
  AliasSet aliases;
  Tensor host = aliases.alias(self, false);
  HostScope scope(op, aliases.operands().data(), aliases.operands().size());
  return at::_local_scalar_dense(host);
}

} // namespace

void register_copies(torch::Library& aten) {
  aten.impl("copy_", copy_);
  aten.impl("_copy_from", copy_from);
  aten.impl("_copy_from_and_resize", copy_from_and_resize);
  aten.impl("_local_scalar_dense", local_scalar_dense);
}

} // namespace rivulet
