#include "native/nested.h"

#include <ATen/Functions.h>
#include <ATen/Operators.h>
#include <ATen/TensorIterator.h>

#include <unordered_set>

#include "native/call.h"
#include "native/scope.h"
#include "native/table.h"

namespace rivulet {

using at::Tensor;

bool copy_elements(const Tensor& to, const Tensor& from) {
  if (to.numel() == 0) {
    return true;
  }
  auto iter = at::TensorIteratorConfig()
                  .add_output(to)
                  .add_const_input(from)
                  .resize_outputs(false)
                  .check_all_same_dtype(false)
                  .check_all_same_device(false)
                  .build();
  return call_pointwise(pointwise_op<"copy">(), iter);
}

namespace {

Tensor& copy_(Tensor& self, const Tensor& source, bool non_blocking) {
  if (self.is_same(source)) {
    return self;
  }
  bool plain = self.is_cpu() && source.is_cpu() && !source._is_zerotensor() && source.layout() == c10::kStrided;
  if (plain && copy_elements(self, source)) {
    return self;
  }
  return on_the_host<at::_ops::copy_>(self, source, non_blocking);
}

bool fill_elements(const Tensor& self, const c10::Scalar& value) {
  if (self.numel() == 0) {
    return true;
  }
  Views views;
  return views.output(self) && call_pointwise(pointwise_op<"fill">(), self.scalar_type(), views, {value});
}

Tensor& fill_with(Tensor& self, const c10::Scalar& value) {
  if (fill_elements(self, value)) {
    return self;
  }
  return on_the_host<at::_ops::fill__Scalar>(self, value);
}

Tensor& zero_(Tensor& self) {
  return fill_with(self, 0);
}

// Reading a number waits for the device, also inside another op; that is what was asked for, and no fallback.
void begin_reading(HostSection& section, const Tensor& self) {
  static const uint32_t reading = rivulet_op_id("reading a number");
  section.add(self, false);
  section.begin(reading);
}

at::Scalar local_scalar_dense(const Tensor& self) {
  HostSection section;
  begin_reading(section, self);
  return at::_ops::_local_scalar_dense::redispatch(kCpu, self);
}

void assert_true(const Tensor& self) {
  HostSection section;
  begin_reading(section, self);
  at::_ops::_assert_async::redispatch(kCpu, self);
}

void assert_true_or_say(const Tensor& self, std::string_view message) {
  HostSection section;
  begin_reading(section, self);
  at::_ops::_assert_async_msg::redispatch(kCpu, self, message);
}

} // namespace

void register_nested_copies(Nested& nested) {
  nested.impl("copy_", copy_);
  nested.impl("fill_.Scalar", fill_with);
  nested.impl("zero_", zero_);
  nested.impl("_local_scalar_dense", local_scalar_dense);
  nested.impl("_assert_async", assert_true);
  nested.impl("_assert_async.msg", assert_true_or_say);
}

namespace {

std::unordered_set<std::string>& with_kernels() {
  static auto* names = new std::unordered_set<std::string>();
  return *names;
}

std::unordered_set<std::string>& bases() {
  static auto* names = new std::unordered_set<std::string>();
  return *names;
}

// Ops that look at sizes and addresses alone.
bool looks_at_sizes(const c10::FunctionSchema& schema) {
  static const std::unordered_set<std::string> names = {
      "aten::empty", "aten::empty_strided", "aten::resize_", "aten::resize_as_", "aten::set_", "aten::is_set_to",
      "aten::as_strided_", "aten::squeeze_", "aten::unsqueeze_", "aten::t_", "aten::transpose_", "aten::_reshape_alias"};
  if (names.count(schema.name()) != 0) {
    return true;
  }
  // A view: a result that shares its memory with an argument and is not written.
  for (const auto& result : schema.returns()) {
    if (result.alias_info() != nullptr && !result.alias_info()->isWrite()) {
      return true;
    }
  }
  return false;
}

bool passes(const c10::OperatorHandle& op) {
  return is_native(op.operator_name()) || looks_at_sizes(op.schema()) ||
      !op.hasKernelForDispatchKey(c10::DispatchKey::CPU);
}

// Every op without an entry of its own.
void nested_fallback(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
  auto below = keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, kNested);
  if (passes(op)) {
    op.redispatchBoxed(below, stack);
    return;
  }
  HostSection section;
  const auto& arguments = op.schema().arguments();
  size_t base = stack->size() - arguments.size();
  for (size_t i = 0; i < arguments.size(); ++i) {
    section.note_value((*stack)[base + i], arguments[i].alias_info() != nullptr && arguments[i].alias_info()->isWrite());
  }
  section.begin();
  op.redispatchBoxed(below, stack);
}

} // namespace

void Nested::note(const char* name) {
  with_kernels().insert(std::string("aten::") + name);
  std::string base(name);
  base = base.substr(0, base.find('.'));
  if (base.back() == '_') {
    base.pop_back();
  }
  bases().insert(std::move(base));
}

bool has_nested(const std::string& name) {
  return bases().count(name) != 0;
}

c10::DispatchKey native_key(const c10::OperatorName& name) {
  return with_kernels().count(c10::toString(name)) != 0 ? kNested : c10::DispatchKey::CPU;
}

void register_nested() {
  // Leaked, like every registration: the dispatcher keeps the kernels.
  auto& any = *new torch::Library(torch::Library::IMPL, "_", kNested, __FILE__, __LINE__);
  any.fallback(torch::CppFunction::makeFromBoxedFunction<&nested_fallback>());
  auto& aten = *new torch::Library(torch::Library::IMPL, "aten", kNested, __FILE__, __LINE__);
  Nested nested(aten);
  register_nested_copies(nested);
  register_nested_products(nested);
  register_nested_indexing(nested);
  register_nested_statistics(nested);
  register_nested_convolutions(nested);
  register_nested_matrices(nested);
  register_nested_joining(nested);
  register_nested_losses(nested);
  register_nested_activations(nested);
  register_nested_gradients(nested);
  register_nested_batch_norm(nested);
  register_nested_placing(nested);
  register_nested_resampling(nested);
  register_nested_composed(nested);
  // The boxing of the fallback costs more than many a view.
  auto& dispatcher = c10::Dispatcher::singleton();
  for (const auto& name : dispatcher.getAllOpNames()) {
    if (name.name.rfind("aten::", 0) != 0 || native_key(name) == kNested) {
      continue;
    }
    auto op = dispatcher.findSchema(name);
    if (op && passes(*op)) {
      aten.impl(c10::toString(name).c_str(), torch::CppFunction::makeFallthrough());
    }
  }
}

} // namespace rivulet
