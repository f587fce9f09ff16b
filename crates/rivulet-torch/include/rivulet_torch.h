/* Entry points of the C++ adaptor, for the Python package. */
#ifndef RIVULET_TORCH_H
#define RIVULET_TORCH_H
#include "rivulet.h"
#define RIVULET_EXPORT __attribute__((visibility("default")))
#ifdef __cplusplus
extern "C" {
#endif

/* Registers hooks, guard, allocator and kernels for mps with the PyTorch of this process, after looking at what is
 * there. Call once, at the end of `import torch`. accelerator: 0 chooses mps where no CUDA device is present,
 * 1 mps, 2 cuda. On failure nothing works for mps and rivulet_torch_last_error says why. */
RIVULET_EXPORT int32_t rivulet_torch_register(int32_t accelerator);
RIVULET_EXPORT const char *rivulet_torch_last_error(void);
/* The PyTorch version this library was compiled against, e.g. "2.11.0". */
RIVULET_EXPORT const char *rivulet_torch_built_for(void);

#ifdef __cplusplus
}
#endif
#endif
