// Top-k and top-p: exact thresholds without a sort, and the race behind them (sample.cuh).
#include "sample.cuh"

constexpr int kDigitBits = 10;  // of the radix selection: as many values as buckets

// A token as the selection orders it, better ones larger: 10 bits of bucket, 32 of the value's order, 18 of the token.
// The bucket adds nothing to the order; it spreads the first digit.
__device__ __forceinline__ u64 candidate_of(float y, uint32_t token) {
    const u64 bucket = kBuckets - 1 - min(bucket_of(y), kBuckets - 1);
    return bucket << 50 | static_cast<u64>(order_of(y)) << kTokenBits | ((1u << kTokenBits) - 1 - token);
}
__device__ __forceinline__ float value_of(u64 candidate) { return from_order(static_cast<uint32_t>(candidate >> kTokenBits)); }

// What the last block selects from: the list, or the row itself.
struct Candidates {
    const u64* list;
    uint32_t num;
    Scaled scale;

    template <class F>
    __device__ __forceinline__ void each(u64 from, F f) const {
        for (uint32_t i = threadIdx.x; i < num; i += blockDim.x) {
            u64 candidate = 0;
            if (list) {
                candidate = list[i];
            } else {
                const float y = scale.value(scale.logits[i]);
                if (!scale.passes(y)) continue;
                candidate = candidate_of(y, i);
            }
            if (candidate >= from) f(candidate);
        }
    }
};

// The smallest of the best candidates whose tokens or masses sum up to `target`, or a bound that parts it from the next;
// 0 if all of them don't. Six digits of ten bits, fewer when a digit leaves no choice.
template <bool kMass>
__device__ __forceinline__ u64 select(const Candidates& candidates, u64 target, uint32_t* tokens, u64* masses) {
    u64 prefix = 0, reached = 0;
    for (int shift = 50; shift >= 0; shift -= kDigitBits) {
        for (int b = threadIdx.x; b < kBuckets; b += blockDim.x) {
            tokens[b] = 0;
            masses[b] = 0;
        }
        __syncthreads();
        candidates.each(0, [&](u64 candidate) {
            if (candidate >> shift >> kDigitBits != prefix) return;
            const int bin = kBuckets - 1 - static_cast<int>(candidate >> shift & (kBuckets - 1));
            atomicAdd(&tokens[bin], 1u);
            if (kMass) atomicAdd(&masses[bin], mass_of(value_of(candidate)));
        });
        __syncthreads();
        const Bin bin = kMass ? find_bin(masses, target - reached) : find_bin(tokens, target - reached);
        if (bin.index == kBuckets) return 0;
        const uint32_t in_bin = tokens[bin.index];
        reached += bin.before;
        prefix = prefix << kDigitBits | static_cast<u64>(kBuckets - 1 - bin.index);
        // The bins are cleared next.
        __syncthreads();
        if (in_bin == 1 || (!kMass && reached + in_bin == target)) return prefix << shift;
    }
    return prefix;
}

__device__ __forceinline__ void list_chunk(const SampleParams& p, const Scaled& scale, RowState& state, u64* list) {
    const int limit = static_cast<int>(state.limit);
    const Chunk chunk = chunk_of_block(p.vocab);
    const Held held = load_chunk(scale.logits, chunk, p.logit_stride);
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float y = scale.value(held.x[g][i]);
            if (!scale.passes(y) || bucket_of(y) > limit) continue;
            const uint32_t place = atomicAdd(&state.num_listed, 1u);
            if (place < static_cast<uint32_t>(p.list_capacity)) list[place] = candidate_of(y, token_at(chunk, g, i));
        }
    }
}

__device__ __forceinline__ void draw_filtered(const SampleParams& p, const SampleRow& row, RowState& state,
                                              const Candidates& candidates) {
    SHARED(uint32_t, tokens, kBuckets);
    SHARED(u64, masses, kBuckets);
    u64 from = row.top_k > 0 ? select<false>(candidates, row.top_k, tokens, masses) : 0;
    if (row.top_p < 1.0f) {
        u64 mass = state.mass;
        if (row.top_k > 0) {
            u64 mine = 0;
            candidates.each(from, [&](u64 candidate) { mine += mass_of(value_of(candidate)); });
            mass = block_reduce<true>(mine);
        }
        const u64 target = static_cast<u64>(ceil(static_cast<double>(row.top_p) * static_cast<double>(mass)));
        from = max(from, select<true>(candidates, target, tokens, masses));
    }
    Race race;
    candidates.each(from, [&](u64 candidate) {
        const uint32_t token = (1u << kTokenBits) - 1 - static_cast<uint32_t>(candidate & ((1u << kTokenBits) - 1));
        race.run(value_of(candidate), token, word_of(philox_words(row, token / 4), token % 4));
    });
    const u64 winner = block_reduce<false>(race.rank);
    if (threadIdx.x > 0) return;
    finish(p, row, token_of(winner), kDrawn);
    state.mass = 0;
    state.num_listed = 0;
}

KERNEL(sample_filtered, SampleParams, kMostThreads, 2) {
    wait_for_previous();
    launch_next();
    const SampleRow& row = p.rows[blockIdx.y];
    if (row.logit_row < 0 || !(row.flags & kFiltered)) return;
    RowState& state = p.states[blockIdx.y];
    if (state.done) return;
    const Scaled scale = scaled(p, row, state);
    u64* list = p.lists + static_cast<size_t>(blockIdx.y) * p.list_capacity;
    if (state.is_listed) list_chunk(p, scale, state, list);
    if (!is_last_block(&state.ticket)) return;
    const uint32_t listed = state.num_listed;
    const bool fits = state.is_listed && listed <= static_cast<uint32_t>(p.list_capacity);
    draw_filtered(p, row, state, fits ? Candidates{list, listed, scale} : Candidates{nullptr, static_cast<uint32_t>(p.vocab), scale});
}
