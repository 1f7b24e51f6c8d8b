// Attention: the walk over the work list, and one unit of it from its first copy to its output.
#pragma once
#include "attention_fold.cuh"
#include "attention_load.cuh"
#include "attention_math.cuh"

// Counts a split as done; true in the whole block when it was the query tile's last one. The ticket is 0 again then.
__device__ __forceinline__ bool is_last_split(uint32_t* ticket, uint32_t num_splits, Unit& unit) {
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        unit.is_last = atomicAdd(ticket, 1u) + 1 == num_splits;
        if (unit.is_last) *ticket = 0;
    }
    __syncthreads();
    __threadfence();
    return unit.is_last != 0;
}

// Attends over KV tile `tile` of the ring, whose keys are next in line.
template <class S>
__device__ __forceinline__ void attend_tile(const AttentionParams& p, const Rows<S>& rows, int tile, Loader<S>& loader,
                                            unsigned char* shared, State<S>& state) {
    float s[S::kMmas][S::kScoreTiles][4];
    uint32_t probs[S::kMmas][S::kTile / 16][4];
    const int token = tile * S::kTile;
    const bool sees = rows.sees(token);
    // One barrier a slot: behind it the tile of everyone's copies is there, and the slot read before is free.
    wait_for_copies(loader.slots() - 2);
    __syncthreads();
    loader.issue();
    if (sees) {
        score(rows, shared + S::kQueries, loader.current(), s);
        cap_and_mask(p, rows, token, s);
        float maxima[S::kMmas][2], scale[S::kMmas][2];
        find_maxima(p.score_factor, rows, shared, s, maxima);
        soften(p.score_factor, maxima, state, s, scale);
        if (S::kExchange) {
            share_probabilities(rows, s, shared + S::kProbs);
        } else {
            pack_probabilities<S>(s, probs);
        }
        rescale(scale, state);
    }
    wait_for_copies(loader.slots() - 2);
    __syncthreads();
    loader.issue();
    if (sees) {
        if (S::kExchange) {
#pragma unroll
            for (int n = 0; n < S::kMmas * S::kTile / 16; ++n) {
                const int m = n / (S::kTile / 16), step = n % (S::kTile / 16);
                load_a(probs[m][step], shared + S::kProbs + 16 * m * S::kProbPitch, S::kProbPitch, 2 * step);
            }
        }
        accumulate(rows, loader.current(), probs, state);
    }
}

// Where a block keeps the result of the splits before the present one.
template <class S>
__device__ __forceinline__ float* running_total(const AttentionParams& p) {
    return p.partials + (p.totals + static_cast<size_t>(blockIdx.x) * (Wide<S>::kRows / 16)) * S::kUnit;
}

// Whether the unit began in an earlier split than the one that KV tile `end` - 1 lies in.
__device__ __forceinline__ bool has_total(const AttentionParams& p, const Unit& unit, int end) {
    const int fold_tiles = p.work[1], begin = unit.item.tiles & 0xffff;
    return fold_tiles > 0 && begin / fold_tiles < (end - 1) / fold_tiles;
}

// One query tile of one KV head over one range of KV tiles.
template <class S>
__device__ __forceinline__ void attend(const AttentionParams& p, unsigned char* shared) {
    Unit& unit = *reinterpret_cast<Unit*>(shared);
    const WorkItem& item = unit.item;
    Loader<S> loader(p, shared);
    load_queries<S>(p, unit, shared);
    const Rows<S> rows(p, unit);
    State<S> state;
    state.clear();
    int tile = item.tiles & 0xffff;
    while (tile * S::kTile < loader.end) {
        attend_tile(p, rows, tile, loader, shared, state);
        ++tile;
        const int fold_tiles = p.work[1];
        if (fold_tiles > 0 && tile % fold_tiles == 0 && tile * S::kTile < loader.end) {
            if (has_total(p, unit, tile)) fold<S, true>(rows, running_total<S>(p), state);
            store_partial(rows, state, running_total<S>(p));
            state.clear();
        }
    }
    if (has_total(p, unit, tile)) fold<S, true>(rows, running_total<S>(p), state);
    const uint32_t split = item.split & 0xffff, num_splits = item.split >> 16;
    if (num_splits > 1) {
        const size_t first = static_cast<size_t>(item.first_partial) * p.num_kv_heads;
        float* partials = p.partials + (first + static_cast<size_t>(unit.kv_head) * num_splits * (S::kRows / 16)) * S::kUnit;
        constexpr size_t kStride = static_cast<size_t>(S::kRows / 16) * S::kUnit;
        store_partial(rows, state, partials + split * kStride);
        if (!is_last_split(p.tickets + first + unit.kv_head, num_splits, unit)) return;
        state.clear();
        for (uint32_t i = 0; i < num_splits; ++i) fold<S, false>(rows, partials + i * kStride, state);
    }
    write_output(p, rows, state);
}

template <class H>
__device__ __forceinline__ void attention(const AttentionParams& p) {
    SHARED_MEMORY(unsigned char, shared);
    wait_for_previous();
    launch_next();
    Unit& unit = *reinterpret_cast<Unit*>(shared);
    for (uint32_t number = blockIdx.x; number < p.work[0] * p.num_kv_heads; number = next_unit(unit.number)) {
        // Everyone has left the shared memory of the unit before.
        __syncthreads();
        constexpr uint32_t kWords = sizeof(WorkItem) / 4;
        if (threadIdx.x < kWords) {
            const uint32_t word = 8 + number / p.num_kv_heads * kWords + threadIdx.x;
            reinterpret_cast<uint32_t*>(&unit.item)[threadIdx.x] = p.work[word];
        }
        if (threadIdx.x == 0) {
            unit.number = number;
            unit.kv_head = number % p.num_kv_heads;
        }
        __syncthreads();
        if (unit.item.num_queries > kNarrowRows) {
            attend<Wide<H>>(p, shared);
        } else {
            attend<Narrow<H>>(p, shared);
        }
    }
}

#define ATTENTION_KERNELS(T, name)                                                                    \
    ATTENTION_KERNEL(T, name, 64)                                                                     \
    ATTENTION_KERNEL(T, name, 80)                                                                     \
    ATTENTION_KERNEL(T, name, 96)                                                                     \
    ATTENTION_KERNEL(T, name, 128)                                                                    \
    ATTENTION_KERNEL(T, name, 256)                                                                    \
    ATTENTION_KERNEL(T, name, 512)
#define ATTENTION_KERNEL(T, name, dim)                                                                \
    KERNEL(attention_##name##_##dim, AttentionParams, kThreads, 2) { attention<Head<T, T, dim>>(p); } \
    KERNEL(attention_##name##_##dim##_fp8, AttentionParams, kThreads, 2) { attention<Head<T, __nv_fp8_e4m3, dim>>(p); }
