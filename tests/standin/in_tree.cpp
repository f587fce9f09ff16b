// Plays the mps backend that PyTorch's wheels for macOS carry: hooks, an allocator, a device guard, a fallback and
// the kernels that theirs has, registered as theirs are, in static initialisers. Memory and arithmetic are the CPU's; every part records
// that it was called.
#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/MPSHooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/Allocator.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <cstdlib>
#include <fstream>
#include <unordered_set>

#include "calls.h"

namespace standin {

Part hooks{"hooks"}, allocator{"allocator"}, guard{"guard"}, fallback{"fallback"}, kernel{"kernel"};

std::string& refused() {
  static auto* text = new std::string();
  return *text;
}

const c10::Device kDevice{c10::kMPS, 0};
const c10::Stream kStream{c10::Stream::DEFAULT, kDevice};

struct Allocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    called(allocator, "allocate");
    void* data = bytes ? std::malloc(bytes) : nullptr;
    return {data, data, &std::free, kDevice};
  }
  c10::DeleterFnPtr raw_deleter() const override {
    return &std::free;
  }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }
};

Allocator& the_allocator() {
  static auto* one = new Allocator();
  return *one;
}

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override {
    return c10::kMPS;
  }
  c10::Device exchangeDevice(c10::Device) const override {
    called(guard, "exchangeDevice");
    return kDevice;
  }
  c10::Device getDevice() const override {
    called(guard, "getDevice");
    return kDevice;
  }
  void setDevice(c10::Device) const override {
    called(guard, "setDevice");
  }
  void uncheckedSetDevice(c10::Device) const noexcept override {
    called(guard, "uncheckedSetDevice");
  }
  c10::Stream getStream(c10::Device) const override {
    called(guard, "getStream");
    return kStream;
  }
  c10::Stream getDefaultStream(c10::Device) const override {
    called(guard, "getDefaultStream");
    return kStream;
  }
  c10::Stream exchangeStream(c10::Stream) const override {
    called(guard, "exchangeStream");
    return kStream;
  }
  c10::DeviceIndex deviceCount() const noexcept override {
    called(guard, "deviceCount");
    return 1;
  }
};

// The registry creates the class by this name.
struct MPSHooks final : at::MPSHooksInterface {
  MPSHooks() {
    called(hooks, "created");
  }
  explicit MPSHooks(at::MPSHooksArgs) : MPSHooks() {}
  void init() const override {
    called(hooks, "init");
  }
  // False, unlike the real one's: PyTorch's wheels for Linux are built with CUDA, and two accelerators are an error.
  bool isBuilt() const override {
    called(hooks, "isBuilt");
    return false;
  }
  bool isAvailable() const override {
    called(hooks, "isAvailable");
    return true;
  }
  bool hasMPS() const override {
    called(hooks, "hasMPS");
    return true;
  }
  bool isOnMacOSorNewer(unsigned, unsigned) const override {
    called(hooks, "isOnMacOSorNewer");
    return true;
  }
  bool hasPrimaryContext(c10::DeviceIndex) const override {
    called(hooks, "hasPrimaryContext");
    return true;
  }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    called(hooks, "getDefaultGenerator");
    return at::globalContext().defaultGenerator(c10::kCPU);
  }
  at::Allocator* getMPSDeviceAllocator() const override {
    called(hooks, "getMPSDeviceAllocator");
    return &the_allocator();
  }
  void deviceSynchronize() const override {
    called(hooks, "deviceSynchronize");
  }
  void commitStream() const override {
    called(hooks, "commitStream");
  }
  void emptyCache() const override {
    called(hooks, "emptyCache");
  }
  size_t getCurrentAllocatedMemory() const override {
    called(hooks, "getCurrentAllocatedMemory");
    return 4711;
  }
  size_t getDriverAllocatedMemory() const override {
    called(hooks, "getDriverAllocatedMemory");
    return 4711;
  }
  size_t getRecommendedMaxMemory() const override {
    called(hooks, "getRecommendedMaxMemory");
    return 4711;
  }
  void setMemoryFraction(double) const override {
    called(hooks, "setMemoryFraction");
  }
  uint32_t acquireEvent(bool) const override {
    called(hooks, "acquireEvent");
    return 1;
  }
  void releaseEvent(uint32_t) const override {
    called(hooks, "releaseEvent");
  }
  void recordEvent(uint32_t) const override {
    called(hooks, "recordEvent");
  }
  void waitForEvent(uint32_t) const override {
    called(hooks, "waitForEvent");
  }
  void synchronizeEvent(uint32_t) const override {
    called(hooks, "synchronizeEvent");
  }
  bool queryEvent(uint32_t) const override {
    called(hooks, "queryEvent");
    return true;
  }
};

