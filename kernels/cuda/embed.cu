// Embedding: out[m] = table[token of row m] * scale, a block a row.
//
// A row's token is the step's, or, where that is kTakeSampled, what the sampler left in next_token[slot of the row].
#include "embed.cuh"

constexpr int kThreads = 256;

template <class T>
__device__ __forceinline__ void embed(const EmbedParams& p) {
    wait_for_previous();
    launch_next();
    const int row = blockIdx.x, slot = p.row_slot[row];
    if (slot < 0) return;
    const uint32_t token = token_of(p, row, slot);
    const bool known = token < static_cast<uint32_t>(p.vocab);
    const T* from = static_cast<const T*>(p.table) + static_cast<size_t>(known ? token : 0) * p.width;
    T* to = static_cast<T*>(p.out) + static_cast<size_t>(row) * p.width;
    const float scale = known ? p.scale : 0.0f;
    for (int column = threadIdx.x * 8; column < p.width; column += blockDim.x * 8) {
        Pack<T> x = load_pack(from + column);
#pragma unroll
        for (int i = 0; i < 8; ++i) x.v[i] = from_float<T>(to_float(x.v[i]) * scale);
        store_pack(to + column, x);
    }
}

KERNEL(embed_bf16, EmbedParams, kThreads, 1) { embed<__nv_bfloat16>(p); }
KERNEL(embed_f16, EmbedParams, kThreads, 1) { embed<__half>(p); }
