// A tape's device work as one call into the runtime.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "plan/run.h"
#include "plan/tape.h"
#include "rivulet.h"

namespace rivulet::plan {

// A tape for one exact shape, run without PyTorch's dispatcher. Any number of threads may run it at once.
class Program {
 public:
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  // Gives the outputs on the calling thread's stream. GIL not needed. Nothing where the runtime has no way for these
  // inputs, and then nothing was recorded.
  bool run(const at::Tensor* inputs, size_t count, std::vector<at::Tensor>& outputs) const;
  // What it holds, as JSON.
  std::string report() const;

 private:
  friend struct Noting;
  struct Output {
    // What the noted run gave: its sizes, strides and dtype, and its storage where that is shared.
    at::Tensor noted;
    uint32_t kind;
    size_t place;
    size_t offset;
  };
  explicit Program(rivulet_program* raw) : raw_(raw) {}

  rivulet_program* raw_;
  std::vector<Output> outputs_;
  // Bytes of each fresh block that outputs cover.
  std::vector<size_t> fresh_;
};

// A run of a tape that was noted at the same time. Without a program where `refused` says why.
struct Noting {
  std::vector<at::Tensor> outputs;
  std::shared_ptr<const Program> program;
  std::string refused;

  // Raises what the tape raises.
  static Noting run(const Tape& tape, Frame& frame, const at::Tensor* inputs, int64_t batch, uint32_t label);

 private:
  void end(const Tape& tape);
};

} // namespace rivulet::plan
