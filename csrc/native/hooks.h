// Hooks by family; each puts native kernels into PyTorch's stubs. Called once, while PyTorch is loaded.
#pragma once

namespace rivulet {

void hook_pointwise();
void hook_activations();
void hook_reductions();
void hook_rows();
void hook_indexing();
void hook_random();
void hook_attention();
void hook_padding();
void hook_gradients();
void hook_placing();
void hook_pooling();
void hook_resampling();
void hook_composed();

} // namespace rivulet
