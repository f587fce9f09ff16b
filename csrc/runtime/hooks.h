// PyTorch's entry points for the mps device.
#pragma once

namespace rivulet {

// True where this process lets mps be torch.accelerator and gives it autograd.
void set_is_accelerator(bool value);
bool is_accelerator();

// Puts our hooks class into PyTorch's registry and makes PyTorch create it. Throws where hooks are registered or
// were created already, and leaves the registry as it was then.
void register_hooks();

} // namespace rivulet
