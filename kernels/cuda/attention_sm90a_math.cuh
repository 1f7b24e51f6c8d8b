// Attention on Hopper: a consumer's arithmetic. Scores, the online softmax, output sums.
#pragma once
#include "attention_sm90a_load.cuh"

// Issues s = q k^T over the keys in a slot, in steps of 16.
template <class H>
__device__ __forceinline__ void issue_scores(const uint32_t (&q)[H::kSteps][4], const unsigned char* keys, float (&s)[32]) {
    const uint32_t address = shared_address(keys);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < H::kSteps; ++step) {
        const uint64_t b = wgmma_operand(address + step / 4 * H::kHalfBytes + step % 4 * 32, 16, 1024);
        wgmma<typename H::T, 64, false>(s, q[step], b, step > 0);
    }
    wgmma_commit();
}

// Issues out += probs v over the values in a slot, in steps of 16 tokens.
template <class H>
__device__ __forceinline__ void issue_output(const uint32_t (&probs)[4][4], const unsigned char* values,
                                             float (&out)[H::kOut]) {
    const uint32_t address = shared_address(values);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < kTileTokens / 16; ++step) {
        const uint64_t b = wgmma_operand(address + step * 2048, H::kHalfBytes, 1024);
        wgmma<typename H::T, H::kDim, true>(out, probs[step], b, true);
    }
    wgmma_commit();
}

// Bends scores by the cap and takes away what a row doesn't see.
__device__ __forceinline__ void cap_and_mask(const AttentionParams& p, const GroupRows& rows, int token, float (&s)[32]) {
    const bool capped = p.cap_factor != 0.0f, whole = rows.sees_all(p, token);
    if (!capped && whole) return;
#pragma unroll
    for (int i = 0; i < 32; ++i) {
        // tanh(x) = 1 - 2 / (e^2x + 1): exact to 2^-22 of the cap, from -1 to 1 without a branch.
        if (capped) s[i] = 1.0f - __fdividef(2.0f, exp2_approx(s[i] * p.cap_factor) + 1.0f);
        const int column = token + i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2;
        // A later token wraps round to a distance no window has.
        const uint32_t distance = rows.position[i / 2 % 2] - column;
        if (!whole && distance >= p.window) s[i] = -INFINITY;
    }
}

// Moves the maxima on and turns scores into probabilities relative to them, in place. `scale` becomes what the output must
// be multiplied with; the sums are up to date.
template <class H>
__device__ __forceinline__ void soften(float factor, GroupState<H>& state, float (&s)[32], float (&scale)[2]) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        float largest = s[2 * h];
#pragma unroll
        for (int i = 0; i < 16; ++i) largest = fmaxf(largest, s[i / 2 * 4 + 2 * h + i % 2]);
        largest = fmaxf(largest, __shfl_xor_sync(kFullMask, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(kFullMask, largest, 2));
        largest = fmaxf(state.max[h], __fmul_rn(largest, factor));
        // Nothing seen yet: -inf - 0 keeps factor and probabilities at 0.
        const float base = largest == -INFINITY ? 0.0f : largest;
        scale[h] = exp2_approx(state.max[h] - base);
        state.max[h] = largest;
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < 16; ++i) {
            float& x = s[i / 2 * 4 + 2 * h + i % 2];
            x = exp2_approx(__fmaf_rn(x, factor, -base));
            sum += x;
        }
        state.sum[h] = __fmaf_rn(state.sum[h], scale[h], sum);
    }
}

// Probabilities as A fragments, 16 tokens each.
template <class H>
__device__ __forceinline__ void pack_probabilities(const float (&s)[32], uint32_t (&probs)[4][4]) {
#pragma unroll
    for (int i = 0; i < 16; ++i) probs[i / 4][i % 4] = pack_pair<typename H::T>(s[2 * i], s[2 * i + 1]);
}

// Multiplies the output. A product with 1 changes nothing, and in a long row the maximum hardly ever moves.
template <class H>
__device__ __forceinline__ void rescale(const float (&scale)[2], float (&out)[H::kOut]) {
    if (!__any_sync(kFullMask, scale[0] != 1.0f || scale[1] != 1.0f)) return;
#pragma unroll
    for (int i = 0; i < H::kOut; ++i) out[i] *= scale[i / 2 % 2];
}

// What is done with a tile's scores: they become probabilities in `s`.
template <class H>
__device__ __forceinline__ void weigh(const AttentionParams& p, const GroupRows& rows, int tile, float (&s)[32],
                                      GroupState<H>& state, float (&scale)[2]) {
    cap_and_mask(p, rows, tile * kTileTokens, s);
    soften<H>(p.score_factor, state, s, scale);
}

// Attends over the KV tiles [tile, end), at least one, that the ring has next.
template <class H>
__device__ __forceinline__ void attend_tiles(const AttentionParams& p, const Task& task, const GroupRows& rows, int consumer,
                                             int tile, int end, const uint32_t (&q)[H::kSteps][4], Ring<H>& ring,
                                             GroupState<H>& state) {
    float s[32], scale[2];
    uint32_t probs[4][4];
    mbarrier_wait(ring.full(0), ring.parity);
    issue_scores<H>(q, ring.slot(0), s);
    wgmma_wait<0>(s);
    ring.let_go(0);
    weigh<H>(p, rows, tile, s, state, scale);
    rescale<H>(scale, state.out);
    pack_probabilities<H>(s, probs);
#pragma unroll 1
    for (; tile + 1 < end; ++tile) {
        Ring<H> next = ring;
        next.advance();
        mbarrier_wait(next.full(0), next.parity);
        issue_scores<H>(q, next.slot(0), s);
        mbarrier_wait(ring.full(1), ring.parity);
        clear_unseen<H>(task, tile * kTileTokens, ring.slot(1), consumer);
        issue_output<H>(probs, ring.slot(1), state.out);
        wgmma_wait<1>(s);
        next.let_go(0);
        weigh<H>(p, rows, tile + 1, s, state, scale);
        wgmma_wait<0>(state.out);
        ring.let_go(1);
        rescale<H>(scale, state.out);
        pack_probabilities<H>(s, probs);
        ring = next;
    }
    mbarrier_wait(ring.full(1), ring.parity);
    clear_unseen<H>(task, tile * kTileTokens, ring.slot(1), consumer);
    issue_output<H>(probs, ring.slot(1), state.out);
    wgmma_wait<0>(state.out);
    ring.let_go(1);
    ring.advance();
}
