#include "aten/sparse.h"

#include <ATen/SparseCsrTensorImpl.h>
#include <ATen/SparseCsrTensorUtils.h>
#include <ATen/SparseTensorImpl.h>
#include <ATen/native/SparseTensorUtils.h>

namespace rivulet {

namespace {

at::Tensor coo_like(const at::Tensor& tensor, c10::Device device, const Convert& convert) {
  auto keys = device.is_cpu() ? c10::DispatchKey::SparseCPU : c10::DispatchKey::SparseMPS;
  auto* from = at::sparse::get_sparse_impl(tensor);
  auto result =
      at::detail::make_tensor<at::SparseTensorImpl>(c10::DispatchKeySet(keys), tensor.dtype());
  auto* to = at::sparse::get_sparse_impl(result);
  to->resize_(from->sparse_dim(), from->dense_dim(), tensor.sizes());
  to->set_indices_and_values_unsafe(convert(from->indices()), convert(from->values()));
  to->set_coalesced(from->coalesced());
  return result;
}

at::Tensor compressed_like(const at::Tensor& tensor, c10::Device device, const Convert& convert) {
  auto keys = device.is_cpu() ? c10::DispatchKey::SparseCsrCPU : c10::DispatchKey::SparseCsrMPS;
  auto* from = at::sparse_csr::get_sparse_csr_impl(tensor);
  auto result = at::detail::make_tensor<at::SparseCsrTensorImpl>(
      c10::DispatchKeySet(keys), device, tensor.layout(), tensor.dtype());
  at::sparse_csr::get_sparse_csr_impl(result)->set_member_tensors(
      convert(from->compressed_indices()), convert(from->plain_indices()), convert(from->values()), tensor.sizes());
  return result;
}

} // namespace

at::Tensor sparse_like(const at::Tensor& tensor, c10::Device device, const Convert& convert) {
  if (tensor.layout() == c10::kSparse) {
    return coo_like(tensor, device, convert);
  }
  TORCH_CHECK(
      at::sparse_csr::is_sparse_compressed(tensor), "mps has no tensors of layout ", tensor.layout());
  return compressed_like(tensor, device, convert);
}

void carry_back_sparse(
    const at::Tensor& from, const at::Tensor& to, const std::function<at::Tensor(at::Tensor)>& convert) {
  if (from.layout() == c10::kSparse) {
    auto* source = at::sparse::get_sparse_impl(from);
    auto* target = at::sparse::get_sparse_impl(to);
    auto indices = convert(source->indices());
    auto values = convert(source->values());
    target->raw_resize_(source->sparse_dim(), source->dense_dim(), from.sizes());
    target->set_indices_and_values_unsafe(indices, values);
    target->set_coalesced(source->coalesced());
    return;
  }
  auto* source = at::sparse_csr::get_sparse_csr_impl(from);
  at::sparse_csr::get_sparse_csr_impl(to)->set_member_tensors(
      convert(source->compressed_indices()), convert(source->plain_indices()), convert(source->values()), from.sizes());
}

} // namespace rivulet
