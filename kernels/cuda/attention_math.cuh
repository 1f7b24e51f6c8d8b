// Attention: one KV tile's arithmetic. Scores, the online softmax, output sums.
#pragma once
#include "attention.cuh"

// An A fragment: 16 rows x 16 columns of T in shared memory, `row` the first, `chunk` the first of two.
__device__ __forceinline__ void load_a(uint32_t* a, const unsigned char* row, int pitch, int chunk) {
    const int lane = threadIdx.x % 32;
    ldmatrix_x4(a, row + (lane % 16) * pitch + (chunk + lane / 16) * 16);
}

// Two e4m3 values, in the upper bytes of the halves of `x`, as two values of T. Their bits, moved to where T has exponent
// and mantissa, are the value times 2^-8 (f16) or 2^-120 (bf16), subnormals too.
template <class T>
__device__ __forceinline__ uint32_t widen_e4m3(uint32_t x);
template <>
__device__ __forceinline__ uint32_t widen_e4m3<__half>(uint32_t x) {
    return multiply_pair<__half>((x & 0x80008000u) | (x >> 1 & 0x3f803f80u), 0x5c005c00u);
}
template <>
__device__ __forceinline__ uint32_t widen_e4m3<__nv_bfloat16>(uint32_t x) {
    return multiply_pair<__nv_bfloat16>((x & 0x80008000u) | (x >> 4 & 0x07f007f0u), 0x7b807b80u);
}

// Scores of the warp's rows and its tokens of the tile in `keys`: q.k, in steps of 16.
//
// One ldmatrix brings kTiles 8-token tiles x kSpan 16-byte chunks; two chunks are a step, or one of FP8. Of the ways to cut
// the four matrices the one that holds the fewest fragments of Q.
template <class S>
__device__ __forceinline__ void score(const Rows<S>& rows, const unsigned char* queries, const unsigned char* keys,
                                      float (&s)[S::kMmas][S::kScoreTiles][4]) {
    using T = typename S::T;
    constexpr int kTiles = S::kFp8 && S::kScoreTiles >= 4 ? 4 : S::kScoreTiles > 1 ? 2 : 1;
    constexpr int kSpan = 4 / kTiles, kStepChunks = S::kFp8 ? 1 : 2;
    constexpr int kSubsteps = kSpan / kStepChunks;
#pragma unroll
    for (int n = 0; n < S::kMmas * S::kScoreTiles * 4; ++n) s[n / (S::kScoreTiles * 4)][n / 4 % S::kScoreTiles][n % 4] = 0.0f;
    const int matrix = rows.lane() / 8;
    const unsigned char* first_query = queries + rows.row_warp() * 16 * S::kMmas * S::kQueryPitch;
    const unsigned char* lane_key =
        keys + (rows.column_warp() * S::kScoreTiles * 8 + matrix / kSpan * 8 + rows.lane() % 8) * S::kPitch;
#pragma unroll
    for (int step = 0; step < S::kSteps; step += kSubsteps) {
        uint32_t a[kSubsteps][S::kMmas][4];
#pragma unroll
        for (int sub = 0; sub < kSubsteps; ++sub) {
            if (step + sub >= S::kSteps) break;
#pragma unroll
            for (int m = 0; m < S::kMmas; ++m) {
                load_a(a[sub][m], first_query + 16 * m * S::kQueryPitch, S::kQueryPitch, 2 * (step + sub));
            }
        }
        // A chunk behind the row's end is not used; any that exists will do.
        int chunk = step * kStepChunks + matrix % kSpan;
        if (S::kChunks % kSpan != 0) chunk = min(chunk, S::kChunks - 1);
#pragma unroll
        for (int j = 0; j < S::kScoreTiles; j += kTiles) {
            uint32_t raw[4];
            ldmatrix_x4(raw, lane_key + j * 8 * S::kPitch + chunk * 16);
#pragma unroll
            for (int sub = 0; sub < kSubsteps; ++sub) {
                if (step + sub >= S::kSteps) break;
#pragma unroll
                for (int k = 0; k < kTiles; ++k) {
                    uint32_t b[2];
                    if (S::kFp8) {
                        const uint32_t bytes = raw[k * kSpan + sub];
                        b[0] = widen_e4m3<T>(__byte_perm(bytes, 0, 0x1404));
                        b[1] = widen_e4m3<T>(__byte_perm(bytes, 0, 0x3424));
                    } else {
                        b[0] = raw[k * kSpan + sub * 2];
                        b[1] = raw[k * kSpan + sub * 2 + 1];
                    }
#pragma unroll
                    for (int m = 0; m < S::kMmas; ++m) mma_m16n8k16<T>(s[m][j + k], a[sub][m], b);
                }
            }
        }
    }
}

