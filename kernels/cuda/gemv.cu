// Products of at most 8 rows: y[m, n] = x[m, k] W[n, k]^T, bound by the reading of W.
//
// A block owns 16 rows of W and all of K; its warps take turns at slices of K and their sums are added in the order of the
// warps, so a result's bits depend on its row of x alone, never on m. The product itself is mma.m16n8k16 with W as A and the
// rows of x as the 8 columns of B: arithmetic costs nothing beside the loads. Since a product doesn't care about the order of
// k, a lane loads 16 contiguous bytes of W and of x and feeds them to two mma as they lie:
//
//   lane (g = lane / 4, t = lane % 4), step s: k = 32 s + 8 t .. + 8    first mma: elements 0-3, second mma: 4-7
//
// The next slice is in flight while this one is used: 8 warps of 2 blocks hold 64 KiB an SM. Weights don't depend on the
// kernel in front, so the first slice is asked for before it is waited for. In front x may be RMS-normed; behind, a bias, an
// activated gate times its up row, and a sum onto y.
#include "activation.cuh"

struct GemvParams {
    const void* x;             // [m, k], T
    const void* w;             // [n, k], T; gated: n gate rows, then n up rows
    const float* bias;         // [rows of w] or null
    const float* norm_weight;  // [k], for gemv_norm_*
    void* y;                   // [m, n], T or f32
    int m;                     // 1 to 8
    int n;
    int k;           // a multiple of 8
    int activation;  // enum Activation, -1: not gated
    int out_f32;
    int accumulate;  // y += instead of y =, of T
    float eps;
    float offset;  // 1 where the norm's weight is zero-centred
};

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr int kBatch = 8;
// Steps of 32 elements in a slice.
constexpr int kSteps = 4;
constexpr int kSlice = 32 * kSteps;

// A lane's part of a slice: of row g and of row g + 8 of the block's 16.
struct WeightSlice {
    uint4 low[kSteps], high[kSteps];
};

// Rows that W lacks are null; elements beyond k are zero.
template <class T>
__device__ __forceinline__ void load_weights(WeightSlice& slice, const T* low, const T* high, int first, int k) {
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
        const int at = first + 32 * s;
        slice.low[s] = low && at < k ? load_stream_16(low + at) : make_uint4(0, 0, 0, 0);
        slice.high[s] = high && at < k ? load_stream_16(high + at) : make_uint4(0, 0, 0, 0);
    }
}

__device__ __forceinline__ uint4 load_16_if(bool valid, const void* address) {
    return valid ? *static_cast<const uint4*>(address) : make_uint4(0, 0, 0, 0);
}

