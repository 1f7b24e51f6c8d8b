// What happens to a row of q | k | v between its projection and attention: the per-head norms of queries and keys, rope,
// and the write of keys and values into their block. CPU reference: src/qkv_post.rs.
//
// A team of lanes takes one head of one row, each lane one or two packs of eight values: 8 lanes for heads of 64, 16 up to
// 128, a warp for more. All arithmetic is f32 and rounded once, into `qkv` (queries) or the cache (keys, values). Rotation
// needs a value's partner, which any even rotated width may put anywhere: the head passes through shared memory.
#include "common.cuh"

struct QkvPostParams {
    void* qkv;                  // [rows, (num_heads + 2 num_kv_heads) * head_dim], T; queries change, the rest stays
    unsigned char* cache;       // the arena, advanced to the layer's region of a block
    const uint32_t* tables;     // [slots][max_blocks]: offsets of blocks in units of 64 bytes
    const uint32_t* positions;  // [rows]
    const int32_t* row_slot;    // [rows]: -1 writes nothing
    const float* q_weight;      // [head_dim], or null: no norms
    const float* k_weight;      // [head_dim]
    const float2* rope;         // [rows][pairs]: cosine, sine; or null
    uint32_t rows;
    uint32_t num_heads;
    uint32_t num_kv_heads;
    uint32_t head_dim;          // a multiple of 8, at most 512
    uint32_t max_blocks;
    uint32_t team;              // lanes a head: a power of two
    uint32_t pairs;             // rotated pairs of a head
    uint32_t interleaved;       // pairs are (2i, 2i + 1) and not (i, i + pairs)
    float eps;
    float offset;               // 1 where the norms' weights are zero-centred
};

constexpr uint32_t kThreads = 256;
constexpr uint32_t kBlockTokens = 32;  // tokens of a cache block
constexpr int kPacks = 2;              // packs a lane may have

// A value as the cache keeps it: beyond its type's range the largest one.
template <class C>
__device__ __forceinline__ C cached(float x) {
    return from_float<C>(x);
}
template <>
__device__ __forceinline__ __half cached<__half>(float x) {
    // Comparisons and not fminf: a NaN stays one.
    return from_float<__half>(x > 65504.0f ? 65504.0f : x < -65504.0f ? -65504.0f : x);
}

// Eight values as eight of the cache's, at an address that is a multiple of their size.
template <class C>
__device__ __forceinline__ void store_cached(unsigned char* address, const float* x) {
    alignas(16) C values[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) values[i] = cached<C>(x[i]);
    if (sizeof(C) == 2) {
        *reinterpret_cast<uint4*>(address) = *reinterpret_cast<const uint4*>(values);
    } else {
        *reinterpret_cast<uint2*>(address) = *reinterpret_cast<const uint2*>(values);
    }
}

// Multiplies the team's head by its norm; sums run over a lane's values, then over the team in pairs.
__device__ __forceinline__ void normalise(const QkvPostParams& p, const float* weight, uint32_t lane,
                                          float (&x)[kPacks][8]) {
    float sum = 0.0f;
#pragma unroll
    for (int n = 0; n < kPacks * 8; ++n) sum = fmaf(x[n / 8][n % 8], x[n / 8][n % 8], sum);
    for (uint32_t distance = p.team / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(kFullMask, sum, distance);
    const float factor = rsqrtf(sum / p.head_dim + p.eps);
    if (!weight) return;
#pragma unroll
    for (int pack = 0; pack < kPacks; ++pack) {
        const uint32_t first = (lane + pack * p.team) * 8;
        if (first >= p.head_dim) break;
#pragma unroll
        for (int i = 0; i < 8; ++i) x[pack][i] *= factor * (weight[first + i] + p.offset);
    }
}

// Rotates the lane's values; `head` holds all of the head's.
__device__ __forceinline__ void rotate(const QkvPostParams& p, const float2* angles, const float* head, uint32_t lane,
                                       float (&x)[kPacks][8]) {
#pragma unroll
    for (int pack = 0; pack < kPacks; ++pack) {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            const uint32_t d = (lane + pack * p.team) * 8 + i;
            if (d >= 2 * p.pairs) break;
            const bool second = p.interleaved ? d % 2 == 1 : d >= p.pairs;
            const uint32_t partner = p.interleaved ? d ^ 1 : second ? d - p.pairs : d + p.pairs;
            const float2 angle = angles[p.interleaved ? d / 2 : second ? partner : d];
            x[pack][i] = x[pack][i] * angle.x + head[partner] * (second ? angle.y : -angle.y);
        }
    }
}

