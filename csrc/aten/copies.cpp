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

namespace {

// Not counted as a fallback, unlike a copy inside the device that has no kernel.
uint32_t transfer() {
  static const uint32_t id = rivulet_op_id("copy_ from or to the CPU");
  return id;
}

bool has_plain_bytes(const Tensor& tensor) {
  return tensor.layout() == c10::kStrided && tensor.has_storage() && !tensor.is_conj() && !tensor.is_neg();
}

// The same bytes in the same order, without gaps.
bool lie_alike(const Tensor& a, const Tensor& b) {
  return a.scalar_type() == b.scalar_type() &&
      ((a.is_contiguous() && b.is_contiguous()) || (a.strides() == b.strides() && a.is_non_overlapping_and_dense()));
}

bool read_bytes(const Tensor& to, const Tensor& from) {
  auto* block = rivulet_block_of(from.const_data_ptr());
  return block && taken(rivulet_read(transfer(), block, from.const_data_ptr(), to.mutable_data_ptr(), to.nbytes()));
}

bool write_bytes(const Tensor& to, const Tensor& from) {
  auto* block = rivulet_block_of(to.const_data_ptr());
  return block && taken(rivulet_write(transfer(), block, to.const_data_ptr(), from.const_data_ptr(), from.nbytes()));
}

// Copies that move the bytes of the tensors alone, where a stand-in would move those of their blocks. False where that
// cannot be done; `to` is as it was then.
bool read_elements(Tensor& to, const Tensor& from) {
  if (!has_plain_bytes(to) || !has_plain_bytes(from) || to.sizes() != from.sizes()) {
    return false;
  }
  if (lie_alike(to, from)) {
    return read_bytes(to, from);
  }
  Tensor made = at::empty(from.sizes(), from.options().dtype(to.scalar_type()));
  Tensor host = to.is_contiguous() ? to : at::empty(to.sizes(), to.options());
  if (!copy_elements(made, from) || !read_bytes(host, made)) {
    return false;
  }
  if (!host.is_same(to)) {
    to.copy_(host);
  }
  return true;
}

bool write_elements(const Tensor& to, const Tensor& from) {
  if (!has_plain_bytes(to) || !has_plain_bytes(from) || to.sizes() != from.sizes()) {
    return false;
  }
  if (lie_alike(to, from)) {
    return write_bytes(to, from);
  }
  bool dense = to.is_non_overlapping_and_dense();
  auto options = from.options().dtype(to.scalar_type());
  Tensor host = dense ? at::empty_strided(to.sizes(), to.strides(), options) : at::empty(to.sizes(), options);
  host.copy_(from);
  if (dense) {
    return write_bytes(to, host);
  }
  Tensor made = at::empty(to.sizes(), to.options());
  return write_bytes(made, host) && copy_elements(to, made);
}

} // namespace

// Both directions and mps to mps. A copy is complete when the call returns, so that non_blocking needs no care for
// the source's lifetime; tensors of a third device go through the CPU.
Tensor& copy_(Tensor& self, const Tensor& source, bool non_blocking) {
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
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  if (!inside && has_kernels() && (self.is_mps() ? write_elements(self, source) : read_elements(self, source))) {
    return self;
  }
  AliasSet aliases;
  Tensor to = aliases.alias(self, true);
  Tensor from = aliases.alias(source, false);
  HostScope scope(inside ? op : transfer(), aliases.operands().data(), aliases.operands().size());
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
  if (has_kernels() && has_plain_bytes(self) && self.numel() == 1) {
    Tensor number = at::empty({}, self.options().device(c10::kCPU));
    if (read_bytes(number, self)) {
      return at::_local_scalar_dense(number);
    }
  }
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
