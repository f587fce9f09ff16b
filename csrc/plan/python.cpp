// What Python sees of plans: a type whose call is one C function, and functions to fill it.
//
// Note [A plan's call]
// From Python a call unwraps its tensors, finds the variant for their shapes, takes a frame, gives the GIL up, runs,
// takes the GIL back and wraps the outputs. Whatever is not plain (other arguments than tensors, a new shape, outputs in
// a structure of the user's) goes through the methods _slow and _rebuild of the Python class.
#include <c10/core/GradMode.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>

#include <exception>
#include <string>

#include "plan/interpreter.h"
#include "plan/joined.h"
#include "plan/plan.h"
#include "rivulet.h"
#include "rivulet_adaptor.h"

namespace rivulet::plan {

namespace {

// An owned reference.
class Object {
 public:
  Object() = default;
  explicit Object(PyObject* owned) : object_(owned) {}
  Object(Object&& other) noexcept : object_(other.release()) {}
  Object& operator=(Object&& other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~Object() {
    if (object_ != nullptr) {
      interpreter().Py_DecRef(object_);
    }
  }
  static Object borrowed(PyObject* object) {
    interpreter().Py_IncRef(object);
    return Object(object);
  }
  PyObject* get() const {
    return object_;
  }
  PyObject* release() {
    return std::exchange(object_, nullptr);
  }
  explicit operator bool() const {
    return object_ != nullptr;
  }

 private:
  PyObject* object_ = nullptr;
};

// An entry of a module's dictionary of parameters or buffers, which must still be what the tape was taken with.
struct Binding {
  Object dictionary;
  Object key;
  PyObject* value;
};

enum class Form : int64_t { Tensor, Tuple, List, Rebuilt };

// What a variant's outputs look like, which of the module's tensors it was taken with, and what Python knows of it.
struct Shell {
  uint64_t variant;
  Form form;
  std::vector<Binding> bindings;
  Object description;
};

// The part of a plan that holds Python objects. All of it needs the GIL.
struct PythonPlan {
  Plan plan;
  std::vector<Shell> shells;
  // Where the calls of threads are joined.
  std::shared_ptr<Joined> joined;
  // A call of plain tensors: so many by position, then these by name. Its structure has the number 0.
  bool plain = false;
  size_t positional = 0;
  std::vector<Object> names;

  PythonPlan(const std::string& name, size_t max_shapes) : plan(name, max_shapes) {}

  Shell* shell_of(const Variant& variant) {
    for (auto& shell : shells) {
      if (shell.variant == variant.id()) {
        return &shell;
      }
    }
    return nullptr;
  }

