#include "aten/sparse.h"

#include <ATen/Context.h>
#include <ATen/Functions.h>
#include <ATen/NativeFunctions.h>
#include <ATen/SparseCsrTensorImpl.h>
#include <ATen/SparseCsrTensorUtils.h>
#include <ATen/SparseTensorImpl.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/native/SparseTensorUtils.h>

#include "aten/alias.h"
#include "aten/copies.h"
#include "aten/host_scope.h"
#include "aten/kernels.h"
#include "runtime/allocator.h"

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

// SparseCsrTensorImpl asserts that its device is one of a list without mps, so this one starts on the CPU and moves.
class CompressedImpl final : public at::SparseCsrTensorImpl {
 public:
  CompressedImpl(c10::Layout layout, caffe2::TypeMeta dtype)
      : SparseCsrTensorImpl(c10::DispatchKeySet(c10::DispatchKey::SparseCsrCPU), c10::kCPU, layout, dtype) {
    _change_backend_component_keys(kDevice);
    device_opt_ = kDevice;
  }

  c10::intrusive_ptr<c10::TensorImpl> shallow_copy_and_detach(
      const c10::VariableVersion& version, bool metadata_change) const override {
    return in_python() ? SparseCsrTensorImpl::shallow_copy_and_detach(version, metadata_change)
                       : copy(c10::VariableVersion(version), metadata_change);
  }
  c10::intrusive_ptr<c10::TensorImpl> shallow_copy_and_detach(
      c10::VariableVersion&& version, bool metadata_change) const override {
    return in_python() ? SparseCsrTensorImpl::shallow_copy_and_detach(std::move(version), metadata_change)
                       : copy(std::move(version), metadata_change);
  }

 private:
  // Where a Python mode or subclass takes the copy over.
  bool in_python() const {
    return !c10::impl::tls_is_dispatch_key_excluded(c10::DispatchKey::Python) &&
        (c10::impl::TorchDispatchModeTLS::stack_len() > 0 || key_set_.has(c10::DispatchKey::Python));
  }

  c10::intrusive_ptr<c10::TensorImpl> copy(c10::VariableVersion&& version, bool metadata_change) const {
    auto result = c10::make_intrusive<CompressedImpl>(layout_, dtype());
    copy_tensor_metadata(this, result.get(), std::move(version), metadata_change);
    result->crow_indices_ = crow_indices_;
    result->col_indices_ = col_indices_;
    result->values_ = values_;
    result->refresh_numel();
    return result;
  }
  // The base's own of this name, private there, hides TensorImpl's.
  using TensorImpl::copy_tensor_metadata;
};

at::Tensor make_compressed(c10::Device device, c10::Layout layout, caffe2::TypeMeta dtype) {
  if (device.is_cpu()) {
    return at::detail::make_tensor<at::SparseCsrTensorImpl>(
        c10::DispatchKeySet(c10::DispatchKey::SparseCsrCPU), device, layout, dtype);
  }
  return at::detail::make_tensor<CompressedImpl>(layout, dtype);
}

