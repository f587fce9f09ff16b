// A plan: tapes for the shapes that it was called with, and the frames that run them.
#pragma once
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "plan/program.h"
#include "plan/run.h"
#include "plan/tape.h"

namespace rivulet::plan {

// Attempts to make a program: what one fails for may lie in one call's inputs, such as two that share memory.
constexpr uint32_t kAttempts = 3;

// One tape with its frames. The frames are handed out and taken back under the GIL.
class Variant {
 public:
  Variant(Tape tape, uint32_t structure, uint64_t id, size_t max_programs);
  const Tape& tape() const {
    return tape_;
  }
  Path path() const {
    return path_;
  }
  // Of the call's arguments: which of them are tensors, and what the others are. Numbered by Python.
  uint32_t structure() const {
    return structure_;
  }
  uint64_t id() const {
    return id_;
  }
  const Pace& pace() const {
    return pace_;
  }
  std::unique_ptr<Frame> take_frame();
  void give_back(std::unique_ptr<Frame> frame);
  size_t frames() const {
    return frames_;
  }

  // The program for this size of the batch, null where there is none.
  std::shared_ptr<const Program> program(int64_t batch);
  // True for the one call that is to note the program for this size; it ends with noted(), whatever comes of it.
  bool start_noting(int64_t batch);
  // `refused`: why there is no program.
  void noted(int64_t batch, std::shared_ptr<const Program> program, std::string refused);
  // Why the last attempt gave no program.
  const std::string& refused() const {
    return refused_;
  }
  std::vector<std::shared_ptr<const Program>> programs() const;

 private:
  struct Compiled {
    int64_t batch;
    // Null while it is being noted.
    std::shared_ptr<const Program> program;
  };
  Tape tape_;
  Path path_;
  Pace pace_{rivulet_pace_new(), &rivulet_pace_free};
  uint32_t structure_;
  uint64_t id_;
  std::vector<std::unique_ptr<Frame>> idle_;
  size_t frames_ = 0;
  // The latest used first.
  std::list<Compiled> programs_;
  size_t max_programs_;
  std::string refused_;
  uint32_t refusals_ = 0;
};

struct Stats {
  uint64_t calls = 0;
  uint64_t hits = 0;
  uint64_t misses = 0;
  uint64_t evictions = 0;
  uint64_t rebound = 0;
};

// Every member function needs the GIL.
class Plan {
 public:
  Plan(const std::string& name, size_t max_shapes);

  // The variant for these inputs, the latest used first; null where there is none. A variant whose shared tensors were
  // rebound is dropped.
  std::shared_ptr<Variant> find(uint32_t structure, const at::Tensor* inputs, size_t count, int64_t* batch);
  // Takes a tape in, and lets go of the one that was not used for longest where there are too many.
  std::shared_ptr<Variant> add(Tape tape, uint32_t structure);
  void drop(const Variant& variant);
  void drop_all();

  const std::list<std::shared_ptr<Variant>>& variants() const {
    return variants_;
  }
  uint32_t label() const {
    return label_;
  }
  Stats& stats() {
    return stats_;
  }

 private:
  std::list<std::shared_ptr<Variant>> variants_;
  size_t max_shapes_;
  uint32_t label_;
  uint64_t next_id_ = 0;
  Stats stats_;
};

} // namespace rivulet::plan
