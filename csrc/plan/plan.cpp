#include "plan/plan.h"

#include <algorithm>

namespace rivulet::plan {

Variant::Variant(Tape tape, uint32_t structure, uint64_t id, size_t max_programs)
    : tape_(std::move(tape)),
      path_(path_of(tape_)),
      structure_(structure),
      id_(id),
      max_programs_(max_programs) {}

std::shared_ptr<const Program> Variant::program(int64_t batch) {
  for (auto it = programs_.begin(); it != programs_.end(); ++it) {
    if (it->batch == batch) {
      programs_.splice(programs_.begin(), programs_, it);
      return programs_.front().program;
    }
  }
  return nullptr;
}

bool Variant::start_noting(int64_t batch) {
  bool known =
      std::any_of(programs_.begin(), programs_.end(), [&](const Compiled& one) { return one.batch == batch; });
  if (path_ != Path::Programs || known || refusals_ >= kAttempts) {
    return false;
  }
  programs_.push_front({batch, nullptr});
  while (programs_.size() > max_programs_) {
    programs_.pop_back();
  }
  return true;
}

void Variant::noted(int64_t batch, std::shared_ptr<const Program> program, std::string refused) {
  auto found =
      std::find_if(programs_.begin(), programs_.end(), [&](const Compiled& one) { return one.batch == batch; });
  if (program) {
    refusals_ = 0;
    refused_.clear();
    if (found != programs_.end()) {
      found->program = std::move(program);
    }
    return;
  }
  if (found != programs_.end()) {
    programs_.erase(found);
  }
  if (!refused.empty()) {
    ++refusals_;
    refused_ = std::move(refused);
  }
}

std::vector<std::shared_ptr<const Program>> Variant::programs() const {
  std::vector<std::shared_ptr<const Program>> made;
  for (const auto& one : programs_) {
    if (one.program) {
      made.push_back(one.program);
    }
  }
  return made;
}

std::unique_ptr<Frame> Variant::take_frame() {
  if (idle_.empty()) {
    ++frames_;
    return std::make_unique<Frame>(tape_, path_, pace_);
  }
  auto frame = std::move(idle_.back());
  idle_.pop_back();
  return frame;
}

void Variant::give_back(std::unique_ptr<Frame> frame) {
  idle_.push_back(std::move(frame));
}

Plan::Plan(const std::string& name, size_t max_shapes)
    : max_shapes_(max_shapes), label_(rivulet_op_id(("plan " + name).c_str())) {}

std::shared_ptr<Variant> Plan::find(uint32_t structure, const at::Tensor* inputs, size_t count, int64_t* batch) {
  for (auto it = variants_.begin(); it != variants_.end(); ++it) {
    auto& variant = *it;
    if (variant->structure() != structure || !variant->tape().fits(inputs, count, batch)) {
      continue;
    }
    if (!variant->tape().is_current()) {
      ++stats_.rebound;
      variants_.erase(it);
      return nullptr;
    }
    if (it != variants_.begin()) {
      variants_.splice(variants_.begin(), variants_, it);
    }
    return variants_.front();
  }
  return nullptr;
}

std::shared_ptr<Variant> Plan::add(Tape tape, uint32_t structure) {
  auto variant = std::make_shared<Variant>(std::move(tape), structure, next_id_++, max_shapes_);
  variants_.push_front(variant);
  while (variants_.size() > max_shapes_) {
    ++stats_.evictions;
    variants_.pop_back();
  }
  return variant;
}

void Plan::drop(const Variant& gone) {
  variants_.remove_if([&](const auto& variant) { return variant.get() == &gone; });
}

void Plan::drop_all() {
  variants_.clear();
}

} // namespace rivulet::plan
