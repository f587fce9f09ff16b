#include "runtime/generator.h"

#include <ATen/Functions.h>
#include <ATen/Utils.h>

#include <cstring>

#include "runtime/allocator.h"

namespace rivulet {

MpsGenerator::MpsGenerator(rivulet_rng* rng)
    : c10::GeneratorImpl(kDevice, c10::DispatchKeySet(c10::DispatchKey::MPS)), rng_(rng) {}

MpsGenerator::~MpsGenerator() {
  rivulet_rng_free(rng_);
}

void MpsGenerator::set_current_seed(uint64_t seed) {
  rivulet_rng_seed(rng_, seed);
}

void MpsGenerator::set_offset(uint64_t offset) {
  rivulet_rng_set(rng_, current_seed(), offset);
}

uint64_t MpsGenerator::get_offset() const {
  return rivulet_rng_get_offset(rng_);
}

uint64_t MpsGenerator::current_seed() const {
  return rivulet_rng_get_seed(rng_);
}

uint64_t MpsGenerator::seed() {
  uint64_t seed = c10::detail::getNonDeterministicRandom();
  rivulet_rng_seed(rng_, seed);
  return seed;
}

void MpsGenerator::set_state(const c10::TensorImpl& state) {
  at::detail::check_rng_state(state);
  TORCH_CHECK(
      state.numel() == 16,
      "the state of an mps generator has 16 bytes (seed, offset), got a tensor of ",
      state.numel());
  uint64_t words[2];
  std::memcpy(words, state.data(), sizeof(words));
  rivulet_rng_set(rng_, words[0], words[1]);
}

c10::intrusive_ptr<c10::TensorImpl> MpsGenerator::get_state() const {
  auto state = at::empty({16}, at::TensorOptions().dtype(at::kByte).device(at::kCPU));
  uint64_t words[2] = {rivulet_rng_get_seed(rng_), rivulet_rng_get_offset(rng_)};
  std::memcpy(state.mutable_data_ptr(), words, sizeof(words));
  return state.getIntrusivePtr();
}

uint64_t MpsGenerator::draw() {
  return rivulet_rng_draw(rng_);
}

MpsGenerator* MpsGenerator::clone_impl() const {
  return new MpsGenerator(rivulet_rng_clone(rng_));
}

at::Generator new_generator() {
  return at::make_generator<MpsGenerator>(rivulet_rng_new(c10::default_rng_seed_val));
}

const at::Generator& default_generator() {
  static auto* generator = new at::Generator(new_generator());
  return *generator;
}

} // namespace rivulet
