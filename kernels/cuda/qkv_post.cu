// What happens to a row of q | k | v between its projection and attention: the per-head norms of queries and keys, rope,
// and the write of keys and values into their block. CPU reference: src/qkv_post.rs.
//
// A team of lanes takes one head of one row, each lane one or two packs of eight values: 8 lanes for heads of 64, 16 up to
// 128, a warp for more. All arithmetic is f32 and rounded once, into `qkv` (queries) or the cache (keys, values). Rotation
// needs a value's partner, which any even rotated width may put anywhere: the head passes through shared memory.
#include "heads.cuh"

struct QkvPostParams {
    Heads heads;            // head_dim: a multiple of 8, at most 512
    void* qkv;              // [rows, (num_heads + 2 num_kv_heads) * head_dim], T; queries change, the rest stays
    const float* q_weight;  // [head_dim], or null: no norms
    const float* k_weight;  // [head_dim]
    uint32_t rows;
    uint32_t team;  // lanes a head: a power of two
    float eps;
    float offset;  // 1 where the norms' weights are zero-centred
};

constexpr uint32_t kThreads = 256;
constexpr int kPacks = 2;  // packs a lane may have

// Multiplies the team's head by its norm; sums run over a lane's values, then over the team in pairs.
__device__ __forceinline__ void normalise(const QkvPostParams& p, const float* weight, uint32_t lane,
                                          float (&x)[kPacks][8]) {
    float sum = 0.0f;
#pragma unroll
    for (int n = 0; n < kPacks * 8; ++n) sum = fmaf(x[n / 8][n % 8], x[n / 8][n % 8], sum);
    for (uint32_t distance = p.team / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(kFullMask, sum, distance);
    const float factor = rsqrtf(sum / p.heads.head_dim + p.eps);
    if (!weight) return;
#pragma unroll
    for (int pack = 0; pack < kPacks; ++pack) {
        const uint32_t first = (lane + pack * p.team) * 8;
        if (first >= p.heads.head_dim) break;
#pragma unroll
        for (int i = 0; i < 8; ++i) x[pack][i] *= factor * (weight[first + i] + p.offset);
    }
}

// Rotates the lane's values; `values` holds all of the head's.
__device__ __forceinline__ void rotate(const QkvPostParams& p, uint32_t row, uint32_t head, const float* values, uint32_t lane,
                                       float (&x)[kPacks][8]) {
#pragma unroll
    for (int pack = 0; pack < kPacks; ++pack) {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            const uint32_t d = (lane + pack * p.team) * 8 + i;
            if (!turns(p.heads, head, d)) break;
            x[pack][i] = turned(turn_of(p.heads, row, d), x[pack][i], values[partner_of(p.heads, d)]);
        }
    }
}

template <class T>
__device__ __forceinline__ void qkv_post(const QkvPostParams& p) {
    SHARED_MEMORY(float, shared_heads);
    wait_for_previous();
    launch_next();
    const Heads& h = p.heads;
    const uint32_t total_heads = h.num_heads + 2 * h.num_kv_heads;
    const uint32_t place = threadIdx.x / p.team, lane = threadIdx.x % p.team;
    const uint32_t index = blockIdx.x * (kThreads / p.team) + place, row = index / total_heads, head = index % total_heads;
    const int slot = row < p.rows ? h.row_slot[row] : -1;
    const bool is_query = head < h.num_heads, is_value = head >= h.num_heads + h.num_kv_heads;
    T* at = static_cast<T*>(p.qkv) + (static_cast<size_t>(row) * total_heads + head) * h.head_dim;

    float x[kPacks][8];
#pragma unroll
    for (int pack = 0; pack < kPacks; ++pack) {
        const uint32_t first = (lane + pack * p.team) * 8;
        Pack<T> loaded = {};
        if (slot >= 0 && first < h.head_dim) loaded = load_pack(at + first);
#pragma unroll
        for (int i = 0; i < 8; ++i) x[pack][i] = to_float(loaded.v[i]);
    }
    if (p.q_weight) normalise(p, is_value ? nullptr : is_query ? p.q_weight : p.k_weight, lane, x);
    if (h.pairs) {
        float* mine = shared_heads + place * h.head_dim;
#pragma unroll
        for (int n = 0; n < kPacks * 8; ++n) {
            const uint32_t d = (lane + n / 8 * p.team) * 8 + n % 8;
            if (d < h.head_dim) mine[d] = x[n / 8][n % 8];
        }
        __syncwarp();
        if (slot >= 0) rotate(p, row, head, mine, lane, x);
    }
    if (slot < 0) return;

    unsigned char* cached_at = is_query ? nullptr : cached_head<T>(h, row, slot, head);
#pragma unroll
    for (int pack = 0; pack < kPacks; ++pack) {
        const uint32_t first = (lane + pack * p.team) * 8;
        if (first >= h.head_dim) break;
        if (is_query) {
            Pack<T> out;
#pragma unroll
            for (int i = 0; i < 8; ++i) out.v[i] = from_float<T>(x[pack][i]);
            store_pack(at + first, out);
        } else {
            store_cached_8<T>(h, cached_at, first, x[pack]);
        }
    }
}

KERNEL(qkv_post_bf16, QkvPostParams, kThreads, 1) { qkv_post<__nv_bfloat16>(p); }
KERNEL(qkv_post_f16, QkvPostParams, kThreads, 1) { qkv_post<__half>(p); }
