// The CPU path: an op runs PyTorch's own CPU kernel over the bytes of its mps operands, as an operation of the
// calling thread's stream.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>

#include <memory>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>
#include <unordered_set>

#include "aten/alias.h"
#include "aten/cpu_path.h"
#include "aten/host_scope.h"
#include "aten/kernels.h"
#include "aten/random.h"
#include "aten/takeover.h"
#include "native/nested.h"
#include "native/scope.h"
#include "native/table.h"
#include "runtime/allocator.h"
#include "runtime/hooks.h"
#include "runtime/status.h"

namespace rivulet {

namespace {

using c10::IValue;
using torch::jit::Stack;

enum class Kind : uint8_t { Tensor, TensorList, OptionalTensorList, Device, Generator };

struct Argument {
  uint16_t index;
  Kind kind;
  bool write;
};

// Ops that take index or shape tensors from the CPU beside mps operands, as on other devices.
bool accepts_cpu_operands(const std::string& op) {
  static const std::unordered_set<std::string> names = {
      "aten::index", "aten::_unsafe_index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_",
      "aten::_unsafe_index_put", "aten::tensor_split", "aten::_pack_padded_sequence",
      "aten::_pack_padded_sequence_backward", "aten::repeat_interleave", "aten::_copy_from",
      "aten::_foreach_copy_", "aten::_ctc_loss", "aten::_ctc_loss_backward"};
  return names.count(op) != 0;
}

// What the schema of one op says, read once.
struct Plan {
  uint32_t id;
  uint16_t argument_count;
  uint16_t return_count;
  bool accepts_cpu;
  bool native;
  c10::DispatchKey native_key;
  std::string name;
  std::vector<Argument> arguments;
  // For each result: the argument it is (Tensor(a!)), or -1.
  std::vector<int16_t> returned_argument;

  explicit Plan(const c10::OperatorHandle& op) {
    const auto& schema = op.schema();
    const auto& full = op.operator_name();
    name = c10::toString(full);
    id = rivulet_op_id(name.c_str());
    accepts_cpu = accepts_cpu_operands(full.name);
    native = is_native(full);
    native_key = rivulet::native_key(full);
    argument_count = static_cast<uint16_t>(schema.arguments().size());
    return_count = static_cast<uint16_t>(schema.returns().size());
    for (uint16_t i = 0; i < argument_count; ++i) {
      const auto& argument = schema.arguments()[i];
      bool write = (argument.alias_info() != nullptr && argument.alias_info()->isWrite()) ||
          writes_unmarked(full.name, i);
      if (auto kind = kind_of(*argument.type())) {
        arguments.push_back({i, *kind, write});
      }
    }
    for (const auto& result : schema.returns()) {
      returned_argument.push_back(find_aliased(schema, result));
    }
  }

 private:
  static std::optional<Kind> kind_of(const c10::Type& type) {
    const c10::Type* inner = &type;
    if (type.kind() == c10::TypeKind::OptionalType) {
      inner = type.castRaw<c10::OptionalType>()->getElementType().get();
    }
    switch (inner->kind()) {
      case c10::TypeKind::TensorType:
        return Kind::Tensor;
      case c10::TypeKind::GeneratorType:
        return Kind::Generator;
      case c10::TypeKind::DeviceObjType:
        return Kind::Device;
      case c10::TypeKind::ListType: {
        auto element = inner->castRaw<c10::ListType>()->getElementType();
        if (element->kind() == c10::TypeKind::TensorType) {
          return Kind::TensorList;
        }
        if (element->kind() == c10::TypeKind::OptionalType &&
            element->castRaw<c10::OptionalType>()->getElementType()->kind() == c10::TypeKind::TensorType) {
          return Kind::OptionalTensorList;
        }
        return std::nullopt;
      }
      default:
        return std::nullopt;
    }
  }

  static int16_t find_aliased(const c10::FunctionSchema& schema, const c10::Argument& result) {
    if (result.alias_info() == nullptr || !result.alias_info()->isWrite()) {
      return -1;
    }
    for (size_t i = 0; i < schema.arguments().size(); ++i) {
      const auto* info = schema.arguments()[i].alias_info();
      if (info != nullptr && info->isWrite() && info->beforeSets() == result.alias_info()->beforeSets()) {
        return static_cast<int16_t>(i);
      }
    }
    return -1;
  }
};

// Replaces the mps operands on the stack by stand-ins. Keeps the originals of marked results.
class Call {
 public:
  Call(const Plan& plan, Stack& stack) : plan_(plan), stack_(stack), base_(stack.size() - plan.argument_count) {}

