// Note [Takeover]
// A PyTorch that is built with MPS has an mps backend of its own: hooks, an allocator, a device guard, kernels and a
// fallback for the rest. Other libraries bring kernels for it, at any time. All of these put Metal's objects into
// storages and read them out of storages, so none of them may meet a tensor of ours. Everything is therefore looked at
// before it is registered, on every system alike:
//
// * Ours comes after, and the dispatcher keeps to the kernel that came last. A kernel that is there and has none of
//   ours over it gets one: the CPU path where the op has a kernel for the CPU, the op's own decomposition where it has
//   one, else a clear refusal.
// * A second fallback cannot be registered. Where there is one, every op that it would serve gets a kernel of ours by
//   name, and so does every op that is defined later.
// * What is registered later is found by look_again(), which Python calls after each library that was loaded and each
//   kernel that was registered from Python (python/rivulet/_takeover.py). PyTorch tells of new ops but not of new
//   kernels, and tells while it holds its lock, under which nothing can be registered.
// * Kernels written in Python stay: they are made of ops, which are ours.
#pragma once
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/util/Exception.h>
#include <torch/library.h>

#include <functional>
#include <optional>
#include <string>

namespace rivulet {

// What the dispatcher says about where a kernel came from. Every library of ours carries it.
inline constexpr char kOrigin[] = "rivulet";

// A torch::Library that lives as long as the process: the dispatcher keeps the kernels, and tensors may outlive every
// static object.
torch::Library& library(const char* ns, c10::DispatchKey key);

// Whether the kernel that serves this key is one of ours.
bool has_ours(const c10::OperatorHandle& op, c10::DispatchKey key);

// Keeps PyTorch from warning that a kernel is overridden while this lives, on this thread alone. Everything else that
// is said goes where it went.
class QuietOverrides {
 public:
  QuietOverrides();

 private:
  class Handler final : public c10::WarningHandler {
   public:
    explicit Handler(c10::WarningHandler* next) : next_(next) {}
    void process(const c10::Warning& warning) override;

   private:
    c10::WarningHandler* next_;
  };
  // PyTorch warns once a process; ours must not use that up for somebody else's.
  c10::WarningUtils::WarnAlways always_;
  Handler handler_;
  c10::WarningUtils::WarningHandlerGuard guard_;
};

// One thing that was there and is not reached any more, or that stays.
struct Displaced {
  std::string part; // "hooks", "allocator", "guard", "fallback" or "kernel"
  std::string name; // of the op, for a kernel
  std::string key;
  std::string from; // as the dispatcher tells it
  std::string now;
  bool later; // registered after ours
};

void note_displaced(Displaced entry);

// Called for each entry, in the order of their finding.
void list_displaced(const std::function<void(const Displaced&)>& each);

// Notes the kernels that are there before ours; comes before any registration.
void note_kernels_at_load();

// Remembers the kernels of ours that are there so far, to restore one that another is registered over. The CPU path needs
// no memory.
void note_own_kernels();

// Gives every kernel and op that is still not ours one, and listens for new ops from here on. Comes last.
void take_over_kernels();

// Looks at one op, at every op that was defined or withdrawn since the last look where the name is empty, or at all
// where there is no name. Any thread, without PyTorch's dispatcher lock.
void look_again(const std::optional<std::string>& op);

// Takes back what look_again() registered for an op that has no kernel for mps, so that one written in Python overrides
// none.
void make_room(const std::string& op);

} // namespace rivulet
