// The context switch: only what a call must preserve is saved, so a switch costs tens of nanoseconds.
#include "fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__)
// Callee-saved registers of the System V ABI go to the stack; the stacks change; they come back.
asm(R"(
.text
.globl sconce_emu_switch
.hidden sconce_emu_switch
.type sconce_emu_switch,@function
sconce_emu_switch:
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
.size sconce_emu_switch,.-sconce_emu_switch
)");
#elif defined(__aarch64__)
// x19 to x30 and the low halves of v8 to v15, as AAPCS64 asks.
asm(R"(
.text
.globl sconce_emu_switch
.hidden sconce_emu_switch
.type sconce_emu_switch,%function
sconce_emu_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
.size sconce_emu_switch,.-sconce_emu_switch
)");
#endif

namespace emu {
namespace {

#if defined(__x86_64__) || defined(__aarch64__)
extern "C" void sconce_emu_switch(void** save, void* load);
#endif

// The fiber that was left by the switch in progress, and where the fiber that begins starts.
Fiber* left = nullptr;
void (*first_call)() = nullptr;

// Tells the sanitizer that the switch is done, and learns from it where the thread's own stack lies.
void finish_switch(Fiber* now) {
#if defined(__SANITIZE_ADDRESS__)
    const void* stack = nullptr;
    size_t bytes = 0;
    __sanitizer_finish_switch_fiber(now ? now->sanitizer_stack : nullptr, &stack, &bytes);
    if (left->stack == nullptr) {
        left->stack = stack;
        left->stack_bytes = bytes;
    }
#else
    (void)now;
#endif
}

void begin() {
    finish_switch(nullptr);
    first_call();
    abort();
}

}  // namespace

char* fiber_stack(unsigned index, unsigned count) {
    static char* stacks = nullptr;
    static unsigned have = 0;
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE)), stride = kStackBytes + page;
    if (count > have) {
        if (stacks) munmap(stacks, stride * have);
        void* memory = mmap(nullptr, stride * count, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) {
            perror("emulator: no memory for fiber stacks");
            abort();
        }
        stacks = static_cast<char*>(memory);
        have = count;
        for (unsigned i = 0; i < count; ++i) mprotect(stacks + i * stride, page, PROT_NONE);
    }
    return stacks + index * stride + page;
}

void prepare(Fiber& fiber, char* stack, void (*entry)()) {
    fiber.stack = stack;
    fiber.stack_bytes = kStackBytes;
    fiber.sanitizer_stack = nullptr;
    first_call = entry;
#if defined(__x86_64__)
    // A return address above six registers; at the entry of a function rsp is 8 past a multiple of 16.
    void** top = reinterpret_cast<void**>(stack + kStackBytes);
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(begin);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    fiber.stack_pointer = top;
#elif defined(__aarch64__)
    uint64_t* top = reinterpret_cast<uint64_t*>(stack + kStackBytes) - 20;
    for (int i = 0; i < 20; ++i) top[i] = 0;
    top[11] = reinterpret_cast<uint64_t>(begin);
    fiber.stack_pointer = top;
#else
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = stack;
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, begin, 0);
#endif
}

void switch_fiber(Fiber& from, Fiber& to) {
    left = &from;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&from.sanitizer_stack, to.stack, to.stack_bytes);
#endif
#if defined(__x86_64__) || defined(__aarch64__)
    sconce_emu_switch(&from.stack_pointer, to.stack_pointer);
#else
    swapcontext(&from.context, &to.context);
#endif
    finish_switch(&from);
}

}  // namespace emu
