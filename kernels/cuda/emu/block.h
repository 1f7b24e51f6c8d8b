// One thread block at a time: a fiber a CUDA thread, its barrier, its warps' collective operations, its deferred copies.
//
// A warp runs until all of its threads wait for the block, a thread until it waits at all: whoever comes first is as far
// ahead of the others as a missing barrier lets it be. What hardware leaves undefined is made visible here: shared memory and the destination of a
// copy in flight hold NaN (all bits set), and a wait that can't end is an error text.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "fiber.h"
#include "types.h"

namespace emu {

// Every byte of memory that nobody wrote: NaN in f32, bf16, f16 and e4m3, -1 as an integer.
constexpr int kPoison = 0xFF;

// A copy into shared memory that was issued and not yet waited for.
struct Copy {
    void* to;
    const void* from;  // null: zeros
    unsigned bytes;
};

enum class State { kReady, kBarrier, kWarp, kEvent, kDone };

struct Thread {
    Fiber fiber;
    uint3 index;
    unsigned linear;
    State state;
    // Groups of copies, oldest first; the last one is still open.
    std::vector<std::vector<Copy>> groups;
    // What a thread in kEvent waits for, and in which call.
    const void* event;
    const char* event_call;
};

// What one lane brings to a collective operation of its warp. It lies on the stack of the waiting lane.
struct WarpCall {
    const char* what;
    uint32_t mask;
    // Performs the operation for every lane of `mask`; a lane that has ended has no call.
    void (*run)(WarpCall* const* lanes, uint32_t mask);
};

struct Warp {
    WarpCall* waiting[32];
    // Lanes that wait: those of `waiting` that are not null.
    uint32_t arrived;
    uint32_t ended;
    uint32_t ready;
    // Lanes run in ascending order from this one on.
    unsigned first_lane;
};

// The block that runs now, and the launch that it belongs to.
struct Machine {
    const char* kernel;
    void (*entry)(const void* params);
    const void* params;
    uint3 block_index;
    dim3 block_dim, grid_dim;
    unsigned char* shared;
    size_t shared_bytes;
    // Counts blocks over the life of the process.
    uint64_t block_serial;
    uint64_t random;
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    std::vector<unsigned> warp_order;
    unsigned at_barrier, done;
    bool waited_for_previous;
    std::vector<std::pair<const unsigned char*, size_t>> shared_ranges;
    // What hardware does beside the threads: run in any order, and only when no thread can go on.
    std::vector<std::function<void()>> late;
    Fiber main;
    std::string error;
};

// The kernels' libraries hide their own symbols, so that equal names in two of them stay apart; these they share.
#pragma GCC visibility push(default)
extern Machine machine;
extern Thread* current;

// Runs one block to its end; false with `machine.error` when it can't end.
bool run_block();

// Waits until every thread of the block is here.
void barrier();

// Waits until every lane of `call.mask` that has not ended brings the same call; the last one runs it.
void join_warp(WarpCall& call);

// Parks this thread until someone wakes those that wait for `event`; `call` names it in an error text.
void wait_for(const void* event, const char* call);
void wake(const void* event);

// Ends the launch with an error text; control does not come back to this thread.
void fail(const std::string& text);

// A static shared array. The compiler guards no static array of an inline function, so it brings its own guard.
template <class T, size_t kCount>
struct SharedArray {
    alignas(16) T values[kCount];
    unsigned char guard[64];
    uint64_t seen_by;
};

// When a block sees the array first: fills it with poison and forbids what lies between `bytes` and `end`.
void shared_array(void* array, size_t bytes, size_t end, uint64_t& seen_by);

// Whether `bytes` at `address` lie in the block's shared memory.
bool is_shared(const void* address, size_t bytes);

// Issues a copy into the open group; its destination is poison until it is waited for.
void copy_later(const Copy& copy);
void commit_copies();
// Completes every closed group but the last `pending`.
void wait_copies(unsigned pending);

#pragma GCC visibility pop

inline unsigned lane_index() { return current->linear & 31u; }

}  // namespace emu
