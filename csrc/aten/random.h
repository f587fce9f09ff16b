#pragma once
#include <ATen/core/Generator.h>
#include <ATen/core/ivalue.h>

namespace rivulet {

// A CPU generator for one call of a CPU kernel, its whole state derived from the next draw of the mps generator
// that the caller passed (or the default one). Valid on this thread until its next call.
at::Generator host_generator(const c10::IValue& requested);

} // namespace rivulet
