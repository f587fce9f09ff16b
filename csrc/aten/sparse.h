// Sparse and compressed tensors, which have component tensors instead of a storage.
#pragma once
#include <ATen/core/Tensor.h>

#include <functional>

namespace rivulet {

using Convert = std::function<at::Tensor(const at::Tensor&)>;

// A tensor of the same layout and size on `device`, each component tensor passed through `convert`.
at::Tensor sparse_like(const at::Tensor& tensor, c10::Device device, const Convert& convert);

// Gives `to` the size and components that `from` has now, each passed through `convert`.
void carry_back_sparse(
    const at::Tensor& from, const at::Tensor& to, const std::function<at::Tensor(at::Tensor)>& convert);

} // namespace rivulet