  void lower() {
    for (const auto& argument : plan_.arguments) {
      IValue& value = stack_[base_ + argument.index];
      switch (argument.kind) {
        case Kind::Tensor:
          if (value.isTensor()) {
            lower_tensor(value, argument.write);
          }
          break;
        case Kind::TensorList:
          if (value.isTensorList()) {
            c10::List<at::Tensor> list;
            for (const at::Tensor& tensor : value.toTensorVector()) {
              list.push_back(lower_element(tensor, argument.write));
            }
            value = std::move(list);
          }
          break;
        case Kind::OptionalTensorList:
          if (value.isList()) {
            c10::List<std::optional<at::Tensor>> list;
            for (const IValue& element : value.toListRef()) {
              std::optional<at::Tensor> tensor;
              if (element.isTensor()) {
                tensor = lower_element(element.toTensor(), argument.write);
              }
              list.push_back(std::move(tensor));
            }
            value = std::move(list);
          }
          break;
        case Kind::Device:
          if (value.isDevice()) {
            value = c10::Device(c10::kCPU);
          }
          break;
        case Kind::Generator:
          value = host_generator(value);
          break;
      }
    }
    lowering_.check(plan_.name.c_str(), plan_.accepts_cpu);
  }

  const Lowering& lowering() const {
    return lowering_;
  }

  void raise() {
    AliasSet& aliases = lowering_.aliases();
    aliases.carry_back();
    size_t first = stack_.size() - plan_.return_count;
    for (size_t i = 0; i < plan_.return_count; ++i) {
      IValue& value = stack_[first + i];
      if (value.isTensor()) {
        value = aliases.restore(std::move(value).toTensor());
      } else if (value.isTensorList()) {
        c10::List<at::Tensor> list;
        auto tensors = value.toTensorVector();
        value = IValue(); // the list held a second reference to each result
        for (at::Tensor& tensor : tensors) {
          list.push_back(aliases.restore(std::move(tensor)));
        }
        value = std::move(list);
      }
    }
  }

 private:
  void lower_tensor(IValue& value, bool write) {
    at::Tensor tensor = std::move(value).toTensor();
    value = lowering_.device_operand(tensor, write) ? lowering_.take(std::move(tensor), write) : std::move(tensor);
  }

  at::Tensor lower_element(const at::Tensor& tensor, bool write) {
    return lowering_.device_operand(tensor, write) ? lowering_.take(tensor, write) : tensor;
  }

  const Plan& plan_;
  Stack& stack_;
  size_t base_;
  Lowering lowering_;
};

// `layout`: the CPU key of an op that was called for a sparse layout with no sparse operand, such as a factory.
void run(const Plan& plan, const c10::OperatorHandle& op, Stack* stack, c10::DispatchKey layout) {
  Call call(plan, *stack);
  call.lower();
  OpScope scope(plan.id, call.lowering(), plan.native && layout == c10::DispatchKey::CPU);
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  try {
    op.redispatchBoxed(call.lowering().keys(scope.is_native() ? plan.native_key : layout), stack);
  } catch (const c10::Error& error) {
    rethrow_as_device_error(error, plan.name);
  }
  call.raise();
}

// One op, its plan at hand.
template <c10::DispatchKey layout>
class OpKernel final : public c10::OperatorKernel {
 public:
  explicit OpKernel(const c10::OperatorHandle& op) : plan_(op) {}
  void operator()(const c10::OperatorHandle& op, c10::DispatchKeySet, Stack* stack) {
    run(plan_, op, stack, layout);
  }

 private:
  Plan plan_;
};

template <c10::DispatchKey layout>
void take(torch::Library& aten, const c10::OperatorHandle& op) {
  aten.impl(
      c10::toString(op.operator_name()).c_str(),
      torch::CppFunction::makeFromBoxedFunctor(std::make_unique<OpKernel<layout>>(op)));
}

// Ops that no kernel was registered for by name: other layouts, libraries loaded later.
const Plan& plan_for(const c10::OperatorHandle& op) {
  static std::shared_mutex mutex;
  static auto* plans = new std::unordered_map<c10::OperatorName, std::unique_ptr<Plan>>();
  {
    std::shared_lock<std::shared_mutex> lock(mutex);
    auto found = plans->find(op.operator_name());
    if (found != plans->end()) {
      return *found->second;
    }
  }
  auto plan = std::make_unique<Plan>(op);
  std::unique_lock<std::shared_mutex> lock(mutex);
  return *plans->emplace(op.operator_name(), std::move(plan)).first->second;
}

template <c10::DispatchKey layout>
void fallback(const c10::OperatorHandle& op, Stack* stack) {
  run(plan_for(op), op, stack, layout);
}

// The keys at which the fallback is ours. Written while PyTorch is loaded, read after.
std::unordered_set<c10::DispatchKey>& fallbacks() {
  static auto* keys = new std::unordered_set<c10::DispatchKey>();
  return *keys;
}

template <c10::DispatchKey layout>
void register_fallback(torch::Library& library, c10::DispatchKey key) {
  if (c10::Dispatcher::singleton().hasBackendFallbackForDispatchKey(key)) {
    note_displaced({"fallback", "", c10::toString(key), "", "every op it served has a kernel of Rivulet", false});
    return;
  }
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback<layout>>());
  fallbacks().insert(key);
}

// Ops without a CPU kernel of their own that are still better run whole on the CPU than taken apart into mps ops.
constexpr struct {
  const char* name;
  const char* overload;
} kWhole[] = {
    {"aten::convolution", ""},
    {"aten::convolution_backward", ""},
    {"aten::convolution_overrideable", ""},
    {"aten::convolution_backward_overrideable", ""},
    // Composite, but refuses devices that it does not know.
    {"aten::mode", "values"},
};

} // namespace

