// Products of many rows with a block-quantised weight, each row with the bits that gemv_quant.cu gives it.
//
// A warp owns 16 rows of W and all rows of x that the block has. It keeps a packed slice (16 rows, 256 columns) in registers
// while the next is under way, and turns a step of 32 columns into a fragment once for all its rows of x; W needs no shared
// memory. x comes through kStages stages of 128 columns. Where a type has minima, the sums of x that they multiply are the
// same for every warp: the warps share them out, a stage at a time.
//
// What bounds it: in a step, a warp with 64 rows has 16 mma, 128 clocks of a tensor core on an A100 and 64 on an H100, beside
// 104 (Q4_0) to 190 (Q4_K: minima, sub-scales) instructions to issue, of which 32 to 64 are fma for scales and minima and some 50
// make the fragment. Shared memory moves 320 bytes a mma, 2.5 clocks of an SM, where a mma takes 2 and 1. So it is the reading of
// W up to about 100 rows and then issue: expect 45 to 55 % of an A100's rate and 20 to 30 % of an H100's.
#include "gemm.cuh"
#include "quant.cuh"

constexpr int kStages = 3;
constexpr int kWidth = kSliceColumns / 2;
constexpr int kSteps = kWidth / 32;
// Tiles of 8 rows of x whose mma are in flight together.
constexpr int kFlight = 4;

using Large = Tile<4, 1, 1, 8>;
using Small = Tile<4, 1, 1, 4>;

// 8 elements of a row of x as two fragments of B.
template <class T, class F>
__device__ __forceinline__ void load_x(const T* x, int row, int step, uint32_t* b) {
    const int t = threadIdx.x % 4;
    if (F::kHalves) {
        const uint2 low = *reinterpret_cast<const uint2*>(x + staged_at<kWidth>(row, 4 * step + t / 2) + t % 2 * 4);
        const uint2 high = *reinterpret_cast<const uint2*>(x + staged_at<kWidth>(row, 4 * step + 2 + t / 2) + t % 2 * 4);
        b[0] = low.x, b[1] = low.y, b[2] = high.x, b[3] = high.y;
    } else {
        const uint4 both = *reinterpret_cast<const uint4*>(x + staged_at<kWidth>(row, 4 * step + t));
        b[0] = both.x, b[1] = both.y, b[2] = both.z, b[3] = both.w;
    }
}

// sums[step][row of x], of half steps where a scale has 16 columns: what mma with ones gives, as the GEMV has it.
template <class T, class F, class Tile>
__device__ __forceinline__ void sum_x(const T* x, float* sums) {
    const uint32_t one = twice<T>(1.0f), ones[4] = {one, one, one, one};
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
        for (int tile = 0; tile < Tile::kM; tile += Tile::kThreads / 32) {
            const int row = (tile + warp) * 8;
            uint32_t b[4];
            load_x<T, F>(x, row + g, step, b);
            float x_sum[4] = {0, 0, 0, 0};
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                mma_m16n8k16<T>(x_sum, ones, b + 2 * i);
                if (!F::kHalves && i == 0) continue;
                float* out = sums + (F::kHalves ? 2 * step + i : step) * Tile::kRows + row + 2 * t;
                if (g == 0) *reinterpret_cast<float2*>(out) = make_float2(x_sum[0], x_sum[1]);
                x_sum[0] = x_sum[1] = x_sum[2] = x_sum[3] = 0;
            }
        }
    }
}

// sum += kFlight tiles of x from row `first` on times a step of W.
template <class T, class F, class Tile>
__device__ __forceinline__ void multiply_tiles(const uint32_t (*a)[4], const float2 (*scales)[2], const T* x, const float* sums,
                                               int first, int step, float (*sum)[4]) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    uint32_t b[kFlight][4];
    float c[kFlight][4] = {};
#pragma unroll
    for (int j = 0; j < kFlight; ++j) load_x<T, F>(x, first + 8 * j + g, step, b[j]);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < kFlight; ++j) mma_m16n8k16<T>(c[j], a[i], b[j] + 2 * i);
        if (!F::kHalves && i == 0) continue;
#pragma unroll
        for (int j = 0; j < kFlight; ++j) {
            const float* at = sums + (F::kHalves ? 2 * step + i : step) * Tile::kRows + first + 8 * j + 2 * t;
            const float2 pair = F::kMin ? *reinterpret_cast<const float2*>(at) : make_float2(0.0f, 0.0f);
            const float x_sum[4] = {pair.x, pair.y, pair.x, pair.y};
            add_scaled(sum[j], c[j], x_sum, scales[i][0], scales[i][1], F::kMin);
            c[j][0] = c[j][1] = c[j][2] = c[j][3] = 0;
        }
    }
}