// Soft cap (as tanh; the factor is in score_factor), then -inf where the row doesn't see the token.
template <class S>
__device__ __forceinline__ void cap_and_mask(const AttentionParams& p, const Rows<S>& rows, int token,
                                             float (&s)[S::kMmas][S::kScoreTiles][4]) {
    const bool capped = p.cap_factor != 0.0f, whole = rows.sees_all(token);
    if (!capped && whole) return;
#pragma unroll
    for (int m = 0; m < S::kMmas; ++m) {
        // Computed where they are wanted, for few tiles are cut: registers are scarcer than divisions.
        int position[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) position[h] = rows.position(rows.row(m, h));
#pragma unroll
        for (int j = 0; j < S::kScoreTiles; ++j) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                // tanh(x) = 1 - 2 / (e^2x + 1): exact to 2^-22 of the cap, from -1 to 1 without a branch.
                if (capped) s[m][j][i] = 1.0f - __fdividef(2.0f, exp2_approx(s[m][j][i] * p.cap_factor) + 1.0f);
                const int column = token + (rows.column_warp() * S::kScoreTiles + j) * 8 + rows.lane() % 4 * 2 + i % 2;
                // A later token wraps round to a distance no window has.
                const uint32_t distance = position[i / 2] - column;
                if (!whole && distance >= p.window) s[m][j][i] = -INFINITY;
            }
        }
    }
}

// The rows' new maxima; of all tokens of the tile, also of those that other warps scored.
template <class S>
__device__ __forceinline__ void find_maxima(float factor, const Rows<S>& rows, unsigned char* shared,
                                            const float (&s)[S::kMmas][S::kScoreTiles][4], float (&maxima)[S::kMmas][2]) {
    float* exchange = reinterpret_cast<float*>(shared + S::kMaxima);
#pragma unroll
    for (int m = 0; m < S::kMmas; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float largest = s[m][0][2 * h];
#pragma unroll
            for (int n = 1; n < S::kScoreTiles * 2; ++n) largest = fmaxf(largest, s[m][n / 2][2 * h + n % 2]);
            largest = fmaxf(largest, __shfl_xor_sync(kFullMask, largest, 1));
            largest = fmaxf(largest, __shfl_xor_sync(kFullMask, largest, 2));
            maxima[m][h] = __fmul_rn(largest, factor);
            if (S::kExchange && rows.lane() % 4 == 0) exchange[rows.column_warp() * S::kRows + rows.row(m, h)] = maxima[m][h];
        }
    }
    if (!S::kExchange) return;
    __syncthreads();
#pragma unroll
    for (int n = 0; n < S::kMmas * 2; ++n) {
#pragma unroll
        for (int warp = 0; warp < S::kColumnWarps; ++warp) {
            maxima[n / 2][n % 2] = fmaxf(maxima[n / 2][n % 2], exchange[warp * S::kRows + rows.row(n / 2, n % 2)]);
        }
    }
}

// Moves the state's maxima on and turns scores into probabilities relative to them, in place. `scale` becomes what the
// sums must be multiplied with.
template <class S>
__device__ __forceinline__ void soften(float factor, const float (&maxima)[S::kMmas][2], State<S>& state,
                                       float (&s)[S::kMmas][S::kScoreTiles][4], float (&scale)[S::kMmas][2]) {
#pragma unroll
    for (int m = 0; m < S::kMmas; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const float largest = fmaxf(state.max[m][h], maxima[m][h]);
            // Nothing seen yet: -inf - 0 keeps factor and probabilities at 0.
            const float base = largest == -INFINITY ? 0.0f : largest;
            scale[m][h] = exp2_approx(state.max[m][h] - base);
            state.max[m][h] = largest;
#pragma unroll
            for (int n = 0; n < S::kScoreTiles * 2; ++n) {
                float& x = s[m][n / 2][2 * h + n % 2];
                x = exp2_approx(__fmaf_rn(x, factor, -base));
            }
        }
    }
}

// Multiplies the sums. A product with 1 changes nothing, and in a long row the maximum hardly ever moves.
template <class S>
__device__ __forceinline__ void rescale(const float (&scale)[S::kMmas][2], State<S>& state) {
    bool moved = false;
#pragma unroll
    for (int n = 0; n < S::kMmas * 2; ++n) moved |= scale[n / 2][n % 2] != 1.0f;
    if (!__any_sync(kFullMask, moved)) return;
#pragma unroll
    for (int m = 0; m < S::kMmas; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) state.sum[m][h] *= scale[m][h];
#pragma unroll
        for (int n = 0; n < S::kGroups * 8; ++n) state.out[m][n / 8][n / 4 % 2][n % 4] *= scale[m][n % 4 / 2];
    }
}

