// What becomes of q | k | v behind the projection: rotated pairs, and the places of keys and values in the cache. Shared by
// qkv_post.cu and by the products of few rows that end with it. CPU reference: src/qkv_post.rs.
#pragma once
#include "common.cuh"

// Part of these kernels' parameters.
struct Heads {
    unsigned char* cache;       // the arena, advanced to the layer's region of a block
    const uint32_t* tables;     // [slots][max_blocks]: offsets of blocks in units of 64 bytes
    const uint32_t* positions;  // [rows]
    const int32_t* row_slot;    // [rows]: -1 writes nothing
    const float2* rope;         // [rows][pairs]: cosine, sine
    uint32_t first;             // head that the first column belongs to
    uint32_t num_heads;
    uint32_t num_kv_heads;
    uint32_t head_dim;          // 0: the columns are no heads
    uint32_t max_blocks;
    uint32_t pairs;             // rotated pairs of a head; 0 without rope
    uint32_t interleaved;       // pairs are (2i, 2i + 1) and not (i, i + pairs)
    uint32_t fp8;               // the cache is e4m3 and not of the activations' type
};

constexpr uint32_t kBlockTokens = 32;  // tokens of a cache block

// Whether value d of a head is one of a rotated pair.
__device__ __forceinline__ bool turns(const Heads& h, uint32_t head, uint32_t d) {
    return head < h.num_heads + h.num_kv_heads && d < 2 * h.pairs;
}

// The other value of the pair that d belongs to.
__device__ __forceinline__ uint32_t partner_of(const Heads& h, uint32_t d) {
    return h.interleaved ? d ^ 1 : d < h.pairs ? d + h.pairs : d - h.pairs;
}

// What value d and its partner are multiplied by.
__device__ __forceinline__ float2 turn_of(const Heads& h, uint32_t row, uint32_t d) {
    const bool second = h.interleaved ? d % 2 == 1 : d >= h.pairs;
    const uint32_t pair = h.interleaved ? d / 2 : second ? d - h.pairs : d;
    float2 turn = h.rope[static_cast<size_t>(row) * h.pairs + pair];
    if (!second) turn.y = -turn.y;
    return turn;
}

__device__ __forceinline__ float turned(float2 turn, float x, float partner) { return x * turn.x + partner * turn.y; }

// Bytes of a cached value.
template <class T>
__device__ __forceinline__ uint32_t cached_bytes(const Heads& h) {
    return h.fp8 ? 1 : sizeof(T);
}

// Where a key head or a value head of a row goes: the heads' keys lie one behind the other, then their values.
template <class T>
__device__ __forceinline__ unsigned char* cached_head(const Heads& h, uint32_t row, int slot, uint32_t head) {
    const uint32_t position = h.positions[row];
    const uint32_t entry = h.tables[static_cast<size_t>(slot) * h.max_blocks + position / kBlockTokens];
    const size_t token = static_cast<size_t>(head - h.num_heads) * kBlockTokens + position % kBlockTokens;
    return h.cache + static_cast<size_t>(entry) * 64 + token * h.head_dim * cached_bytes<T>(h);
}

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

// Writes value d of a cached head.
template <class T>
__device__ __forceinline__ void store_cached(const Heads& h, unsigned char* head, uint32_t d, float x) {
    if (h.fp8) {
        reinterpret_cast<__nv_fp8_e4m3*>(head)[d] = cached<__nv_fp8_e4m3>(x);
    } else {
        reinterpret_cast<T*>(head)[d] = cached<T>(x);
    }
}

// Writes values d to d + 7 at once; d is a multiple of 8.
template <class T>
__device__ __forceinline__ void store_cached_8(const Heads& h, unsigned char* head, uint32_t d, const float* x) {
    if (h.fp8) {
        alignas(8) __nv_fp8_e4m3 values[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) values[i] = cached<__nv_fp8_e4m3>(x[i]);
        *reinterpret_cast<uint2*>(head + d) = *reinterpret_cast<const uint2*>(values);
    } else {
        Pack<T> values;
#pragma unroll
        for (int i = 0; i < 8; ++i) values.v[i] = cached<T>(x[i]);
        store_pack(reinterpret_cast<T*>(head) + d, values);
    }
}
