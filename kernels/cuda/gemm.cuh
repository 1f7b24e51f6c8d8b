// What the products of many rows share: which tile a block takes, the order of k, tiles in shared memory, the results' way out.
//
// A row of x gets the very bits that the GEMV gives it. There, 8 warps share out slices of k, warp w slices w, w + 8, ..,
// and their sums are added in the order of the warps. Here one warp does the same alone: all slices of w = 0 in turn, then all
// of w = 1, .. with a fresh sum for each, which is added to a total. The instructions and their operands are the GEMV's.
#pragma once
#include "gemv.cuh"

// What a block computes: kWarpsN x kWarpsM warps, each 16 kN rows of W by 8 kM rows of x.
template <int kWarpsN, int kWarpsM, int kNTiles, int kMTiles>
struct Tile {
    static constexpr int kN = kNTiles, kM = kMTiles;
    static constexpr int kThreads = 32 * kWarpsN * kWarpsM;
    static constexpr int kColumns = kWarpsN * 16 * kN;  // rows of W, columns of y
    static constexpr int kRows = kWarpsM * 8 * kM;      // rows of x and y
    static constexpr int kOutRow = kColumns + 4;        // floats of a staged row of y: 8 rows of a lane's 2 touch every bank

    // Where this warp's part begins in the block's.
    static __device__ __forceinline__ int warp_n() { return threadIdx.x / 32 % kWarpsN * 16 * kN; }
    static __device__ __forceinline__ int warp_m() { return threadIdx.x / 32 / kWarpsN * 8 * kM; }
};

// Tiles of x that go through W side by side: neighbours in time find both operands in the L2 cache.
constexpr int kGroup = 8;

struct Origin {
    int m0, n0;
};
template <class Tile>
__device__ __forceinline__ Origin tile_origin(const GemvParams& p) {
    const int group_blocks = (p.n + Tile::kColumns - 1) / Tile::kColumns * kGroup;
    const int first = blockIdx.x / group_blocks * kGroup, at = blockIdx.x % group_blocks;
    const int group = min(p.m_tiles - first, kGroup);
    return {(first + at % group) * Tile::kRows, at / group * Tile::kColumns};
}

// The columns of k in the order of the GEMV's warps, kWidth at a time, up to the end of the last slice.
template <int kSliceWidth, int kWidth>
struct Walk {
    int k;
    int first = 0;
    int warp = 0;

    __device__ __forceinline__ explicit Walk(int columns) : k(columns) {}
    __device__ __forceinline__ int slices() const { return (k + kSliceWidth - 1) / kSliceWidth; }
    __device__ __forceinline__ bool done() const { return warp == kWarps || first >= slices() * kSliceWidth; }
    // Steps on; true where the warp's last slice is done.
    __device__ __forceinline__ bool advance() {
        first += kWidth;
        if (first % kSliceWidth != 0) return false;
        first += (kWarps - 1) * kSliceWidth;
        if (first < k) return false;
        first = ++warp * kSliceWidth;
        return true;
    }
};

// Where 8 elements of a row of kWidth lie in a staged tile. Lanes (g, t) read packs 4 s + t of rows g, 16 bytes each, or
// packs 4 s + t / 2, 8 bytes each: either touches every bank once where bit 2 of the pack is crossed with bit 0 of the row,
// and bit 1 with bit 1.
template <int kWidth>
__device__ __forceinline__ int staged_at(int row, int pack) {
    return row * kWidth + 8 * (pack ^ ((row & 1) << 2 | (row & 2)));
}

// Asks for rows row0 .. + kRows of a [rows, k] matrix, columns first .. + kWidth; zeros where it has none.
template <class T, int kRows, int kWidth, int kBlock>
__device__ __forceinline__ void stage_rows(T* staged, const void* matrix, int row0, int rows, int first, int k) {
    constexpr int kPacks = kWidth / 8, kTurnRows = kBlock / kPacks;
    const int pack = threadIdx.x % kPacks, row = threadIdx.x / kPacks, column = first + 8 * pack;
    const T* from = static_cast<const T*>(matrix) + static_cast<size_t>(row0 + row) * k + column;
#pragma unroll
    for (int i = 0; i < kRows; i += kTurnRows) {
        cp_async_16(staged + staged_at<kWidth>(row + i, pack), from + static_cast<size_t>(i) * k,
                    row0 + row + i < rows && column < k);
    }
}

// A sum onto its total; the next begins at 0.
template <int kN, int kM>
__device__ __forceinline__ void add_turn(float (*total)[kM][4], float (*sum)[kM][4]) {
#pragma unroll
    for (int i = 0; i < kN; ++i) {
#pragma unroll
        for (int j = 0; j < kM; ++j) {
#pragma unroll
            for (int e = 0; e < 4; ++e) total[i][j][e] += sum[i][j][e], sum[i][j][e] = 0.0f;
        }
    }
}

// Writes the block's results, by way of shared memory: neighbours in n by neighbouring threads. All threads call it.
template <class T, class Tile>
__device__ __forceinline__ void finish_tile(const GemvParams& p, float* out, const float (*total)[Tile::kM][4], Origin at) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    // `out` takes the place of the operands.
    __syncthreads();
#pragma unroll
    for (int j = 0; j < Tile::kM; ++j) {
        float* row = out + (Tile::warp_m() + 8 * j + 2 * t) * Tile::kOutRow + Tile::warp_n() + g;
#pragma unroll
        for (int i = 0; i < Tile::kN; ++i) {
            const float* d = total[i][j];
            row[16 * i] = d[0], row[Tile::kOutRow + 16 * i] = d[1];
            row[16 * i + 8] = d[2], row[Tile::kOutRow + 16 * i + 8] = d[3];
        }
    }
    __syncthreads();
    const int rows = min(p.m - at.m0, Tile::kRows), columns = min(p.n - at.n0, Tile::kColumns);
    for (int column = lane; column < columns; column += 32) {
        const int n = at.n0 + column;
        const float bias = bias_of<T>(p, n);
        for (int row = threadIdx.x / 32; row < rows; row += Tile::kThreads / 32) {
            put<T>(p, at.m0 + row, n, out[row * Tile::kOutRow + column] + bias);
        }
    }
}