// sum += half a slice of W, of which `steps` lie before k, times the stage of x.
template <class T, class F, class Tile, int kHalf>
__device__ __forceinline__ void multiply(const SliceRegisters<F>& w, const T* x, const float* sums, int steps, float (*sum)[4]) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
        // Only zeros follow; the branch also keeps the compiler from working on several steps at once.
        if (step >= steps) break;
        uint32_t a[2][4];
        float2 scales[2][2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            integer_fragment<T, F>(w, kHalf * kSteps + step, i, a[i]);
            scales[i][0] = scale_and_min<F>(w, 0, kHalf * kSteps + step, F::kHalves ? i : 0);
            scales[i][1] = scale_and_min<F>(w, 1, kHalf * kSteps + step, F::kHalves ? i : 0);
        }
#pragma unroll
        for (int j = 0; j < Tile::kM; j += kFlight) multiply_tiles<T, F, Tile>(a, scales, x, sums, 8 * j, step, sum + j);
    }
}

template <class T, class F, class Tile>
__device__ __forceinline__ void gemm_quant(const GemvParams& p) {
    constexpr int kStage = Tile::kRows * kWidth;
    static_assert(Tile::kRows * Tile::kOutRow * sizeof(float) <= kStages * kStage * sizeof(T), "results take the operands' place");
    SHARED_MEMORY(T, shared);
    SHARED(float, sums, F::kMin ? (F::kHalves ? 2 : 1) * kSteps * Tile::kRows : 4);
    const Origin at = tile_origin<Tile>(p);
    Walk<kSliceColumns, kWidth> walk(p.k), ahead(p.k);
    // A warp behind the last tile of W reads that tile; nobody writes what it computes.
    const int tile = min((at.n0 + Tile::warp_n()) / kTileRows, (p.n - 1) / kTileRows);
    const unsigned char* w = static_cast<const unsigned char*>(p.w) + static_cast<size_t>(tile) * walk.slices() * F::kSliceBytes;

    SliceRegisters<F> now, next;
    now.load(w, threadIdx.x % 32);
    wait_for_previous();
    launch_next();
    const auto ask = [&](int stage) {
        if (!ahead.done()) {
            stage_rows<T, Tile::kRows, kWidth, Tile::kThreads>(shared + stage * kStage, p.x, at.m0, p.m, ahead.first, p.k);
            ahead.advance();
        }
        cp_async_commit();
    };
    for (int stage = 0; stage < kStages - 1; ++stage) ask(stage);

    float total[1][Tile::kM][4] = {}, sum[1][Tile::kM][4] = {};
    int stage = 0, free_stage = kStages - 1;
    // This stage is there for all, and all have read the one before it, whose place the next one to ask for takes.
    const auto next_stage = [&] {
        cp_async_wait<kStages - 2>();
        __syncthreads();
        ask(free_stage);
        const T* x = shared + stage * kStage;
        free_stage = stage;
        stage = stage + 1 == kStages ? 0 : stage + 1;
        if (F::kMin) {
            sum_x<T, F, Tile>(x, sums);
            __syncthreads();
        }
        return x;
    };
    while (!walk.done()) {
        const int steps = (p.k - walk.first) / 32;
        const T* x = next_stage();
        Walk<kSliceColumns, kWidth> after = walk;
        after.advance();
        const bool turn_ends = after.advance();
        if (!after.done()) next.load(w + static_cast<size_t>(after.first / kSliceColumns) * F::kSliceBytes, threadIdx.x % 32);
        multiply<T, F, Tile, 0>(now, x, sums, steps, sum[0]);
        x = next_stage();
        multiply<T, F, Tile, 1>(now, x, sums, steps - kSteps, sum[0]);
        now = next;
        if (turn_ends) add_turn<1, Tile::kM>(total, sum);
        walk = after;
    }
    finish_tile<T, Tile>(p, reinterpret_cast<float*>(shared), total, at);
}

#define GEMM_QUANT(name, F)                                                                                                \
    KERNEL(gemm_large_##name##_bf16, GemvParams, Large::kThreads, 2) { gemm_quant<__nv_bfloat16, F, Large>(p); }          \
    KERNEL(gemm_large_##name##_f16, GemvParams, Large::kThreads, 2) { gemm_quant<__half, F, Large>(p); }                  \
    KERNEL(gemm_small_##name##_bf16, GemvParams, Small::kThreads, 2) { gemm_quant<__nv_bfloat16, F, Small>(p); }          \
    KERNEL(gemm_small_##name##_f16, GemvParams, Small::kThreads, 2) { gemm_quant<__half, F, Small>(p); }

GEMM_QUANT(q4_0, Q4_0)
GEMM_QUANT(q4_1, Q4_1)
GEMM_QUANT(q5_0, Q5_0)
GEMM_QUANT(q5_1, Q5_1)
GEMM_QUANT(q8_0, Q8_0)
GEMM_QUANT(q2_k, Q2_K)
GEMM_QUANT(q3_k, Q3_K)
GEMM_QUANT(q4_k, Q4_K)
GEMM_QUANT(q5_k, Q5_K)
GEMM_QUANT(q6_k, Q6_K)
