#include "plan/run.h"

#include <ATen/ScalarOps.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <algorithm>
#include <unordered_map>

#include "aten/alias.h"
#include "aten/cpu_path.h"
#include "aten/host_scope.h"
#include "aten/random.h"
#include "native/scope.h"
#include "plan/below_autograd.h"
#include "runtime/allocator.h"

namespace rivulet::plan {

namespace {

using c10::DispatchKey;
using c10::IValue;

IValue as_tensor(const IValue& number) {
  return at::native::wrapped_scalar_tensor(number.toScalar());
}

// Every frame has its own: threads would share the reference count.
IValue own(const Constant& constant) {
  if (constant.as_tensor && !constant.follows_batch()) {
    return as_tensor(constant.value);
  }
  return constant.value.isList() ? constant.value.deepcopy() : constant.value;
}

IValue numbers_at(const Constant& constant, int64_t batch) {
  if (!constant.is_list) {
    IValue number = constant.numbers.front().at(batch);
    return constant.as_tensor ? as_tensor(number) : number;
  }
  c10::List<int64_t> list;
  list.reserve(constant.numbers.size());
  for (const auto& number : constant.numbers) {
    list.push_back(number.at(batch));
  }
  return list;
}

bool has_host_kernel(const c10::OperatorHandle& op) {
  for (auto key : {DispatchKey::CPU, DispatchKey::CompositeImplicitAutograd, DispatchKey::CompositeExplicitAutograd,
                   DispatchKey::CompositeExplicitAutogradNonFunctional}) {
    if (op.hasKernelForDispatchKey(key)) {
      return true;
    }
  }
  return false;
}

bool on_device(const Tape& tape) {
  auto is_device = [](c10::DeviceType type) { return type == c10::kMPS; };
  return std::any_of(tape.inputs.begin(), tape.inputs.end(), [&](auto& input) { return is_device(input.device); }) ||
      std::any_of(tape.shared.begin(), tape.shared.end(), [&](auto& one) { return one.tensor.is_mps(); }) ||
      std::any_of(tape.outputs.begin(), tape.outputs.end(), [&](auto& output) { return output.on_device; });
}

} // namespace

Path path_of(const Tape& tape) {
  if (!on_device(tape)) {
    return Path::Ops;
  }
  if (has_kernels()) {
    return Path::Programs;
  }
  bool host =
      std::all_of(tape.steps.begin(), tape.steps.end(), [](const Step& step) { return has_host_kernel(step.op); });
  return host ? Path::HostKernels : Path::Ops;
}

Frame::Frame(const Tape& tape, Path path, const Pace& pace)
    : tape_(tape), path_(path), pace_(pace), values_(tape.values) {
  constants_.reserve(tape.constants.size());
  for (const auto& constant : tape.constants) {
    IValue value = own(constant);
    if (path == Path::HostKernels && value.isDevice() && value.toDevice().is_mps()) {
      value = c10::Device(c10::kCPU);
    }
    constants_.push_back(std::move(value));
  }
  std::unordered_map<c10::StorageImpl*, c10::Storage> known;
  auto* slot = values_.data() + tape.inputs.size();
  for (const auto& shared : tape.shared) {
    const auto& tensor = shared.tensor;
    if (path != Path::HostKernels || !tensor.is_mps()) {
      *slot++ = tensor;
      continue;
    }
    auto* storage = tensor.storage().unsafeGetStorageImpl();
    auto& host = known[storage];
    auto* block = block_of(*storage);
    if (!host) {
      host = stand_in_storage(*storage);
      stand_ins_.push_back({host.unsafeGetStorageImpl(), storage});
    }
    if (block) {
      shared_blocks_.push_back({block, shared.written ? 1u : 0u});
    }
    *slot++ = host_tensor_over(tensor, host);
  }
  // A block once, and written where any tensor in it is.
  auto by_block = [](const rivulet_operand& a, const rivulet_operand& b) {
    return a.block != b.block ? std::less<>()(a.block, b.block) : a.write > b.write;
  };
  std::sort(shared_blocks_.begin(), shared_blocks_.end(), by_block);
  auto same = [](const rivulet_operand& a, const rivulet_operand& b) { return a.block == b.block; };
  shared_blocks_.erase(std::unique(shared_blocks_.begin(), shared_blocks_.end(), same), shared_blocks_.end());
}

Frame::~Frame() = default;

void Frame::follow(int64_t batch) {
  if (batch == batch_) {
    return;
  }
  for (size_t i = 0; i < tape_.constants.size(); ++i) {
    if (tape_.constants[i].follows_batch()) {
      constants_[i] = numbers_at(tape_.constants[i], batch);
    }
  }
  batch_ = batch;
}

void Frame::keep_results(const Step& step) {
  auto* value = stack_.data() + (stack_.size() - step.results.size());
  for (const auto& result : step.results) {
    if (!result.is_list) {
      if (result.index != kNoSlot) {
        values_[result.index] = std::move(*value);
      }
    } else {
      const auto& slots = tape_.lists[result.index];
      auto list = std::move(*value).toTensorVector();
      TORCH_CHECK(
          list.size() == slots.size(), "a plan: ", step.op.schema().name(), " gave ", list.size(),
          " tensors where it gave ", slots.size(), " when the plan was taken");
      for (size_t i = 0; i < slots.size(); ++i) {
        if (slots[i] != kNoSlot) {
          values_[slots[i]] = std::move(list[i]);
        }
      }
    }
    ++value;
  }
}

template <bool on_host>
void Frame::run_step(const Step& step) {
  stack_.clear();
  for (const auto& argument : step.arguments) {
    switch (argument.kind) {
      case Argument::Kind::Constant:
        stack_.push_back(constants_[argument.index]);
        break;
      case Argument::Kind::Slot:
        stack_.push_back(values_[argument.index]);
        break;
      case Argument::Kind::Tensors: {
        c10::List<at::Tensor> list;
        for (auto slot : tape_.lists[argument.index]) {
          list.push_back(values_[slot].toTensor());
        }
        stack_.emplace_back(std::move(list));
        break;
      }
      case Argument::Kind::OptionalTensors: {
        c10::List<std::optional<at::Tensor>> list;
        for (auto slot : tape_.lists[argument.index]) {
          list.push_back(slot == kNoSlot ? std::nullopt : std::optional<at::Tensor>(values_[slot].toTensor()));
        }
        stack_.emplace_back(std::move(list));
        break;
      }
      case Argument::Kind::Generator:
        // A CPU kernel gets numbers of the device's generator, new ones at each call.
        if constexpr (on_host) {
          stack_.emplace_back(host_generator(IValue()));
        } else {
          stack_.emplace_back();
        }
        break;
    }
  }
  if constexpr (on_host) {
    step.op.redispatchBoxed(kCpu, &stack_);
  } else {
    step.op.callBoxed(&stack_);
  }
  keep_results(step);
  for (auto slot : step.last_used) {
    values_[slot] = IValue();
  }
}

void Frame::clear() {
  stack_.clear();
  for (size_t i = 0; i < tape_.inputs.size(); ++i) {
    values_[i] = IValue();
  }
  for (size_t i = tape_.inputs.size() + tape_.shared.size(); i < values_.size(); ++i) {
    values_[i] = IValue();
  }
}

void Frame::run_ops(const at::Tensor* inputs, std::vector<at::Tensor>& outputs) {
  for (size_t i = 0; i < tape_.inputs.size(); ++i) {
    values_[i] = inputs[i];
  }
  BelowAutograd below_autograd;
  for (const auto& step : tape_.steps) {
    run_step<false>(step);
  }
  for (const auto& output : tape_.outputs) {
    outputs.push_back(values_[output.slot].toTensor());
  }
}

void Frame::run_on_host(const at::Tensor* inputs, uint32_t label, std::vector<at::Tensor>& outputs) {
  AliasSet aliases;
  for (size_t i = 0; i < tape_.inputs.size(); ++i) {
    values_[i] = aliases.alias(inputs[i], tape_.inputs[i].written);
  }
  c10::SmallVector<rivulet_operand, 32> operands(shared_blocks_.begin(), shared_blocks_.end());
  operands.append(aliases.operands().begin(), aliases.operands().end());
  HostScope scope(label, operands);
  {
    BelowAutograd below_autograd;
    rivulet_pace_run run{};
    rivulet_pace_begin(pace_.get(), batch_, &run);
    scope.set_threads(run.threads);
    for (const auto& step : tape_.steps) {
      run_step<true>(step);
    }
    rivulet_pace_end(pace_.get(), &run);
  }
  aliases.carry_back();
  size_t first_shared = tape_.inputs.size();
  size_t first_result = first_shared + tape_.shared.size();
  for (size_t i = 0; i < tape_.outputs.size(); ++i) {
    const auto& output = tape_.outputs[i];
    if (output.slot < first_shared) {
      outputs.push_back(inputs[output.slot]);
      continue;
    }
    if (output.slot < first_result) {
      outputs.push_back(tape_.shared[output.slot - first_shared].tensor);
      continue;
    }
    auto earlier = std::find_if(tape_.outputs.begin(), tape_.outputs.begin() + i, [&](const Output& other) {
      return other.slot == output.slot;
    });
    if (earlier != tape_.outputs.begin() + i) {
      outputs.push_back(outputs[earlier - tape_.outputs.begin()]);
      continue;
    }
    at::Tensor host = std::move(values_[output.slot]).toTensor();
    values_[output.slot] = IValue();
    if (!output.on_device) {
      // What the CPU kernels wrote lies in a block of the stream; a CPU tensor keeps none.
      KernelMemory stock(Writer::Anybody);
      outputs.push_back(host.clone());
      continue;
    }
    const auto* storage = host.has_storage() ? host.storage().unsafeGetStorageImpl() : nullptr;
    auto shared = std::find_if(stand_ins_.begin(), stand_ins_.end(), [&](auto& one) { return one.host == storage; });
    if (shared != stand_ins_.end()) {
      outputs.push_back(device_tensor_over(
          host, c10::Storage(c10::intrusive_ptr<c10::StorageImpl>::reclaim_copy(shared->device))));
      continue;
    }
    outputs.push_back(aliases.restore_result(std::move(host)));
  }
}

std::vector<at::Tensor> Frame::run(const at::Tensor* inputs, int64_t batch, uint32_t label) {
  follow(batch);
  std::vector<at::Tensor> outputs;
  outputs.reserve(tape_.outputs.size());
  struct Clear {
    Frame& frame;
    ~Clear() {
      frame.clear();
    }
  } clear{*this};
  try {
    if (path_ == Path::HostKernels) {
      run_on_host(inputs, label, outputs);
    } else {
      run_ops(inputs, outputs);
    }
  } catch (const c10::Error& error) {
    rethrow_as_device_error(error, "a plan");
  }
  return outputs;
}

} // namespace rivulet::plan
