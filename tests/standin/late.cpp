// Plays a library of custom ops that arrives at some time of its own: some of its ops have kernels for the in-tree mps
// backend, which would read a Metal buffer out of our storages, and with STANDIN_OVERRIDE=1 one of PyTorch's ops too.
#include <ATen/ATen.h>
#include <ATen/native/CPUFallback.h>
#include <torch/library.h>

#include <cstdlib>

#include "calls.h"

namespace {

using at::Tensor;

standin::Part kernel{"late"};

Tensor twice(const Tensor& x) {
  TORCH_CHECK(x.is_cpu(), "twice: not on the CPU");
  return x * 2;
}

Tensor twice_on_mps(const Tensor& x) {
  standin::called(kernel, "twice");
  return x.clone();
}

Tensor composed(const Tensor& x) {
  return x.mul(3).add(1);
}

Tensor composed_on_mps(const Tensor& x) {
  standin::called(kernel, "composed_too");
  return x.clone();
}

Tensor metal_only(const Tensor& x) {
  standin::called(kernel, "metal_only");
  return x.clone();
}

void by_the_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  standin::called(kernel, c10::toString(op.operator_name()).c_str());
  at::native::cpu_fallback(op, stack);
}

struct Override {
  torch::Library aten{torch::Library::IMPL, "aten", c10::DispatchKey::MPS, __FILE__, __LINE__};
  Override() {
    aten.impl("erf", torch::CppFunction::makeFromBoxedFunction<&by_the_cpu>());
  }
};
const Override* registered = std::getenv("STANDIN_OVERRIDE") != nullptr ? new Override() : nullptr;

} // namespace

TORCH_LIBRARY(standin_late, m) {
  m.def("twice(Tensor x) -> Tensor");
  m.def("plain(Tensor x) -> Tensor");
  m.def("composed(Tensor x) -> Tensor", &composed);
  m.def("composed_too(Tensor x) -> Tensor", &composed);
  m.def("metal_only(Tensor x) -> Tensor");
}

TORCH_LIBRARY_IMPL(standin_late, CPU, m) {
  m.impl("twice", &twice);
  m.impl("plain", &twice);
}

TORCH_LIBRARY_IMPL(standin_late, MPS, m) {
  m.impl("twice", &twice_on_mps);
  m.impl("composed_too", &composed_on_mps);
  m.impl("metal_only", &metal_only);
}

STANDIN_EXPORT uint64_t late_calls() {
  return kernel.calls.load();
}
