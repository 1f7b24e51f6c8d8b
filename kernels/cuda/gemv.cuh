// What the products of few rows share: parameters, the norm in front, the sum over warps and what is done behind it.
//
// A block has 8 warps, which share out k, and 8 rows of x: the columns of B in mma.m16n8k16. Element pairs of a lane lie in
// the order in which mma takes them: g = lane / 4 is a row of W and of x, t = lane % 4 a part of k.
#pragma once
#include "activation.cuh"
#include "heads.cuh"

struct GemvParams {
    const void* x;             // [m, k], T
    const void* w;             // [n, k], T, or packed as quant.cuh says; gated: n gate rows, then n up rows
    const void* bias;          // [rows of w], T, or null
    const float* norm_weight;  // [k], or null: no norm in front
    void* y;                   // [m, y_stride], T or f32, of which n columns are written
    Heads heads;               // where y is q | k | v: its heads, of which keys and values go to the cache instead
    int m;
    int m_tiles;  // tiles of 8 rows: block b takes tile b % m_tiles of x
    int n;
    int k;  // a multiple of 8
    int y_stride;
    int activation;  // enum Activation, -1: not gated
    int out_f32;
    int accumulate;  // y += instead of y =, of T
    float eps;
    float offset;  // 1 where the norm's weight is zero-centred
};

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr int kBatch = 8;

// The first of the block's rows of x.
__device__ __forceinline__ int first_x_row(const GemvParams& p) { return blockIdx.x % p.m_tiles * kBatch; }

// Rows of W that a block owns: `group` rows from `low` on and as many from `high` on.
struct RowPair {
    int low, high;
};

// Of a gated product gate rows and their up rows, of rotated heads (i, i + pairs) values and their partners, else neighbours.
// Where the columns of y are heads, blockIdx.y is the head.
__device__ __forceinline__ RowPair row_pair(const GemvParams& p, int group) {
    const int block = blockIdx.x / p.m_tiles;
    if (p.activation >= 0) return {group * block, p.n + group * block};
    const int head = blockIdx.y * p.heads.head_dim, d = 2 * group * block;
    if (p.heads.interleaved || !turns(p.heads, p.heads.first + blockIdx.y, d)) return {head + d, head + d + group};
    return {head + d / 2, head + d / 2 + static_cast<int>(p.heads.pairs)};
}

__device__ __forceinline__ uint4 load_16_if(bool valid, const void* address) {
    return valid ? *static_cast<const uint4*>(address) : make_uint4(0, 0, 0, 0);
}

// 1 / rms of row m0 + g of x, summed over packs in an order that depends on k alone. All threads call it.
template <class T>
__device__ __forceinline__ float norm_factor(const GemvParams& p, int m0, int g) {
    SHARED(float, squares, kBatch * kWarps);
    const T* x = static_cast<const T*>(p.x) + static_cast<size_t>(m0) * p.k;
    float sums[kBatch] = {};
#pragma unroll 1
    for (int at = threadIdx.x * 8; at < p.k; at += kThreads * 8) {
        // All rows' loads first: each is a trip to the L2 cache.
        uint4 raw[kBatch];
#pragma unroll
        for (int row = 0; row < kBatch; ++row) raw[row] = load_16_if(m0 + row < p.m, x + static_cast<size_t>(row) * p.k + at);
#pragma unroll
        for (int row = 0; row < kBatch; ++row) {
            const Pack<T>& pack = *reinterpret_cast<const Pack<T>*>(&raw[row]);
#pragma unroll
            for (int i = 0; i < 8; ++i) sums[row] = fmaf(to_float(pack.v[i]), to_float(pack.v[i]), sums[row]);
        }
    }
#pragma unroll
    for (int row = 0; row < kBatch; ++row) {
        const float sum = warp_sum(sums[row]);
        if (threadIdx.x % 32 == 0) squares[row * kWarps + threadIdx.x / 32] = sum;
    }
    __syncthreads();
    float sum = 0.0f;
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) sum += squares[g * kWarps + warp];
    return rsqrtf(sum / p.k + p.eps);
}