using at::Tensor;

Tensor on_cpu(const Tensor& tensor) {
  return at::from_blob(
      tensor.data_ptr(), tensor.sizes(), tensor.strides(), tensor.options().device(c10::kCPU).requires_grad(false));
}

Tensor empty(
    c10::SymIntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>, std::optional<at::Device>,
    std::optional<bool>, std::optional<at::MemoryFormat> format) {
  called(kernel, "empty.memory_format");
  c10::DeviceGuard here(kDevice);
  return at::detail::empty_generic(
      C10_AS_INTARRAYREF_SLOW(size), c10::GetAllocator(c10::kMPS), c10::DispatchKeySet(c10::DispatchKey::MPS),
      dtype.value_or(at::kFloat), format);
}

Tensor empty_strided(
    c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<at::ScalarType> dtype,
    std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  called(kernel, "empty_strided");
  return at::detail::empty_strided_generic(
      C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), c10::GetAllocator(c10::kMPS),
      c10::DispatchKeySet(c10::DispatchKey::MPS), dtype.value_or(at::kFloat));
}

Tensor& copy_(Tensor& self, const Tensor& source, bool) {
  called(kernel, "copy_");
  on_cpu(self).copy_(on_cpu(source));
  return self;
}

Tensor copy_from(const Tensor& self, const Tensor& target, bool non_blocking) {
  called(kernel, "_copy_from");
  Tensor to = target;
  copy_(to, self, non_blocking);
  return to;
}

Tensor copy_from_and_resize(const Tensor& self, const Tensor& target) {
  called(kernel, "_copy_from_and_resize");
  TORCH_CHECK(target.sizes() == self.sizes(), "the stand-in does not resize");
  return copy_from(self, target, false);
}

void by_the_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  called(kernel, c10::toString(op.operator_name()).c_str());
  at::native::cpu_fallback(op, stack);
}

// An op that exists for the in-tree backend alone.
void only_here(const c10::OperatorHandle& op, torch::jit::Stack*) {
  called(kernel, c10::toString(op.operator_name()).c_str());
  TORCH_CHECK(false, "the stand-in cannot convolve");
}

void fall_back(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  called(fallback, c10::toString(op.operator_name()).c_str());
  at::native::cpu_fallback(op, stack);
}

// PyTorch's own fallback is there before any other library is. Loaded second, this one is told off, which would end the
// process in a static initialiser.
struct Fallback {
  torch::Library library{torch::Library::IMPL, "_", c10::DispatchKey::MPS, __FILE__, __LINE__};
  Fallback() {
    try {
      library.fallback(torch::CppFunction::makeFromBoxedFunction<&fall_back>());
    } catch (const c10::Error& error) {
      refused() += error.what_without_backtrace();
    }
  }
};
const Fallback* registered = new Fallback();

} // namespace standin

namespace at {
using MPSHooks = standin::MPSHooks;
using at::MPSHooksRegistry;
REGISTER_MPS_HOOKS(MPSHooks);
} // namespace at

namespace c10 {
REGISTER_ALLOCATOR(c10::kMPS, &standin::the_allocator());
}

using StandinGuard = standin::Guard;
C10_REGISTER_GUARD_IMPL(MPS, StandinGuard);

