// Ops made of other ops, for several families.
#pragma once
#include <ATen/TensorIterator.h>

namespace rivulet {

// The norm of any order but 0 and the infinite ones over an iterator's reduced dimensions; false where there is none.
bool power_norm(const at::TensorIteratorBase& iter, double order);

// Places of the true elements of a flat mask, as int64. How many there are is read from the device.
at::Tensor true_places(const at::Tensor& mask);

} // namespace rivulet
