// Runs a kernel that was compiled from its MSL text to a shared object, as Metal would: threadgroup after threadgroup, the
// invocations of one in lock-step from barrier to barrier. Operands come on standard input and go back on standard output.
//
// Each operand ends where a page begins that nobody may touch, so an access beyond it ends the process; likewise
// threadgroup memory, which holds a pattern and no zeros before it is written.

#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "runner.h"

// Leaves the stack pointer in `from` and goes on where `to` was left. glibc's swapcontext asks the kernel for the signal
// mask each time, which costs more than the kernels' own work between two barriers.
extern "C" void rivulet_switch(void** from, void* to);
#if defined(__x86_64__)
asm(R"(
.globl rivulet_switch
rivulet_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");
// Registers that a function keeps, then where it returns to.
constexpr size_t SAVED = 6;
#elif defined(__aarch64__)
asm(R"(
.globl rivulet_switch
rivulet_switch:
    sub sp, sp, #160
    stp x29, x30, [sp, #0]
    stp x19, x20, [sp, #16]
    stp x21, x22, [sp, #32]
    stp x23, x24, [sp, #48]
    stp x25, x26, [sp, #64]
    stp x27, x28, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x2, sp
    str x2, [x0]
    mov sp, x1
    ldp x29, x30, [sp, #0]
    ldp x19, x20, [sp, #16]
    ldp x21, x22, [sp, #32]
    ldp x23, x24, [sp, #48]
    ldp x25, x26, [sp, #64]
    ldp x27, x28, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
)");
#else
#error "no way to switch stacks is written for this machine"
#endif

namespace {

[[noreturn]] void fail(char const* what) {
    std::fprintf(stderr, "%s\n", what);
    std::exit(1);
}

void read_all(void* to, size_t bytes) {
    if (std::fread(to, 1, bytes, stdin) != bytes) fail("the input ends early");
}

uint32_t read_word() {
    uint32_t word = 0;
    read_all(&word, sizeof word);
    return word;
}

// `bytes` that end where a forbidden page begins, or at most 15 bytes before: vectors are aligned.
char* guarded(size_t bytes) {
    size_t const page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    size_t const room = (bytes + page - 1) / page * page;
    void* start = mmap(nullptr, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED || mprotect(static_cast<char*>(start) + room, page, PROT_NONE) != 0) fail("no memory");
    return static_cast<char*>(start) + room - (bytes + 15) / 16 * 16;
}

struct Invocation {
    void* stack;
    RivuletPlace place;
    bool done;
};

RivuletEntry entry;
void* const* buffers;
void* const* shared;
std::vector<Invocation> invocations;
void* scheduler;
size_t current;
bool fibers;

void body() {
    Invocation& self = invocations[current];
    entry(buffers, shared, &self.place);
    self.done = true;
    // Never comes back: a stack that is done is not gone to again.
    rivulet_switch(&self.stack, scheduler);
}

// A stack that begins with `body`.
void* fresh(char* end) {
    void** top = reinterpret_cast<void**>(end);
#if defined(__x86_64__)
    // As after a call: the stack is aligned but for the place of a return address.
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(body);
    for (size_t k = 0; k < SAVED; k += 1) *--top = nullptr;
#elif defined(__aarch64__)
    top -= 20;
    std::memset(top, 0, 160);
    top[1] = reinterpret_cast<void*>(body);
#endif
    return top;
}

// Runs every invocation to its next barrier. False where all are done; a barrier that some do not come to ends the process.
bool step() {
    size_t done = 0;
    for (current = 0; current < invocations.size(); current += 1) {
        Invocation& next = invocations[current];
        if (next.done) fail("an invocation ended while others wait at a barrier");
        rivulet_switch(&scheduler, next.stack);
        done += next.done;
    }
    if (done != 0 && done != invocations.size()) fail("some invocations wait at a barrier that others do not come to");
    return done == 0;
}

}  // namespace

extern "C" void rivulet_barrier() {
    if (!fibers) fail("a barrier in a kernel said to have none");
    rivulet_switch(&invocations[current].stack, scheduler);
}

int main(int count, char** arguments) {
    if (count != 2) fail("usage: runner KERNEL");
    void* library = dlopen(arguments[1], RTLD_NOW);
    if (library == nullptr) fail(dlerror());
    entry = reinterpret_cast<RivuletEntry>(dlsym(library, "rivulet_invoke"));
    if (entry == nullptr) fail(dlerror());
    fibers = dlsym(library, "rivulet_has_barriers") != nullptr;

    uint32_t groups[3], threads[3];
    for (uint32_t& side : groups) side = read_word();
    for (uint32_t& side : threads) side = read_word();
    std::vector<uint32_t> shared_bytes(read_word());
    for (uint32_t& bytes : shared_bytes) bytes = read_word();
    std::vector<uint32_t> buffer_bytes(read_word());
    std::vector<void*> given;
    for (uint32_t& bytes : buffer_bytes) {
        bytes = read_word();
        char* at = guarded(bytes);
        read_all(at, bytes);
        given.push_back(at);
    }
    std::vector<void*> threadgroup;
    for (uint32_t bytes : shared_bytes) threadgroup.push_back(guarded(bytes));
    buffers = given.data();
    shared = threadgroup.data();

    constexpr size_t STACK = 256 << 10;
    uint32_t const size = threads[0] * threads[1] * threads[2];
    invocations.resize(fibers ? size : 1);
    char* stacks = nullptr;
    if (fibers) stacks = guarded(STACK * size);
    for (uint32_t z = 0; z < groups[2]; z += 1)
        for (uint32_t y = 0; y < groups[1]; y += 1)
            for (uint32_t x = 0; x < groups[0]; x += 1) {
                for (size_t k = 0; k < threadgroup.size(); k += 1) std::memset(threadgroup[k], 0xa5, shared_bytes[k]);
                for (uint32_t index = 0; index < size; index += 1) {
                    RivuletPlace place{};
                    uint32_t const local[3] = {index % threads[0], index / threads[0] % threads[1],
                                               index / threads[0] / threads[1]};
                    uint32_t const group[3] = {x, y, z};
                    for (int k = 0; k < 3; k += 1) {
                        place.group[k] = group[k];
                        place.groups[k] = groups[k];
                        place.local[k] = local[k];
                        place.global[k] = group[k] * threads[k] + local[k];
                    }
                    place.index = index;
                    if (!fibers) {
                        entry(buffers, shared, &place);
                        continue;
                    }
                    Invocation& next = invocations[index];
                    next.place = place;
                    next.done = false;
                    next.stack = fresh(stacks + STACK * (index + 1));
                }
                if (fibers)
                    while (step()) {
                    }
            }
    for (size_t k = 0; k < given.size(); k += 1)
        if (std::fwrite(given[k], 1, buffer_bytes[k], stdout) != buffer_bytes[k]) fail("the output cannot be written");
    std::fflush(stdout);
    // Without destructors: the kernels' objects are not worth it.
    _exit(0);
}
