// Turns a status of the C interface into the exception PyTorch expects.
#pragma once
#include <c10/util/Exception.h>

#include "rivulet.h"

namespace rivulet {

// Raises the calling thread's last error: torch.OutOfMemoryError, the pending Python exception (Ctrl-C), or
// RuntimeError.
[[noreturn]] void raise_status(int32_t status);

inline void check(int32_t status) {
  if (C10_UNLIKELY(status != RIVULET_OK)) {
    raise_status(status);
  }
}

// True where the call did its work, false where nothing in the runtime could, and then nothing has changed.
inline bool taken(int32_t status) {
  if (status == RIVULET_NO_KERNEL) {
    return false;
  }
  check(status);
  return true;
}

} // namespace rivulet
