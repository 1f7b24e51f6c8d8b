// Launches by name, with C linkage for the tests.
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <vector>

#include "emu.h"

namespace {

// Dynamic shared memory that a block may ask for on the largest card.
constexpr size_t kMaxSharedBytes = 227 * 1024;
// Seconds a launch may take: a kernel that spins on a flag never yields.
constexpr unsigned kMaxSeconds = 300;

std::vector<emu::Kernel>& kernels() {
    static std::vector<emu::Kernel> all;
    return all;
}

uint64_t seed = 0;
std::string text;

const emu::Kernel* find(const char* name) {
    for (const emu::Kernel& kernel : kernels()) {
        if (!strcmp(kernel.name, name)) return &kernel;
    }
    return nullptr;
}

void on_alarm(int) {
    const char* parts[] = {"emulator: kernel ", emu::machine.kernel, " has not ended in 300 s\n"};
    for (const char* part : parts) (void)!write(2, part, strlen(part));
    _exit(124);
}

const char* refuse(const std::string& why) {
    text = why;
    return text.c_str();
}

// Linear block numbers in the order in which they run.
std::vector<uint64_t> block_order(uint64_t count) {
    std::vector<uint64_t> order(count);
    for (uint64_t i = 0; i < count; ++i) order[i] = i;
    uint64_t state = seed;
    for (uint64_t i = count; seed && i > 1; --i) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        std::swap(order[i - 1], order[(state >> 33) % i]);
    }
    return order;
}

bool run_grid(const unsigned grid[3]) {
    emu::Machine& m = emu::machine;
    for (uint64_t block : block_order(static_cast<uint64_t>(grid[0]) * grid[1] * grid[2])) {
        m.block_index = {static_cast<unsigned>(block % grid[0]), static_cast<unsigned>(block / grid[0] % grid[1]),
                         static_cast<unsigned>(block / grid[0] / grid[1])};
        if (!emu::run_block()) return false;
    }
    return true;
}

}  // namespace

#pragma GCC visibility push(default)

emu::Registration::Registration(const Kernel& kernel) { kernels().push_back(kernel); }

// Orders of blocks and threads of the launches that follow: 0 as numbered, else shuffled.
extern "C" void emu_set_seed(uint64_t value) { seed = value; }

// One line a kernel: file, name, parameter struct, its bytes, threads a block. Valid until the next call.
extern "C" const char* emu_kernels() {
    text.clear();
    for (const emu::Kernel& k : kernels()) {
        text += std::string(k.file) + " " + k.name + " " + k.params_name + " " + std::to_string(k.params_bytes) + " " +
                std::to_string(k.threads) + "\n";
    }
    return text.c_str();
}

// Bytes of a kernel's parameter struct; 0 for an unknown kernel.
extern "C" size_t emu_param_size(const char* name) {
    const emu::Kernel* kernel = find(name);
    return kernel ? kernel->params_bytes : 0;
}

// Memory of exactly `bytes`, poisoned, aligned as cuMemAlloc aligns: one byte further is the sanitizer's.
extern "C" void* emu_alloc(size_t bytes) {
    void* memory = nullptr;
    if (posix_memalign(&memory, 256, bytes)) return nullptr;
    memset(memory, emu::kPoison, bytes);
    return memory;
}
extern "C" void emu_free(void* memory) { free(memory); }
// Through the sanitizer's memcpy, so that a transfer beyond an allocation is reported too.
extern "C" void emu_copy(void* to, const void* from, size_t bytes) { memcpy(to, from, bytes); }

// Runs a grid to its end. Null, or an error text that is valid until the next call. An empty grid runs nothing.
extern "C" const char* emu_launch(const char* name, const unsigned grid[3], unsigned threads, size_t shared_bytes,
                                  const void* params, size_t params_len) {
    const emu::Kernel* kernel = find(name);
    const std::string who = std::string("kernel ") + name + ": ";
    if (!kernel) return refuse(who + "unknown");
    if (params_len != kernel->params_bytes) {
        return refuse(who + std::to_string(params_len) + " bytes of parameters, but " + kernel->params_name + " has " +
                      std::to_string(kernel->params_bytes));
    }
    if (threads == 0 || threads > kernel->threads) return refuse(who + std::to_string(threads) + " threads a block");
    if (shared_bytes > kMaxSharedBytes) return refuse(who + std::to_string(shared_bytes) + " bytes of shared memory");
    if (grid[1] > 65535 || grid[2] > 65535) return refuse(who + "grid beyond 65535 in y or z");

    emu::Machine& m = emu::machine;
    void *own_params = emu_alloc(params_len), *shared = nullptr;
    memcpy(own_params, params, params_len);
    if (posix_memalign(&shared, 128, shared_bytes)) return refuse(who + "no memory");
    m.kernel = kernel->name;
    m.entry = kernel->entry;
    m.params = own_params;
    m.block_dim = {threads, 1, 1};
    m.grid_dim = {grid[0], grid[1], grid[2]};
    m.shared = static_cast<unsigned char*>(shared);
    m.shared_bytes = shared_bytes;
    m.random = seed;
    signal(SIGALRM, on_alarm);
    alarm(kMaxSeconds);
    const bool ended = run_grid(grid);
    alarm(0);
    free(shared);
    free(own_params);
    return ended ? nullptr : m.error.c_str();
}

#pragma GCC visibility pop
