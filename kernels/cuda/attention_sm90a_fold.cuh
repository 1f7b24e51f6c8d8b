// Attention on Hopper: partial results and the output.
//
// A partial result is a GroupState as its threads hold it: (max, sum) of every row of the query tile, then the outputs as
// float2 at [pair][thread of the consumers]; of a narrow tile, whose rows are one warp's, [pair][lane]. Whoever reads it is
// the same thread of a consumer, in this block or another. A block's running total always lies as a wide tile's: one
// consumer may be at it while the other is a unit ahead, in a tile of another size.
#pragma once
#include "attention_sm90a.cuh"

template <class H>
struct Partial {
    float2* rows;     // of the thread's first row
    float2* outputs;  // of the thread's first pair
    int stride;       // from a pair to the next

    __device__ __forceinline__ Partial(const GroupRows& group, bool narrow, float* at) {
        const int num_rows = narrow ? kNarrowRows : kConsumers * kGroupRows;
        rows = reinterpret_cast<float2*>(at) + group.thread_row;
        stride = narrow ? 32 : kConsumers * kWarpgroup;
        outputs = reinterpret_cast<float2*>(at) + num_rows + (threadIdx.x - kWarpgroup);
    }
    __device__ __forceinline__ float2* output(int h, int pair) const { return outputs + (2 * pair + h) * stride; }
};

// Sums of whole rows, from those of the four threads that share them.
template <class H>
__device__ __forceinline__ void complete_sums(GroupState<H>& state) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        state.sum[h] += __shfl_xor_sync(kFullMask, state.sum[h], 1);
        state.sum[h] += __shfl_xor_sync(kFullMask, state.sum[h], 2);
    }
}

template <class H>
__device__ __forceinline__ void store_partial(const Task& task, const GroupRows& group, const GroupState<H>& state,
                                              const Partial<H>& place) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        if (!group.has(task, h)) continue;
        if (threadIdx.x % 4 == 0) place.rows[8 * h] = make_float2(state.max[h], state.sum[h]);
#pragma unroll
        for (int pair = 0; pair < H::kOut / 4; ++pair) {
            *place.output(h, pair) = make_float2(state.out[4 * pair + 2 * h], state.out[4 * pair + 2 * h + 1]);
        }
    }
    __syncwarp();
}

// Folds the partial result in memory into the state: it comes before the state's tokens, or behind them.
template <class H, bool kEarlier>
__device__ __forceinline__ void fold(const Task& task, const GroupRows& group, const Partial<H>& place, GroupState<H>& state) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        if (!group.has(task, h)) continue;
        const float2 other = __ldcg(place.rows + 8 * h);
        const float largest = fmaxf(state.max[h], other.x), base = largest == -INFINITY ? 0.0f : largest;
        const float mine = exp2_approx(state.max[h] - base), theirs = exp2_approx(other.x - base);
        const auto combine = [&](float own, float read) {
            return kEarlier ? fold_value(read, theirs, own, mine) : fold_value(own, mine, read, theirs);
        };
        state.max[h] = largest;
        state.sum[h] = combine(state.sum[h], other.y);
#pragma unroll
        for (int pair = 0; pair < H::kOut / 4; ++pair) {
            const float2 read = __ldcg(place.output(h, pair));
            float* out = &state.out[4 * pair + 2 * h];
            out[0] = combine(out[0], read.x);
            out[1] = combine(out[1], read.y);
        }
    }
    __syncwarp();
}

// Divides by the sums, with the sink's share where there is one, and writes the rows that exist.
template <class H>
__device__ __forceinline__ void write_output(const AttentionParams& p, const Task& task, const GroupRows& group,
                                             const GroupState<H>& state) {
    using T = typename H::T;
    const size_t stride = static_cast<size_t>(p.num_kv_heads) * p.group * H::kDim;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        if (!group.has(task, h)) continue;
        const uint32_t query = task.item.first_query + group.row(h), token = query / p.group;
        const uint32_t head = task.kv_head * p.group + query % p.group;
        float sum = state.sum[h];
        if (p.sinks) sum += exp2_approx(p.sinks[head] * 1.44269504f - state.max[h]);
        const float factor = 1.0f / sum;
        T* out = static_cast<T*>(p.out) + (static_cast<size_t>(task.item.first_row) + token) * stride + head * H::kDim;
#pragma unroll
        for (int pair = 0; pair < H::kOut / 4; ++pair) {
            // + 0: a zero has one sign however the sums were cut.
            const float *x = &state.out[4 * pair + 2 * h], low = x[0] * factor + 0.0f, high = x[1] * factor + 0.0f;
            *reinterpret_cast<uint32_t*>(out + pair * 8 + threadIdx.x % 4 * 2) = pack_pair<T>(low, high);
        }
    }
}
