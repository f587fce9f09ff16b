// Note [Plans]
// A plan is a forward pass noted once as a tape of ATen ops below autograd, and run again without Python. Python takes
// the tape (python/rivulet/_plan_capture.py) and hands it over as bytes (reader.cpp). For each call a frame is taken:
// the tape's values, with stand-ins of the shared tensors that no other thread touches, so that threads that run one
// plan at once share no reference count.
//
// Where ops run on the CPU the whole tape is one CPU access to its inputs and shared tensors (run.cpp): their blocks
// are held once, and what lies between is PyTorch's CPU kernels and nothing else.
//
// All of a Plan but the running itself happens under Python's GIL, which is its lock.
#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

#include <cstdint>
#include <string_view>
#include <vector>

namespace rivulet::plan {

constexpr uint32_t kNoSlot = UINT32_MAX;

// A number that may depend on the size of the batch.
struct Affine {
  int64_t base;
  int64_t slope;
  int64_t at(int64_t batch) const {
    return base + slope * batch;
  }
};

// An argument without tensors: one value for all calls, or numbers that follow the batch.
struct Constant {
  c10::IValue value;
  std::vector<Affine> numbers;
  bool is_list = false;
  // A number where the op takes a tensor.
  bool as_tensor = false;
  bool follows_batch() const {
    return !numbers.empty();
  }
};

struct Argument {
  enum class Kind : uint8_t { Constant, Slot, Tensors, OptionalTensors, Generator };
  Kind kind;
  // Of Tape::constants, of the values, or of Tape::lists.
  uint32_t index;
};

struct Result {
  // kNoSlot: not kept. A list of tensors has its slots in Tape::lists.
  bool is_list;
  uint32_t index;
};

struct Step {
  c10::OperatorHandle op;
  std::vector<Argument> arguments;
  std::vector<Result> results;
  // Values that nothing reads after this step.
  std::vector<uint32_t> last_used;
};

// What is known of an input from the capture.
struct Input {
  c10::ScalarType dtype;
  c10::DeviceType device;
  c10::DimVector sizes;
  c10::DimVector strides;
  // Dimension 0 is the batch, of any size.
  bool batched;
  // The tape writes its bytes.
  bool written;
};

struct Shared {
  at::Tensor tensor;
  bool written;
  // Where the tensor lay when the tape was taken; another place later means that it was rebound.
  const c10::StorageImpl* storage;
  const void* data;
};

struct Output {
  uint32_t slot;
  bool on_device;
};

// The values are numbered: inputs, shared tensors, results.
struct Tape {
  std::vector<Input> inputs;
  std::vector<Shared> shared;
  uint32_t values = 0;
  std::vector<Constant> constants;
  std::vector<std::vector<uint32_t>> lists;
  std::vector<Step> steps;
  std::vector<Output> outputs;

  // True where shapes, types and strides are those of the capture, the batch set aside. *batch is its size, or -1.
  bool fits(const at::Tensor* tensors, size_t count, int64_t* batch) const;
  // True while every shared tensor lies where it lay.
  bool is_current() const;
};

// A tape from its bytes; `inputs` are those of the capture. Raises where the bytes make no tape for this PyTorch.
Tape read_tape(std::string_view bytes, const std::vector<at::Tensor>& inputs, const std::vector<at::Tensor>& shared);

} // namespace rivulet::plan
