#include "aten/random.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Functions.h>

#include "aten/kernels.h"
#include "runtime/generator.h"

namespace rivulet {

namespace {

// SplitMix64 (Steele, Lea, Flood 2014). Spreads one 64-bit draw over the 624 words of a Mersenne Twister, whose own
// seeding would keep only 32 bits of it.
uint64_t splitmix64(uint64_t& state) {
  uint64_t z = (state += 0x9E3779B97F4A7C15ull);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

void seed_engine(at::CPUGeneratorImpl& generator, uint64_t draw) {
  at::mt19937_data_pod data;
  data.seed_ = draw;
  data.left_ = 1;
  data.seeded_ = true;
  data.next_ = 0;
  for (size_t i = 0; i < data.state_.size(); i += 2) {
    uint64_t word = splitmix64(draw);
    data.state_[i] = static_cast<uint32_t>(word);
    data.state_[i + 1] = static_cast<uint32_t>(word >> 32);
  }
  at::mt19937 engine;
  engine.set_data(data);
  generator.set_engine(engine);
  generator.set_next_float_normal_sample(std::nullopt);
  generator.set_next_double_normal_sample(std::nullopt);
}

MpsGenerator& requested_generator(const c10::IValue& requested) {
  at::Generator generator = requested.isGenerator() ? requested.toGenerator() : default_generator();
  if (!generator.defined()) {
    generator = default_generator();
  }
  TORCH_CHECK(
      generator.device().type() == c10::kMPS,
      "Expected a 'mps' device type for generator but found '",
      generator.device().type(),
      "'");
  // PyTorch's macOS build makes those of TorchScript itself, with the class of its own backend.
  auto* own = dynamic_cast<MpsGenerator*>(generator.unsafeGetGeneratorImpl());
  TORCH_CHECK(
      own != nullptr, "the 'mps' generator was not made by Rivulet, which serves mps in this process; make one with "
      "torch.Generator('mps')");
  return *own;
}

// The CPU's fused dropout draws from the CPU's default generator; this one draws from the device's.
std::tuple<at::Tensor, at::Tensor> native_dropout(const at::Tensor& input, double p, std::optional<bool> train) {
  if (input.numel() == 0) {
    return {input.clone(), at::empty_like(input, input.options().dtype(at::kBool))};
  }
  if (train.has_value() && !*train) {
    return {input.clone(), at::ones_like(input, input.options().dtype(at::kBool))};
  }
  TORCH_CHECK(p >= 0 && p <= 1, "dropout probability has to be between 0 and 1, but got ", p);
  auto mask = at::empty_like(input, input.options().dtype(at::kBool)).bernoulli_(1 - p);
  auto output = input.mul(mask).mul_(p == 1 ? 0.0 : 1.0 / (1.0 - p));
  return {output, mask};
}

} // namespace

at::Generator host_generator(const c10::IValue& requested) {
  static thread_local at::Generator generator = at::detail::createCPUGenerator();
  seed_engine(*generator.get<at::CPUGeneratorImpl>(), requested_generator(requested).draw());
  return generator;
}

void register_random(torch::Library& aten) {
  aten.impl("native_dropout", native_dropout);
}

} // namespace rivulet
