// From logits to a token in up to three kernels: sample_scan finds the best; sample_draw runs the exponential race of rows
// without thresholds and histograms the others; sample_filtered resolves top-k and top-p and runs their race. CPU
// reference: src/sampling. Here: what they share.
//
// No sort. Scaled logits y = (x - max) / temperature fall into 1,024 buckets of 1/32; the histogram gives a bucket behind
// which nothing can survive, what lies in front of it is listed, and a radix selection of one block over the list (over
// the whole row when the list is too small for it) finds the exact thresholds. Masses are 64-bit fixed-point numbers:
// their sums are the same in any order, so atomics may form them and the number of blocks doesn't matter.
#pragma once
#include "sampling.cuh"

constexpr int kBuckets = 1024;
constexpr float kMassUnit = 0x1p44f;    // a weight of 1; 2^18 of them fit

// Between the three kernels; all zero but for `max`, `done` and `limit` when a step begins.
struct RowState {
    u64 best;
    u64 mass;        // of all tokens that pass min-p
    uint32_t ticket;
    uint32_t not_finite;
    float max;
    uint32_t done;   // the token is known
    uint32_t limit;  // last bucket that is listed; kBuckets: all
    uint32_t num_listed;
    uint32_t is_listed;  // the list is large enough
    uint32_t unused;
};
static_assert(sizeof(RowState) == 48, "size of src/gpu/sampling.rs");

struct SampleParams {
    const float* logits;    // [.., logit_stride]
    const SampleRow* rows;  // one a row of the grid
    RowState* states;       // one a row of the grid
    uint32_t* histograms;   // [rows, 2, kBuckets]: tokens, masses relative to the bucket's upper end; zero
    u64* lists;             // [rows, list_capacity]
    uint32_t* next_token;   // [slots]
    uint32_t* rings;        // [slots, 64]
    uint16_t* counts;       // [.., count_stride], the penalty pool
    SampleResult* results;  // one a row of the grid
    int vocab;
    int logit_stride;
    int count_stride;
    int list_capacity;
};

// The end of a row, by one thread: the token goes to the host, to the next step and into what the sampler keeps.
__device__ void finish(const SampleParams& p, const SampleRow& row, uint32_t token, uint32_t status) {
    const bool drawn = status == kDrawn;
    // The next step is under way already and wants a valid id; its row is thrown away.
    if (!drawn) token = 0;
    p.results[blockIdx.y] = {token, status};
    p.next_token[row.slot] = token;
    if (!drawn) return;
    p.rings[static_cast<size_t>(row.slot) * kRing + row.position % kRing] = token;
    if (row.count_row >= 0) {
        uint16_t* entry = p.counts + static_cast<size_t>(row.count_row) * p.count_stride + token;
        *entry = static_cast<uint16_t>(kSeen | min((*entry & kCountLimit) + 1, kCountLimit));
    }
}

// A row as the kernels behind sample_scan see it.
struct Scaled {
    const float* logits;
    float max, inverse, floor;

    __device__ __forceinline__ float value(float x) const { return (x - max) * inverse; }
    __device__ __forceinline__ bool passes(float y) const { return y >= floor; }
};
__device__ __forceinline__ const float* logits_of(const SampleParams& p, const SampleRow& row) {
    return p.logits + static_cast<size_t>(row.logit_row) * p.logit_stride;
}
__device__ __forceinline__ Scaled scaled(const SampleParams& p, const SampleRow& row, const RowState& state) {
    return {logits_of(p, row), state.max, row.inverse_temperature, row.floor};
}

// The race. What a token scored is compared as (score, lower id), so that it doesn't matter who meets whom first.
struct Race {
    float best = 0.0f;
    u64 rank = 0;

    __device__ __forceinline__ void run(float y, uint32_t token, uint32_t word) {
        const float weight = expf(y), v = open_unit(word);
        // -log(1 - v) >= v, so the score is at most weight / v: most tokens are passed over without the logarithm. The
        // margin is larger than all roundings: nobody is passed over who could win.
        if (weight < best * v * 0.9999f) return;
        const float score = weight / -log1pf(-v);
        rank = max(rank, rank_of(__float_as_uint(score), token));
        best = fmaxf(best, score);
    }
};

// 0 for the best values, ascending as they get worse; kBuckets for the tail, of less than 2^-46 each.
__device__ __forceinline__ int bucket_of(float y) { return static_cast<int>(fminf(y * -32.0f, kBuckets)); }
__device__ __forceinline__ u64 mass_of(float y) { return static_cast<u64>(expf(y) * kMassUnit); }

// The first of kBuckets shared bins at which the sum from bin 0 reaches `target` (positive), and the sum before it. kBuckets and the
// whole sum if none does. All threads call it, and get the same.
struct Bin {
    int index;
    u64 before;
};
template <class T>
__device__ __forceinline__ Bin find_bin(const T* bins, u64 target) {
    SHARED(u64, warp_sums, 32);
    SHARED(u64, found, 2);
    const int each = kBuckets / static_cast<int>(blockDim.x), first = static_cast<int>(threadIdx.x) * each;
    u64 mine = 0;
    for (int i = 0; i < each; ++i) mine += bins[first + i];
    u64 sum = mine;
#pragma unroll
    for (int distance = 1; distance < 32; distance <<= 1) {
        const u64 lower = __shfl_up_sync(kFullMask, sum, distance);
        if (threadIdx.x % 32 >= static_cast<unsigned>(distance)) sum += lower;
    }
    if (threadIdx.x % 32 == 31) warp_sums[threadIdx.x / 32] = sum;
    __syncthreads();
    for (unsigned warp = 0; warp < threadIdx.x / 32; ++warp) sum += warp_sums[warp];
    u64 before = sum - mine;
    const bool is_last = threadIdx.x == blockDim.x - 1;
    if (before < target && target <= sum) {
        int bin = first;
        while (before + bins[bin] < target) before += bins[bin++];
        found[0] = bin;
        found[1] = before;
    } else if (is_last && sum < target) {
        found[0] = kBuckets;
        found[1] = sum;
    }
    __syncthreads();
    // The next call writes `found` behind two barriers of its own or its caller's.
    return {static_cast<int>(found[0]), found[1]};
}
