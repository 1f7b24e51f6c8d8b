// Log-probabilities of raw rows: of one token, its rank, and the most likely ones. For drawn tokens and for prompts.
// CPU reference: src/sampling/logprobs.rs.
//
// A block scores a chunk, held in registers, relative to the chunk's own maximum; the last block of a row combines the
// chunks in their order. Chunks depend on the vocabulary alone, so a row's bits don't depend on the other rows.
#include "sampling.cuh"

constexpr int kMostTop = 20;
constexpr float kFloor = -9999.0f;  // stands for the logarithm of zero

struct ScoreRow {
    int32_t logit_row;    // of the logits, -1: none
    int32_t raw_row;      // of the copies that logits_prep made, -1: none; without either the row is absent
    uint32_t target;      // the token to score, 0xFFFFFFFF: the one that `sample_row` drew
    int32_t sample_row;   // row of `results`
    uint32_t num_top;
};

struct ScoreRecord {
    uint32_t token;
    uint32_t rank;
    float logprob;
    uint32_t num_top;
    uint32_t top_tokens[kMostTop];
    float top_logprobs[kMostTop];
};
static_assert(sizeof(ScoreRow) == 20 && sizeof(ScoreRecord) == 176, "sizes of src/gpu/logprobs.rs");

// What the block of a chunk found.
struct ScorePartial {
    float max;
    float sum;          // of exp(x - max); NaN where max is minus infinity
    uint32_t above;     // logits larger than the target's
    uint32_t finite;
    u64 top[kMostTop];  // ranks, best first; 0 behind the last
};

static_assert(sizeof(ScorePartial) == 176, "size of src/gpu/logprobs.rs");

struct LogprobsParams {
    const float* logits;          // [.., logit_stride]
    const float* raw;             // [.., logit_stride]
    const ScoreRow* rows;         // one a row of the grid
    const SampleResult* results;
    ScorePartial* partials;       // [rows, chunks]
    uint32_t* tickets;            // [rows], zero
    ScoreRecord* records;         // [rows]
    int vocab;
    int logit_stride;
};

// The best of this thread's ranks below `bound`.
__device__ __forceinline__ u64 best_below(const Held& held, Chunk chunk, u64 bound) {
    u64 best = 0;
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const u64 rank = rank_of(order_of(held.x[g][i]), token_at(chunk, g, i));
            // Behind the vocabulary lie values that no logit is worse than.
            if (rank < bound) best = max(best, rank);
        }
    }
    return best;
}

__device__ __forceinline__ void score_chunk(const float* logits, Chunk chunk, int stride, float target,
                                            uint32_t num_top, ScorePartial& partial) {
    const Held held = load_chunk(logits, chunk, stride);
    float largest = -INFINITY;
    u64 counted = 0;  // above the target; from bit 32 on: not finite
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float x = held.x[g][i];
            largest = fmaxf(largest, x);
            counted += x > target ? 1 : 0;
            counted += x < INFINITY ? 0 : 1ull << 32;
        }
    }
    largest = block_max(largest);
    counted = block_reduce<true>(counted);
    float sum = 0.0f;
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sum += expf(held.x[g][i] - largest);
    }
    sum = block_sum(sum);

    u64 mine = num_top > 0 ? best_below(held, chunk, ~0ull) : 0;
    for (uint32_t n = 0; n < num_top; ++n) {
        const u64 best = block_reduce<false>(mine);
        if (threadIdx.x == 0) partial.top[n] = best;
        if (mine == best && best > 0) mine = best_below(held, chunk, best);
    }
    if (threadIdx.x > 0) return;
    partial.max = largest;
    partial.sum = sum;
    partial.above = static_cast<uint32_t>(counted);
    partial.finite = counted >> 32 == 0;
}

// Logarithm of the sum of exponentials of the row, and the rank of the target; by one thread, in the order of chunks.
__device__ __forceinline__ float combine(const ScorePartial* partials, uint32_t& rank) {
    float largest = -INFINITY, sum = 0.0f;
    bool finite = true;
    rank = 1;
    for (unsigned c = 0; c < gridDim.x; ++c) {
        largest = fmaxf(largest, partials[c].max);
        finite = finite && partials[c].finite;
        rank += partials[c].above;
    }
    for (unsigned c = 0; c < gridDim.x; ++c) {
        if (partials[c].max > -INFINITY) sum += partials[c].sum * expf(partials[c].max - largest);
    }
    return finite ? largest + logf(sum) : NAN;
}

// The best of all chunks' ranks below `bound` that this thread looks after.
__device__ __forceinline__ u64 best_listed(const ScorePartial* partials, uint32_t num_top, u64 bound) {
    u64 best = 0;
    for (uint32_t i = threadIdx.x; i < gridDim.x * num_top; i += blockDim.x) {
        const u64 rank = partials[i / num_top].top[i % num_top];
        if (rank < bound) best = max(best, rank);
    }
    return best;
}

KERNEL(logprobs, LogprobsParams, kMostThreads, 2) {
    wait_for_previous();
    launch_next();
    const ScoreRow row = p.rows[blockIdx.y];
    if (row.logit_row < 0 && row.raw_row < 0) return;
    const size_t source = row.raw_row >= 0 ? row.raw_row : row.logit_row;
    const float* logits = (row.raw_row >= 0 ? p.raw : p.logits) + source * p.logit_stride;
    const uint32_t token = row.target == 0xFFFFFFFFu ? p.results[row.sample_row].token : row.target;
    const float target = token < static_cast<uint32_t>(p.vocab) ? logits[token] : -INFINITY;
    const uint32_t num_top = min(row.num_top, static_cast<uint32_t>(min(kMostTop, p.vocab)));
    ScorePartial* partials = p.partials + static_cast<size_t>(blockIdx.y) * gridDim.x;
    score_chunk(logits, chunk_of_block(p.vocab), p.logit_stride, target, num_top, partials[blockIdx.x]);
    if (!is_last_block(&p.tickets[blockIdx.y])) return;

    ScoreRecord& record = p.records[blockIdx.y];
    float log_sum = 0.0f;  // known to the first thread alone
    if (threadIdx.x == 0) {
        uint32_t rank;
        log_sum = combine(partials, rank);
        record.token = token;
        record.rank = rank;
        // fmaxf takes the number where the other is NaN.
        record.logprob = fmaxf(target - log_sum, kFloor);
        record.num_top = num_top;
    }
    u64 mine = best_listed(partials, num_top, ~0ull);
    for (uint32_t n = 0; n < num_top; ++n) {
        const u64 best = block_reduce<false>(mine);
        if (mine == best) mine = best_listed(partials, num_top, best);
        if (threadIdx.x > 0) continue;
        record.top_tokens[n] = token_of(best);
        record.top_logprobs[n] = fmaxf(from_order(static_cast<uint32_t>(best >> 32)) - log_sum, kFloor);
    }
}
