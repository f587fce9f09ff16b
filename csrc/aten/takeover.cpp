#include "aten/takeover.h"

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "aten/cpu_path.h"

namespace rivulet {

namespace {

using c10::DispatchKey;
using c10::DispatchKeySet;
using c10::OperatorHandle;
using c10::OperatorName;

struct Layout {
  DispatchKey device;
  DispatchKey cpu;
  // Keys of backends that nobody has here: what serves an op at one of them is its decomposition.
  std::array<DispatchKey, 3> absent;
};

constexpr Layout kLayouts[] = {
    {DispatchKey::MPS, DispatchKey::CPU, {DispatchKey::HPU, DispatchKey::VE, DispatchKey::PrivateUse3}},
    {DispatchKey::SparseMPS,
     DispatchKey::SparseCPU,
     {DispatchKey::SparseHPU, DispatchKey::SparseVE, DispatchKey::SparsePrivateUse3}},
    {DispatchKey::SparseCsrMPS,
     DispatchKey::SparseCsrCPU,
     {DispatchKey::SparseCsrHPU, DispatchKey::SparseCsrVE, DispatchKey::SparseCsrPrivateUse3}},
};

constexpr DispatchKey kDecompositions[] = {
    DispatchKey::CompositeExplicitAutogradNonFunctional,
    DispatchKey::CompositeExplicitAutograd,
    DispatchKey::CompositeImplicitAutograd};

bool is_composite(const OperatorHandle& op) {
  return std::any_of(std::begin(kDecompositions), std::end(kDecompositions), [&](DispatchKey key) {
    return op.hasKernelForDispatchKey(key);
  });
}

bool is_implicit(const OperatorHandle& op) {
  return op.hasKernelForDispatchKey(DispatchKey::CompositeImplicitAutograd);
}

// "registered at FILE:LINE" without the words; empty where the key has no kernel of its own.
std::string origin(const OperatorHandle& op, DispatchKey key) {
  if (!op.hasSchema() || !op.hasKernelForDispatchKey(key)) {
    return "";
  }
  std::string text = op.getComputedKernelForDispatchKey(key).debug();
  constexpr std::string_view kWords = "registered at ";
  if (text.rfind(kWords, 0) == 0) {
    text.erase(0, kWords.size());
  }
  return text.empty() ? "an unnamed place" : text;
}

bool is_our_origin(const std::string& from) {
  constexpr size_t length = sizeof(kOrigin) - 1;
  return from.compare(0, length, kOrigin) == 0 && (from.size() == length || from[length] == ':');
}

// FILE of Python's: a source file, "<stdin>" and the like.
bool is_python_origin(const std::string& from) {
  return from.find(".py:") != std::string::npos || (!from.empty() && from[0] == '<');
}

enum class Way : uint8_t { None, Ours, CpuPath, Decompose, Refuse };

const char* in_words(Way way) {
  switch (way) {
    case Way::None:
    case Way::Ours:
      return "a kernel of Rivulet";
    case Way::CpuPath:
      return "the op's kernel for the CPU";
    case Way::Decompose:
      return "the ops that it is made of";
    case Way::Refuse:
      return "refused: it has no kernel but this one";
  }
  return "";
}

// How an op goes whose kernel on the device, or lack of one, must not be met.
Way way_of(const OperatorHandle& op, const Layout& layout) {
  bool cuts_autograd = is_implicit(op) && !op.hasKernelForDispatchKey(DispatchKey::Autograd);
  if (op.hasKernelForDispatchKey(layout.cpu) && !cuts_autograd) {
    return Way::CpuPath;
  }
  return is_composite(op) ? Way::Decompose : Way::Refuse;
}

class Decompose final : public c10::OperatorKernel {
 public:
  explicit Decompose(DispatchKey key) : keys_(key) {}
  void operator()(const OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
    op.redispatchBoxed(keys_, stack);
  }

 private:
  c10::DispatchKeySet keys_;
};

class Refuse final : public c10::OperatorKernel {
 public:
  explicit Refuse(std::string from) : from_(std::move(from)) {}
  void operator()(const OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack*) {
    TORCH_CHECK_NOT_IMPLEMENTED(
        false,
        c10::toString(op.operator_name()),
        " has one kernel for mps (",
        from_,
        "), written for PyTorch's own mps backend, and none for the CPU. Rivulet serves mps in this process and cannot "
        "run it; RIVULET_DISABLE=1 gives PyTorch's own back");
  }