// Probabilities as A fragments of `kTile / 16` steps, kept by the warp that made them.
template <class S>
__device__ __forceinline__ void pack_probabilities(const float (&s)[S::kMmas][S::kScoreTiles][4],
                                                   uint32_t (&a)[S::kMmas][S::kTile / 16][4]) {
    using T = typename S::T;
#pragma unroll
    for (int m = 0; m < S::kMmas; ++m) {
#pragma unroll
        for (int n = 0; n < S::kTile / 4; ++n) {
            const float* pair = &s[m][n / 2][n % 2 * 2];
            a[m][n / 4][n % 4] = pack_pair<T>(pair[0], pair[1]);
        }
    }
}

// The same through shared memory, for all warps: readable behind the next barrier.
template <class S>
__device__ __forceinline__ void share_probabilities(const Rows<S>& rows, const float (&s)[S::kMmas][S::kScoreTiles][4],
                                                    unsigned char* probs) {
    using T = typename S::T;
#pragma unroll
    for (int m = 0; m < S::kMmas; ++m) {
#pragma unroll
        for (int n = 0; n < S::kScoreTiles * 2; ++n) {
            unsigned char* row = probs + rows.row(m, n % 2) * S::kProbPitch;
            const int column = (rows.column_warp() * S::kScoreTiles + n / 2) * 8 + rows.lane() % 4 * 2;
            const float* pair = &s[m][n / 2][n % 2 * 2];
            *reinterpret_cast<uint32_t*>(row + column * 2) = pack_pair<T>(pair[0], pair[1]);
        }
    }
}

// state.out += P V and state.sum += P 1 over the tile in `values`.
template <class S>
__device__ __forceinline__ void accumulate(const Rows<S>& rows, const unsigned char* values,
                                           const uint32_t (&a)[S::kMmas][S::kTile / 16][4], State<S>& state) {
    using T = typename S::T;
    const uint32_t one = pack_pair<T>(1.0f, 1.0f), ones[2] = {one, one};
    const int matrix = rows.lane() / 8;
    // Matrices of one ldmatrix: tokens 0-7 and 8-15, then the next 16 bytes; FP8: tokens 0-7, 8-15, 16-23, 24-31.
    const unsigned char* lane_value =
        values + ((S::kFp8 ? matrix : matrix % 2) * 8 + rows.lane() % 8) * S::kPitch + (S::kFp8 ? 0 : matrix / 2 * 16);
#pragma unroll
    for (int m = 0; m < S::kMmas; ++m) {
        // All columns are alike; one of them is kept.
        float sum[4] = {state.sum[m][0], 0.0f, state.sum[m][1], 0.0f};
#pragma unroll
        for (int step = 0; step < S::kTile / 16; ++step) mma_m16n8k16<T>(sum, a[m][step], ones);
        state.sum[m][0] = sum[0];
        state.sum[m][1] = sum[2];
    }
#pragma unroll
    for (int i = 0; i < S::kGroups; ++i) {
        const int group = rows.column_warp() + i * S::kColumnWarps;
        if (S::kSteps % S::kColumnWarps != 0 && group >= S::kSteps) break;
        const unsigned char* column = lane_value + group * (S::kFp8 ? 16 : 32);
#pragma unroll
        for (int step = 0; step < S::kTile / 16; step += S::kFp8 ? 2 : 1) {
            uint32_t raw[4];
            ldmatrix_x4_trans(raw, column + step * 16 * S::kPitch);
#pragma unroll
            for (int sub = 0; sub < (S::kFp8 ? 2 : 1); ++sub) {
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    uint32_t b[2];
#pragma unroll
                    for (int k = 0; k < 2; ++k) {
                        // Bytes 0 and 2 are two tokens of an even column, 1 and 3 of the odd one beside it.
                        b[k] = S::kFp8 ? widen_e4m3<T>(__byte_perm(raw[2 * sub + k], 0, e == 0 ? 0x2404 : 0x3414))
                                       : raw[2 * e + k];
                    }
#pragma unroll
                    for (int m = 0; m < S::kMmas; ++m) mma_m16n8k16<T>(state.out[m][i][e], a[m][step + sub], b);
                }
            }
        }
    }
}
