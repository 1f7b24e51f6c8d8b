// Attention on Hopper: the walk over the work list, the kernels. See attention_sm90a.cuh.
#include "attention_sm90a_fold.cuh"
#include "attention_sm90a_math.cuh"

// Registers a thread of the producer keeps, and of a consumer gets: all of the SM's 65,536 together.
constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;

// Counts a split of this warpgroup's rows as done; true in all of it when it was the last one. The ticket is 0 again then.
template <class H>
__device__ __forceinline__ bool is_last_split(uint32_t* ticket, uint32_t num_splits, const Ring<H>& ring, int consumer) {
    __threadfence();
    named_barrier(1 + consumer, kWarpgroup);
    if (threadIdx.x % kWarpgroup == 0) {
        const bool is_last = atomicAdd(ticket, 1u) + 1 == num_splits;
        if (is_last) *ticket = 0;
        *ring.is_last(consumer) = is_last;
    }
    named_barrier(1 + consumer, kWarpgroup);
    const bool is_last = *ring.is_last(consumer) != 0;
    __threadfence();
    return is_last;
}

// Lets go of KV tiles of which no row sees anything.
template <class H>
__device__ __forceinline__ void skip_tiles(int tile, int end, Ring<H>& ring) {
#pragma unroll 1
    for (; tile < end; ++tile) {
        for (int values = 0; values < 2; ++values) {
            mbarrier_wait(ring.full(values), ring.parity);
            ring.let_go(values);
        }
        ring.advance();
    }
}

// Leaves in `state` what the rows' tokens in this unit give, splits folded in order.
template <class H>
__device__ __forceinline__ void attend(const AttentionParams& p, const Task& task, const GroupRows& rows, int consumer,
                                       Ring<H>& ring, GroupState<H>& state) {
    uint32_t q[H::kSteps][4];
    load_queries<H>(p, task, rows, q);
    // Where the block keeps the result of the splits before the present one.
    const size_t total_unit = p.totals + static_cast<size_t>(blockIdx.x) * (kConsumers * kGroupRows / 16);
    const Partial<H> total(rows, false, p.partials + total_unit * H::kUnit);
    state.clear();
    bool has_total = false;
    int tile = rows.first_tile;
    skip_tiles(task.first_tile, tile, ring);
    while (tile < rows.end_tile) {
        const int fold_tiles = p.work[1];
        const int end = fold_tiles > 0 ? min(rows.end_tile, (tile / fold_tiles + 1) * fold_tiles) : rows.end_tile;
        attend_tiles<H>(p, task, rows, consumer, tile, end, q, ring, state);
        complete_sums(state);
        tile = end;
        if (has_total) fold<H, true>(task, rows, total, state);
        if (tile < rows.end_tile) {
            store_partial(task, rows, state, total);
            state.clear();
            has_total = true;
        }
    }
    skip_tiles(tile, (task.end + kTileTokens - 1) / kTileTokens, ring);
}

// One query tile of one KV head over one range of KV tiles, as far as this warpgroup's rows go.
template <class H>
__device__ __forceinline__ void run_task(const AttentionParams& p, const Task& task, int consumer, Ring<H>& ring) {
    const GroupRows rows(p, task, consumer);
    GroupState<H> state;
    attend(p, task, rows, consumer, ring, state);
    if (!rows.any(task)) return;
    const uint32_t split = task.item.split & 0xffff, num_splits = task.item.split >> 16;
    if (num_splits > 1) {
        // In units of 16 rows, of which a query tile of several splits has two or more: a ticket for each warpgroup.
        const bool narrow = task.item.num_queries <= kNarrowRows;
        const uint32_t tile_units = narrow ? 1 : kConsumers * kGroupRows / 16;
        const size_t first = static_cast<size_t>(task.item.first_partial) * p.num_kv_heads;
        const size_t stride = static_cast<size_t>(tile_units) * H::kUnit;
        float* partials = p.partials + first * H::kUnit + task.kv_head * num_splits * stride;
        store_partial(task, rows, state, Partial<H>(rows, narrow, partials + split * stride));
        uint32_t* ticket = p.tickets + first + task.kv_head + consumer * p.num_kv_heads;
        if (!is_last_split(ticket, num_splits, ring, consumer)) return;
        state.clear();
        for (uint32_t i = 0; i < num_splits; ++i) {
            fold<H, false>(task, rows, Partial<H>(rows, narrow, partials + i * stride), state);
        }
    }
    write_output(p, task, rows, state);
}

template <class H>
__device__ __forceinline__ void attention(const TensorAttentionParams& p) {
    Ring<H> ring(p);
    if (threadIdx.x == 0) {
        ring.init();
        fence_async();
    }
    __syncthreads();
    wait_for_previous();
    launch_next();
    const int warpgroup = threadIdx.x / kWarpgroup;
    if (warpgroup == 0) {
        give_registers<kProducerRegisters>();
        if (threadIdx.x < 32) produce<H>(p, ring);
    } else {
        take_registers<kConsumerRegisters>();
        for_each_task(p.a, [&](const Task& task) { run_task<H>(p.a, task, warpgroup - 1, ring); });
    }
}

#define ATTENTION_KERNEL(T, name, dim)                                                  \
    KERNEL(attention_sm90a_##name##_##dim, TensorAttentionParams, kHopperThreads, 1) { \
        attention<HopperHead<T, dim>>(p);                                               \
    }
ATTENTION_KERNEL(__nv_bfloat16, bf16, 64)
ATTENTION_KERNEL(__nv_bfloat16, bf16, 128)
ATTENTION_KERNEL(__half, f16, 64)
ATTENTION_KERNEL(__half, f16, 128)