template <class T, class C>
__device__ __forceinline__ void qkv_post(const QkvPostParams& p) {
    SHARED_MEMORY(float, heads);
    wait_for_previous();
    launch_next();
    const uint32_t total_heads = p.num_heads + 2 * p.num_kv_heads;
    const uint32_t place = threadIdx.x / p.team, lane = threadIdx.x % p.team;
    const uint32_t index = blockIdx.x * (kThreads / p.team) + place, row = index / total_heads, head = index % total_heads;
    const int slot = row < p.rows ? p.row_slot[row] : -1;
    const bool is_query = head < p.num_heads, is_value = head >= p.num_heads + p.num_kv_heads;
    T* at = static_cast<T*>(p.qkv) + (static_cast<size_t>(row) * total_heads + head) * p.head_dim;

    float x[kPacks][8];
#pragma unroll
    for (int pack = 0; pack < kPacks; ++pack) {
        const uint32_t first = (lane + pack * p.team) * 8;
        Pack<T> loaded = {};
        if (slot >= 0 && first < p.head_dim) loaded = load_pack(at + first);
#pragma unroll
        for (int i = 0; i < 8; ++i) x[pack][i] = to_float(loaded.v[i]);
    }
    if (p.q_weight) normalise(p, is_value ? nullptr : is_query ? p.q_weight : p.k_weight, lane, x);
    if (p.rope) {
        float* mine = heads + place * p.head_dim;
#pragma unroll
        for (int n = 0; n < kPacks * 8; ++n) {
            const uint32_t d = (lane + n / 8 * p.team) * 8 + n % 8;
            if (d < p.head_dim) mine[d] = x[n / 8][n % 8];
        }
        __syncwarp();
        if (slot >= 0 && !is_value) rotate(p, p.rope + static_cast<size_t>(row) * p.pairs, mine, lane, x);
    }
    if (slot < 0) return;

    const uint32_t position = p.positions[row];
    const uint32_t row_bytes = p.head_dim * sizeof(C);
    unsigned char* cached_row = nullptr;
    if (!is_query) {
        const uint32_t entry = p.tables[static_cast<size_t>(slot) * p.max_blocks + position / kBlockTokens];
        // Heads' keys lie one behind the other, then their values.
        cached_row = p.cache + static_cast<size_t>(entry) * 64 +
                     (static_cast<size_t>(head - p.num_heads) * kBlockTokens + position % kBlockTokens) * row_bytes;
    }
#pragma unroll
    for (int pack = 0; pack < kPacks; ++pack) {
        const uint32_t first = (lane + pack * p.team) * 8;
        if (first >= p.head_dim) break;
        if (is_query) {
            Pack<T> out;
#pragma unroll
            for (int i = 0; i < 8; ++i) out.v[i] = from_float<T>(x[pack][i]);
            store_pack(at + first, out);
        } else {
            store_cached<C>(cached_row + first * sizeof(C), x[pack]);
        }
    }
}

KERNEL(qkv_post_bf16, QkvPostParams, kThreads, 1) { qkv_post<__nv_bfloat16, __nv_bfloat16>(p); }
KERNEL(qkv_post_bf16_fp8, QkvPostParams, kThreads, 1) { qkv_post<__nv_bfloat16, __nv_fp8_e4m3>(p); }
KERNEL(qkv_post_f16, QkvPostParams, kThreads, 1) { qkv_post<__half, __half>(p); }
KERNEL(qkv_post_f16_fp8, QkvPostParams, kThreads, 1) { qkv_post<__half, __nv_fp8_e4m3>(p); }
