// Attention over a paged cache: one kernel for prefill, decode and everything between. CPU reference: src/attention.rs.
//
// Work list. The grid is constant (SMs x blocks an SM). The host cuts a step into items (src/gpu/work_list.rs) of
// (sequence, query tile, range of KV tiles); an item times a KV head is one unit of work, and block b takes the units
// b, 2B-1-b, 2B+b, 4B-1-b, ... of B blocks: largest first and back and forth, which levels the load. The length of the
// list lies in memory, so a captured graph serves any list.
//
// Query tile. Rows are (token, head of the KV head's group), heads fastest: row r of a tile is flat query f = first + r,
// token f / group, head f % group. A *narrow* tile has 16 rows, one mma's height: all heads of one or more decoding
// tokens. A *wide* tile has 128 (64 for heads of 256, 32 for 512) and is used for prompts. Both are in every kernel.
//
//                   narrow: 16 rows                     wide: 128 rows (head size up to 128)
//   scores          warp w: tokens [16 w, 16 w + 16)    warp w: rows [32 w, 32 w + 32), all tokens
//   probabilities   through shared memory               stay in registers: a C fragment is an A fragment
//   output          warp w: 16-column groups w, w + 4.. warp w: the same rows, all columns
//
// KV tile. 64 tokens (32 for heads of 256 and more), at absolute multiples. Keys and values pass through one ring of
// slots, K0 V0 K1 V1 ..., filled by cp.async `slots - 1` ahead: the copies in flight, not the number of warps, keep the
// memory busy, so two blocks of four warps an SM are enough, and they cover each other's barriers. Rows in shared memory
// lie an odd number of 16-byte chunks apart: eight rows at one chunk touch all 32 banks once, whatever the head size, and
// every address is a lane's base plus a constant. Block-table entries are read 32 at a time, one a lane, a window ahead.
//
// FP8. An e4m3 tile is converted between ldmatrix and mma. One 8x8 matrix of 16-bit elements is 8 tokens x 16 values.
//   K: lane (g, t) gets values 4t..4t+3 of token g: as k = 2t, 2t+1 and 2t+8, 2t+9 of the product. The columns of Q are
//      permuted alike within 16 when they are stored to shared memory.
//   V: transposed, it gets values 2g, 2g+1 of tokens 2t, 2t+1: column g of the tile of even columns and of the odd one.
//      The lane's outputs are then four consecutive columns.
//
// Order of the arithmetic, which is what batch invariance rests on. For one (row, head):
//   1. a score is a sum over the head size in steps of 16;
//   2. KV tiles are folded in order: maximum of the tile and before, factor 2^(old - new) onto sums, probabilities
//      rounded to T, then output and row sum (a column of ones beside V) accumulate over tokens in steps of 16;
//   3. the fold starts anew at absolute multiples of the split size, and the splits' (max, sum, output) are folded in
//      order by `fold`, whether one block meets them one by one or the last of several blocks reads them from memory.
// Narrow and wide tiles differ in which warp computes an element, never in its arithmetic. A KV tile or a split of which
// the row sees nothing is an exact identity: factor 1, probabilities 0. So a row's bits depend on its own position, keys
// and values and on the split size alone.
//
// Method: Dao, "FlashAttention-2", arXiv:2307.08691; splits: "Flash-Decoding" (Dao, Haziza, Massa, Sizov, 2023).
#pragma once
#include "common.cuh"

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kBlockTokens = 32;  // tokens of a cache block
constexpr int kNarrowRows = 16;

