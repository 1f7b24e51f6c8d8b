// The best token of each row, and the draws of rows that need no threshold; histograms of the others (sample.cuh).
#include "sample.cuh"

constexpr float kBucketUnit = 8192.0f;  // a weight of 1 relative to its bucket; 2^18 of them fit into u32

KERNEL(sample_scan, SampleParams, kMostThreads, 2) {
    wait_for_previous();
    launch_next();
    const SampleRow& row = p.rows[blockIdx.y];
    if (row.logit_row < 0) return;
    RowState& state = p.states[blockIdx.y];

    const Chunk chunk = chunk_of_block(p.vocab);
    const Held held = load_chunk(logits_of(p, row), chunk, p.logit_stride);
    u64 best = 0;
    bool finite = true;
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            finite = finite && held.x[g][i] < INFINITY;
            best = max(best, rank_of(order_of(held.x[g][i]), token_at(chunk, g, i)));
        }
    }
    best = block_reduce<false>(best);
    if (!finite) atomicOr(&state.not_finite, 1u);
    if (threadIdx.x == 0) atomicMax(&state.best, best);
    if (!is_last_block(&state.ticket) || threadIdx.x > 0) return;

    best = atomicExch(&state.best, 0ull);
    finite = atomicExch(&state.not_finite, 0u) == 0;
    const float max = from_order(static_cast<uint32_t>(best >> 32));
    const uint32_t status = !finite ? kNotFinite : max > -INFINITY ? kDrawn : kNothingLeft;
    state.max = max;
    state.done = status != kDrawn || (row.flags & kGreedy);
    if (state.done) finish(p, row, token_of(best), status);
}

__device__ __forceinline__ void draw_unfiltered(const SampleParams& p, const SampleRow& row, RowState& state) {
    const Scaled scale = scaled(p, row, state);
    const Chunk chunk = chunk_of_block(p.vocab);
    const Held held = load_chunk(scale.logits, chunk, p.logit_stride);
    Race race;
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
        const uint4 words = philox_words(row, token_at(chunk, g, 0) / 4);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float y = scale.value(held.x[g][i]);
            if (scale.passes(y)) race.run(y, token_at(chunk, g, i), word_of(words, i));
        }
    }
    const u64 winner = block_reduce<false>(race.rank);
    if (threadIdx.x == 0) atomicMax(&state.best, winner);
    if (!is_last_block(&state.ticket) || threadIdx.x > 0) return;
    finish(p, row, token_of(atomicExch(&state.best, 0ull)), kDrawn);
}

// The last block of a row: from the histogram to the last bucket that must be listed, and whether the list can hold it.
// Any bucket behind the exact threshold will do.
__device__ __forceinline__ void choose_limit(const SampleParams& p, const SampleRow& row, RowState& state,
                                             uint32_t* tokens, u64* masses) {
    uint32_t* histogram = p.histograms + static_cast<size_t>(blockIdx.y) * 2 * kBuckets;
    for (int b = threadIdx.x; b < kBuckets; b += blockDim.x) {
        tokens[b] = histogram[b];
        masses[b] = static_cast<u64>(histogram[kBuckets + b] * expf(b * -0.03125f) * (kMassUnit / kBucketUnit));
        histogram[b] = 0;
        histogram[kBuckets + b] = 0;
    }
    __syncthreads();
    // With both filters the list is what top-k keeps: the mass that top-p divides is theirs.
    const u64 target = static_cast<u64>(row.top_p * static_cast<float>(state.mass) * 1.0001f) + 1;
    const int limit = row.top_k > 0 ? find_bin(tokens, row.top_k).index : find_bin(masses, target).index;
    u64 listed = 0;
    for (int b = threadIdx.x; b < kBuckets && b <= limit; b += blockDim.x) listed += tokens[b];
    listed = block_reduce<true>(listed);
    if (threadIdx.x == 0) {
        state.limit = limit;
        // The tail was not counted: its tokens are found when they don't fit.
        state.is_listed = listed <= static_cast<u64>(p.list_capacity);
    }
}

__device__ __forceinline__ void histogram_chunk(const SampleParams& p, const SampleRow& row, RowState& state) {
    SHARED(uint32_t, tokens, kBuckets);
    SHARED(u64, masses, kBuckets);
    for (int b = threadIdx.x; b < kBuckets; b += blockDim.x) {
        tokens[b] = 0;
        masses[b] = 0;
    }
    __syncthreads();
    const Scaled scale = scaled(p, row, state);
    const bool by_mass = row.top_p < 1.0f;
    // A chunk's masses fit into 32 bits, whose shared atomics are the fast ones.
    uint32_t* narrow = reinterpret_cast<uint32_t*>(masses);
    u64 mass = 0;
    const Held held = load_chunk(scale.logits, chunk_of_block(p.vocab), p.logit_stride);
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float y = scale.value(held.x[g][i]);
            if (!scale.passes(y)) continue;
            if (by_mass) mass += mass_of(y);
            const int bucket = bucket_of(y);
            if (bucket == kBuckets) continue;
            atomicAdd(&tokens[bucket], 1u);
            if (by_mass) atomicAdd(&narrow[bucket], static_cast<uint32_t>(expf(y + bucket * 0.03125f) * kBucketUnit));
        }
    }
    mass = block_reduce<true>(mass);
    if (threadIdx.x == 0 && by_mass) atomicAdd(&state.mass, mass);
    uint32_t* histogram = p.histograms + static_cast<size_t>(blockIdx.y) * 2 * kBuckets;
    for (int b = threadIdx.x; b < kBuckets; b += blockDim.x) {
        if (tokens[b] > 0) atomicAdd(&histogram[b], tokens[b]);
        if (narrow[b] > 0) atomicAdd(&histogram[kBuckets + b], narrow[b]);
    }
    if (is_last_block(&state.ticket)) choose_limit(p, row, state, tokens, masses);
}

KERNEL(sample_draw, SampleParams, kMostThreads, 2) {
    wait_for_previous();
    launch_next();
    const SampleRow& row = p.rows[blockIdx.y];
    if (row.logit_row < 0) return;
    RowState& state = p.states[blockIdx.y];
    if (state.done) return;
    if (row.flags & kFiltered) {
        histogram_chunk(p, row, state);
    } else {
        draw_unfiltered(p, row, state);
    }
}

