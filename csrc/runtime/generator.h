// torch.Generator of the mps device.
#pragma once
#include <ATen/core/Generator.h>

#include "rivulet.h"

namespace rivulet {

// A Philox counter owned by the runtime. Draws from several threads reserve disjoint counter ranges.
class MpsGenerator final : public c10::GeneratorImpl {
 public:
  explicit MpsGenerator(rivulet_rng* rng);
  ~MpsGenerator() override;

  void set_current_seed(uint64_t seed) override;
  void set_offset(uint64_t offset) override;
  uint64_t get_offset() const override;
  uint64_t current_seed() const override;
  uint64_t seed() override;
  // 16 bytes, uint8, on the CPU: seed then offset, both 64-bit in native order (the layout of CUDA's state).
  void set_state(const c10::TensorImpl& state) override;
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override;

  // A 64-bit seed that no other call on any thread gets.
  uint64_t draw();
  // The runtime's generator, which this one owns.
  rivulet_rng* raw() const {
    return rng_;
  }

  static c10::DeviceType device_type() {
    return c10::kMPS;
  }

 private:
  MpsGenerator* clone_impl() const override;
  rivulet_rng* rng_;
};

const at::Generator& default_generator();
at::Generator new_generator();

} // namespace rivulet