// What the norm multiplies 8 columns by.
__device__ __forceinline__ void load_norm_weight(const GemvParams& p, int column, float* w) {
    const float4* weight = reinterpret_cast<const float4*>(p.norm_weight + column);
    const float4 a = weight[0], b = weight[1];
    w[0] = a.x + p.offset, w[1] = a.y + p.offset, w[2] = a.z + p.offset, w[3] = a.w + p.offset;
    w[4] = b.x + p.offset, w[5] = b.y + p.offset, w[6] = b.z + p.offset, w[7] = b.w + p.offset;
}

// Norms 8 elements of x and rounds them as norm.cu would store them.
template <class T>
__device__ __forceinline__ uint4 normed(uint4 raw, const float* w, float factor) {
    T* x = reinterpret_cast<T*>(&raw);
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = from_float<T>(to_float(x[i]) * factor * w[i]);
    return raw;
}

template <class T>
__device__ __forceinline__ void put(const GemvParams& p, int row, int column, float value) {
    const size_t at = static_cast<size_t>(row) * p.y_stride + column;
    if (p.out_f32) {
        static_cast<float*>(p.y)[at] = value;
    } else {
        T* y = static_cast<T*>(p.y) + at;
        *y = from_float<T>(p.accumulate ? to_float(*y) + value : value);
    }
}

// The bias of a row of W, 0 without one.
template <class T>
__device__ __forceinline__ float bias_of(const GemvParams& p, int w_row) {
    return p.bias ? to_float(static_cast<const T*>(p.bias)[w_row]) : 0.0f;
}

__device__ __forceinline__ float activate_any(int activation, float x) {
    if (activation == kSilu) return activate<kSilu>(x);
    return activation == kGeluTanh ? activate<kGeluTanh>(x) : activate<kGelu>(x);
}

// Puts a warp's d[16][8] where `total` finds it: partial holds kWarps of them.
__device__ __forceinline__ void put_partial(float* partial, const float* d) {
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    float* mine = partial + warp * 16 * kBatch + g * kBatch + 2 * t;
    mine[0] = d[0], mine[1] = d[1];
    mine[8 * kBatch] = d[2], mine[8 * kBatch + 1] = d[3];
}

// Sums of the warps, by row of W and row of x.
__device__ __forceinline__ float total(const float* partial, int w_row, int x_row) {
    float sum = 0.0f;
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) sum += partial[warp * 16 * kBatch + w_row * kBatch + x_row];
    return sum;
}

// Rotates the block's sums and writes them where their heads go. `partial` holds what the warps have put there: kWarps times
// [16][8] for every 16 of the block's rows of W. All threads call it.
template <class T>
__device__ __forceinline__ void finish_heads(const GemvParams& p, const float* partial, int m0, RowPair rows, int group) {
    const Heads& h = p.heads;
    const int x_row = threadIdx.x / (2 * group), i = threadIdx.x % (2 * group), row = m0 + x_row;
    const int column = i < group ? rows.low + i : rows.high + i - group;
    const uint32_t head = h.first + blockIdx.y, d = column - blockIdx.y * h.head_dim;
    // What has to be fetched is under way while the block waits for its last warp.
    const int slot = x_row < kBatch && row < p.m ? h.row_slot[row] : -1;
    const bool turning = slot >= 0 && turns(h, head, d);
    const float2 turn = turning ? turn_of(h, row, d) : make_float2(1.0f, 0.0f);
    unsigned char* cached_at = slot >= 0 && head >= h.num_heads ? cached_head<T>(h, row, slot, head) : nullptr;
    __syncthreads();
    if (slot < 0) return;
    auto sum = [&](int i, int column) {
        return total(partial + i / 16 * (kWarps * 16 * kBatch), i % 16, x_row) + bias_of<T>(p, column);
    };
    float value = sum(i, column);
    if (turning) {
        const int partner = i ^ (h.interleaved ? 1 : group);
        value = turned(turn, value, sum(partner, column - static_cast<int>(d) + static_cast<int>(partner_of(h, d))));
    }
    if (cached_at) {
        store_cached<T>(h, cached_at, d, value);
    } else {
        put<T>(p, row, column, value);
    }
}
