// Attention on Hopper: wgmma and tensor copies. Same work list, same results, same splits as attention.cuh, which tells
// what units, tiles, splits and folds are and in which order a row's arithmetic goes. CPU reference: src/attention.rs.
//
// A block has three warpgroups and an SM to itself.
//
//   0  producer   one warp walks the units and keeps the ring full, into the next unit while the others end this one
//   1  consumer   rows [0, 64) of the query tile: all of a narrow tile
//   2  consumer   rows [64, 128); of a narrow tile it only lets go of the ring
//
// A consumer holds its queries as A fragments, scores, probabilities and output in registers (32 + 32 + 16 + 64 a thread
// for heads of 128): a result fragment is an A fragment. The scores of KV tile j + 1 are under way beside the output of
// tile j, whose values they overlap; the softmax of j + 1 runs beside the output of j.
//
// Ring. Stages of one KV tile: a slot of keys, a slot of values, each with two mbarriers. `full`: the copies of its bytes
// have landed; `free`: the eight warps of consumers have let go of it. A slot of 64 tokens is one matrix for 64 columns of
// the head, or two:
//
//   column half 0:  token 0: 128 bytes | token 1 | ... | token 63      16-byte chunks swizzled: chunk c of token t lies
//   column half 1:  the same, 8192 bytes on                            at c ^ (t % 8), what TMA writes and wgmma reads
//
// The arena is one tensor of rows of a head's width; a block's region of 32 tokens is a box of 32 rows. A block that no row
// sees, or that is gone, is a box outside the tensor: zeros. In a block that is seen in part, keys of unseen tokens are
// masked, and values are set to zero in shared memory: their probabilities are 0, but the memory may hold NaN.
//
// Method: Shah et al., "FlashAttention-3", arXiv:2407.08608.
#pragma once
#include "attention.cuh"
#include "ptx_sm90a.cuh"

constexpr int kWarpgroup = 128;              // threads
constexpr int kConsumers = 2;                // warpgroups
constexpr int kHopperThreads = kWarpgroup * (1 + kConsumers);
constexpr int kGroupRows = 64;               // rows of a query tile that a warpgroup computes
constexpr int kTileTokens = 64;
constexpr int kMaxStages = 8;
constexpr int kRingOffset = 1024;            // of the ring from the barriers; its multiple too

struct alignas(64) TensorAttentionParams {
    TensorMap arena;        // [rows][head_dim], boxes of 32 x 64
    AttentionParams a;      // wide_slots: stages; narrow_slots, cache: unused
    uint32_t first_row;     // of the layer's keys of head 0 in a block at the arena's start
    uint32_t num_rows;
    uint32_t padding[4];
};

// What a kernel is made for: element type, head size.
template <class T_, int kDim_>
struct HopperHead {
    using T = T_;
    static constexpr int kDim = kDim_;
    static constexpr int kHalves = kDim / 64;
    static constexpr int kHalfBytes = kTileTokens * 128;
    static constexpr int kSlotBytes = kHalves * kHalfBytes;
    static constexpr int kSteps = kDim / 16;                        // products of a score
    static constexpr int kUnit = 16 * kDim + 128;                   // floats of 16 rows' partial result, as attention.cuh
    static constexpr int kOut = kDim / 2;                           // outputs a thread
    static_assert(kDim == 64 || kDim == 128, "rows of the ring");
};

// The ring, from the start of shared memory.
template <class H>
struct Ring {
    unsigned char* shared;
    uint32_t num_stages;
    uint32_t stage;
    uint32_t parity;  // of the phases of this stage's barriers that come next

    __device__ __forceinline__ explicit Ring(const TensorAttentionParams& p)
        : num_stages(p.a.wide_slots), stage(0), parity(0) {
        SHARED_MEMORY(unsigned char, memory);
        shared = memory;
    }
    __device__ __forceinline__ void advance() {
        stage = stage + 1 == num_stages ? 0 : stage + 1;
        parity ^= stage == 0;
    }
    // `values`: 0 for the keys of the stage, 1 for its values.
    __device__ __forceinline__ uint64_t* full(int values) const {
        return reinterpret_cast<uint64_t*>(shared) + stage * 4 + values;
    }
    __device__ __forceinline__ uint64_t* free(int values) const { return full(values) + 2; }
    __device__ __forceinline__ unsigned char* slot(int values) const {
        const uint32_t misaligned = shared_address(shared) % kRingOffset;
        const uint32_t first = misaligned == 0 ? kRingOffset : 2 * kRingOffset - misaligned;
        return shared + first + (stage * 2 + values) * H::kSlotBytes;
    }
    // Where a consumer notes whether its split was the last.
    __device__ __forceinline__ uint32_t* is_last(int consumer) const {
        return reinterpret_cast<uint32_t*>(shared + kMaxStages * 32) + consumer;
    }
    // By one thread, with a fence and a barrier of the block behind it.
    __device__ __forceinline__ void init() {
        for (; parity == 0; advance()) {
            for (int values = 0; values < 2; ++values) {
                mbarrier_init(full(values), 1);
                mbarrier_init(free(values), kConsumers * kWarpgroup / 32);
            }
        }
        parity = 0;
    }
    // Consumers: the slot may be written again once all of their warps have said so.
    __device__ __forceinline__ void let_go(int values) const {
        __syncwarp();
        if (threadIdx.x % 32 == 0) mbarrier_arrive(free(values));
    }
};

