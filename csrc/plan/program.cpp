#include "plan/program.h"

#include <ATen/EmptyTensor.h>

#include <algorithm>

#include "aten/alias.h"
#include "runtime/allocator.h"
#include "runtime/generator.h"
#include "runtime/status.h"

namespace rivulet::plan {

namespace {

using Spans = c10::SmallVector<rivulet_span, 8>;

size_t bytes_of(const at::Tensor& tensor) {
  return at::detail::computeStorageNbytes(tensor.sizes(), tensor.strides(), tensor.dtype().itemsize());
}

bool add_span(Spans& spans, const at::Tensor& tensor) {
  if (!tensor.is_mps() || tensor.layout() != c10::kStrided || tensor.numel() == 0 || tensor.is_conj() ||
      tensor.is_neg()) {
    return false;
  }
  auto* block = block_of(*tensor.storage().unsafeGetStorageImpl());
  if (block == nullptr) {
    return false;
  }
  spans.push_back({block, tensor.const_data_ptr(), bytes_of(tensor)});
  return true;
}

// Reads of an input could not be told from those of a weight in the same memory.
bool is_shared(const Tape& tape, const at::Tensor& input) {
  const auto* storage = input.storage().unsafeGetStorageImpl();
  return std::any_of(
      tape.shared.begin(), tape.shared.end(), [&](const Shared& shared) { return shared.storage == storage; });
}

at::Tensor tensor_over(const at::Tensor& like, c10::Storage storage, size_t offset) {
  auto tensor = device_tensor_over(like, std::move(storage));
  auto elements = static_cast<int64_t>(offset / like.dtype().itemsize());
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(), elements);
  return tensor;
}

} // namespace

Program::~Program() {
  rivulet_program_free(raw_);
}

std::string Program::report() const {
  char* text = nullptr;
  check(rivulet_program_json(raw_, &text));
  std::string report = text;
  rivulet_string_free(text);
  return report;
}

Noting Noting::run(const Tape& tape, Frame& frame, const at::Tensor* inputs, int64_t batch, uint32_t label) {
  Noting noting;
  Spans spans;
  for (size_t i = 0; i < tape.inputs.size(); ++i) {
    if (!add_span(spans, inputs[i])) {
      noting.refused = "input " + std::to_string(i) + " has no memory of the device";
    } else if (is_shared(tape, inputs[i])) {
      noting.refused = "input " + std::to_string(i) + " lies in memory that the plan shares";
    }
  }
  bool begun = noting.refused.empty() && taken(rivulet_program_begin(spans.data(), spans.size()));
  if (!begun) {
    if (noting.refused.empty()) {
      noting.refused = rivulet_last_error();
    }
    noting.outputs = frame.run(inputs, batch, label);
    return noting;
  }
  try {
    noting.outputs = frame.run(inputs, batch, label);
    noting.end(tape);
  } catch (...) {
    rivulet_program_abandon();
    throw;
  }
  return noting;
}

void Noting::end(const Tape&) {
  Spans spans;
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (!add_span(spans, outputs[i])) {
      refused = "output " + std::to_string(i) + " has no memory of the device";
      rivulet_program_abandon();
      return;
    }
  }
  rivulet_program* raw = nullptr;
  if (!taken(rivulet_program_end(spans.data(), spans.size(), &raw))) {
    refused = rivulet_last_error();
    return;
  }
  std::shared_ptr<Program> made(new Program(raw));
  made->fresh_.resize(rivulet_program_fresh(raw));
  for (size_t i = 0; i < outputs.size(); ++i) {
    uint32_t kind = 0;
    size_t place = 0;
    size_t offset = 0;
    rivulet_block* shared = nullptr;
    check(rivulet_program_output(raw, i, &kind, &place, &offset, &shared));
    if (kind == 0) {
      made->fresh_.at(place) = std::max(made->fresh_.at(place), offset + spans[i].bytes);
    }
    // The shape alone is kept of what every run makes anew.
    at::Tensor noted = kind == 2 ? outputs[i]
                                 : tensor_over(outputs[i],
                                       c10::Storage(c10::Storage::use_byte_size_t(), 0,
                                           c10::DataPtr(nullptr, kDevice), &device_allocator(), true), 0);
    made->outputs_.push_back({std::move(noted), kind, place, offset});
  }
  program = std::move(made);
}

bool Program::run(const at::Tensor* inputs, size_t count, std::vector<at::Tensor>& outputs) const {
  Spans spans;
  for (size_t i = 0; i < count; ++i) {
    if (!add_span(spans, inputs[i])) {
      return false;
    }
  }
  c10::SmallVector<rivulet_block*, 4> blocks(fresh_.size(), nullptr);
  c10::SmallVector<void*, 4> data(fresh_.size(), nullptr);
  auto* rng = default_generator().get<MpsGenerator>()->raw();
  if (!taken(rivulet_program_run(raw_, spans.data(), spans.size(), rng, blocks.data(), data.data()))) {
    return false;
  }
  c10::SmallVector<c10::Storage, 4> storages;
  for (size_t i = 0; i < fresh_.size(); ++i) {
    c10::DataPtr owned(data[i], blocks[i], &free_block, kDevice);
    storages.emplace_back(
        c10::Storage::use_byte_size_t(), fresh_[i], std::move(owned), &device_allocator(), /*resizable=*/true);
  }
  for (const auto& output : outputs_) {
    if (output.kind == 0) {
      outputs.push_back(tensor_over(output.noted, storages[output.place], output.offset));
    } else if (output.kind == 1) {
      const auto& input = inputs[output.place];
      size_t begin = static_cast<size_t>(input.storage_offset()) * input.dtype().itemsize();
      bool same = output.offset == 0 && input.sizes() == output.noted.sizes() &&
          input.strides() == output.noted.strides() && input.scalar_type() == output.noted.scalar_type();
      outputs.push_back(same ? input : tensor_over(output.noted, input.storage(), begin + output.offset));
    } else {
      outputs.push_back(
          tensor_over(output.noted, output.noted.storage(),
                      static_cast<size_t>(output.noted.storage_offset()) * output.noted.dtype().itemsize()));
    }
  }
  return true;
}

} // namespace rivulet::plan
