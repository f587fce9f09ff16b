// Which device is torch.accelerator when the wheel was built with CUDA too.
#pragma once
#include <cstdint>

namespace rivulet {

enum class AcceleratorChoice : int32_t { Auto = 0, Mps = 1, Cuda = 2 };

// See Note [One accelerator a process] in accelerator.cpp. Opens no driver.
void choose_accelerator(AcceleratorChoice choice);

} // namespace rivulet
