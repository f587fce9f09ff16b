// Registration of the mps kernels, by family.
#pragma once
#include <torch/library.h>

namespace rivulet {

// empty, resize, set_: what makes and reshapes storage.
void register_factories(torch::Library& aten);
// as_strided, view and the other ops that only change sizes and strides; record_stream.
void register_views(torch::Library& aten);
// copy_, _local_scalar_dense, pinned memory.
void register_copies(torch::Library& aten);
// scaled_dot_product_attention, at MPS and AutogradMPS.
void register_attention(torch::Library& aten, torch::Library& autograd);
// Ops that only PyTorch's own mps backend has kernels for, at MPS and AutogradMPS.
void register_in_tree_ops(torch::Library& aten, torch::Library& autograd);
// native_dropout and other ops whose CPU kernel draws from the CPU's default generator.
void register_random(torch::Library& aten);
// The CPU path of ops that are called often on small tensors, without the boxing.
void register_hot_ops(torch::Library& aten);
// Every op that has a CPU kernel and nothing above: the CPU path by name, then the fallback for libraries that are
// loaded later.
void register_cpu_path(torch::Library& aten, torch::Library& fallback);
// Compressed tensors from their component tensors and from a tensor on the CPU.
void register_compressed_factory(
    torch::Library& autograd, torch::Library& compressed, torch::Library& compressed_cpu);
// Sparse and compressed layouts: what looks at their component tensors alone, and copies.
void register_sparse(torch::Library& sparse, torch::Library& compressed);
// The CPU path of these layouts, by name and (the libraries of all namespaces) as a fallback. Comes last.
void register_sparse_cpu_path(
    torch::Library& sparse, torch::Library& compressed, torch::Library& sparse_any, torch::Library& compressed_any);

} // namespace rivulet
