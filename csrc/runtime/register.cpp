// The one entry point of the library for PyTorch's side. Nothing is registered before it is called.
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>
#include <torch/version.h>

#include <string>

#include "aten/kernel_memory.h"
#include "aten/kernel_threads.h"
#include "aten/kernels.h"
#include "aten/takeover.h"
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

// Takes the place of whatever allocator and guard are there, at load and where another library has replaced ours since.
// The highest priority: an allocator that is set later loses. A guard that is set later wins, and is found.
void take_over_parts(bool later) {
  constexpr uint8_t kHighest = UINT8_MAX;
  c10::Allocator* present = rivulet::present_allocator();
  if (present != &rivulet::device_allocator()) {
    if (present != nullptr) {
      rivulet::note_displaced({"allocator", "", "", "", "the allocator of Rivulet", later});
    }
    c10::SetAllocator(c10::kMPS, &rivulet::device_allocator(), kHighest);
  }
  bool has_guard = c10::impl::hasDeviceGuardImpl(c10::kMPS);
  if (!has_guard || c10::impl::getDeviceGuardImpl(c10::kMPS) != &rivulet::device_guard()) {
    if (has_guard) {
      rivulet::note_displaced({"guard", "", "", "", "the device guard of Rivulet", later});
    }
    c10::impl::DeviceGuardImplRegistrar guard(c10::kMPS, &rivulet::device_guard());
  }
}

void register_everything(rivulet::AcceleratorChoice choice) {
  using c10::DispatchKey;
  using rivulet::library;
  auto marker = c10::Dispatcher::singleton().findSchema({"aten::add", "Tensor"});
  TORCH_CHECK(
      !marker || !rivulet::has_ours(*marker, DispatchKey::MPS), "Rivulet has registered mps in this process already");
  // First, as the one part that may have to be refused.
  rivulet::register_hooks();
  rivulet::QuietOverrides quiet;
  rivulet::note_kernels_at_load();
  take_over_parts(false);
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
  rivulet::register_in_tree_ops(aten, autograd);
  rivulet::register_random(aten);
  rivulet::register_direct(aten, autograd);
  rivulet::register_encoder(aten);
  rivulet::register_hot_ops(aten);
  auto& sparse = library("aten", DispatchKey::SparseMPS);
  auto& compressed = library("aten", DispatchKey::SparseCsrMPS);
  rivulet::register_compressed_factory(autograd, compressed, library("aten", DispatchKey::SparseCsrCPU));
  rivulet::register_sparse(sparse, compressed);
  rivulet::note_own_kernels();
  rivulet::register_cpu_path(aten, library("_", DispatchKey::MPS));
  rivulet::register_sparse_cpu_path(
      sparse, compressed, library("_", DispatchKey::SparseMPS), library("_", DispatchKey::SparseCsrMPS));
  rivulet::take_over_kernels();
}

template <typename Body>
int32_t guarded(Body body) {
  try {
    body();
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

} // namespace

extern "C" int32_t rivulet_adaptor_register(int32_t accelerator) {
  return guarded([&] { register_everything(static_cast<rivulet::AcceleratorChoice>(accelerator)); });
}

extern "C" int32_t rivulet_adaptor_look_again(const char* op) {
  return guarded([&] {
    take_over_parts(true);
    rivulet::look_again(op ? std::optional<std::string>(op) : std::nullopt);
  });
}

extern "C" int32_t rivulet_adaptor_make_room(const char* op) {
  return guarded([&] { rivulet::make_room(op); });
}

extern "C" int32_t rivulet_adaptor_displaced(rivulet_displaced_visitor each, void* context) {
  return guarded([&] {
    rivulet::list_displaced([&](const rivulet::Displaced& entry) {
      each(
          context, entry.part.c_str(), entry.name.c_str(), entry.key.c_str(), entry.from.c_str(), entry.now.c_str(),
          entry.later);
    });
  });
}

extern "C" const char* rivulet_adaptor_last_error() {
  return last_error().c_str();
}

extern "C" const char* rivulet_adaptor_built_for() {
  return TORCH_VERSION;
}
