// What the sampling kernels share: their rows, the order of logits, Philox, block-wide integer reductions, tickets.
//
// A row of logits is cut into chunks of kChunk, a block each (grid: chunks, rows), so that one row of a large vocabulary
// keeps many multiprocessors busy. What blocks combine is integers and maxima: independent of the order in which they
// come, hence of the other rows and of the card. CPU reference: src/sampling.
#pragma once
#include "common.cuh"

// As CUDA's atomics want it; uint64_t is another type to them.
using u64 = unsigned long long;

constexpr int kChunk = 8192;       // logits a block takes
constexpr int kMostThreads = 512;  // a power of two; fewer where the vocabulary is small
constexpr int kTokenBits = 18;     // vocabularies of up to 262,144
constexpr int kRing = 64;          // last tokens of a slot

constexpr uint32_t kEdited = 1;    // logits_prep has something to do
constexpr uint32_t kGreedy = 2;    // the best token, no draw
constexpr uint32_t kFiltered = 4;  // top-k or top-p (min-p needs no threshold)

constexpr uint32_t kDrawn = 0, kNotFinite = 1, kNothingLeft = 2;

// One sampling row of the step; `at` are indices into the step's side array of u32.
struct SampleRow {
    int32_t logit_row;  // -1: absent, writes nowhere
    int32_t slot;
    uint32_t flags;
    uint32_t position;  // of the token to draw in its sequence
    uint32_t seed_low, seed_high, choice;
    float inverse_temperature;
    float floor;        // lowest scaled logit that passes min-p; finite
    float top_p;
    uint32_t top_k;     // 0: all
    float repetition, presence, frequency;
    int32_t count_row;  // of the penalty pool, -1: none
    int32_t raw_row;    // where logits_prep keeps the row as the model gave it, -1: nowhere
    int32_t allowed_row;  // of the grammar masks, -1: none
    uint32_t bias_at, num_bias;      // num_bias tokens ascending, then as many f32
    uint32_t masked_at, num_masked;  // forbidden tokens
    uint32_t words_at, num_words;    // num_words + 1 bounds of token sequences that must not be completed
};

struct SampleResult {
    uint32_t token;
    uint32_t status;
};

static_assert(sizeof(SampleRow) == 92 && sizeof(SampleResult) == 8, "sizes of src/gpu/sample_rows.rs");

// An entry of the penalty pool: bit 15: seen in prompt or output; below: occurrences in the output, saturating.
constexpr unsigned kSeen = 0x8000, kCountLimit = 0x7fff;

// The range of tokens of this block.
struct Chunk {
    int begin, end;
};
__device__ __forceinline__ Chunk chunk_of_block(int vocab) {
    const int begin = static_cast<int>(blockIdx.x) * kChunk;
    return {begin, min(begin + kChunk, vocab)};
}

// The part of a chunk that a thread holds in registers: groups of four neighbours, which share Philox words. A launch has
// a thread for every 16 logits of its chunks.
constexpr int kGroups = kChunk / kMostThreads / 4;
struct Held {
    float x[kGroups][4];  // minus infinity behind the chunk
};
__device__ __forceinline__ int token_at(Chunk chunk, int group, int i) {
    return chunk.begin + (group * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x)) * 4 + i;
}
// All loads are issued before the first value is looked at. Rows are aligned to 16 bytes where the stride allows.
__device__ __forceinline__ Held load_chunk(const float* logits, Chunk chunk, int stride) {
    Held held;
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
        const int token = token_at(chunk, g, 0);
        if (stride % 4 == 0 && token + 4 <= chunk.end) {
            const float4 x = *reinterpret_cast<const float4*>(logits + token);
            held.x[g][0] = x.x, held.x[g][1] = x.y, held.x[g][2] = x.z, held.x[g][3] = x.w;
        } else {
#pragma unroll
            for (int i = 0; i < 4; ++i) held.x[g][i] = token + i < chunk.end ? logits[token + i] : -INFINITY;
        }
    }
    return held;
}

// Maps the order of f32 to that of u32; both zeros are one value.
__device__ __forceinline__ uint32_t order_of(float x) {
    const uint32_t bits = x == 0.0f ? 0u : __float_as_uint(x);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float from_order(uint32_t order) {
    return __uint_as_float(order >> 31 ? order & 0x7fffffffu : ~order);
}
// Larger for a better value, among equals for a lower token; never 0.
__device__ __forceinline__ u64 rank_of(uint32_t order, uint32_t token) {
    return static_cast<u64>(order) << 32 | (0xffffffffu - token);
}
__device__ __forceinline__ uint32_t token_of(u64 rank) { return 0xffffffffu - static_cast<uint32_t>(rank); }

// Philox4x32-10: the words of tokens 4 * group .. 4 * group + 4.
__device__ __forceinline__ uint4 philox_words(const SampleRow& row, uint32_t group) {
    uint32_t key0 = row.seed_low, key1 = row.seed_high;
    uint4 c = {group, row.position, row.choice, 0};
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const uint32_t high_a = __umulhi(0xD2511F53u, c.x), low_a = 0xD2511F53u * c.x;
        const uint32_t high_b = __umulhi(0xCD9E8D57u, c.z), low_b = 0xCD9E8D57u * c.z;
        c = {high_b ^ c.y ^ key0, low_b, high_a ^ c.w ^ key1, low_a};
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return c;
}
__device__ __forceinline__ uint32_t word_of(const uint4& words, unsigned i) {
    return i == 0 ? words.x : i == 1 ? words.y : i == 2 ? words.z : words.w;
}
// v in (0, 1), of which -log(1 - v) is an exponential variate.
__device__ __forceinline__ float open_unit(uint32_t word) {
    return fminf((static_cast<float>(word) + 0.5f) * (1.0f / 4294967296.0f), 1.0f - 0x1p-24f);
}

// Sum or maximum over the block in every thread; all threads call it.
template <bool kSum>
__device__ __forceinline__ u64 block_reduce(u64 x) {
    SHARED(u64, partial, 32);
#pragma unroll
    for (int distance = 16; distance > 0; distance >>= 1) {
        const u64 other = __shfl_xor_sync(kFullMask, x, distance);
        x = kSum ? x + other : max(x, other);
    }
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
    __syncthreads();
    u64 all = partial[0];
    for (unsigned warp = 1; warp < blockDim.x / 32; ++warp) all = kSum ? all + partial[warp] : max(all, partial[warp]);
    // Nobody may begin the next reduction while another still reads this one.
    __syncthreads();
    return all;
}

// True in all threads of the block that comes last of this row's blocks; it sees what the others wrote. The ticket is
// ready for the next launch then. Called once a kernel.
__device__ __forceinline__ bool is_last_block(uint32_t* ticket) {
    SHARED(uint32_t, place, 1);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) place[0] = atomicAdd(ticket, 1u);
    __syncthreads();
    const bool last = place[0] == gridDim.x - 1;
    if (last) {
        if (threadIdx.x == 0) *ticket = 0;
        __threadfence();
    }
    return last;
}
