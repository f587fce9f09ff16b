#include "plan/joined.h"

#include <ATen/EmptyTensor.h>
#include <ATen/Functions.h>

#include <algorithm>

#include "aten/alias.h"
#include "native/joining.h"
#include "native/scope.h"
#include "plan/below_autograd.h"
#include "runtime/allocator.h"
#include "runtime/status.h"

namespace rivulet::plan {

namespace {

// Programs of a variant that are kept: calls that run alone may have any size.
constexpr size_t kMostPrograms = 32;

// The next size of a batch: powers of two and what lies half-way between them.
int64_t filled_up(int64_t rows) {
  int64_t power = 1;
  while (power < rows) {
    power *= 2;
  }
  return rows <= power / 4 * 3 ? power / 4 * 3 : power;
}

// Rows of a batch's output, over the same memory.
at::Tensor rows_of(const at::Tensor& output, int64_t first, int64_t rows) {
  auto view = device_tensor_over(output, output.storage());
  c10::DimVector sizes(output.sizes());
  sizes[0] = rows;
  view.unsafeGetTensorImpl()->set_sizes_and_strides(
      sizes, output.strides(), output.storage_offset() + first * output.stride(0));
  return view;
}

// A turn of the queue; whoever has to run it and does not gives the members back.
struct Turn : rivulet_batch_turn {
  explicit Turn(bool one_by_one) : rivulet_batch_turn{}, in_turn(one_by_one) {}
  ~Turn() {
    rivulet_batch_end(this, served, in_turn);
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;
  int32_t served = 0;
  const int32_t in_turn;
};

// The batch ends with it.
void wait_for_device(const rivulet_batch_turn& turn) {
  uint32_t stream = 0;
  check(rivulet_stream_current(&stream));
  // Submits: the device begins before others are woken.
  int32_t done = 0;
  check(rivulet_stream_query(stream, &done));
  if (done == 0) {
    rivulet_batch_announce(&turn);
  }
  check(rivulet_stream_synchronize(stream));
}

using Rows = c10::SmallVector<DenseRow, 2>;

// As the inputs lie; empty where one is none.
Rows rows_to_join(const std::vector<at::Tensor>& inputs) {
  Rows rows;
  for (const auto& input : inputs) {
    rows.push_back(DenseRow::of(input));
    if (!rows.back()) {
      return {};
    }
  }
  return rows;
}

} // namespace

// What takes time for each member is done by its own thread, before and after: the batch waits for the one that runs it.
struct Joined::Request {
  std::shared_ptr<Variant> variant;
  std::vector<at::Tensor> inputs;
  Rows parts;
  int64_t rows;
  uint32_t label;
  std::vector<at::Tensor> outputs;
  // Of the batch, of which this call's rows begin at `first`; or null.
  std::shared_ptr<const std::vector<at::Tensor>> batch;
  int64_t first = 0;
  std::exception_ptr error;

