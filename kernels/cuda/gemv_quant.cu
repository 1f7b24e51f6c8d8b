// Products of few rows with a block-quantised weight: y[m, n] = x[m, k] W[n, k]^T, W packed as quant.cuh says.
//
// As gemv.cu, a block owns 16 rows of W (two tiles where rows belong together: a gate tile and its up tile, values of heads
// and their partners in rope), its warps take turns at slices of 256 columns, and their sums are added in the order of the
// warps. The integers are exact in T, so mma multiplies them as they are; a step's sum is scaled in f32. Where a type has
// minima, mma with ones gives the sums of x that they multiply.
#include "gemv.cuh"
#include "quant.cuh"

// A warp's copy of its slice of x, normed: rows of 576 bytes, so that the reads below touch every bank once.
constexpr int kStagedRow = kSliceColumns + 32;

// Copies 8 columns a lane of the block's rows of x; columns from k on are zeros. Rows that the block lacks stay what they
// were: a column of B meets only its own column of the result, and theirs is not written.
template <class T>
__device__ __forceinline__ void stage_x(const GemvParams& p, T* staged, int m0, int first, float factor) {
    const int lane = threadIdx.x % 32, column = first + 8 * lane;
    const T* x = static_cast<const T*>(p.x) + static_cast<size_t>(m0) * p.k + column;
    const bool valid = column < p.k;
    float weight[8];
    if (p.norm_weight && valid) load_norm_weight(p, column, weight);
    // The slice before has been read. The emulator can't miss this line, since mma joins the lanes too; a compiler may move the
    // stores below across mma.
    __syncwarp();
    for (int row = 0; row < min(p.m - m0, kBatch); ++row) {
        uint4 raw = load_16_if(valid, x + static_cast<size_t>(row) * p.k);
        const float row_factor = __shfl_sync(kFullMask, factor, 4 * row);
        if (p.norm_weight && valid) raw = normed<T>(raw, weight, row_factor);
        *reinterpret_cast<uint4*>(staged + row * kStagedRow + 8 * lane) = raw;
    }
    __syncwarp();
}

// 8 elements of row g of x as two fragments of B.
template <class T, class F>
__device__ __forceinline__ void load_x(const T* staged, int step, uint32_t* b) {
    const T* row = staged + threadIdx.x % 32 / 4 * kStagedRow + 32 * step;
    const int t = threadIdx.x % 4;
    if (F::kHalves) {
        const uint2 low = *reinterpret_cast<const uint2*>(row + first_column<F>(t));
        const uint2 high = *reinterpret_cast<const uint2*>(row + second_column<F>(t));
        b[0] = low.x, b[1] = low.y, b[2] = high.x, b[3] = high.y;
    } else {
        const uint4 both = *reinterpret_cast<const uint4*>(row + first_column<F>(t));
        b[0] = both.x, b[1] = both.y, b[2] = both.z, b[3] = both.w;
    }
}

// d[16][8] += the slice times x; the slice has `steps` steps before k.
template <class T, class F>
__device__ __forceinline__ void multiply(const SliceRegisters<F>& w, const T* staged, int steps, float* d) {
    const uint32_t one = twice<T>(1.0f), ones[4] = {one, one, one, one};
#pragma unroll
    for (int step = 0; step < kSliceSteps; ++step) {
        // Only zeros follow. The branch also keeps the compiler from working on several steps at once, for which the registers
        // don't suffice.
        if (step >= steps) break;
        uint32_t b[4];
        load_x<T, F>(staged, step, b);
        float c[4] = {0, 0, 0, 0}, x_sum[4] = {0, 0, 0, 0};
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            uint32_t a[4];
            integer_fragment<T, F>(w, step, i, a);
            mma_m16n8k16<T>(c, a, b + 2 * i);
            if (F::kMin) mma_m16n8k16<T>(x_sum, ones, b + 2 * i);
            if (F::kHalves || i == 1) {
                add_scaled(d, c, x_sum, scale_and_min<F>(w, 0, step, i), scale_and_min<F>(w, 1, step, i), F::kMin);
#pragma unroll
                for (int j = 0; j < 4; ++j) c[j] = x_sum[j] = 0;
            }
        }
    }
}