struct AttentionParams {
    const void* qkv;             // [rows, row_stride], T: queries, normed and rotated, come first in a row
    void* out;                   // [rows, num_kv_heads * group * head_dim], T
    const unsigned char* cache;  // the arena, advanced to the layer's region of a block
    const uint32_t* tables;      // [slots][max_blocks]: offsets of blocks in units of 64 bytes
    const uint32_t* work;        // header of 8 words (items, tiles a fold or 0), then the items
    float* partials;             // [num_kv_heads * units][16 * columns + 128], then the same for wide tiles of every block
    uint32_t* tickets;           // [num_kv_heads * units], zero between launches
    const float* sinks;          // [heads] logits that take part in the sum only, or null
    uint32_t row_stride;         // elements
    uint32_t max_blocks;
    uint32_t num_kv_heads;
    uint32_t group;              // query heads a KV head
    uint32_t window;             // tokens a row sees, its own included; below 2^31
    uint32_t narrow_slots;       // of the ring, with a narrow tile's queries in front
    uint32_t wide_slots;
    uint32_t totals;             // where the blocks' running totals begin in `partials`, in units
    float score_factor;          // log2 of a probability is this times a score (with a soft cap: times its tanh)
    float cap_factor;            // 2 log2(e) scale / cap, or 0: no cap
};

// One item of the list; see WorkItem in work_list.rs.
struct alignas(16) WorkItem {
    uint32_t slot;           // of the sequence: its row of `tables`
    uint32_t first_row;      // the sequence's first row in the step
    uint32_t start;          // that row's position
    uint32_t first_query;    // of the tile, counted from that row's first head
    uint32_t num_queries;    // more than 16: a wide tile
    uint32_t tiles;          // KV tiles [low half, high half)
    uint32_t first_partial;  // of the query tile's splits, in units
    uint32_t split;          // low half: which split; high half: of how many
};

// The block's unit behind `unit`: the same place of the next round, counted from the other end.
__device__ __forceinline__ uint32_t next_unit(uint32_t unit) {
    return (unit / gridDim.x + 2) * gridDim.x - 1 - unit % gridDim.x;
}

// earlier + later in units of 2^-max, as one multiply and one fused multiply-add whichever of the two is in memory.
__device__ __forceinline__ float fold_value(float earlier, float a, float later, float b) {
    return __fmaf_rn(later, b, __fmul_rn(earlier, a));
}

// What a block works on, in front of its shared memory: read again wherever it is wanted, for registers are scarce.
struct alignas(16) Unit {
    WorkItem item;
    uint32_t number;
    uint32_t kv_head;
    uint32_t is_last;     // of the query tile's splits
    int last[kWarps];     // position of each warp's last row
    int full[kWarps];     // where the last KV tile begins that its first row sees to the end
};

// What a kernel is made for: element type of activations, of the cache, head size.
template <class T_, class C_, int kDim_>
struct Head {
    using T = T_;
    using C = C_;
    static constexpr int kDim = kDim_;
    static constexpr bool kFp8 = sizeof(C) == 1;
    static constexpr int kTile = kDim <= 128 ? 64 : 32;                 // tokens of a KV tile
    static constexpr int kRowBytes = kDim * sizeof(C);                  // of a cached row
    static constexpr int kChunks = kRowBytes / 16;
    static constexpr int kPitch = (kChunks | 1) * 16;                   // of a row in the ring
    static constexpr int kQueryPitch = (kDim * 2 / 16 | 1) * 16;        // of a query
    static constexpr int kProbPitch = kTile * 2 + 16;                   // of a row of probabilities
    static constexpr int kSlotBytes = kTile * kPitch;
    static constexpr int kRegionBytes = kBlockTokens * kRowBytes;       // one head's keys of a block
    static constexpr int kSteps = kDim / 16;                            // mma steps of a score; 16-column groups
    static constexpr int kUnit = 16 * ((kDim + 63) / 64 * 64) + 128;    // floats of 16 rows' partial result
};

