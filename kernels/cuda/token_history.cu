// What the sampler keeps of a sequence's tokens, written when it gets its slot: the ring of its last tokens and its row
// of the penalty pool. From then on sample.cu adds the tokens that it draws.
#include "sampling.cuh"

struct HistoryRow {
    int32_t slot;           // -1: absent, writes nowhere
    int32_t count_row;      // of the penalty pool, -1: none
    uint32_t tokens_at;     // first token in the array
    uint32_t num_tokens;
    uint32_t first_position;
    uint32_t num_prompt;    // tokens at lower positions are prompt
};
static_assert(sizeof(HistoryRow) == 24, "size of src/gpu/token_history.rs");

struct TokenHistoryParams {
    const HistoryRow* rows;  // one a row of the grid
    const uint32_t* tokens;
    uint16_t* counts;        // [.., count_stride]
    uint32_t* rings;         // [slots, 64]
    int vocab;
    int count_stride;        // a multiple of 8, at least `vocab`
};

// A block counts the tokens of its own chunk, in shared memory, over the whole list: no block waits for another.
KERNEL(token_history, TokenHistoryParams, kMostThreads, 2) {
    SHARED(uint32_t, entries, kChunk);
    wait_for_previous();
    launch_next();
    const HistoryRow row = p.rows[blockIdx.y];
    if (row.slot < 0) return;
    const uint32_t* tokens = p.tokens + row.tokens_at;
    if (blockIdx.x == 0) {
        uint32_t* ring = p.rings + static_cast<size_t>(row.slot) * kRing;
        const uint32_t first = row.num_tokens - min(row.num_tokens, static_cast<uint32_t>(kRing));
        for (uint32_t i = first + threadIdx.x; i < row.num_tokens; i += blockDim.x) {
            ring[(row.first_position + i) % kRing] = tokens[i];
        }
    }
    if (row.count_row < 0) return;

    const Chunk chunk = chunk_of_block(p.vocab);
    for (int i = threadIdx.x; i < kChunk; i += blockDim.x) entries[i] = 0;
    __syncthreads();
    const uint32_t seen = 1u << 31;
    for (uint32_t i = threadIdx.x; i < row.num_tokens; i += blockDim.x) {
        const uint32_t token = tokens[i];
        if (token < static_cast<uint32_t>(chunk.begin) || token >= static_cast<uint32_t>(chunk.end)) continue;
        uint32_t* entry = entries + (token - chunk.begin);
        if (row.first_position + i >= row.num_prompt) atomicAdd(entry, 1u);
        atomicOr(entry, seen);
    }
    __syncthreads();
    // The padding of the row becomes 0 too.
    uint16_t* counts = p.counts + static_cast<size_t>(row.count_row) * p.count_stride;
    const int end = chunk.end < p.vocab ? chunk.end : p.count_stride;
    for (int i = chunk.begin + static_cast<int>(threadIdx.x); i < end; i += blockDim.x) {
        const uint32_t entry = i < chunk.end ? entries[i - chunk.begin] : 0;
        counts[i] = static_cast<uint16_t>((entry ? kSeen : 0u) | min(entry & ~seen, kCountLimit));
    }
}
