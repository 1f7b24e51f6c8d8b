// Block-quantised weights (quant.cuh) as numbers of T: whole matrices for a library's product, single rows as embeddings.
#include "embed.cuh"
#include "quant.cuh"

struct DequantParams {
    const unsigned char* w;  // packed
    void* out;               // [n, k], T
    int n;
    int k;  // a multiple of 32
    int slices;
    int groups;  // blocks a tile: 8 slices each
};

constexpr int kThreads = 256;

// Writes four values, times a scale.
template <class T>
__device__ __forceinline__ void put_four(T* out, const float* values, float scale) {
    T rounded[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) rounded[i] = from_float<T>(values[i] * scale);
    uint2 raw;
    memcpy(&raw, rounded, sizeof raw);
    *reinterpret_cast<uint2*>(out) = raw;
}

// A warp a slice.
template <class T, class F>
__device__ __forceinline__ void dequant(const DequantParams& p) {
    wait_for_previous();
    launch_next();
    const int lane = threadIdx.x % 32, tile = blockIdx.x / p.groups;
    const int slice = blockIdx.x % p.groups * 8 + threadIdx.x / 32;
    if (slice >= p.slices) return;
    SliceRegisters<F> s;
    s.load(p.w + (static_cast<size_t>(tile) * p.slices + slice) * F::kSliceBytes, lane);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int row = tile * kTileRows + half * 8 + lane / 4;
        T* out = static_cast<T*>(p.out) + static_cast<size_t>(row) * p.k + slice * kSliceColumns;
#pragma unroll
        for (int step = 0; step < kSliceSteps; ++step) {
            if (row >= p.n || slice * kSliceColumns + 32 * step >= p.k) continue;
            float x[8];
            values<F>(s, half, step, x);
            put_four(out + 32 * step + first_column<F>(lane % 4), x, 1.0f);
            put_four(out + 32 * step + second_column<F>(lane % 4), x + 4, 1.0f);
        }
    }
}

// A block a row; the lanes of a warp are the 8 steps of a slice by the 4 parts of a step.
template <class T, class F>
__device__ __forceinline__ void embed_quant(const EmbedParams& p) {
    wait_for_previous();
    launch_next();
    const int row = blockIdx.x, slot = p.row_slot[row];
    if (slot < 0) return;
    const uint32_t token = token_of(p, row, slot);
    const bool known = token < static_cast<uint32_t>(p.vocab);
    const uint32_t from = known ? token : 0;
    const int slices = (p.width + kSliceColumns - 1) / kSliceColumns;
    const unsigned char* tile = static_cast<const unsigned char*>(p.table) + static_cast<size_t>(from / kTileRows) * slices * F::kSliceBytes;
    const int step = threadIdx.x % 32 / 4, t = threadIdx.x % 4, half = from % kTileRows / 8;
    T* out = static_cast<T*>(p.out) + static_cast<size_t>(row) * p.width;
    for (int slice = threadIdx.x / 32; slice < slices; slice += kThreads / 32) {
        const int column = slice * kSliceColumns + 32 * step;
        if (column >= p.width) continue;
        const SliceMemory<F> s = {tile + static_cast<size_t>(slice) * F::kSliceBytes, static_cast<int>(from % 8 * 4) + t};
        float x[8];
        values<F>(s, half, step, x);
        put_four(out + column + first_column<F>(t), x, known ? p.scale : 0.0f);
        put_four(out + column + second_column<F>(t), x + 4, known ? p.scale : 0.0f);
    }
}

#define DEQUANT(name, F)                                                                         \
    KERNEL(dequant_##name##_bf16, DequantParams, kThreads, 1) { dequant<__nv_bfloat16, F>(p); }  \
    KERNEL(dequant_##name##_f16, DequantParams, kThreads, 1) { dequant<__half, F>(p); }          \
    KERNEL(embed_##name##_bf16, EmbedParams, kThreads, 1) { embed_quant<__nv_bfloat16, F>(p); }  \
    KERNEL(embed_##name##_f16, EmbedParams, kThreads, 1) { embed_quant<__half, F>(p); }

DEQUANT(q4_0, Q4_0)
DEQUANT(q4_1, Q4_1)
DEQUANT(q5_0, Q5_0)
DEQUANT(q5_1, Q5_1)
DEQUANT(q8_0, Q8_0)
DEQUANT(q2_k, Q2_K)
DEQUANT(q3_k, Q3_K)
DEQUANT(q4_k, Q4_K)
DEQUANT(q5_k, Q5_K)
DEQUANT(q6_k, Q6_K)