// 1 / rms of row g of x, summed over packs in an order that depends on k alone. All threads call it.
template <class T>
__device__ __forceinline__ float norm_factor(const GemvParams& p, int g) {
    SHARED(float, squares, kBatch * kWarps);
    const T* x = static_cast<const T*>(p.x);
    float sums[kBatch] = {};
#pragma unroll 1
    for (int at = threadIdx.x * 8; at < p.k; at += kThreads * 8) {
        // All rows' loads first: each is a trip to the L2 cache.
        uint4 raw[kBatch];
#pragma unroll
        for (int row = 0; row < kBatch; ++row) raw[row] = load_16_if(row < p.m, x + static_cast<size_t>(row) * p.k + at);
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

// Norms 8 elements of x at `at` and rounds them as norm.cu would store them.
template <class T>
__device__ __forceinline__ uint4 normed(const GemvParams& p, uint4 raw, int at, float factor) {
    const float4* weight = reinterpret_cast<const float4*>(p.norm_weight + at);
    const float4 a = weight[0], b = weight[1];
    const float w[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
    Pack<T>& pack = *reinterpret_cast<Pack<T>*>(&raw);
#pragma unroll
    for (int i = 0; i < 8; ++i) pack.v[i] = from_float<T>(to_float(pack.v[i]) * factor * (w[i] + p.offset));
    return raw;
}

// d[16][8] += the slice times x; x is null for the columns that p.m leaves empty.
template <class T, bool kNorm>
__device__ __forceinline__ void multiply(const GemvParams& p, const WeightSlice& w, const T* x, int first, float factor,
                                         float* d) {
    uint4 b[kSteps];
#pragma unroll
    for (int s = 0; s < kSteps; ++s) b[s] = load_16_if(x && first + 32 * s < p.k, x + first + 32 * s);
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
        // Beyond k the elements are zero, whatever weight they meet.
        if (kNorm) b[s] = normed<T>(p, b[s], min(first + 32 * s, p.k - 8), factor);
        const uint32_t a0[4] = {w.low[s].x, w.high[s].x, w.low[s].y, w.high[s].y};
        const uint32_t a1[4] = {w.low[s].z, w.high[s].z, w.low[s].w, w.high[s].w};
        const uint32_t b0[2] = {b[s].x, b[s].y}, b1[2] = {b[s].z, b[s].w};
        mma_m16n8k16<T>(d, a0, b0);
        mma_m16n8k16<T>(d, a1, b1);
    }
}

template <class T>
__device__ __forceinline__ void put(const GemvParams& p, int row, int column, float value) {
    const size_t at = static_cast<size_t>(row) * p.n + column;
    if (p.out_f32) {
        static_cast<float*>(p.y)[at] = value;
    } else {
        T* y = static_cast<T*>(p.y) + at;
        *y = from_float<T>(p.accumulate ? to_float(*y) + value : value);
    }
}

__device__ __forceinline__ float activate_any(int activation, float x) {
    if (activation == kSilu) return activate<kSilu>(x);
    return activation == kGeluTanh ? activate<kGeluTanh>(x) : activate<kGelu>(x);
}

// Sums of the warps, by row of W and row of x.
__device__ __forceinline__ float total(const float* partial, int w_row, int x_row) {
    float sum = 0.0f;
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) sum += partial[warp * 16 * kBatch + w_row * kBatch + x_row];
    return sum;
}

// Adds the warps' sums and writes the block's results, neighbours in n by neighbouring threads.
template <class T>
__device__ __forceinline__ void finish(const GemvParams& p, const float* d, int n0) {
    SHARED(float, partial, kWarps * 16 * kBatch);
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    float* mine = partial + warp * 16 * kBatch + g * kBatch + 2 * t;
    mine[0] = d[0], mine[1] = d[1];
    mine[8 * kBatch] = d[2], mine[8 * kBatch + 1] = d[3];
    __syncthreads();
    const bool gated = p.activation >= 0;
    const int columns = gated ? 8 : 16;
    const int x_row = threadIdx.x / columns, i = threadIdx.x % columns, n = n0 + i;
    if (x_row >= p.m || n >= p.n) return;
    float value = total(partial, i, x_row) + (p.bias ? p.bias[n] : 0.0f);
    if (gated) {
        const float up = total(partial, i + 8, x_row) + (p.bias ? p.bias[p.n + n] : 0.0f);
        value = activate_any(p.activation, value) * up;
    }
    put<T>(p, x_row, n, value);
}

template <class T, bool kNorm>
__device__ __forceinline__ void gemv(const GemvParams& p) {
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const bool gated = p.activation >= 0;
    // Row g of the tile and row g + 8: of a gated product the gate row and its up row.
    const int n0 = blockIdx.x * (gated ? 8 : 16), low_row = n0 + g, high_row = gated ? p.n + low_row : low_row + 8;
    const T* w = static_cast<const T*>(p.w);
    const T* low = low_row < p.n ? w + static_cast<size_t>(low_row) * p.k : nullptr;
    const T* high = (gated ? low_row : high_row) < p.n ? w + static_cast<size_t>(high_row) * p.k : nullptr;

    int first = warp * kSlice + 8 * t;
    WeightSlice slice, next;
    load_weights(slice, low, high, first, p.k);
    wait_for_previous();
    launch_next();

    const float factor = kNorm ? norm_factor<T>(p, g) : 1.0f;
    const T* x = g < p.m ? static_cast<const T*>(p.x) + static_cast<size_t>(g) * p.k : nullptr;
    float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    // All lanes of a warp take the same number of turns: mma needs them all.
    for (int turn = warp * kSlice; turn < p.k; turn += kWarps * kSlice, first += kWarps * kSlice) {
        load_weights(next, low, high, first + kWarps * kSlice, p.k);
        multiply<T, kNorm>(p, slice, x, first, factor, d);
        slice = next;
    }
    finish<T>(p, d, n0);
}

KERNEL(gemv_bf16, GemvParams, kThreads, 2) { gemv<__nv_bfloat16, false>(p); }
KERNEL(gemv_f16, GemvParams, kThreads, 2) { gemv<__half, false>(p); }
KERNEL(gemv_norm_bf16, GemvParams, kThreads, 2) { gemv<__nv_bfloat16, true>(p); }
KERNEL(gemv_norm_f16, GemvParams, kThreads, 2) { gemv<__half, true>(p); }
