#pragma once
#include <torch/library.h>

namespace rivulet {

// See Note [Direct ops].
void register_direct(torch::Library& aten, torch::Library& autograd);

} // namespace rivulet
