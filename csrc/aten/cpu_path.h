#pragma once
#include <c10/util/Exception.h>

#include <string>

namespace rivulet {

// Inside a catch block: an allocation failure of a CPU kernel becomes torch.OutOfMemoryError naming the op;
// anything else goes on as it is.
[[noreturn]] void rethrow_as_device_error(const c10::Error& error, const std::string& op);

} // namespace rivulet
