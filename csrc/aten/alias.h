// mps tensors as CPU tensors over the same bytes, and back.
#pragma once
#include <ATen/core/Tensor.h>
#include <c10/util/MaybeOwned.h>
#include <c10/util/SmallVector.h>

#include "rivulet.h"

namespace rivulet {

// Deleter of a stand-in's data pointer, whose context is the block.
void keep_nothing(void* block);

// The CPU stand-ins of one op's mps operands. Lives on the stack of the op, inside one thread, and not longer than
// the operands.
//
// Aliases of tensors that share a storage share the stand-in storage too, so that PyTorch's overlap checks see
// what they would see on the CPU. A stand-in that is written is resizable: kernels with out= may resize it, and
// carry_back() gives the mps tensor the new size and bytes.
//
// Stand-ins come from a pool of the thread: making a tensor costs more than many an op.
class AliasSet {
 public:
  AliasSet() = default;
  ~AliasSet();
  AliasSet(const AliasSet&) = delete;
  AliasSet& operator=(const AliasSet&) = delete;

  // Index of the stand-in of an mps tensor. `write`: the op may change this operand. A borrowed tensor outlives
  // this set.
  size_t add(c10::MaybeOwned<at::Tensor> tensor, bool write);
  const at::Tensor& host(size_t index) const {
    return entries_[index].host;
  }
  // The stand-in itself; undefined tensors and those of other devices come back unchanged.
  at::Tensor alias(const at::Tensor& tensor, bool write) {
    return tensor.defined() && tensor.is_mps() ? host(add(c10::MaybeOwned<at::Tensor>::owned(at::Tensor(tensor)), write))
                                               : tensor;
  }
  // Operands for the runtime: each block once or more.
  const c10::SmallVectorImpl<rivulet_operand>& operands() const {
    return operands_;
  }
  // After the kernel: sizes, strides and storage of written stand-ins go back to their mps tensors.
  void carry_back();
  // The mps tensor for a result of the kernel: the operand itself, a view of one, or the result's own bytes.
  at::Tensor restore(at::Tensor result);
  // The same for one of several results that may share a storage which nobody else knows: it moves to the device as it
  // is, with all of them.
  at::Tensor restore_result(at::Tensor result);

 private:
  struct Storage {
    c10::StorageImpl* device;
    c10::StorageImpl* host;
    void* data;
    size_t nbytes;
    bool write;
  };
  struct Entry {
    c10::MaybeOwned<at::Tensor> device;
    at::Tensor host;
    bool write;
    bool pooled;
  };
  Storage* find_storage(const c10::StorageImpl* device);
  void allow_write(Storage& storage);
  size_t push(c10::MaybeOwned<at::Tensor> tensor, at::Tensor host, bool write, bool pooled);
  void carry_back_storage(Storage& storage);

  c10::SmallVector<Storage, 4> storages_;
  c10::SmallVector<Entry, 4> entries_;
  c10::SmallVector<rivulet_operand, 4> operands_;
  bool writes_ = false;
};

// Moves a fresh CPU tensor's bytes into an mps tensor. Small ones are copied into a block of the runtime, large
// ones adopted as they are.
at::Tensor to_device(at::Tensor host);

// A CPU storage over the bytes of an mps storage, which has to outlive it, and tensors over such a pair of storages.
c10::Storage stand_in_storage(const c10::StorageImpl& device);
at::Tensor host_tensor_over(const at::Tensor& device, c10::Storage storage);
at::Tensor device_tensor_over(const at::Tensor& host, c10::Storage storage);

} // namespace rivulet
