#pragma once
#include <ATen/core/Tensor.h>

namespace rivulet {

// Copies between mps and any device, and within mps, for all layouts.
at::Tensor& copy_(at::Tensor& self, const at::Tensor& source, bool non_blocking);

} // namespace rivulet
