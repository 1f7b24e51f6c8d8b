// Upkeep of the KV cache: copies of whole blocks inside the arena, and changes of the device's block tables.
#include "common.cuh"

struct CopyBlocksParams {
    unsigned char* arena;
    const uint64_t* pairs;  // [n][2]: byte offsets from, to
    uint64_t block_bytes;   // a multiple of 64, like every offset
};

constexpr int kThreads = 256;
// 16-byte words a thread has in flight.
constexpr int kWords = 4;

// Grid (chunks of a block, pairs). No block may be written that another pair reads or writes.
KERNEL(copy_blocks, CopyBlocksParams, kThreads, 1) {
    wait_for_previous();
    launch_next();
    const uint64_t* pair = p.pairs + 2 * static_cast<size_t>(blockIdx.y);
    const uint4* from = reinterpret_cast<const uint4*>(p.arena + pair[0]);
    uint4* to = reinterpret_cast<uint4*>(p.arena + pair[1]);
    const uint64_t words = p.block_bytes / 16;
    const uint64_t first = static_cast<uint64_t>(blockIdx.x) * kThreads * kWords + threadIdx.x;
    uint4 kept[kWords];
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
        if (first + i * kThreads < words) kept[i] = from[first + i * kThreads];
    }
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
        if (first + i * kThreads < words) to[first + i * kThreads] = kept[i];
    }
}

struct UpdateTablesParams {
    uint32_t* tables;
    const uint2* entries;   // [capacity]: index into tables, value; no index twice
    const uint32_t* count;  // entries that count, on the device
    uint64_t capacity;
};

// A captured launch has one grid for every step, so the number of entries is read here.
KERNEL(update_tables, UpdateTablesParams, kThreads, 1) {
    wait_for_previous();
    launch_next();
    const uint64_t count = min(static_cast<uint64_t>(*p.count), p.capacity);
    for (uint64_t i = blockIdx.x * kThreads + threadIdx.x; i < count; i += gridDim.x * kThreads) {
        p.tables[p.entries[i].x] = p.entries[i].y;
    }
}
