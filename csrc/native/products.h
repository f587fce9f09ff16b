// Matrix products on the device.
#pragma once
#include <ATen/core/Tensor.h>

#include "rivulet.h"

namespace rivulet {

// out = activation(alpha a b + beta bias), for matrices or batches of them; false where there is no kernel. The bias is
// left alone where beta is 0, as PyTorch does, so that its NaNs do not matter.
bool product(
    const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, const at::Tensor* bias = nullptr,
    const at::Scalar& beta = 1, const at::Scalar& alpha = 1, uint32_t activation = RIVULET_NO_OP);

// out = x weightᵀ + bias over the last dimension of a contiguous x; the bias may be undefined.
bool linear_product(const at::Tensor& out, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

// The same of integers, without an activation.
bool int_product(
    const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, const at::Tensor* bias, const at::Scalar& beta,
    const at::Scalar& alpha);

} // namespace rivulet
