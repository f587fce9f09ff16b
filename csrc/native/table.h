#pragma once
#include <ATen/core/operator_name.h>

namespace rivulet {

// True for ops that PyTorch's CPU code does without touching data but through stubs and nested ops that are ours; see
// Note [Native ops].
bool is_native(const c10::OperatorName& op);

// Finds the stubs. Called once, while PyTorch is loaded.
void prepare_hooks();

// Leads the stubs to the device's kernels. Called once, when an adapter with kernels is opened.
void install_hooks();

} // namespace rivulet
