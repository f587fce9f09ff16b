// Note [Nested ops]
// What a native op calls through PyTorch's dispatcher goes by kNested. There wait kernels for the ops that touch data
// without a stub (copy_, mm, index_select); native ops themselves begin there where they have one. Every other op goes
// on to the CPU: as it is where it is native too or looks at sizes alone, else in a HostSection.
#pragma once
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <string>
#include <utility>

namespace rivulet {

// Registers kernels at kNested and remembers for which ops.
class Nested {
 public:
  explicit Nested(torch::Library& library) : library_(library) {}
  // `name` without its namespace.
  template <typename Function>
  void impl(const char* name, Function function) {
    library_.impl(name, function);
    note(name);
  }

 private:
  static void note(const char* name);
  torch::Library& library_;
};

// Whether an overload of the op has a kernel there. `name` has neither namespace nor the underscore of in-place ops.
bool has_nested(const std::string& name);

// The key that a native op begins with.
c10::DispatchKey native_key(const c10::OperatorName& name);

// Copies with a kernel, types converted; false where there is none. Both tensors are strided and of the device.
bool copy_elements(const at::Tensor& to, const at::Tensor& from);

void register_nested_copies(Nested& nested);
void register_nested_products(Nested& nested);
void register_nested_indexing(Nested& nested);
void register_nested_statistics(Nested& nested);
void register_nested_convolutions(Nested& nested);
void register_nested_matrices(Nested& nested);
void register_nested_joining(Nested& nested);
void register_nested_losses(Nested& nested);
void register_nested_activations(Nested& nested);
void register_nested_gradients(Nested& nested);
void register_nested_batch_norm(Nested& nested);
void register_nested_placing(Nested& nested);
void register_nested_resampling(Nested& nested);
void register_nested_composed(Nested& nested);
void register_nested();

} // namespace rivulet
