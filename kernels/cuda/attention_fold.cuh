// Attention: partial results and the output.
//
// A partial result is a State as its threads hold it: (max, sum) of every row, once for each column warp, then thread t's
// outputs as float2 at [fragment half][t]. Whoever reads it is the same warp of the same kind of tile, in this block or
// another, so nothing is rearranged and a block's running total needs no barrier.
#pragma once
#include "attention.cuh"

template <class S>
__device__ __forceinline__ float2* partial_row(const Rows<S>& rows, float* partial, int row) {
    return reinterpret_cast<float2*>(partial) + rows.column_warp() * S::kRows + row;
}
template <class S>
__device__ __forceinline__ float2* partial_output(float* partial, int m, int i, int e, int h) {
    const int index = S::kColumnWarps * S::kRows + (((m * S::kGroups + i) * 2 + e) * 2 + h) * kThreads;
    return reinterpret_cast<float2*>(partial) + index + threadIdx.x;
}

template <class S>
__device__ __forceinline__ void store_partial(const Rows<S>& rows, const State<S>& state, float* partial) {
#pragma unroll
    for (int m = 0; m < S::kMmas; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int row = rows.row(m, h);
            if (row >= rows.count()) continue;
            if (rows.lane() % 4 == 0) *partial_row(rows, partial, row) = make_float2(state.max[m][h], state.sum[m][h]);
#pragma unroll
            for (int n = 0; n < S::kGroups * 2; ++n) {
                const float* out = &state.out[m][n / 2][n % 2][2 * h];
                *partial_output<S>(partial, m, n / 2, n % 2, h) = make_float2(out[0], out[1]);
            }
        }
    }
    __syncwarp();
}

// Folds the partial result in memory into the state: it comes before the state's tokens, or behind them.
template <class S, bool kEarlier>
__device__ __forceinline__ void fold(const Rows<S>& rows, float* partial, State<S>& state) {
#pragma unroll
    for (int m = 0; m < S::kMmas; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int row = rows.row(m, h);
            if (row >= rows.count()) continue;
            const float2 other = __ldcg(partial_row(rows, partial, row));
            const float largest = fmaxf(state.max[m][h], other.x), base = largest == -INFINITY ? 0.0f : largest;
            const float mine = exp2_approx(state.max[m][h] - base), theirs = exp2_approx(other.x - base);
            const auto combine = [&](float own, float read) {
                return kEarlier ? fold_value(read, theirs, own, mine) : fold_value(own, mine, read, theirs);
            };
            state.max[m][h] = largest;
            state.sum[m][h] = combine(state.sum[m][h], other.y);
#pragma unroll
            for (int n = 0; n < S::kGroups * 2; ++n) {
                float* out = &state.out[m][n / 2][n % 2][2 * h];
                const float2 read = __ldcg(partial_output<S>(partial, m, n / 2, n % 2, h));
                out[0] = combine(out[0], read.x);
                out[1] = combine(out[1], read.y);
            }
        }
    }
    __syncwarp();
}

// Divides by the sums, with the sink's share where there is one, and writes the rows that exist.
template <class S>
__device__ __forceinline__ void write_output(const AttentionParams& p, const Rows<S>& rows, const State<S>& state) {
    using T = typename S::T;
    const WorkItem& item = rows.unit.item;
    const size_t stride = static_cast<size_t>(p.num_kv_heads) * p.group * S::kDim;
#pragma unroll
    for (int m = 0; m < S::kMmas; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int row = rows.row(m, h);
            if (row >= rows.count()) continue;
            const uint32_t query = item.first_query + row, token = query / p.group;
            const uint32_t head = rows.unit.kv_head * p.group + query % p.group;
            float sum = state.sum[m][h];
            if (p.sinks) sum += exp2_approx(p.sinks[head] * 1.44269504f - state.max[m][h]);
            const float factor = 1.0f / sum;
            T* out = static_cast<T*>(p.out) + (static_cast<size_t>(item.first_row) + token) * stride + head * S::kDim;
#pragma unroll
            for (int i = 0; i < S::kGroups; ++i) {
                const int group = rows.column_warp() + i * S::kColumnWarps;
                if (S::kSteps % S::kColumnWarps != 0 && group >= S::kSteps) break;
                uint32_t pairs[2];
                const float* even = &state.out[m][i][0][2 * h];
                const float* odd = &state.out[m][i][1][2 * h];
                // + 0: a zero has one sign however the sums were cut.
                const auto pack = [&](float a, float b) { return pack_pair<T>(a * factor + 0.0f, b * factor + 0.0f); };
                if (S::kFp8) {
                    pairs[0] = pack(even[0], odd[0]);
                    pairs[1] = pack(even[1], odd[1]);
                    *reinterpret_cast<uint2*>(out + group * 16 + rows.lane() % 4 * 4) = make_uint2(pairs[0], pairs[1]);
                } else {
                    pairs[0] = pack(even[0], even[1]);
                    pairs[1] = pack(odd[0], odd[1]);
                    *reinterpret_cast<uint32_t*>(out + group * 16 + rows.lane() % 4 * 2) = pairs[0];
                    *reinterpret_cast<uint32_t*>(out + group * 16 + 8 + rows.lane() % 4 * 2) = pairs[1];
                }
            }
        }
    }
}