  std::vector<at::Tensor> take_outputs() {
    if (batch) {
      for (const auto& output : *batch) {
        outputs.push_back(rows_of(output, first, rows));
      }
    }
    return std::move(outputs);
  }
};

Joined::Joined(const JoinOptions& options)
    : ends_together_(options.max_in_flight == 1), max_batch_(static_cast<int64_t>(options.max_batch)) {
  check(rivulet_batch_new(
      options.max_batch, options.max_in_flight, options.max_queue, options.max_wait_us, options.regroup,
      options.spin_us, &queue_));
}

Joined::~Joined() {
  rivulet_batch_close(queue_);
  rivulet_batch_free(queue_);
}

bool Joined::fits(const Tape& tape) {
  return !tape.inputs.empty() &&
      std::all_of(tape.inputs.begin(), tape.inputs.end(), [](const Input& input) {
           return input.batched && input.device == c10::kMPS && !input.written;
         });
}

std::string Joined::stats() const {
  char* text = nullptr;
  check(rivulet_batch_stats_json(queue_, &text));
  std::string stats = text;
  rivulet_string_free(text);
  return stats;
}

void Joined::keep(const std::list<std::shared_ptr<Variant>>& variants) {
  std::lock_guard<std::mutex> guard(lock_);
  for (auto it = runners_.begin(); it != runners_.end();) {
    bool there = std::any_of(
        variants.begin(), variants.end(), [&](const auto& variant) { return variant->id() == it->first; });
    it = there ? std::next(it) : runners_.erase(it);
  }
}

std::shared_ptr<Joined::Runner> Joined::runner_of(const Variant& variant) {
  std::lock_guard<std::mutex> guard(lock_);
  auto& runner = runners_[variant.id()];
  if (!runner) {
    runner = std::make_shared<Runner>();
  }
  return runner;
}

std::vector<at::Tensor> Joined::call(
    const std::shared_ptr<Variant>& variant, std::vector<at::Tensor> inputs, int64_t rows, uint32_t label) {
  auto request = std::make_shared<Request>();
  request->variant = variant;
  if (has_kernels()) {
    request->parts = rows_to_join(inputs);
  }
  request->inputs = std::move(inputs);
  request->rows = rows;
  request->label = label;
  Turn turn(ends_together_);
  auto status = rivulet_batch_call(
      queue_, reinterpret_cast<uintptr_t>(request.get()), variant->id(), static_cast<uint64_t>(rows), /*refuse=*/0,
      /*timeout_us=*/-1, &turn);
  if (status != RIVULET_OK) {
    {
      // A runner may hold it still.
      std::lock_guard<std::mutex> guard(lock_);
      left_.push_back(request);
    }
    check(status);
  }
  if (turn.verdict == RIVULET_BATCH_RUN) {
    // The callers of the other members wait, or have left theirs to this queue.
    std::vector<std::shared_ptr<Request>> members;
    members.reserve(turn.count);
    for (uint64_t i = 0; i < turn.count; ++i) {
      auto* member = reinterpret_cast<Request*>(static_cast<uintptr_t>(turn.tokens[i]));
      members.emplace_back(std::shared_ptr<Request>(), member);
    }
    serve(members, turn);
    turn.served = 1;
  } else {
    TORCH_CHECK(turn.verdict == RIVULET_BATCH_DONE, "the plan's queue of joined calls is closed");
  }
  if (request->error) {
    std::rethrow_exception(request->error);
  }
  return request->take_outputs();
}

void Joined::prepare(
    const std::shared_ptr<Variant>& variant, std::vector<at::Tensor> inputs, uint32_t label) {
  if (variant->path() != Path::Programs) {
    return;
  }
  auto row = std::make_shared<Request>();
  row->variant = variant;
  row->parts = rows_to_join(inputs);
  row->inputs = std::move(inputs);
  row->rows = 1;
  row->label = label;
  BelowAutograd below;
  run(*variant, row->inputs, 1, label);
  for (int64_t batch = 1; batch < max_batch_;) {
    batch = filled_up(batch + 1);
    std::vector<at::Tensor> joint;
    for (size_t i = 0; i < row->inputs.size(); ++i) {
      joint.push_back(joined({row, row}, i, batch));
    }
    run(*variant, joint, batch, label);
  }
  uint32_t stream = 0;
  check(rivulet_stream_current(&stream));
  check(rivulet_stream_synchronize(stream));
}

// Each member gets its outputs or its error.
void Joined::serve(const std::vector<std::shared_ptr<Request>>& members, const rivulet_batch_turn& turn) {
  int64_t rows = 0;
  for (const auto& member : members) {
    rows += member->rows;
  }
  try {
    run_together(members, rows, turn);
    return;
  } catch (...) {
    if (members.size() == 1) {
      members[0]->error = std::current_exception();
      return;
    }
  }
  // Whose fault it was shows when each runs alone.
  for (const auto& member : members) {
    member->outputs.clear();
    member->batch = nullptr;
    try {
      run_together({member}, member->rows, turn);
    } catch (...) {
      member->error = std::current_exception();
    }
  }
}

// One input of all members, filled up with rows of the first.
at::Tensor Joined::joined(const std::vector<std::shared_ptr<Request>>& members, size_t index, int64_t batch) {
  const auto& first = *members[0];
  const auto& like = first.inputs[index];
  c10::DimVector sizes(like.sizes());
  sizes[0] = batch;
  at::Tensor whole = at::detail::empty_generic(
      sizes, &device_allocator(), c10::DispatchKeySet(c10::DispatchKey::MPS), like.scalar_type(), std::nullopt);
  auto fill = [&](auto add) {
    int64_t place = 0;
    for (const auto& member : members) {
      add(*member, member->rows, place);
      place += member->rows;
    }
    for (; place < batch; place += std::min(batch - place, first.rows)) {
      add(first, std::min(batch - place, first.rows), place);
    }
  };
  c10::SmallVector<DenseRow, 32> parts;
  fill([&](const Request& member, int64_t rows, int64_t) {
    parts.push_back(index < member.parts.size() ? member.parts[index] : DenseRow());
    parts.back().count = parts.back().count / member.rows * rows;
  });
  if (!join_rows(whole, parts)) {
    fill([&](const Request& member, int64_t rows, int64_t place) {
      const auto& input = member.inputs[index];
      rows_of(whole, place, rows).copy_(rows == member.rows ? input : rows_of(input, 0, rows));
    });
  }
  return whole;
}

void Joined::run_together(
    const std::vector<std::shared_ptr<Request>>& members, int64_t rows, const rivulet_batch_turn& turn) {
  const auto& first = *members[0];
  if (members.size() == 1) {
    members[0]->outputs = run(*first.variant, first.inputs, rows, first.label);
    wait_for_device(turn);
    return;
  }
  BelowAutograd below;
  int64_t batch = filled_up(rows);
  std::vector<at::Tensor> inputs;
  for (size_t i = 0; i < first.inputs.size(); ++i) {
    inputs.push_back(joined(members, i, batch));
  }
  auto outputs = run(*first.variant, inputs, batch, first.label);
  for (const auto& output : outputs) {
    TORCH_CHECK(
        output.is_mps() && output.dim() > 0 && output.size(0) == batch, "an output of shape ", output.sizes(),
        " has no rows to share out: its dimension 0 is not the batch of ", batch);
  }
  auto shared = std::make_shared<const std::vector<at::Tensor>>(std::move(outputs));
  int64_t place = 0;
  for (const auto& member : members) {
    member->batch = shared;
    member->first = place;
    place += member->rows;
  }
  wait_for_device(turn);
}

std::vector<at::Tensor> Joined::run(
    Variant& variant, const std::vector<at::Tensor>& inputs, int64_t batch, uint32_t label) {
  auto runner = runner_of(variant);
  std::vector<at::Tensor> outputs;
  std::shared_ptr<const Program> program;
  std::unique_ptr<Frame> frame;
  bool note = variant.path() == Path::Programs;
  {
    std::lock_guard<std::mutex> guard(runner->lock);
    for (const auto& [size, made] : runner->programs) {
      if (size == batch) {
        program = made;
      }
    }
    note = note && !program && runner->refusals < kAttempts;
  }
  if (program && program->run(inputs.data(), inputs.size(), outputs)) {
    return outputs;
  }
  {
    std::lock_guard<std::mutex> guard(runner->lock);
    if (!runner->idle.empty()) {
      frame = std::move(runner->idle.back());
      runner->idle.pop_back();
    }
  }
  if (!frame) {
    frame = std::make_unique<Frame>(variant.tape(), variant.path(), variant.pace());
  }
  if (note) {
    auto noting = Noting::run(variant.tape(), *frame, inputs.data(), batch, label);
    outputs = std::move(noting.outputs);
    std::lock_guard<std::mutex> guard(runner->lock);
    if (noting.program) {
      runner->programs.emplace_back(batch, std::move(noting.program));
      if (runner->programs.size() > kMostPrograms) {
        runner->programs.erase(runner->programs.begin());
      }
    } else {
      ++runner->refusals;
    }
  } else {
    // Not those who wait for this run: they use no cores.
    Caller caller;
    outputs = frame->run(inputs.data(), batch, label);
  }
  std::lock_guard<std::mutex> guard(runner->lock);
  runner->idle.push_back(std::move(frame));
  return outputs;
}

} // namespace rivulet::plan