// Every kernel that the real one has (kernels-*.txt), where nothing above has its own.
void register_kernels(torch::Library& library, const char* key) {
  static const std::unordered_set<std::string> own{"empty.memory_format", "empty_strided", "copy_", "_copy_from",
                                                   "_copy_from_and_resize", "view", "as_strided"};
  static const std::unordered_set<std::string> alone{
      "_convert_weight_to_int4pack", "_lstm_mps", "_mps_convolution", "_mps_convolution_transpose",
      "_scaled_dot_product_attention_math_for_mps", "_weight_int4pack_mm", "linear_backward", "lstm_mps_backward",
      "max_pool2d_backward", "mps_convolution_backward", "mps_convolution_transpose_backward"};
  std::ifstream list(STANDIN_KERNELS);
  std::string at, name;
  int count = 0;
  while (list >> at) {
    if (at[0] == '#') {
      std::getline(list, at);
      continue;
    }
    list >> name;
    if (at != key || (at == "MPS" && own.count(name) != 0)) {
      continue;
    }
    auto kernel = alone.count(name) != 0 ? torch::CppFunction::makeFromBoxedFunction<&standin::only_here>()
                                         : torch::CppFunction::makeFromBoxedFunction<&standin::by_the_cpu>();
    library.impl(name.c_str(), std::move(kernel));
    ++count;
  }
  TORCH_CHECK(count > 0, STANDIN_KERNELS, " has no kernels for ", key);
}

TORCH_LIBRARY_IMPL(aten, MPS, m) {
  m.impl("empty.memory_format", standin::empty);
  m.impl("empty_strided", standin::empty_strided);
  m.impl("copy_", standin::copy_);
  m.impl("_copy_from", standin::copy_from);
  m.impl("_copy_from_and_resize", standin::copy_from_and_resize);
  m.impl("view", at::native::view);
  m.impl("as_strided", at::native::as_strided_tensorimpl);
  register_kernels(m, "MPS");
}

TORCH_LIBRARY_IMPL(aten, SparseMPS, m) {
  register_kernels(m, "SparseMPS");
}

TORCH_LIBRARY_IMPL(aten, SparseCsrMPS, m) {
  register_kernels(m, "SparseCsrMPS");
}

// A generator of a class of its own, as PyTorch's TorchScript makes it on macOS.
struct Generator final : c10::GeneratorImpl {
  Generator() : c10::GeneratorImpl(standin::kDevice, c10::DispatchKeySet(c10::DispatchKey::MPS)) {}
  void set_current_seed(uint64_t) override {}
  void set_offset(uint64_t) override {}
  uint64_t get_offset() const override {
    return 0;
  }
  uint64_t current_seed() const override {
    return 0;
  }
  uint64_t seed() override {
    return 0;
  }
  void set_state(const c10::TensorImpl&) override {}
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    return {};
  }
  GeneratorImpl* clone_impl() const override {
    return new Generator();
  }
};

// --- what the tests call ---

STANDIN_EXPORT uint64_t standin_calls(const char* part) {
  for (auto* one : {&standin::hooks, &standin::allocator, &standin::guard, &standin::fallback, &standin::kernel}) {
    if (std::strcmp(one->name, part) == 0) {
      return one->calls.load();
    }
  }
  return UINT64_MAX;
}

// "part:member" a line, in the order of the first calls.
STANDIN_EXPORT const char* standin_members() {
  static thread_local std::string text;
  std::lock_guard<std::mutex> lock(standin::members_lock());
  text = standin::members();
  return text.c_str();
}

STANDIN_EXPORT const char* standin_refused() {
  return standin::refused().c_str();
}

STANDIN_EXPORT void standin_create_hooks() {
  at::detail::getMPSHooks();
}

// Draws on mps from a generator that the in-tree backend made; what came of it.
STANDIN_EXPORT const char* standin_draw() {
  static thread_local std::string text;
  try {
    at::randn({3}, at::make_generator<Generator>(), at::TensorOptions(standin::kDevice));
    text = "drawn";
  } catch (const c10::Error& error) {
    text = error.what_without_backtrace();
  }
  return text.c_str();
}