// Whether a block owns two tiles, whose rows belong together.
__device__ __forceinline__ bool two_tiles(const GemvParams& p) {
    return p.activation >= 0 || (p.heads.pairs && !p.heads.interleaved);
}
__device__ __forceinline__ int group_of(const GemvParams& p) { return two_tiles(p) ? kTileRows : kTileRows / 2; }

// Adds the warps' sums and writes the block's results.
template <class T>
__device__ __forceinline__ void finish(const GemvParams& p, const float* d, const float* other) {
    SHARED(float, partial, 2 * kWarps * 16 * kBatch);
    float* other_partial = partial + kWarps * 16 * kBatch;
    const bool gated = p.activation >= 0;
    put_partial(partial, d);
    if (two_tiles(p)) put_partial(other_partial, other);
    // Found again here: through the loop there is no register for them.
    const int m0 = first_x_row(p);
    const RowPair rows = row_pair(p, group_of(p));
    if (p.heads.head_dim) return finish_heads<T>(p, partial, m0, rows, group_of(p));
    __syncthreads();
    const int x_row = threadIdx.x / 16, i = threadIdx.x % 16, n = rows.low + i;
    if (m0 + x_row >= p.m || x_row >= kBatch || n >= p.n) return;
    float value = total(partial, i, x_row) + bias_of<T>(p, n);
    if (gated) value = activate_any(p.activation, value) * (total(other_partial, i, x_row) + bias_of<T>(p, p.n + n));
    put<T>(p, m0 + x_row, n, value);
}

template <class T, class F>
__device__ __forceinline__ void gemv_quant(const GemvParams& p) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4;
    const int m0 = first_x_row(p);
    const RowPair rows = row_pair(p, group_of(p));
    const int slices = (p.k + kSliceColumns - 1) / kSliceColumns;
    const int parts = two_tiles(p) ? 2 : 1;
    const size_t tile_bytes = static_cast<size_t>(slices) * F::kSliceBytes;
    const unsigned char* w = static_cast<const unsigned char*>(p.w) + rows.low / kTileRows * tile_bytes;
    // Slices from one of two tiles to the other.
    const int apart = (rows.high - rows.low) / kTileRows * slices;

    SliceRegisters<F> now, next;
    if (warp < slices) now.load(w + static_cast<size_t>(warp) * F::kSliceBytes, lane);
    wait_for_previous();
    launch_next();

    const float factor = p.norm_weight ? norm_factor<T>(p, m0, g) : 1.0f;
    SHARED(uint4, staged_x, kWarps * kBatch * kStagedRow / 8);
    T* staged = reinterpret_cast<T*>(staged_x) + warp * kBatch * kStagedRow;
    float d[4] = {0, 0, 0, 0}, other[4] = {0, 0, 0, 0};
    for (int slice = warp; slice < slices; slice += kWarps) {
        const int first = slice * kSliceColumns;
        stage_x<T>(p, staged, m0, first, factor);
        for (int part = 0; part < parts; ++part) {
            const bool stay = part + 1 < parts;
            const int next_slice = stay ? slice : slice + kWarps;
            if (next_slice < slices) {
                next.load(w + static_cast<size_t>(stay ? apart + slice : next_slice) * F::kSliceBytes, lane);
            }
            multiply<T, F>(now, staged, (p.k - first) / 32, d);
            now = next;
            // The two tiles take turns, and after both each is back in its place.
            if (parts == 2) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const float kept = d[i];
                    d[i] = other[i], other[i] = kept;
                }
            }
        }
    }
    finish<T>(p, d, other);
}

#define GEMV_QUANT(name, F)                                                                            \
    KERNEL(gemv_##name##_bf16, GemvParams, kThreads, 2) { gemv_quant<__nv_bfloat16, F>(p); }           \
    KERNEL(gemv_##name##_f16, GemvParams, kThreads, 2) { gemv_quant<__half, F>(p); }

GEMV_QUANT(q4_0, Q4_0)
GEMV_QUANT(q4_1, Q4_1)
GEMV_QUANT(q5_0, Q5_0)
GEMV_QUANT(q5_1, Q5_1)
GEMV_QUANT(q8_0, Q8_0)
GEMV_QUANT(q2_k, Q2_K)
GEMV_QUANT(q3_k, Q3_K)
GEMV_QUANT(q4_k, Q4_K)
GEMV_QUANT(q5_k, Q5_K)
GEMV_QUANT(q6_k, Q6_K)