 private:
  std::string from_;
};

// A kernel of ours that another was registered over.
class Restored final : public c10::OperatorKernel {
 public:
  explicit Restored(c10::SafeKernelFunction kernel) : kernel_(std::move(kernel)) {}
  void operator()(const OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
    kernel_.callBoxed(op, keys, stack);
  }

 private:
  c10::SafeKernelFunction kernel_;
};

// The first key at which the op's decomposition is found.
std::optional<DispatchKey> decomposition_key(const OperatorHandle& op, const Layout& layout) {
  auto& dispatcher = c10::Dispatcher::singleton();
  for (DispatchKey key : layout.absent) {
    if (!op.hasKernelForDispatchKey(key) && !dispatcher.hasBackendFallbackForDispatchKey(key) &&
        op.hasComputedKernelForDispatchKey(key)) {
      return key;
    }
  }
  return std::nullopt;
}

// A kernel of ours that was registered for the sake of another's.
struct Entry {
  Way way;
  std::string from; // of the kernel beneath; empty where the op had none
  std::vector<torch::Library> libraries;
};

struct State {
  // Held across registrations; comes before PyTorch's dispatcher lock.
  std::mutex looking;
  std::unordered_map<std::string, Entry> entries; // by op and key
  std::unordered_map<std::string, c10::SafeKernelFunction> own; // by op and key: what was registered op by op
  std::unordered_set<std::string> at_load; // op and key of the kernels that were there before ours
  bool loaded = false;

