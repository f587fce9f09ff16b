#pragma once
#include <torch/library.h>

namespace rivulet {

// See Note [Whole layers].
void register_encoder(torch::Library& aten);

} // namespace rivulet
