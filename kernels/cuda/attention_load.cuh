// Attention: what comes into shared memory. The ring of K and V tiles, and the queries.
#pragma once
#include "attention.cuh"

// Fills the ring, one K or V tile a call, in the order in which they are used. All threads hold the same numbers, and as
// few as can be: registers decide the size of a wide tile.
template <class S>
struct Loader {
    const AttentionParams& p;
    unsigned char* shared;
    uint32_t table;          // the sequence's first entry in p.tables
    uint32_t window, ahead;  // lane l: entry of block 32 w + l, and of 32 blocks on; w the window of the next tile
    int first, end;          // tokens that any row of the query tile sees and this unit reads
    uint32_t next;           // twice the tile to copy, + 1 for its values
    int slot;                // of the ring, where that goes

    __device__ __forceinline__ Loader(const AttentionParams& p_, unsigned char* shared_) : p(p_), shared(shared_) {
        const WorkItem& item = unit().item;
        const int first_position = item.start + item.first_query / p.group;
        const int last_position = item.start + (item.first_query + item.num_queries - 1) / p.group;
        table = item.slot * p.max_blocks;
        first = max(0, first_position + 1 - static_cast<int>(p.window));
        end = min(last_position + 1, static_cast<int>(item.tiles >> 16) * S::kTile);
        next = (item.tiles & 0xffff) * 2;
        slot = 0;
        const int block = next / 2 * (S::kTile / kBlockTokens);
        ahead = entry(block & ~31);
        if (block % 32 != 0) {
            window = ahead;
            ahead = entry((block & ~31) + 32);
        }
#pragma unroll 1
        for (int i = 0; i < slots() - 1; ++i) issue();
    }

    __device__ __forceinline__ const Unit& unit() const { return *reinterpret_cast<const Unit*>(shared); }
    __device__ __forceinline__ int slots() const { return S::kRows > kNarrowRows ? p.wide_slots : p.narrow_slots; }

    // The lane's entry of 32 from `block` on; 0 behind the last.
    __device__ __forceinline__ uint32_t entry(int block) const {
        block += threadIdx.x % 32;
        return block * kBlockTokens < end ? p.tables[static_cast<size_t>(table) + block] : 0;
    }

    // Begins the next copy, if there is one, and closes its group.
    __device__ __forceinline__ void issue() {
        if (next < (static_cast<uint32_t>(end) + S::kTile - 1) / S::kTile * 2) {
            const uint32_t block = next / 2 * (S::kTile / kBlockTokens);
            if (next % 2 == 0 && block % 32 == 0) {
                window = ahead;
                ahead = entry(block + 32);
            }
            const uint32_t low = __shfl_sync(kFullMask, window, block % 32);
            const uint32_t high = S::kTile > kBlockTokens ? __shfl_sync(kFullMask, window, block % 32 + 1) : 0;
            // Heads' keys lie one behind the other, then their values.
            copy(low, high, unit().kv_head + next % 2 * p.num_kv_heads);
            ++next;
        }
        cp_async_commit();
        slot = slot + 1 == slots() ? 0 : slot + 1;
    }

    // The slot of the next copy: behind `issue`, the one to be read.
    __device__ __forceinline__ const unsigned char* current() const { return shared + S::kRing + slot * S::kSlotBytes; }

    // Copies a tile, a region of each of its blocks. Tokens that no row sees become zeros: their blocks may be gone or
    // unwritten.
    __device__ __forceinline__ void copy(uint32_t low, uint32_t high, uint32_t region) {
        // A pass copies whole rows; where rows don't divide the threads some idle.
        constexpr int kRows = kThreads / S::kChunks, kPasses = (S::kTile + kRows - 1) / kRows;
        constexpr bool kExact = kThreads % S::kChunks == 0;
        const int first_row = threadIdx.x / S::kChunks, column = threadIdx.x % S::kChunks * 16;
        unsigned char* to = shared + S::kRing + slot * S::kSlotBytes + first_row * S::kPitch + column;
        const unsigned char* regions = p.cache + static_cast<size_t>(region) * S::kRegionBytes;
        const unsigned char* from_low = regions + static_cast<size_t>(low) * 64 + first_row * S::kRowBytes + column;
        const unsigned char* from_high =
            regions + static_cast<size_t>(high) * 64 + (first_row - kBlockTokens) * S::kRowBytes + column;
        const int first_token = static_cast<int>(next / 2 * S::kTile) + first_row;
        if (!kExact && first_row >= kRows) return;
#pragma unroll
        for (int i = 0; i < kPasses; ++i) {
            if (!kExact && first_row + i * kRows >= S::kTile) break;
            const int token = first_token + i * kRows;
            const bool valid = token >= first && token < end;
            const bool is_high = kExact ? i * kRows >= kBlockTokens : first_row + i * kRows >= kBlockTokens;
            const unsigned char* from = (is_high ? from_high : from_low) + i * kRows * S::kRowBytes;
            cp_async_16(to + i * kRows * S::kPitch, valid ? from : p.cache, valid);
        }
    }
};

// Waits until all but the `pending` latest groups of copies have landed; the instruction wants a constant.
__device__ __forceinline__ void wait_for_copies(int pending) {
    switch (pending) {
        case 0: cp_async_wait<0>(); break;
        case 1: cp_async_wait<1>(); break;
        case 2: cp_async_wait<2>(); break;
        case 3: cp_async_wait<3>(); break;
        case 4: cp_async_wait<4>(); break;
        case 5: cp_async_wait<5>(); break;
        default: cp_async_wait<6>(); break;
    }
}

// Brings the tile's queries to shared memory; rows that don't exist become zeros. Beside an FP8 cache the words of 16
// columns are stored in the order 0 2 4 6 1 3 5 7: what a lane's four bytes of a key stand for.
template <class S>
__device__ __forceinline__ void load_queries(const AttentionParams& p, const Unit& unit, unsigned char* shared) {
    using T = typename S::T;
    const WorkItem& item = unit.item;
    constexpr uint32_t kChunks = S::kDim / 8, kPass = kThreads / kChunks;
    const uint32_t first_row = threadIdx.x / kChunks, chunk = threadIdx.x % kChunks;
    const T* qkv = static_cast<const T*>(p.qkv) + static_cast<size_t>(item.first_row) * p.row_stride +
                   static_cast<size_t>(unit.kv_head) * p.group * S::kDim + chunk * 8;
    if (first_row >= kPass) return;
#pragma unroll 4
    for (uint32_t row = first_row; row < S::kRows; row += kPass) {
        uint4 words = make_uint4(0, 0, 0, 0);
        if (row < item.num_queries) {
            const uint32_t query = item.first_query + row, token = query / p.group, head = query % p.group;
            words = *reinterpret_cast<const uint4*>(qkv + static_cast<size_t>(token) * p.row_stride + head * S::kDim);
        }
        unsigned char* to = shared + S::kQueries + row * S::kQueryPitch;
        if (S::kFp8) {
            uint2* half = reinterpret_cast<uint2*>(to + chunk / 2 * 32 + chunk % 2 * 8);
            half[0] = make_uint2(words.x, words.z);
            half[2] = make_uint2(words.y, words.w);
        } else {
            *reinterpret_cast<uint4*>(to + chunk * 16) = words;
        }
    }
}