  // Taken under the dispatcher's lock.
  std::mutex noting;
  std::vector<std::pair<OperatorName, bool>> pending; // withdrawn, or defined
  bool listening = false;
  std::vector<Displaced> displaced;
};

State& state() {
  static auto* state = new State();
  return *state;
}

std::string slot(const OperatorName& name, DispatchKey key) {
  return c10::toString(name) + '/' + c10::toString(key);
}

bool has_foreign_fallback(DispatchKey key) {
  return c10::Dispatcher::singleton().hasBackendFallbackForDispatchKey(key) && !has_our_fallback(key);
}

// Whether somebody has begun to say how the op is done. An op of which nothing but its name is there may be about to
// get a kernel for mps, which is not to be met by one of ours.
bool is_begun(const OperatorHandle& op) {
  static const DispatchKeySet others = DispatchKeySet(DispatchKey::CPU) | DispatchKeySet(DispatchKey::CUDA) |
      DispatchKeySet(DispatchKey::XPU) | DispatchKeySet(DispatchKey::HPU) | DispatchKeySet(DispatchKey::PrivateUse1) |
      DispatchKeySet(DispatchKey::SparseCPU) | DispatchKeySet(DispatchKey::SparseCsrCPU);
  return op.hasKernelForAnyDispatchKey(others);
}

// How an op goes that has this kernel of another's on the device, or none.
Way way_beside(const std::string& from, const OperatorHandle& op, const Layout& layout) {
  if (from.empty()) {
    bool is_met = !is_composite(op) && is_begun(op) && has_foreign_fallback(layout.device);
    return is_met ? way_of(op, layout) : Way::None;
  }
  if (is_python_origin(from)) {
    return Way::None;
  }
  return state().own.count(slot(op.operator_name(), layout.device)) != 0 ? Way::Ours : way_of(op, layout);
}

torch::Library& add_library(Entry& entry, const OperatorName& name, DispatchKey key) {
  auto ns = name.name.substr(0, name.name.find("::"));
  return entry.libraries.emplace_back(torch::Library::IMPL, ns, key, kOrigin, 0);
}

torch::CppFunction restored(const std::string& at) {
  return torch::CppFunction::makeFromBoxedFunctor(std::make_unique<Restored>(state().own.at(at)));
}

Entry make_entry(const OperatorHandle& op, const Layout& layout, Way way, const std::string& from) {
  const auto& name = op.operator_name();
  auto text = c10::toString(name);
  Entry entry{way, from, {}};
  auto& on_device = add_library(entry, name, layout.device);
  if (way == Way::Ours) {
    on_device.impl(text.c_str(), restored(slot(name, layout.device)));
    return entry;
  }
  auto key = way == Way::Decompose ? decomposition_key(op, layout) : std::nullopt;
  if (key) {
    on_device.impl(text.c_str(), torch::CppFunction::makeFromBoxedFunctor(std::make_unique<Decompose>(*key)));
    // A kernel at the device's key cuts the autograd of a composite op, or brings up a derivative that is there for that
    // kernel's sake: that of max_pool2d, of rms_norm.
    if (layout.device == DispatchKey::MPS && is_implicit(op) &&
        !op.hasKernelForDispatchKey(DispatchKey::AutogradMPS)) {
      add_library(entry, name, DispatchKey::AutogradMPS)
          .impl(text.c_str(), torch::CppFunction::makeFromBoxedFunctor(std::make_unique<Decompose>(*key)));
    }
  } else if (way != Way::CpuPath && !from.empty()) {
    on_device.impl(text.c_str(), torch::CppFunction::makeFromBoxedFunctor(std::make_unique<Refuse>(from)));
  } else {
    // Without a kernel anywhere, PyTorch's own error is the right one.
    take_cpu_path(on_device, op, layout.cpu);
  }
  return entry;
}

void look_at(const OperatorHandle& op, const Layout& layout) {
  State& s = state();
  auto at = slot(op.operator_name(), layout.device);
  auto found = s.entries.find(at);
  std::string from = origin(op, layout.device);
  if (is_our_origin(from)) {
    // The op may have got a kernel for the CPU or a decomposition since.
    if (found == s.entries.end() || found->second.way == way_beside(found->second.from, op, layout)) {
      return;
    }
  }
  if (found != s.entries.end()) {
    s.entries.erase(found);
    from = origin(op, layout.device);
  }
  Way way = is_our_origin(from) ? Way::None : way_beside(from, op, layout);
  if (way == Way::None) {
    return;
  }
  Entry entry = make_entry(op, layout, way, from);
  if (!from.empty()) {
    note_displaced(
        {"kernel", c10::toString(op.operator_name()), c10::toString(layout.device), from, in_words(entry.way),
         s.at_load.count(at) == 0});
  }
  s.entries.emplace(at, std::move(entry));
}

// The few ops that have a derivative of ours.
void look_at_autograd(const OperatorHandle& op) {
  State& s = state();
  constexpr auto kKey = DispatchKey::AutogradMPS;
  auto at = slot(op.operator_name(), kKey);
  if (s.own.count(at) == 0) {
    return;
  }
  std::string from = origin(op, kKey);
  if (is_our_origin(from) || is_python_origin(from)) {
    return;
  }
  s.entries.erase(at);
  Entry entry{Way::Ours, from, {}};
  add_library(entry, op.operator_name(), kKey).impl(c10::toString(op.operator_name()).c_str(), restored(at));
  note_displaced(
      {"kernel", c10::toString(op.operator_name()), c10::toString(kKey), from, in_words(Way::Ours), true});
  s.entries.emplace(at, std::move(entry));
}

void look_at(const OperatorHandle& op) {
  for (const Layout& layout : kLayouts) {
    look_at(op, layout);
  }
  look_at_autograd(op);
}

void withdraw(const OperatorName& name) {
  for (const Layout& layout : kLayouts) {
    state().entries.erase(slot(name, layout.device));
  }
  state().entries.erase(slot(name, DispatchKey::AutogradMPS));
}

void look_at_pending() {
  State& s = state();
  std::vector<std::pair<OperatorName, bool>> pending;
  {
    std::lock_guard<std::mutex> lock(s.noting);
    pending.swap(s.pending);
  }
  for (const auto& [name, withdrawn] : pending) {
    if (withdrawn) {
      withdraw(name);
    }
    if (auto op = c10::Dispatcher::singleton().findSchema(name)) {
      look_at(*op);
    }
  }
}

// Called under the dispatcher's lock, so it only takes notes.
class Listener final : public c10::OpRegistrationListener {
 public:
  void onOperatorRegistered(const OperatorHandle& op) override {
    note(op.operator_name(), false);
  }
  void onOperatorDeregistered(const OperatorHandle& op) override {
    note(op.operator_name(), true);
  }

