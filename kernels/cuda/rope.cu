// Cosines and sines of a step's rows, once for all layers of one rope table. CPU reference: src/rope.rs.
//
// A table and not a computation in every layer: a long context needs the full argument reduction of sincosf, some hundred
// instructions where the position passes 105,615, and all heads of all layers would repeat it; the table's 8 bytes a
// pair come out of the L2 cache.
#include "common.cuh"

struct RopeParams {
    const uint32_t* positions;  // [rows]
    const float* inv_freq;      // [pairs], radians a position
    float2* out;                // [rows][pairs]: cosine, sine
    uint32_t rows;
    uint32_t pairs;
    float factor;               // of both (YaRN, LongRoPE)
    uint32_t unused;
};

constexpr int kThreads = 128;

KERNEL(rope_rows, RopeParams, kThreads, 1) {
    wait_for_previous();
    launch_next();
    const size_t index = static_cast<size_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (index >= static_cast<size_t>(p.rows) * p.pairs) return;
    const float position = static_cast<float>(p.positions[index / p.pairs]);
    float sine, cosine;
    sincosf(position * p.inv_freq[index % p.pairs], &sine, &cosine);
    p.out[index] = make_float2(cosine * p.factor, sine * p.factor);
}
