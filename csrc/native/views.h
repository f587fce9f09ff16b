// Operands of native kernels: tensors as the runtime sees them.
#pragma once
#include <ATen/TensorIterator.h>
#include <ATen/core/Tensor.h>
#include <c10/core/Scalar.h>

#include <array>

#include "rivulet.h"

namespace rivulet {

// The runtime's name of an element type; RIVULET_NO_DTYPE for types without kernels.
uint32_t dtype_of(c10::ScalarType type);

rivulet_scalar scalar_of(const c10::Scalar& value);

// The operands of one kernel. Lives on the stack of one op, not longer than the tensors.
//
// Three kinds of tensors meet in an op's inner kernel. Those over a block of the runtime are used as they are. One
// element in the CPU's own memory is a number; as an output it gets a block first. More elements in the CPU's own
// memory (indices that a user left on the CPU) are copied to a block for the time of the op.
class Views {
 public:
  static constexpr size_t kMax = 8;
  static constexpr size_t kMaxRank = 16;

  Views() = default;
  ~Views();
  Views(const Views&) = delete;
  Views& operator=(const Views&) = delete;

  // False where no kernel can take the operand. An output that the kernel changes in place keeps what it holds.
  bool output(const at::TensorBase& tensor);
  bool changed(const at::TensorBase& tensor);
  bool input(const at::TensorBase& tensor);
  // An undefined tensor becomes a view without elements; see optional().
  bool input_if(const at::TensorBase& tensor) {
    return tensor.defined() ? input(tensor) : skip();
  }
  bool output_if(const at::TensorBase& tensor) {
    return tensor.defined() ? output(tensor) : skip();
  }
  // All operands of an iterator, outputs first, with the iterator's common sizes.
  bool iterator(const at::TensorIteratorBase& iter) {
    return iterator(iter, Use::Write);
  }
  // The same where the kernel changes the output in place.
  bool changing_iterator(const at::TensorIteratorBase& iter) {
    return iterator(iter, Use::Change);
  }

  // A contiguous tensor as the rows of its last dimension.
  bool rows(const at::TensorBase& tensor);
  // A matrix with its dimensions exchanged.
  bool transposed(const at::TensorBase& tensor);
  // A vector as `count` equal rows.
  bool repeated_row(const at::TensorBase& tensor, int64_t count);
  // True for one element in the CPU's own memory, whose value may be set.
  bool is_number(size_t index) const {
    return present_[index] && !views_[index].block;
  }
  void set_number(size_t index, const c10::Scalar& value) {
    views_[index].scalar = scalar_of(value);
  }
  // Exchanges two operands.
  void swap(size_t a, size_t b) {
    std::swap(views_[a], views_[b]);
  }
  // Forgets the operands from the given one on.
  void truncate(size_t count) {
    count_ = count;
  }
  // The same operand once more.
  bool repeat(size_t index) {
    if (count_ == kMax) {
      return false;
    }
    present_[count_] = present_[index];
    views_[count_++] = views_[index];
    return true;
  }
  // A number as the next input, with the sizes of the first operand.
  bool number(const c10::Scalar& value);
  // True where an operand was on the device before.
  bool on_device() const {
    return on_device_;
  }
  // Ends a call of the runtime: true where kernels were recorded, false where there are none, and then nothing has
  // changed. Raises everything else.
  bool recorded(int32_t status);
  const rivulet_view* data() const {
    return views_.data();
  }
  const rivulet_view* at(size_t index) const {
    return &views_[index];
  }
  // Null for an operand that is not there.
  const rivulet_view* optional(size_t index) const {
    return present_[index] ? &views_[index] : nullptr;
  }
  size_t size() const {
    return count_;
  }

 private:
  struct Shape {
    std::array<int64_t, kMaxRank> sizes;
    std::array<int64_t, kMaxRank> strides;
  };
  enum class Use : uint8_t { Read, Write, Change };
  bool iterator(const at::TensorIteratorBase& iter, Use outputs);
  bool skip();
  bool place(const at::TensorBase& tensor, Use use, void* data);
  bool own_shape(const at::TensorBase& tensor);
  bool matrix(const at::TensorBase& tensor, std::array<int64_t, 2> sizes, std::array<int64_t, 2> strides);

  std::array<rivulet_view, kMax> views_;
  std::array<bool, kMax> present_{};
  std::array<Shape, kMax> shapes_;
  std::array<rivulet_block*, kMax> temporary_;
  // Outputs that get a block if the kernel is recorded.
  struct Moved {
    c10::StorageImpl* storage;
    c10::DataPtr data;
  };
  c10::SmallVector<Moved, 2> moved_;
  size_t count_ = 0;
  size_t temporaries_ = 0;
  bool on_device_ = false;
};

} // namespace rivulet
