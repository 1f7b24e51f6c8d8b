// Edits of the logits that may change the best token: bias, penalties, bad words, minimum length, a grammar's mask.
// CPU reference: src/sampling/process.rs.
//
// A forbidden logit is minus infinity whatever is added before or after, so masks may come last. A block edits the tokens
// of its own chunk only: threads wait for each other between the kinds of edits, blocks never.
#include "sampling.cuh"

struct LogitsPrepParams {
    float* logits;           // [.., logit_stride]
    float* raw;              // [.., logit_stride], copies for log-probabilities
    const SampleRow* rows;   // one a row of the grid
    const uint32_t* side;
    const uint16_t* counts;  // [.., count_stride], the penalty pool
    const uint32_t* rings;   // [slots, 64], token at position q in entry q % 64
    const uint32_t* allowed; // [.., allowed_stride], bit set: allowed
    int vocab;
    int logit_stride;
    int count_stride;        // a multiple of 8
    int allowed_stride;
};

// A token listed several times gets its biases in the order of the list, by the thread of the first.
__device__ __forceinline__ void add_bias(const LogitsPrepParams& p, const SampleRow& row, Chunk chunk, float* logits) {
    const uint32_t* tokens = p.side + row.bias_at;
    const uint32_t* values = tokens + row.num_bias;
    for (uint32_t i = threadIdx.x; i < row.num_bias; i += blockDim.x) {
        const uint32_t token = tokens[i];
        const bool mine = token >= static_cast<uint32_t>(chunk.begin) && token < static_cast<uint32_t>(chunk.end);
        if (!mine || (i > 0 && tokens[i - 1] == token)) continue;
        float x = logits[token];
        for (uint32_t j = i; j < row.num_bias && tokens[j] == token; ++j) x += __uint_as_float(values[j]);
        logits[token] = x;
    }
}

// Roundings as on the CPU: no product may be fused with the subtraction behind it.
__device__ __forceinline__ float penalised(const SampleRow& row, float x, unsigned entry) {
    const unsigned count = entry & kCountLimit;
    x = x > 0.0f ? x / row.repetition : __fmul_rn(x, row.repetition);
    x = __fsub_rn(x, __fmul_rn(row.frequency, static_cast<float>(count)));
    return count > 0 ? __fsub_rn(x, row.presence) : x;
}

__device__ __forceinline__ void penalise(const LogitsPrepParams& p, const SampleRow& row, Chunk chunk, float* logits) {
    const uint16_t* counts = p.counts + static_cast<size_t>(row.count_row) * p.count_stride;
    for (int i = chunk.begin + static_cast<int>(threadIdx.x) * 8; i < chunk.end; i += static_cast<int>(blockDim.x) * 8) {
        const Pack<uint16_t> entries = load_pack(counts + i);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            // Entries behind the vocabulary are 0.
            if (entries.v[j] != 0) logits[i + j] = penalised(row, logits[i + j], entries.v[j]);
        }
    }
}

__device__ __forceinline__ void mask(Chunk chunk, float* logits, uint32_t token) {
    if (token >= static_cast<uint32_t>(chunk.begin) && token < static_cast<uint32_t>(chunk.end)) {
        logits[token] = -INFINITY;
    }
}

// Forbids the last token of every word whose other tokens are the latest of the output.
__device__ __forceinline__ void mask_words(const LogitsPrepParams& p, const SampleRow& row, Chunk chunk, float* logits) {
    const uint32_t* ring = p.rings + static_cast<size_t>(row.slot) * kRing;
    for (uint32_t w = threadIdx.x; w < row.num_words; w += blockDim.x) {
        const uint32_t begin = p.side[row.words_at + w], last = p.side[row.words_at + w + 1] - 1;
        bool matches = true;
        for (uint32_t i = begin; i < last; ++i) {
            matches = matches && p.side[i] == ring[(row.position - (last - i)) % kRing];
        }
        if (matches) mask(chunk, logits, p.side[last]);
    }
}

KERNEL(logits_prep, LogitsPrepParams, kMostThreads, 2) {
    wait_for_previous();
    launch_next();
    const SampleRow row = p.rows[blockIdx.y];
    if (row.logit_row < 0 || !(row.flags & kEdited)) return;
    const Chunk chunk = chunk_of_block(p.vocab);
    float* logits = p.logits + static_cast<size_t>(row.logit_row) * p.logit_stride;
    const int first = chunk.begin + static_cast<int>(threadIdx.x), step = static_cast<int>(blockDim.x);

    if (row.raw_row >= 0) {
        float* raw = p.raw + static_cast<size_t>(row.raw_row) * p.logit_stride;
        for (int i = first; i < chunk.end; i += step) raw[i] = logits[i];
        __syncthreads();
    }
    add_bias(p, row, chunk, logits);
    __syncthreads();
    if (row.count_row >= 0) penalise(p, row, chunk, logits);
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < row.num_masked; i += blockDim.x) mask(chunk, logits, p.side[row.masked_at + i]);
    mask_words(p, row, chunk, logits);
    if (row.allowed_row >= 0) {
        const uint32_t* allowed = p.allowed + static_cast<size_t>(row.allowed_row) * p.allowed_stride;
        for (int i = first; i < chunk.end; i += step) {
            if (!(allowed[i / 32] >> (i % 32) & 1u)) logits[i] = -INFINITY;
        }
    }
}
