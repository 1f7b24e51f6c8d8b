// Products of many rows with a dense weight: y[m, n] = x[m, k] W[n, k]^T, each row with the bits that gemv.cu gives it.
//
// W is A of mma.m16n8k16 and the rows of x are its columns of B, 16 contiguous bytes a lane of either, as in gemv.cu. Tiles of
// W and x come through kStages stages of shared memory, 64 columns of k each.
//
// What bounds the large tile (128 rows of W, 128 of x; a warp 32 by 64): in 32 columns of k a warp reads 4 times 512 bytes of W
// and 8 times of x for 32 mma: 192 bytes a mma, and 64 more are written. Shared memory moves 128 bytes a clock, so a mma takes
// 2 clocks of an SM. That is an A100's full rate and half of an H100's (of which mma without wgmma reaches 0.6). With barriers
// and the ends of tiles, expect 60 % of an A100's rate, 40 % of an H100's. Two sets of sums a thread, 128 registers, leave no
// room for a larger tile.
#include "gemm.cuh"

constexpr int kStages = 3;
constexpr int kWidth = 64;
// The slice of gemv.cu.
constexpr int kSlice = 128;

using Large = Tile<4, 2, 2, 8>;
using Small = Tile<2, 2, 2, 4>;

// sum += W's rows times x's, over a stage. `zero` is 0, which the compiler must not know: mma wants words of two loads side by
// side, so they move; as operations they move once, as copies it moves them again for every mma.
template <class T, class Tile>
__device__ __forceinline__ void multiply(uint32_t zero, const T* w, const T* x, float (*sum)[Tile::kM][4]) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int w_row = Tile::warp_n() + g, x_row = Tile::warp_m() + g;
#pragma unroll
    for (int step = 0; step < kWidth / 32; ++step) {
        const int pack = 4 * step + t;
        uint4 low[Tile::kN], high[Tile::kN], b[Tile::kM];
#pragma unroll
        for (int i = 0; i < Tile::kN; ++i) {
            low[i] = *reinterpret_cast<const uint4*>(w + staged_at<kWidth>(w_row + 16 * i, pack));
            high[i] = *reinterpret_cast<const uint4*>(w + staged_at<kWidth>(w_row + 16 * i + 8, pack));
        }
#pragma unroll
        for (int j = 0; j < Tile::kM; ++j) b[j] = *reinterpret_cast<const uint4*>(x + staged_at<kWidth>(x_row + 8 * j, pack));
        // All first halves, then all second ones: no mma waits for the one in front of it.
#pragma unroll
        for (int i = 0; i < Tile::kN; ++i) {
            const uint32_t a0[4] = {low[i].x ^ zero, high[i].x ^ zero, low[i].y ^ zero, high[i].y ^ zero};
#pragma unroll
            for (int j = 0; j < Tile::kM; ++j) {
                const uint32_t b0[2] = {b[j].x, b[j].y};
                mma_m16n8k16<T>(sum[i][j], a0, b0);
            }
        }
#pragma unroll
        for (int i = 0; i < Tile::kN; ++i) {
            const uint32_t a1[4] = {low[i].z ^ zero, high[i].z ^ zero, low[i].w ^ zero, high[i].w ^ zero};
#pragma unroll
            for (int j = 0; j < Tile::kM; ++j) {
                const uint32_t b1[2] = {b[j].z, b[j].w};
                mma_m16n8k16<T>(sum[i][j], a1, b1);
            }
        }
    }
}

template <class T, class Tile>
__device__ __forceinline__ void gemm_tile(const GemvParams& p) {
    constexpr int kW = Tile::kColumns * kWidth, kStage = kW + Tile::kRows * kWidth;
    static_assert(Tile::kRows * Tile::kOutRow * sizeof(float) <= kStages * kStage * sizeof(T), "results take the operands' place");
    SHARED_MEMORY(T, shared);
    const Origin at = tile_origin<Tile>(p);
    const auto ask_w = [&](int stage, int first) {
        stage_rows<T, Tile::kColumns, kWidth, Tile::kThreads>(shared + stage * kStage, p.w, at.n0, p.n, first, p.k);
    };
    const auto ask_x = [&](int stage, int first) {
        stage_rows<T, Tile::kRows, kWidth, Tile::kThreads>(shared + stage * kStage + kW, p.x, at.m0, p.m, first, p.k);
    };

    // W doesn't depend on the kernel in front.
    static_assert((kStages - 1) * kWidth <= kSlice, "there is a slice to ask for");
    Walk<kSlice, kWidth> ahead(p.k);
    for (int stage = 0; stage < kStages - 1; ++stage) ask_w(stage, stage * kWidth);
    wait_for_previous();
    launch_next();
    for (int stage = 0; stage < kStages - 1; ++stage, ahead.advance()) {
        ask_x(stage, ahead.first);
        cp_async_commit();
    }

    // No gate: -1.
    const uint32_t zero = static_cast<uint32_t>(p.activation + 1);
    float total[Tile::kN][Tile::kM][4] = {}, sum[Tile::kN][Tile::kM][4] = {};
    int stage = 0, free_stage = kStages - 1;
    for (Walk<kSlice, kWidth> walk(p.k); !walk.done();) {
        cp_async_wait<kStages - 2>();
        // This stage is there for all, and all have read the one before it.
        __syncthreads();
        if (!ahead.done()) ask_w(free_stage, ahead.first), ask_x(free_stage, ahead.first), ahead.advance();
        cp_async_commit();
        multiply<T, Tile>(zero, shared + stage * kStage, shared + stage * kStage + kW, sum);
        if (walk.advance()) add_turn<Tile::kN, Tile::kM>(total, sum);
        free_stage = stage;
        stage = stage + 1 == kStages ? 0 : stage + 1;
    }
    finish_tile<T, Tile>(p, reinterpret_cast<float*>(shared), total, at);
}

KERNEL(gemm_large_bf16, GemvParams, Large::kThreads, 1) { gemm_tile<__nv_bfloat16, Large>(p); }
KERNEL(gemm_large_f16, GemvParams, Large::kThreads, 1) { gemm_tile<__half, Large>(p); }
KERNEL(gemm_small_bf16, GemvParams, Small::kThreads, 3) { gemm_tile<__nv_bfloat16, Small>(p); }
KERNEL(gemm_small_f16, GemvParams, Small::kThreads, 3) { gemm_tile<__half, Small>(p); }