// One unit of the work list, and the tokens that any of its rows sees.
struct Task {
    WorkItem item;
    uint32_t kv_head;
    int first, end;              // tokens
    int first_tile, end_tile;    // KV tiles

    __device__ __forceinline__ Task(const AttentionParams& p, uint32_t number) : kv_head(number % p.num_kv_heads) {
        // Behind a header as long as an item.
        const uint4* words = reinterpret_cast<const uint4*>(p.work) + (number / p.num_kv_heads + 1) * 2;
        const uint4 low = words[0], high = words[1];
        item = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
        first = max(0, position(p, 0) + 1 - static_cast<int>(p.window));
        first_tile = item.tiles & 0xffff;
        end_tile = item.tiles >> 16;
        end = min(position(p, item.num_queries - 1) + 1, end_tile * kTileTokens);
    }
    // Where a row stands. Rows behind the last are computed like it, and dropped.
    __device__ __forceinline__ int position(const AttentionParams& p, int row) const {
        return item.start + (item.first_query + min(row, static_cast<int>(item.num_queries) - 1)) / p.group;
    }
};

// The block's units, in order.
template <class F>
__device__ __forceinline__ void for_each_task(const AttentionParams& p, const F& run) {
    for (uint32_t number = blockIdx.x; number < p.work[0] * p.num_kv_heads; number = next_unit(number)) run(Task(p, number));
}

// A consumer's rows of a task. The thread has two of them: row(0), and row(1) eight further.
struct GroupRows {
    int begin;             // of the warpgroup in the query tile
    int thread_row;
    int position[2];
    int last, full;        // position of the last row; where the last KV tile begins that the first row sees to the end
    int first_tile, end_tile;  // KV tiles of which a row sees a token

    __device__ __forceinline__ GroupRows(const AttentionParams& p, const Task& task, int consumer) {
        begin = consumer * kGroupRows;
        thread_row = begin + threadIdx.x % kWarpgroup / 32 * 16 + threadIdx.x % 32 / 4;
        for (int h = 0; h < 2; ++h) position[h] = task.position(p, row(h));
        last = task.position(p, begin + kGroupRows - 1);
        const int first_position = task.position(p, begin);
        full = first_position - (kTileTokens - 1);
        const int first_token = max(0, first_position + 1 - static_cast<int>(p.window));
        end_tile = any(task) ? min(task.end_tile, last / kTileTokens + 1) : task.first_tile;
        first_tile = min(max(task.first_tile, first_token / kTileTokens), end_tile);
    }
    __device__ __forceinline__ int row(int h) const { return thread_row + 8 * h; }
    __device__ __forceinline__ bool any(const Task& task) const { return begin < static_cast<int>(task.item.num_queries); }
    __device__ __forceinline__ bool has(const Task& task, int h) const {
        return row(h) < static_cast<int>(task.item.num_queries);
    }
    // Whether every row sees all of the KV tile at `token`.
    __device__ __forceinline__ bool sees_all(const AttentionParams& p, int token) const {
        return token <= full && static_cast<uint32_t>(last - token) < p.window;
    }
};

// What a thread holds of its two rows. Output 4 j + 2 h + i is column 8 j + 2 (lane % 4) + i of row h.
template <class H>
struct GroupState {
    float max[2];  // log2 of the largest probability's numerator
    float sum[2];  // of the thread's own columns, until a fold begins
    float out[H::kOut];

    __device__ __forceinline__ void clear() {
        max[0] = max[1] = -INFINITY;
        sum[0] = sum[1] = 0.0f;
#pragma unroll
        for (int i = 0; i < H::kOut; ++i) out[i] = 0.0f;
    }
};