void Lowering::check_slow(const char* op, bool accepts_cpu) const {
  TORCH_CHECK(
      accepts_cpu || !foreign_.has_value() || !device_operands_,
      "Expected all tensors to be on the same device, but found at least two devices, mps:0 and ",
      *foreign_,
      "! (in ",
      op,
      ")");
  TORCH_CHECK(
      !needs_grad_ || is_accelerator() || !c10::GradMode::is_enabled(),
      "mps has no autograd in this process, because cuda is its accelerator. Set RIVULET_ACCELERATOR=mps before "
      "`import torch`, or run under torch.no_grad() (in ",
      op,
      ")");
}

void rethrow_as_device_error(const c10::Error& error, const std::string& op) {
  std::string text = error.what_without_backtrace();
  if (text.find("DefaultCPUAllocator") != std::string::npos) {
    TORCH_CHECK_WITH(OutOfMemoryError, false, "mps is out of memory in ", op, ": ", text);
  }
  throw;
}

void register_cpu_path(torch::Library& aten, torch::Library& fallback_library) {
  auto& dispatcher = c10::Dispatcher::singleton();
  for (const auto& name : dispatcher.getAllOpNames()) {
    if (name.name.rfind("aten::", 0) != 0) {
      continue;
    }
    auto op = dispatcher.findSchema(name);
    // A kernel at MPS beside a composite one would cut autograd, unless the op has a derivative of its own.
    if (op && op->hasKernelForDispatchKey(c10::DispatchKey::CPU) &&
        !has_ours(*op, c10::DispatchKey::MPS) &&
        (!op->hasKernelForDispatchKey(c10::DispatchKey::CompositeImplicitAutograd) ||
         op->hasKernelForDispatchKey(c10::DispatchKey::Autograd))) {
      take<c10::DispatchKey::CPU>(aten, *op);
    }
  }
  for (const auto& whole : kWhole) {
    if (auto op = dispatcher.findSchema({whole.name, whole.overload});
        op && !has_ours(*op, c10::DispatchKey::MPS)) {
      take<c10::DispatchKey::CPU>(aten, *op);
    }
  }
  register_fallback<c10::DispatchKey::CPU>(fallback_library, c10::DispatchKey::MPS);
}

void take_cpu_path(torch::Library& library, const c10::OperatorHandle& op, c10::DispatchKey layout) {
  switch (layout) {
    case c10::DispatchKey::SparseCPU:
      return take<c10::DispatchKey::SparseCPU>(library, op);
    case c10::DispatchKey::SparseCsrCPU:
      return take<c10::DispatchKey::SparseCsrCPU>(library, op);
    default:
      return take<c10::DispatchKey::CPU>(library, op);
  }
}

bool has_our_fallback(c10::DispatchKey key) {
  return fallbacks().count(key) != 0;
}

namespace {

// Every op that has a kernel for this layout on the CPU: a composite one beside it would come before a fallback.
template <c10::DispatchKey layout>
void register_layout(torch::Library& aten, torch::Library& fallback_library, c10::DispatchKey device_layout) {
  auto& dispatcher = c10::Dispatcher::singleton();
  for (const auto& name : dispatcher.getAllOpNames()) {
    if (name.name.rfind("aten::", 0) != 0) {
      continue;
    }
    auto op = dispatcher.findSchema(name);
    if (op && op->hasKernelForDispatchKey(layout) && !has_ours(*op, device_layout) &&
        !op->hasKernelForDispatchKey(c10::DispatchKey::CompositeImplicitAutograd)) {
      take<layout>(aten, *op);
    }
  }
  register_fallback<layout>(fallback_library, device_layout);
}

} // namespace

void register_sparse_cpu_path(
    torch::Library& sparse, torch::Library& compressed, torch::Library& sparse_any, torch::Library& compressed_any) {
  register_layout<c10::DispatchKey::SparseCPU>(sparse, sparse_any, c10::DispatchKey::SparseMPS);
  // Composite, but they make their tensor by hand, for a list of devices without mps.
  auto& dispatcher = c10::Dispatcher::singleton();
  for (c10::OperatorName name : {
           c10::OperatorName("aten::_sparse_compressed_tensor_with_dims", ""),
           c10::OperatorName("aten::sparse_compressed_tensor", "comp_plain_value_size"),
           c10::OperatorName("aten::sparse_compressed_tensor", "comp_plain_value"),
       }) {
    if (auto op = dispatcher.findSchema(name)) {
      take<c10::DispatchKey::SparseCsrCPU>(compressed, *op);
    }
  }
  register_layout<c10::DispatchKey::SparseCsrCPU>(compressed, compressed_any, c10::DispatchKey::SparseCsrMPS);
}

} // namespace rivulet
