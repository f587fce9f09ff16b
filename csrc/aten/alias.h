// mps tensors as CPU tensors over the same bytes, and back.
#pragma once
#include <ATen/core/Tensor.h>
#include <c10/util/SmallVector.h>

#include "rivulet.h"

namespace rivulet {

// The CPU stand-ins of one op's mps operands. Lives on the stack of the op, inside one thread.
//
// Aliases of tensors that share a storage share the stand-in storage too, so that PyTorch's overlap checks see
// what they would see on the CPU. A stand-in that is written is resizable: kernels with out= may resize it, and
// carry_back() gives the mps tensor the new size and bytes.
class AliasSet {
 public:
  // `write`: the op may change this operand. Tensors that are not on mps come back unchanged.
  at::Tensor alias(const at::Tensor& tensor, bool write);
  // Operands for the runtime: each block once or more.
  const c10::SmallVectorImpl<rivulet_operand>& operands() const {
    return operands_;
  }
  // After the kernel: sizes, strides and storage of written stand-ins go back to their mps tensors.
  void carry_back();
  // The mps tensor for a result of the kernel: the operand itself, a view of one, or the result's own bytes.
  at::Tensor restore(at::Tensor result);

 private:
  struct Storage {
    c10::StorageImpl* device;
    c10::Storage host;
    void* data;
    size_t nbytes;
  };
  struct Entry {
    at::Tensor device;
    at::Tensor host;
    bool write;
  };
  Storage& alias_storage(const at::Tensor& tensor, bool write);
  at::Tensor alias_sparse(const at::Tensor& tensor, bool write);
  void carry_back_storage(Storage& storage);

  c10::SmallVector<Storage, 6> storages_;
  c10::SmallVector<Entry, 6> entries_;
  c10::SmallVector<rivulet_operand, 6> operands_;
};

// Moves a fresh CPU tensor's bytes into an mps tensor. Small ones are copied into a block of the runtime, large
// ones adopted as they are.
at::Tensor to_device(at::Tensor host);

} // namespace rivulet
