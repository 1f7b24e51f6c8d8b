// What embeddings share: parameters, and which token a row takes.
#pragma once
#include "common.cuh"

struct EmbedParams {
    const void* table;           // [vocab, width], T, or packed as quant.cuh says
    const uint32_t* tokens;      // [rows]
    const int* row_slot;         // [rows]; -1: a padding row, not written
    const uint32_t* next_token;  // [slots]
    void* out;                   // [rows, width], T
    int vocab;
    int width;  // a multiple of 8
    float scale;
    int rows;
};

constexpr uint32_t kTakeSampled = 0xFFFFFFFFu;

// The row's token; not one of the table's is possible, as the host checks only the tokens that it sends.
__device__ __forceinline__ uint32_t token_of(const EmbedParams& p, int row, int slot) {
    const uint32_t token = p.tokens[row];
    return token == kTakeSampled ? p.next_token[slot] : token;
}
