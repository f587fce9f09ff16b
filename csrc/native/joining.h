// Tensors one after another.
#pragma once
#include <ATen/core/Tensor.h>

#include "rivulet.h"

namespace rivulet {

// Elements of a dense tensor, one after another. As long as the tensor.
struct DenseRow {
  rivulet_block* block = nullptr;
  const void* data = nullptr;
  int64_t count = 0;
  uint32_t dtype = RIVULET_NO_DTYPE;

  // None (false) for a tensor that is not dense on the device.
  static DenseRow of(const at::Tensor& tensor);
  explicit operator bool() const {
    return block != nullptr && dtype != RIVULET_NO_DTYPE;
  }
};

// Copies rows one after another into a dense tensor as one op of the stream. False where there is no way for these,
// and then nothing was recorded. GIL not needed.
bool join_rows(const at::Tensor& out, at::ArrayRef<DenseRow> rows);

} // namespace rivulet