  // Lets go of what belonged to variants that are gone.
  void sweep() {
    auto gone = [&](const Shell& shell) {
      const auto& variants = plan.variants();
      return std::none_of(
          variants.begin(), variants.end(), [&](const auto& variant) { return variant->id() == shell.variant; });
    };
    // Objects are let go of when the list is whole again: their ends may run Python.
    std::vector<Shell> kept;
    std::vector<Shell> ended;
    for (auto& shell : shells) {
      (gone(shell) ? ended : kept).push_back(std::move(shell));
    }
    shells.swap(kept);
    if (joined) {
      joined->keep(plan.variants());
    }
  }
};

struct PlanObject {
  ObjectHead head;
  PythonPlan* plan;
};

struct Failed {}; // a Python error is set

void require(bool done) {
  if (!done) {
    throw Failed();
  }
}

template <typename T>
T* require(T* object) {
  require(object != nullptr);
  return object;
}

// Runs a function of this file; its exceptions become Python's.
template <typename Body>
PyObject* guarded(Body body) {
  try {
    return body().release();
  } catch (const Failed&) {
  } catch (...) {
    interpreter().raise(std::current_exception());
  }
  return nullptr;
}

// The GIL given up until it goes out of scope.
class WithoutGil {
 public:
  WithoutGil() : token_(rivulet_gil_release()) {}
  ~WithoutGil() {
    rivulet_gil_retake(token_);
  }
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  uint64_t token_;
};

// What the body threw is given back, to be thrown when the GIL is held again.
template <typename Body>
std::exception_ptr without_gil(Body body) {
  WithoutGil released;
  try {
    body();
  } catch (...) {
    return std::current_exception();
  }
  return nullptr;
}

void rethrow(const std::exception_ptr& error) {
  if (error) {
    std::rethrow_exception(error);
  }
}

using Tensors = c10::SmallVector<at::Tensor, 8>;

bool bindings_hold(const Shell& shell) {
  const auto& python = interpreter();
  for (const auto& binding : shell.bindings) {
    if (python.PyDict_GetItem(binding.dictionary.get(), binding.key.get()) != binding.value) {
      return false;
    }
  }
  return true;
}

Object wrapped(at::Tensor&& tensor) {
  return Object(require(interpreter().wrap(std::move(tensor))));
}

Object in_tuple(std::vector<at::Tensor>&& tensors) {
  const auto& python = interpreter();
  Object tuple(require(python.PyTuple_New(static_cast<intptr_t>(tensors.size()))));
  for (size_t i = 0; i < tensors.size(); ++i) {
    require(python.PyTuple_SetItem(tuple.get(), static_cast<intptr_t>(i), wrapped(std::move(tensors[i])).release()) == 0);
  }
  return tuple;
}

Object in_list(std::vector<at::Tensor>&& tensors) {
  const auto& python = interpreter();
  Object list(require(python.PyList_New(static_cast<intptr_t>(tensors.size()))));
  for (size_t i = 0; i < tensors.size(); ++i) {
    require(python.PyList_SetItem(list.get(), static_cast<intptr_t>(i), wrapped(std::move(tensors[i])).release()) == 0);
  }
  return list;
}

// The variant of a call.
struct Found {
  std::shared_ptr<Variant> variant;
  int64_t batch = -1;
  Form form = Form::Tensor;
  // For outputs that Python puts together: the variant may be let go of while it runs.
  Object description;
};

Object shaped(PyObject* self, const Found& found, std::vector<at::Tensor>&& outputs) {
  const auto& python = interpreter();
  switch (found.form) {
    case Form::Tensor:
      return wrapped(std::move(outputs.at(0)));
    case Form::Tuple:
      return in_tuple(std::move(outputs));
    case Form::List:
      return in_list(std::move(outputs));
    case Form::Rebuilt:
      break;
  }
  static PyObject* const name = python.PyUnicode_InternFromString("_rebuild");
  Object rebuild(require(python.PyObject_GetAttr(self, name)));
  Object tuple = in_tuple(std::move(outputs));
  return Object(require(python.PyObject_CallFunctionObjArgs(
      rebuild.get(), found.description.get(), tuple.get(), static_cast<PyObject*>(nullptr))));
}

// Runs a variant that fits. Everything but the running itself happens with the GIL held.
std::vector<at::Tensor> run(
    PythonPlan& plan, const std::shared_ptr<Variant>& found, const Tensors& inputs, int64_t batch) {
  Variant& variant = *found;
  ++plan.plan.stats().calls;
  auto label = plan.plan.label();
  std::vector<at::Tensor> outputs;
  if (auto joined = plan.joined; joined && batch > 0 && Joined::fits(variant.tape())) {
    rethrow(without_gil([&] {
      outputs = joined->call(found, {inputs.begin(), inputs.end()}, batch, label);
      if (joined->ends_together()) {
        rivulet_gil_await_turn();
      }
    }));
    return outputs;
  }
  if (auto program = variant.program(batch)) {
    bool done = false;
    rethrow(without_gil([&] { done = program->run(inputs.data(), inputs.size(), outputs); }));
    if (done) {
      return outputs;
    }
  }
  auto frame = variant.take_frame();
  std::exception_ptr error;
  if (variant.start_noting(batch)) {
    Noting noting;
    error = without_gil([&] { noting = Noting::run(variant.tape(), *frame, inputs.data(), batch, label); });
    variant.noted(batch, std::move(noting.program), std::move(noting.refused));
    outputs = std::move(noting.outputs);
  } else {
    // With the wait for the GIL: where many threads make short calls, that is where they are most of the time.
    Caller caller;
    error = without_gil([&] { outputs = frame->run(inputs.data(), batch, label); });
  }
  variant.give_back(std::move(frame));
  rethrow(error);
  return outputs;
}

// The variant for these inputs; one whose module has other tensors now is dropped.
Found find(PythonPlan& plan, uint32_t structure, const Tensors& inputs) {
  Found found;
  auto variant = plan.plan.find(structure, inputs.data(), inputs.size(), &found.batch);
  Shell* shell = variant ? plan.shell_of(*variant) : nullptr;
  if (shell == nullptr) {
    return found;
  }
  if (!bindings_hold(*shell)) {
    ++plan.plan.stats().rebound;
    plan.plan.drop(*variant);
    plan.sweep();
    return found;
  }
  found.form = shell->form;
  if (found.form == Form::Rebuilt) {
    found.description = Object::borrowed(shell->description.get());
  }
  found.variant = std::move(variant);
  return found;
}

bool wants_gradient(const Tensors& inputs) {
  return c10::GradMode::is_enabled() &&
      std::any_of(inputs.begin(), inputs.end(), [](const at::Tensor& input) { return input.requires_grad(); });
}

// Takes the tensors of a plain call; false where it is none.
bool take_plain(const PythonPlan& plan, PyObject* arguments, PyObject* named, Tensors& inputs) {
  const auto& python = interpreter();
  size_t by_name = named == nullptr ? 0 : static_cast<size_t>(python.PyDict_Size(named));
  if (!plan.plain || python.PyTuple_Size(arguments) != static_cast<intptr_t>(plan.positional) ||
      by_name != plan.names.size()) {
    return false;
  }
  auto take = [&](PyObject* object) {
    if (object == nullptr || !is_tensor(python, object)) {
      return false;
    }
    inputs.push_back(unwrap(object));
    return true;
  };
  for (size_t i = 0; i < plan.positional; ++i) {
    if (!take(python.PyTuple_GetItem(arguments, static_cast<intptr_t>(i)))) {
      return false;
    }
  }
  for (const auto& name : plan.names) {
    if (!take(python.PyDict_GetItem(named, name.get()))) {
      return false;
    }
  }
  return true;
}

PyObject* call_slow(PyObject* self, PyObject* arguments, PyObject* named) {
  const auto& python = interpreter();
  static PyObject* const name = python.PyUnicode_InternFromString("_slow");
  return guarded([&] {
    Object slow(require(python.PyObject_GetAttr(self, name)));
    Object none = named == nullptr ? Object::borrowed(python.none) : Object::borrowed(named);
    return Object(require(python.PyObject_CallFunctionObjArgs(
        slow.get(), arguments, none.get(), static_cast<PyObject*>(nullptr))));
  });
}

PyObject* call(PyObject* self, PyObject* arguments, PyObject* named) {
  PythonPlan* plan = reinterpret_cast<PlanObject*>(self)->plan;
  if (plan == nullptr || c10::impl::TorchDispatchModeTLS::any_modes_set()) {
    return call_slow(self, arguments, named);
  }
  Found found;
  Tensors inputs;
  if (take_plain(*plan, arguments, named, inputs) && !wants_gradient(inputs)) {
    found = find(*plan, 0, inputs);
  }
  if (!found.variant) {
    inputs.clear();
    return call_slow(self, arguments, named);
  }
  return guarded([&] {
    ++plan->plan.stats().hits;
    return shaped(self, found, run(*plan, found.variant, inputs, found.batch));
  });
}

// --- functions of the Python class -------------------------------------------------------------------------

PythonPlan& plan_of(PyObject* object) {
  auto* plan = reinterpret_cast<PlanObject*>(object)->plan;
  TORCH_CHECK(plan != nullptr, "this plan was not opened");
  return *plan;
}

int64_t integer(PyObject* object) {
  const auto& python = interpreter();
  auto value = python.PyLong_AsLongLong(object);
  require(value != -1 || python.PyErr_Occurred() == nullptr);
  return value;
}

std::string_view text(PyObject* object) {
  intptr_t length = 0;
  const char* data = require(interpreter().PyUnicode_AsUTF8AndSize(object, &length));
  return {data, static_cast<size_t>(length)};
}

std::string_view bytes(PyObject* object) {
  char* data = nullptr;
  intptr_t length = 0;
  require(interpreter().PyBytes_AsStringAndSize(object, &data, &length) == 0);
  return {data, static_cast<size_t>(length)};
}

size_t size(PyObject* tuple) {
  auto count = interpreter().PyTuple_Size(tuple);
  require(count >= 0);
  return static_cast<size_t>(count);
}

PyObject* item(PyObject* tuple, size_t index) {
  return require(interpreter().PyTuple_GetItem(tuple, static_cast<intptr_t>(index)));
}

std::vector<at::Tensor> tensors(PyObject* tuple) {
  std::vector<at::Tensor> result;
  for (size_t i = 0; i < size(tuple); ++i) {
    PyObject* object = item(tuple, i);
    if (!is_tensor(interpreter(), object)) {
      interpreter().PyErr_SetString(*interpreter().type_error, "expected a tuple of tensors");
      throw Failed();
    }
    result.push_back(unwrap(object));
  }
  return result;
}

Object none() {
  return Object::borrowed(interpreter().none);
}

Object number(uint64_t value) {
  return Object(require(interpreter().PyLong_FromLongLong(static_cast<long long>(value))));
}

Object of_text(const std::string& text) {
  return Object(require(interpreter().PyUnicode_FromStringAndSize(text.data(), static_cast<intptr_t>(text.size()))));
}

void set(const Object& tuple, intptr_t index, Object item) {
  require(interpreter().PyTuple_SetItem(tuple.get(), index, item.release()) == 0);
}

constexpr const char* kCapsule = "rivulet.plan";

void end_capsule(PyObject* capsule) {
  delete static_cast<PythonPlan*>(interpreter().PyCapsule_GetPointer(capsule, kCapsule));
}

template <Object (*body)(PyObject* const*), intptr_t expected>
PyObject* function(PyObject*, PyObject* const* arguments, intptr_t count) {
  if (count != expected) {
    interpreter().PyErr_SetString(*interpreter().type_error, "wrong number of arguments");
    return nullptr;
  }
  return guarded([&] { return body(arguments); });
}

// open(plan, name, max_shapes) -> capsule, which has to live as long as the plan
Object open(PyObject* const* arguments) {
  auto made = std::make_unique<PythonPlan>(std::string(text(arguments[1])), static_cast<size_t>(integer(arguments[2])));
  Object capsule(require(interpreter().PyCapsule_New(made.get(), kCapsule, &end_capsule)));
  reinterpret_cast<PlanObject*>(arguments[0])->plan = made.release();
  return capsule;
}

// set_plain(plan, positional, names): calls of structure 0
Object set_plain(PyObject* const* arguments) {
  auto& plan = plan_of(arguments[0]);
  std::vector<Object> names;
  for (size_t i = 0; i < size(arguments[2]); ++i) {
    names.push_back(Object::borrowed(item(arguments[2], i)));
  }
  plan.positional = static_cast<size_t>(integer(arguments[1]));
  plan.names.swap(names);
  plan.plain = true;
  return none();
}

// add(plan, structure, tape, inputs, shared, form, bindings, description) -> number of the variant.
// bindings: (dictionary, key, value) of each of the module's tensors
Object add(PyObject* const* arguments) {
  auto& plan = plan_of(arguments[0]);
  auto tape = read_tape(bytes(arguments[2]), tensors(arguments[3]), tensors(arguments[4]));
  Shell shell{0, static_cast<Form>(integer(arguments[5])), {}, Object::borrowed(arguments[7])};
  for (size_t i = 0; i < size(arguments[6]); ++i) {
    PyObject* binding = item(arguments[6], i);
    shell.bindings.push_back(
        {Object::borrowed(item(binding, 0)), Object::borrowed(item(binding, 1)), item(binding, 2)});
  }
  auto variant = plan.plan.add(std::move(tape), static_cast<uint32_t>(integer(arguments[1])));
  shell.variant = variant->id();
  plan.shells.push_back(std::move(shell));
  plan.sweep();
  return number(variant->id());
}

// run(plan, structure, inputs) -> (description of the variant, outputs), or None where no variant fits
Object run_flat(PyObject* const* arguments) {
  auto& plan = plan_of(arguments[0]);
  auto given = tensors(arguments[2]);
  Tensors inputs(given.begin(), given.end());
  auto found = find(plan, static_cast<uint32_t>(integer(arguments[1])), inputs);
  if (!found.variant) {
    return none();
  }
  Object description = Object::borrowed(plan.shell_of(*found.variant)->description.get());
  Object outputs = in_tuple(run(plan, found.variant, inputs, found.batch));
  Object result(require(interpreter().PyTuple_New(2)));
  set(result, 0, std::move(description));
  set(result, 1, std::move(outputs));
  return result;
}

// note(plan, hit): a call that went through Python
Object note(PyObject* const* arguments) {
  auto& stats = plan_of(arguments[0]).plan.stats();
  ++(integer(arguments[1]) != 0 ? stats.hits : stats.misses);
  return none();
}

// drop(plan)
Object drop(PyObject* const* arguments) {
  auto& plan = plan_of(arguments[0]);
  plan.plan.drop_all();
  plan.sweep();
  return none();
}

// join_calls(plan, max_batch, max_in_flight, max_queue, max_wait_us, regroup, spin_us)
Object join_calls(PyObject* const* arguments) {
  auto at = [&](size_t index) { return static_cast<uint64_t>(integer(arguments[index])); };
  plan_of(arguments[0]).joined =
      std::make_shared<Joined>(JoinOptions{at(1), at(2), at(3), at(4), at(5) != 0, at(6)});
  return none();
}

// prepare_joined(plan, structure, inputs): nothing where calls of such inputs are not joined. inputs: one row of each
Object prepare_joined(PyObject* const* arguments) {
  auto& plan = plan_of(arguments[0]);
  auto given = tensors(arguments[2]);
  Tensors inputs(given.begin(), given.end());
  auto found = find(plan, static_cast<uint32_t>(integer(arguments[1])), inputs);
  auto joined = plan.joined;
  if (joined && found.batch == 1 && found.variant && Joined::fits(found.variant->tape())) {
    auto label = plan.plan.label();
    rethrow(without_gil([&] { joined->prepare(found.variant, {inputs.begin(), inputs.end()}, label); }));
  }
  return none();
}

Object numbers(std::initializer_list<uint64_t> values) {
  Object tuple(require(interpreter().PyTuple_New(static_cast<intptr_t>(values.size()))));
  intptr_t index = 0;
  for (auto value : values) {
    require(interpreter().PyTuple_SetItem(tuple.get(), index++, number(value).release()) == 0);
  }
  return tuple;
}

// stats(plan) -> (calls, hits, misses, evictions, rebound)
Object stats(PyObject* const* arguments) {
  const auto& stats = plan_of(arguments[0]).plan.stats();
  return numbers({stats.calls, stats.hits, stats.misses, stats.evictions, stats.rebound});
}

// joined_stats(plan) -> JSON text, or None where calls are not joined
Object joined_stats(PyObject* const* arguments) {
  const auto& joined = plan_of(arguments[0]).joined;
  return joined ? of_text(joined->stats()) : none();
}

// variants(plan) -> ((number, path, frames, programs, why there is none, times), ...), the latest used first. times: of
// a usual run of CPU kernels on one thread and on several, in nanoseconds, or nothing
Object variants(PyObject* const* arguments) {
  const auto& variants = plan_of(arguments[0]).plan.variants();
  Object tuple(require(interpreter().PyTuple_New(static_cast<intptr_t>(variants.size()))));
  intptr_t index = 0;
  for (const auto& variant : variants) {
    Object one(require(interpreter().PyTuple_New(6)));
    set(one, 0, number(variant->id()));
    set(one, 1, number(static_cast<uint64_t>(variant->path())));
    set(one, 2, number(variant->frames()));
    set(one, 3, number(variant->programs().size()));
    set(one, 4, of_text(variant->refused()));
    uint64_t alone = 0;
    uint64_t several = 0;
    bool measured = rivulet_pace_times(variant->pace().get(), &alone, &several) != 0;
    set(one, 5, measured ? numbers({alone, several}) : numbers({}));
    set(tuple, index++, std::move(one));
  }
  return tuple;
}

// programs(plan, number of the variant) -> JSON texts
Object programs(PyObject* const* arguments) {
  auto wanted = static_cast<uint64_t>(integer(arguments[1]));
  for (const auto& variant : plan_of(arguments[0]).plan.variants()) {
    if (variant->id() != wanted) {
      continue;
    }
    auto all = variant->programs();
    Object tuple(require(interpreter().PyTuple_New(static_cast<intptr_t>(all.size()))));
    for (size_t i = 0; i < all.size(); ++i) {
      set(tuple, static_cast<intptr_t>(i), of_text(all[i]->report()));
    }
    return tuple;
  }
  return Object(require(interpreter().PyTuple_New(0)));
}

// calibrate(tensor, address of its implementation) -> 1 where tensors can be unwrapped
Object calibrate(PyObject* const* arguments) {
  bool found = find_tensor_offset(arguments[0], reinterpret_cast<const void*>(integer(arguments[1])));
  return number(found ? 1 : 0);
}

template <Object (*body)(PyObject* const*), intptr_t count>
PyMethodDef definition(const char* name) {
  return {name, reinterpret_cast<void*>(&function<body, count>), METH_FASTCALL, nullptr};
}

PyObject* surface() {
  static PyMethodDef definitions[] = {
      definition<open, 3>("open"),           definition<set_plain, 3>("set_plain"), definition<add, 8>("add"),
      definition<run_flat, 3>("run"),        definition<note, 2>("note"),           definition<drop, 1>("drop"),
      definition<stats, 1>("stats"),         definition<variants, 1>("variants"),   definition<programs, 2>("programs"),
      definition<join_calls, 7>("join_calls"), definition<joined_stats, 1>("joined_stats"),
      definition<prepare_joined, 3>("prepare_joined"),
      definition<calibrate, 2>("calibrate"),
  };
  static PyType_Slot slots[] = {{Py_tp_call, reinterpret_cast<void*>(&call)}, {0, nullptr}};
  static PyType_Spec spec{"rivulet.PlanBase", sizeof(PlanObject), 0, Py_TPFLAGS_BASETYPE, slots};
  return guarded([&] {
    const auto& python = interpreter();
    constexpr intptr_t kFunctions = std::size(definitions);
    Object tuple(require(python.PyTuple_New(kFunctions + 1)));
    require(python.PyTuple_SetItem(tuple.get(), 0, require(python.PyType_FromSpec(&spec))) == 0);
    for (intptr_t i = 0; i < kFunctions; ++i) {
      auto* made = require(python.PyCFunction_NewEx(&definitions[i], nullptr, nullptr));
      require(python.PyTuple_SetItem(tuple.get(), i + 1, made) == 0);
    }
    return tuple;
  });
}

} // namespace

} // namespace rivulet::plan

// Returns a new reference, or null: with a Python error, or (*missing set) where something was not found.
extern "C" void* rivulet_adaptor_plan_surface(const char* torch_python, const char** missing) {
  if (rivulet::plan::load_interpreter(torch_python, missing) == nullptr) {
    return nullptr;
  }
  return rivulet::plan::surface();
}