// How the four warps share a query tile: kRowWarps x kColumnWarps, each of kMmas mma heights.
template <class H, int kRowWarps_, int kColumnWarps_, int kMmas_>
struct QueryTile : H {
    static constexpr int kRowWarps = kRowWarps_, kColumnWarps = kColumnWarps_, kMmas = kMmas_;
    static constexpr int kRows = 16 * kRowWarps * kMmas;
    static constexpr int kScoreTiles = H::kTile / 8 / kColumnWarps;                    // 8-token tiles a warp scores
    static constexpr int kGroups = (H::kSteps + kColumnWarps - 1) / kColumnWarps;      // 16-column groups a warp sums
    static constexpr bool kExchange = kColumnWarps > 1;
    // Shared memory: unit | maxima | probabilities | queries | ring.
    static constexpr int kMaxima = sizeof(Unit);
    static constexpr int kProbs = kMaxima + (kExchange ? kColumnWarps * kRows * 4 : 0);
    static constexpr int kQueries = kProbs + (kExchange ? kRows * H::kProbPitch : 0);
    static constexpr int kRing = kQueries + kRows * H::kQueryPitch;
    static_assert(kRowWarps * kColumnWarps == kWarps && (kRowWarps == 1 || kColumnWarps == 1), "all warps, one way");
    static_assert(H::kTile % (8 * kColumnWarps) == 0 && kRing % 16 == 0, "whole tiles");
};

template <class H>
using Narrow = QueryTile<H, 1, 4, 1>;
template <class H, int kClass = H::kDim <= 128 ? 0 : H::kDim <= 256 ? 1 : 2>
struct WideOf {
    using Type = QueryTile<H, 4, 1, 2>;
};
template <class H>
struct WideOf<H, 1> {
    using Type = QueryTile<H, 4, 1, 1>;
};
template <class H>
struct WideOf<H, 2> {
    using Type = QueryTile<H, 1, 4, 2>;
};
template <class H>
using Wide = typename WideOf<H>::Type;

// What a warp holds of its rows: row (m, h) is 16 m + 8 h + lane / 4 of the warp's.
template <class S>
struct State {
    float max[S::kMmas][2];                    // log2 of the largest probability's numerator
    float sum[S::kMmas][2];
    float out[S::kMmas][S::kGroups][2][4];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int m = 0; m < S::kMmas; ++m) {
            max[m][0] = max[m][1] = -INFINITY;
            sum[m][0] = sum[m][1] = 0.0f;
#pragma unroll
            for (int n = 0; n < S::kGroups * 8; ++n) out[m][n / 8][n / 4 % 2][n % 4] = 0.0f;
        }
    }
};

// A thread's place in a query tile, and what its warp's rows see.
template <class S>
struct Rows {
    const AttentionParams& p;
    Unit& unit;

    __device__ __forceinline__ Rows(const AttentionParams& p_, Unit& unit_) : p(p_), unit(unit_) {
        const int begin = row_warp() * 16 * S::kMmas;
        if (lane() == 0) {
            unit.last[warp()] = position(begin + 16 * S::kMmas - 1);
            unit.full[warp()] = position(begin) - (S::kTile - 1);
        }
        __syncwarp();
    }
    __device__ __forceinline__ int lane() const { return threadIdx.x % 32; }
    __device__ __forceinline__ int warp() const { return threadIdx.x / 32; }
    __device__ __forceinline__ int row_warp() const { return S::kRowWarps == 1 ? 0 : warp(); }
    __device__ __forceinline__ int column_warp() const { return S::kRowWarps == 1 ? warp() : 0; }
    // Rows of the tile that exist.
    __device__ __forceinline__ int count() const { return unit.item.num_queries; }
    // Where a row stands. Rows behind the last are computed like it, and dropped.
    __device__ __forceinline__ int position(int row) const {
        return unit.item.start + (unit.item.first_query + min(row, count() - 1)) / p.group;
    }
    __device__ __forceinline__ int row(int m, int h) const {
        return row_warp() * 16 * S::kMmas + 16 * m + 8 * h + lane() / 4;
    }
    // Whether the warp has a row that sees a token of the KV tile at `token`.
    __device__ __forceinline__ bool sees(int token) const {
        const bool any = row_warp() * 16 * S::kMmas < count();
        return any && token <= unit.last[warp()] && unit.full[warp()] - token < static_cast<int>(p.window);
    }
    // Whether every row of the warp sees all of it.
    __device__ __forceinline__ bool sees_all(int token) const {
        return token <= unit.full[warp()] && static_cast<uint32_t>(unit.last[warp()] - token) < p.window;
    }
};
