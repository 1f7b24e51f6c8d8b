// Attention on Hopper: what comes in. The producer's tensor copies, and a consumer's queries.
#pragma once
#include "attention_sm90a.cuh"

// Row of the arena where the lane's block begins of 32 blocks from `block` on; outside the arena where no row sees it.
template <class H>
__device__ __forceinline__ int arena_row(const TensorAttentionParams& p, const Task& task, int block) {
    block += threadIdx.x % 32;
    const bool seen = block * kBlockTokens < task.end && (block + 1) * kBlockTokens > task.first;
    if (!seen) return p.num_rows;
    const uint32_t entry = p.a.tables[static_cast<size_t>(task.item.slot) * p.a.max_blocks + block];
    return entry / (H::kDim * 2 / 64);
}

// Issues the copies of one tile's keys, or values: a box for each block and each 64 columns.
template <class H>
__device__ __forceinline__ void load_slot(const TensorAttentionParams& p, const Ring<H>& ring, int values, const int (&rows)[2],
                                          uint32_t region_row) {
    mbarrier_wait(ring.free(values), ring.parity ^ 1);
    if (threadIdx.x != 0) return;
    mbarrier_arrive_expect(ring.full(values), H::kSlotBytes);
#pragma unroll
    for (int i = 0; i < H::kHalves * 2; ++i) {
        const int half = i / 2, block = i % 2;
        unsigned char* to = ring.slot(values) + half * H::kHalfBytes + block * (H::kHalfBytes / 2);
        tensor_load(to, &p.arena, half * 64, rows[block] + region_row, ring.full(values));
    }
}

// The producer: one warp, for all units of the block.
template <class H>
__device__ __forceinline__ void produce(const TensorAttentionParams& p, Ring<H> ring) {
    for_each_task(p.a, [&](const Task& task) {
        int window = 0;
#pragma unroll 1
        for (int tile = task.first_tile; tile * kTileTokens < task.end; ++tile) {
            const int block = tile * (kTileTokens / kBlockTokens);
            if (tile == task.first_tile || block % 32 == 0) window = arena_row<H>(p, task, block & ~31);
            const int rows[2] = {__shfl_sync(kFullMask, window, block % 32), __shfl_sync(kFullMask, window, block % 32 + 1)};
            // Heads' keys lie one behind the other, then their values.
            const uint32_t keys = p.first_row + task.kv_head * kBlockTokens;
            load_slot<H>(p, ring, 0, rows, keys);
            load_slot<H>(p, ring, 1, rows, keys + p.a.num_kv_heads * kBlockTokens);
            ring.advance();
        }
    });
}

// The thread's part of its warp's queries; rows that don't exist are zeros.
template <class H>
__device__ __forceinline__ void load_queries(const AttentionParams& p, const Task& task, const GroupRows& rows,
                                             uint32_t (&q)[H::kSteps][4]) {
    using T = typename H::T;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        const uint32_t query = task.item.first_query + rows.row(h), token = query / p.group, head = query % p.group;
        const T* row = static_cast<const T*>(p.qkv) + (static_cast<size_t>(task.item.first_row) + token) * p.row_stride +
                       (static_cast<size_t>(task.kv_head) * p.group + head) * H::kDim + threadIdx.x % 4 * 2;
        const bool exists = rows.has(task, h);
#pragma unroll
        for (int i = 0; i < H::kSteps * 2; ++i) {
            q[i / 2][i % 2 * 2 + h] = exists ? *reinterpret_cast<const uint32_t*>(row + i * 8) : 0;
        }
    }
}

// Sets the values of tokens that no row sees to zero in the slot of the KV tile at `token`. The whole warpgroup calls it;
// both warpgroups write the same zeros.
template <class H>
__device__ __forceinline__ void clear_unseen(const Task& task, int token, unsigned char* values, int consumer) {
    if (token >= task.first && token + kTileTokens <= task.end) return;
    constexpr int kChunks = H::kHalves * 8;
    for (int i = threadIdx.x % kWarpgroup; i < kTileTokens * kChunks; i += kWarpgroup) {
        const int at = token + i / 8 % kTileTokens;
        if (at < task.first || at >= task.end) reinterpret_cast<uint4*>(values)[i] = make_uint4(0, 0, 0, 0);
    }
    fence_async();
    named_barrier(1 + consumer, kWarpgroup);
}
