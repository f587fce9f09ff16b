// Tensors one after another.
#pragma once
#include <ATen/core/Tensor.h>

namespace rivulet {

// Copies dense tensors one after another into a dense one as one op of the stream. False where there is no way for these,
// and then nothing was recorded. GIL not needed.
bool join_rows(const at::Tensor& out, at::ArrayRef<at::Tensor> tensors);

} // namespace rivulet
