// The one entry point of the library for PyTorch's side. Nothing is registered before it is called.
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>
#include <torch/version.h>

#include <string>

#include "aten/kernel_memory.h"
#include "aten/kernel_threads.h"
#include "aten/kernels.h"
#include "native/direct.h"
#include "native/encoder.h"
#include "native/nested.h"
#include "native/table.h"
#include "runtime/accelerator.h"
#include "runtime/allocator.h"
#include "runtime/guard.h"
#include "runtime/hooks.h"
#include "rivulet_adaptor.h"

namespace {

std::string& last_error() {
  static thread_local std::string text;
  return text;
}

bool has_allocator() {
  try {
    return c10::GetAllocator(c10::kMPS) != nullptr;
  } catch (const c10::Error&) {
    return false;
  }
}

// A registration is for the life of the process: PyTorch's dispatcher keeps the kernels, and tensors may outlive
// every static object.
torch::Library& library(const char* ns, c10::DispatchKey key) {
  return *new torch::Library(torch::Library::IMPL, ns, key, __FILE__, __LINE__);
}

void check_unclaimed() {
  TORCH_CHECK(!has_allocator(), "PyTorch already has an allocator for mps; is another backend for mps installed?");
  TORCH_CHECK(
      !c10::impl::hasDeviceGuardImpl(c10::kMPS),
      "PyTorch already has a device guard for mps; is another backend for mps installed?");
  TORCH_CHECK(
      !c10::Dispatcher::singleton().hasBackendFallbackForDispatchKey(c10::DispatchKey::MPS),
      "PyTorch already has a fallback for mps kernels; is another backend for mps installed?");
}

void register_everything(rivulet::AcceleratorChoice choice) {
  using c10::DispatchKey;
  check_unclaimed();
  rivulet::register_hooks();
  c10::SetAllocator(c10::kMPS, &rivulet::device_allocator());
  static c10::impl::DeviceGuardImplRegistrar guard(c10::kMPS, &rivulet::device_guard());
  rivulet::choose_accelerator(choice);
  rivulet::note_default_kernel_threads();
  rivulet::register_kernel_memory();

  // Native ops are looked up while the rest is registered.
  rivulet::prepare_hooks();
  rivulet::register_nested();
  auto& aten = library("aten", DispatchKey::MPS);
  auto& autograd = library("aten", DispatchKey::AutogradMPS);
  rivulet::register_factories(aten);
  rivulet::register_views(aten);
  rivulet::register_copies(aten);
  rivulet::register_attention(aten, autograd);
  rivulet::register_random(aten);
  rivulet::register_direct(aten, autograd);
  rivulet::register_encoder(aten);
  rivulet::register_hot_ops(aten);
  rivulet::register_cpu_path(aten, library("_", DispatchKey::MPS));
  auto& sparse = library("aten", DispatchKey::SparseMPS);
  auto& compressed = library("aten", DispatchKey::SparseCsrMPS);
  rivulet::register_compressed_factory(autograd, compressed, library("aten", DispatchKey::SparseCsrCPU));
  rivulet::register_sparse(sparse, compressed);
  rivulet::register_sparse_cpu_path(
      sparse, compressed, library("_", DispatchKey::SparseMPS), library("_", DispatchKey::SparseCsrMPS));
}

} // namespace

extern "C" int32_t rivulet_adaptor_register(int32_t accelerator) {
  try {
    register_everything(static_cast<rivulet::AcceleratorChoice>(accelerator));
    return RIVULET_OK;
  } catch (const c10::Error& e) {
    last_error() = e.what_without_backtrace();
  } catch (const std::exception& e) {
    last_error() = e.what();
  } catch (...) {
    last_error() = "unknown C++ exception";
  }
  return RIVULET_ERROR;
}

extern "C" const char* rivulet_adaptor_last_error() {
  return last_error().c_str();
}

extern "C" const char* rivulet_adaptor_built_for() {
  return TORCH_VERSION;
}
