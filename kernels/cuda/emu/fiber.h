// Fibers: a stack each, and a switch between two of them that the address sanitizer knows of.
#pragma once
#include <cstddef>

#if !defined(__x86_64__) && !defined(__aarch64__)
#include <ucontext.h>
#endif

namespace emu {

// Bytes of stack a fiber has, a guard page below it aside.
constexpr size_t kStackBytes = 128 * 1024;

struct Fiber {
#if defined(__x86_64__) || defined(__aarch64__)
    void* stack_pointer = nullptr;
#else
    ucontext_t context;
#endif
    // Lowest address of the stack and its length; null for the thread's own stack until its first switch away.
    const void* stack = nullptr;
    size_t stack_bytes = 0;
    // What the sanitizer keeps for a fiber that is switched away.
    void* sanitizer_stack = nullptr;
};

// Memory for `count` stacks, kept for the life of the process and grown when needed; stack `index` of it.
char* fiber_stack(unsigned index, unsigned count);

// Makes `fiber` begin in `entry`, which never returns, at the next switch to it.
void prepare(Fiber& fiber, char* stack, void (*entry)());

// Saves the running state in `from` and continues `to`.
void switch_fiber(Fiber& from, Fiber& to);

}  // namespace emu
