// Running a tape.
#pragma once
#include <memory>

#include "plan/tape.h"
#include "rivulet.h"

namespace rivulet::plan {

// How the ops of a tape run.
enum class Path : uint8_t {
  // CPU kernels over the bytes of device tensors, as one CPU access.
  HostKernels,
  // One op after the other through PyTorch's dispatcher.
  Ops,
  // The same the first time; then programs of the device's kernels, where the tape can be one.
  Programs,
};

// The path for a tape on the adapter in use. Opens the device where the tape needs it.
Path path_of(const Tape& tape);

// A call of a plan, from when its kernels may begin until its thread goes on: those who share the cores.
class Caller {
 public:
  Caller() {
    rivulet_pace_enter();
  }
  ~Caller() {
    rivulet_pace_leave();
  }
  Caller(const Caller&) = delete;
  Caller& operator=(const Caller&) = delete;
};

// Whether a tape's kernels are faster on several threads.
using Pace = std::unique_ptr<rivulet_pace, decltype(&rivulet_pace_free)>;

// The values of a tape for one call at a time. Any thread may use it; one at a time.
class Frame {
 public:
  // Tape and pace outlive it.
  Frame(const Tape& tape, Path path, const Pace& pace);
  ~Frame();
  Frame(const Frame&) = delete;
  Frame& operator=(const Frame&) = delete;

  // Runs the tape on the calling thread's stream and gives its outputs. `batch` is what Tape::fits said. GIL not
  // needed. After an exception the frame is as before the call.
  std::vector<at::Tensor> run(const at::Tensor* inputs, int64_t batch, uint32_t label);

 private:
  void run_on_host(const at::Tensor* inputs, uint32_t label, std::vector<at::Tensor>& outputs);
  void run_ops(const at::Tensor* inputs, std::vector<at::Tensor>& outputs);
  template <bool on_host>
  void run_step(const Step& step);
  void follow(int64_t batch);
  void keep_results(const Step& step);
  void clear();

  const Tape& tape_;
  Path path_;
  const Pace& pace_;
  int64_t batch_ = -1;
  std::vector<c10::IValue> values_;
  std::vector<c10::IValue> constants_;
  torch::jit::Stack stack_;
  std::vector<rivulet_operand> shared_blocks_;
  // The storages of the shared tensors' stand-ins, with those that they stand for.
  struct StandIn {
    const c10::StorageImpl* host;
    c10::StorageImpl* device;
  };
  std::vector<StandIn> stand_ins_;
};

} // namespace rivulet::plan
