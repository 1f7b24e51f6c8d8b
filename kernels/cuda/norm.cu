// RMS norm of rows: out = x / sqrt(mean(x^2) + eps) * (w + offset), a block a row. CPU reference: src/norm.rs.
//
// Three forms: of every row; of gathered rows (those that sample); added onto `out` (Gemma's norms behind a block).
#include "common.cuh"

struct RmsNormParams {
    const void* x;          // [rows, width], T
    const float* weight;    // [width]
    void* out;              // [rows, width], T; never x when rows are gathered
    const uint32_t* gather; // [rows]: out[r] = norm(x[gather[r]]), 0xFFFFFFFF writes nothing; null: the row itself
    int rows;
    int width;              // a multiple of 8
    float eps;
    float offset;           // 1 where the stored weight is zero-centred
};

constexpr int kThreads = 256;
// Packs a thread keeps in registers between the two passes; wider rows are read twice, the second time from the cache.
constexpr int kKept = 4;

// Writes, or adds, one pack of the normalised row.
template <class T, bool kAdd>
__device__ __forceinline__ void write_pack(const RmsNormParams& p, const Pack<T>& x, float factor, int column, T* out) {
    const float4* weight = reinterpret_cast<const float4*>(p.weight + column);
    const float4 low = weight[0], high = weight[1];
    const float w[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    Pack<T> y;
    if (kAdd) y = load_pack(out + column);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        const float normed = to_float(x.v[i]) * factor * (w[i] + p.offset);
        y.v[i] = from_float<T>(kAdd ? to_float(y.v[i]) + normed : normed);
    }
    store_pack(out + column, y);
}

template <class T>
__device__ __forceinline__ float sum_of_squares(const Pack<T>& x) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; ++i) sum = fmaf(to_float(x.v[i]), to_float(x.v[i]), sum);
    return sum;
}

template <class T, bool kAdd>
__device__ __forceinline__ void rms_norm(const RmsNormParams& p) {
    wait_for_previous();
    launch_next();
    const uint32_t source = p.gather ? p.gather[blockIdx.x] : blockIdx.x;
    if (source == 0xFFFFFFFFu) return;
    const T* x = static_cast<const T*>(p.x) + static_cast<size_t>(source) * p.width;
    T* out = static_cast<T*>(p.out) + static_cast<size_t>(blockIdx.x) * p.width;
    const int stride = blockDim.x * 8, first = threadIdx.x * 8;

    Pack<T> kept[kKept];
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kKept; ++i) {
        const int column = first + i * stride;
        if (column < p.width) {
            kept[i] = load_pack(x + column);
            sum += sum_of_squares(kept[i]);
        }
    }
    for (int column = first + kKept * stride; column < p.width; column += stride) {
        sum += sum_of_squares(load_pack(x + column));
    }

    const float factor = rsqrtf(block_sum(sum) / p.width + p.eps);
#pragma unroll
    for (int i = 0; i < kKept; ++i) {
        const int column = first + i * stride;
        if (column < p.width) write_pack<T, kAdd>(p, kept[i], factor, column, out);
    }
    for (int column = first + kKept * stride; column < p.width; column += stride) {
        write_pack<T, kAdd>(p, load_pack(x + column), factor, column, out);
    }
}

KERNEL(rms_norm_bf16, RmsNormParams, kThreads, 1) { rms_norm<__nv_bfloat16, false>(p); }
KERNEL(rms_norm_f16, RmsNormParams, kThreads, 1) { rms_norm<__half, false>(p); }
KERNEL(rms_norm_add_bf16, RmsNormParams, kThreads, 1) { rms_norm<__nv_bfloat16, true>(p); }
KERNEL(rms_norm_add_f16, RmsNormParams, kThreads, 1) { rms_norm<__half, true>(p); }
