#pragma once
#include <string>

namespace rivulet {

// True for ops that PyTorch's CPU code does without touching data but through stubs and nested ops that are ours; see
// Note [Native ops]. `name` is that of the schema, such as "aten::add_".
bool is_native(const std::string& name);

// Finds the stubs. Called once, while PyTorch is loaded.
void prepare_hooks();

// Leads the stubs to the device's kernels. Called once, when an adapter with kernels is opened.
void install_hooks();

} // namespace rivulet