at::Tensor compressed_like(const at::Tensor& tensor, c10::Device device, const Convert& convert) {
  auto* from = at::sparse_csr::get_sparse_csr_impl(tensor);
  auto compressed = convert(from->compressed_indices());
  auto plain = convert(from->plain_indices());
  auto values = convert(from->values());
  auto result = make_compressed(device, tensor.layout(), values.dtype());
  at::sparse_csr::get_sparse_csr_impl(result)->set_member_tensors(compressed, plain, values, tensor.sizes());
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

namespace {

// PyTorch's own knows the devices it makes compressed tensors for by name, and mps is not among them.
at::Tensor sparse_compressed_tensor_unsafe(
    const at::Tensor& compressed_indices,
    const at::Tensor& plain_indices,
    const at::Tensor& values,
    c10::SymIntArrayRef symbolic_size,
    std::optional<c10::ScalarType> dtype,
    std::optional<c10::Layout> layout,
    std::optional<c10::Device> device,
    std::optional<bool> pinned) {
  TORCH_CHECK(
      layout && at::sparse_csr::is_sparse_compressed(*layout),
      "expected a sparse compressed layout, got ",
      layout ? c10::str(*layout) : "none");
  TORCH_CHECK(!pinned || !*pinned, "only CPU sparse compressed tensors can be pinned");
  auto size = C10_AS_INTARRAYREF_SLOW(symbolic_size);
  if (at::globalContext().checkSparseTensorInvariants()) {
    at::_validate_sparse_compressed_tensor_args(compressed_indices, plain_indices, values, size, *layout);
  }
  auto type = c10::scalarTypeToTypeMeta(dtype.value_or(values.scalar_type()));
  auto result = make_compressed(kDevice, *layout, type);
  at::sparse_csr::get_sparse_csr_impl(result)->set_member_tensors(compressed_indices, plain_indices, values, size);
  return result;
}

// As above, PyTorch's own ends in a call that knows no mps, from whichever device the tensor comes.
at::Tensor compressed_to_copy(
    const at::Tensor& self,
    std::optional<c10::ScalarType> dtype,
    std::optional<c10::Layout> layout,
    std::optional<c10::Device> device,
    std::optional<bool> pinned,
    bool non_blocking,
    std::optional<c10::MemoryFormat> format) {
  if (device.value_or(self.device()).type() != c10::kMPS) {
    return at::native::_to_copy(self, dtype, layout, device, pinned, non_blocking, format);
  }
  TORCH_CHECK(
      !layout || *layout == self.layout(),
      "to(options) doesn't support converting to a different layout, but got self.layout being ",
      self.layout(),
      " and options.layout set as ",
      *layout);
  return sparse_like(self, kDevice, [&](const at::Tensor& part) {
    bool is_values = part.is_same(at::sparse_csr::get_sparse_csr_impl(self)->values());
    auto type = is_values ? dtype.value_or(part.scalar_type()) : part.scalar_type();
    return at::_to_copy(part, part.options().dtype(type).device(kDevice), non_blocking);
  });
}

// PyTorch's own computes the second result, which backward needs, only where an operand requires grad.
std::tuple<at::Tensor, at::Tensor> sparse_mm_reduce_impl(
    const at::Tensor& self, const at::Tensor& other, std::string_view reduce) {
  static const uint32_t op = rivulet_op_id("aten::_sparse_mm_reduce_impl");
  AliasSet aliases;
  auto lower = [&](const at::Tensor& tensor) {
    return aliases.alias(tensor, false).detach().set_requires_grad(tensor.requires_grad());
  };
  auto left = lower(self);
  auto right = lower(other);
  HostScope scope(op, aliases.operands());
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  auto [out, arguments] = at::_sparse_mm_reduce_impl(left, right, reduce);
  return {aliases.restore(std::move(out)), aliases.restore(std::move(arguments))};
}

} // namespace

void register_compressed_factory(torch::Library& autograd, torch::Library& compressed, torch::Library& compressed_cpu) {
  compressed.impl("_sparse_compressed_tensor_unsafe", sparse_compressed_tensor_unsafe);
  autograd.impl("_sparse_compressed_tensor_unsafe", sparse_compressed_tensor_unsafe);
  compressed_cpu.impl("_to_copy", compressed_to_copy);
}

// These kernels of PyTorch look at the component tensors alone and work for any device.
void register_sparse(torch::Library& sparse, torch::Library& compressed) {
  sparse.impl("sparse_dim", at::native::sparse_dim_sparse);
  sparse.impl("dense_dim", at::native::dense_dim_sparse);
  sparse.impl("_dimI", at::native::sparse_dim_sparse);
  sparse.impl("_dimV", at::native::dense_dim_sparse);
  sparse.impl("_nnz", at::native::_nnz_sparse);
  sparse.impl("is_coalesced", at::native::is_coalesced_sparse);
  sparse.impl("_coalesced_", at::native::_coalesced_sparse_);
  sparse.impl("_indices", at::native::_indices_sparse);
  sparse.impl("_values", at::native::_values_sparse);
  sparse.impl("indices", at::native::indices_sparse);
  sparse.impl("values", at::native::values_sparse);
  sparse.impl("copy_", copy_);
  compressed.impl("sparse_dim", at::native::sparse_dim_sparse_csr);
  compressed.impl("dense_dim", at::native::dense_dim_sparse_csr);
  compressed.impl("_nnz", at::native::_nnz_sparse_csr);
  compressed.impl("crow_indices", at::native::crow_indices_sparse_csr);
  compressed.impl("col_indices", at::native::col_indices_sparse_csr);
  compressed.impl("ccol_indices", at::native::ccol_indices_sparse_csr);
  compressed.impl("row_indices", at::native::row_indices_sparse_csr);
  compressed.impl("values", at::native::values_sparse_csr);
  compressed.impl("copy_", copy_);
  compressed.impl("_to_copy", compressed_to_copy);
  compressed.impl("_sparse_mm_reduce_impl", sparse_mm_reduce_impl);
}

} // namespace rivulet
