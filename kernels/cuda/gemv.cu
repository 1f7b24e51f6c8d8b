// Products of few rows with a dense weight: y[m, n] = x[m, k] W[n, k]^T, bound by the reading of W.
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
// activated gate times its up row, a sum onto y, or rope and the write of keys and values into the cache.
#include "gemv.cuh"

// Steps of 32 elements in a slice.
constexpr int kSteps = 4;
constexpr int kSlice = 32 * kSteps;
// Rows of W: those that are the low half of mma's A, and those that are its high half.
constexpr int kGroup = 8;

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

// d[16][8] += the slice times x; x is null for the columns that p.m leaves empty.
template <class T, bool kNorm>
__device__ __forceinline__ void multiply(const GemvParams& p, const WeightSlice& w, const T* x, int first, float factor,
                                         float* d) {
    uint4 b[kSteps];
#pragma unroll
    for (int s = 0; s < kSteps; ++s) b[s] = load_16_if(x && first + 32 * s < p.k, x + first + 32 * s);
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
        if (kNorm) {
            // Beyond k the elements are zero, whatever weight they meet.
            float weight[8];
            load_norm_weight(p, min(first + 32 * s, p.k - 8), weight);
            b[s] = normed<T>(b[s], weight, factor);
        }
        const uint32_t a0[4] = {w.low[s].x, w.high[s].x, w.low[s].y, w.high[s].y};
        const uint32_t a1[4] = {w.low[s].z, w.high[s].z, w.low[s].w, w.high[s].w};
        const uint32_t b0[2] = {b[s].x, b[s].y}, b1[2] = {b[s].z, b[s].w};
        mma_m16n8k16<T>(d, a0, b0);
        mma_m16n8k16<T>(d, a1, b1);
    }
}

// Adds the warps' sums and writes the block's results, neighbours in n by neighbouring threads.
template <class T>
__device__ __forceinline__ void finish(const GemvParams& p, const float* d) {
    SHARED(float, partial, kWarps * 16 * kBatch);
    put_partial(partial, d);
    // Found again here: through the loop there is no register for them.
    const int m0 = first_x_row(p);
    const RowPair rows = row_pair(p, kGroup);
    if (p.heads.head_dim) return finish_heads<T>(p, partial, m0, rows, kGroup);
    __syncthreads();
    const bool gated = p.activation >= 0;
    const int columns = gated ? 8 : 16;
    const int x_row = threadIdx.x / columns, i = threadIdx.x % columns, n = rows.low + i;
    if (m0 + x_row >= p.m || x_row >= kBatch || n >= p.n) return;
    float value = total(partial, i, x_row) + bias_of<T>(p, n);
    if (gated) {
        const float up = total(partial, i + 8, x_row) + bias_of<T>(p, p.n + n);
        value = activate_any(p.activation, value) * up;
    }
    put<T>(p, m0 + x_row, n, value);
}

template <class T, bool kNorm>
__device__ __forceinline__ void gemv(const GemvParams& p) {
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int m0 = first_x_row(p);
    const RowPair rows = row_pair(p, kGroup);
    const int low_row = rows.low + g, high_row = rows.high + g;
    const T* w = static_cast<const T*>(p.w);
    const T* low = low_row < p.n ? w + static_cast<size_t>(low_row) * p.k : nullptr;
    const T* high = (p.activation >= 0 ? low_row : high_row) < p.n ? w + static_cast<size_t>(high_row) * p.k : nullptr;

    int first = warp * kSlice + 8 * t;
    WeightSlice slice, next;
    load_weights(slice, low, high, first, p.k);
    wait_for_previous();
    launch_next();

    const float factor = kNorm ? norm_factor<T>(p, m0, g) : 1.0f;
    const T* x = m0 + g < p.m ? static_cast<const T*>(p.x) + static_cast<size_t>(m0 + g) * p.k : nullptr;
    float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    // By the first column of the warp, whatever the lane: mma needs all lanes.
    for (; (first & ~31) < p.k; first += kWarps * kSlice) {
        load_weights(next, low, high, first + kWarps * kSlice, p.k);
        multiply<T, kNorm>(p, slice, x, first, factor, d);
        slice = next;
    }
    finish<T>(p, d);
}

KERNEL(gemv_bf16, GemvParams, kThreads, 2) { gemv<__nv_bfloat16, false>(p); }
KERNEL(gemv_f16, GemvParams, kThreads, 2) { gemv<__half, false>(p); }
KERNEL(gemv_norm_bf16, GemvParams, kThreads, 2) { gemv<__nv_bfloat16, true>(p); }
KERNEL(gemv_norm_f16, GemvParams, kThreads, 2) { gemv<__half, true>(p); }
