// Between the runner and a compiled kernel.
#ifndef RIVULET_RUNNER_H
#define RIVULET_RUNNER_H

// Where an invocation stands.
struct RivuletPlace {
    unsigned int group[3], groups[3], local[3], global[3], index;
};

// Runs one invocation on buffers by number, and threadgroup memory by number.
using RivuletEntry = void (*)(void* const* buffers, void* const* shared, RivuletPlace const* place);

#endif