 private:
  static void note(const OperatorName& name, bool withdrawn) {
    State& s = state();
    std::lock_guard<std::mutex> lock(s.noting);
    if (s.listening) {
      s.pending.emplace_back(name, withdrawn);
    }
  }
};

} // namespace

torch::Library& library(const char* ns, DispatchKey key) {
  return *new torch::Library(torch::Library::IMPL, ns, key, kOrigin, 0);
}

bool has_ours(const OperatorHandle& op, DispatchKey key) {
  return is_our_origin(origin(op, key));
}

QuietOverrides::QuietOverrides() : handler_(c10::WarningUtils::get_warning_handler()), guard_(&handler_) {}

void QuietOverrides::Handler::process(const c10::Warning& warning) {
  if (warning.msg().find("Overriding a previously registered kernel") != std::string::npos) {
    return;
  }
  next_->process(warning);
}

void note_displaced(Displaced entry) {
  State& s = state();
  std::lock_guard<std::mutex> lock(s.noting);
  auto same = std::find_if(s.displaced.begin(), s.displaced.end(), [&](const Displaced& other) {
    return other.part == entry.part && other.name == entry.name && other.key == entry.key && other.from == entry.from;
  });
  if (same == s.displaced.end()) {
    s.displaced.push_back(std::move(entry));
  } else {
    same->now = std::move(entry.now);
  }
}

void list_displaced(const std::function<void(const Displaced&)>& each) {
  std::vector<Displaced> all;
  {
    std::lock_guard<std::mutex> lock(state().noting);
    all = state().displaced;
  }
  std::for_each(all.begin(), all.end(), each);
}

void note_kernels_at_load() {
  State& s = state();
  auto& dispatcher = c10::Dispatcher::singleton();
  for (const Layout& layout : kLayouts) {
    for (const auto& name : dispatcher.getRegistrationsForDispatchKey(layout.device)) {
      auto op = dispatcher.findSchema(name);
      if (!op) {
        continue;
      }
      std::string from = origin(*op, layout.device);
      if (!is_python_origin(from)) {
        s.at_load.insert(slot(name, layout.device));
        note_displaced(
            {"kernel", c10::toString(name), c10::toString(layout.device), from, in_words(Way::None), false});
      }
    }
  }
}

void note_own_kernels() {
  auto& dispatcher = c10::Dispatcher::singleton();
  for (DispatchKey key :
       {DispatchKey::MPS, DispatchKey::AutogradMPS, DispatchKey::SparseMPS, DispatchKey::SparseCsrMPS}) {
    for (const auto& name : dispatcher.getRegistrationsForDispatchKey(key)) {
      auto op = dispatcher.findSchema(name);
      if (op && has_ours(*op, key)) {
        state().own.emplace(slot(name, key), op->getComputedKernelForDispatchKey(key));
      }
    }
  }
}

void make_room(const std::string& op) {
  std::lock_guard<std::mutex> lock(state().looking);
  for (const Layout& layout : kLayouts) {
    auto found = state().entries.find(op + '/' + c10::toString(layout.device));
    if (found != state().entries.end() && found->second.from.empty()) {
      state().entries.erase(found);
    }
  }
}

void take_over_kernels() {
  auto& dispatcher = c10::Dispatcher::singleton();
  State& s = state();
  // Leaked: it listens as long as the process lives. All ops that are there are told of at once, which is no news.
  new c10::RegistrationHandleRAII(dispatcher.addRegistrationListener(std::make_unique<Listener>()));
  {
    std::lock_guard<std::mutex> lock(s.noting);
    s.listening = true;
  }
  bool alone = s.at_load.empty() && std::all_of(std::begin(kLayouts), std::end(kLayouts), [](const Layout& layout) {
    return has_our_fallback(layout.device);
  });
  if (!alone) {
    look_again(std::nullopt);
  }
}

void look_again(const std::optional<std::string>& op) {
  QuietOverrides quiet;
  auto& dispatcher = c10::Dispatcher::singleton();
  std::lock_guard<std::mutex> lock(state().looking);
  look_at_pending();
  if (!op) {
    for (const auto& name : dispatcher.getAllOpNames()) {
      if (auto handle = dispatcher.findSchema(name)) {
        look_at(*handle);
      }
    }
  } else if (!op->empty()) {
    auto dot = op->find('.');
    OperatorName name(op->substr(0, dot), dot == std::string::npos ? "" : op->substr(dot + 1));
    if (auto handle = dispatcher.findSchema(name)) {
      look_at(*handle);
    }
  }
}

} // namespace rivulet
