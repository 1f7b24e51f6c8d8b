// Logits as the model defines them, in f32 and in place: x = cap * tanh(x * multiplier / cap), or the product alone.
#include "common.cuh"

struct ScaleSoftcapParams {
    float* x;
    uint64_t len;
    float multiplier;
    float cap;  // 0: none
};

constexpr int kThreads = 256;

__device__ __forceinline__ float scale_softcap_one(const ScaleSoftcapParams& p, float x) {
    x *= p.multiplier;
    return p.cap > 0.0f ? p.cap * tanhf(x / p.cap) : x;
}

// Four values a thread; the last thread takes what remains.
KERNEL(scale_softcap, ScaleSoftcapParams, kThreads, 1) {
    wait_for_previous();
    launch_next();
    const uint64_t first = (static_cast<uint64_t>(blockIdx.x) * kThreads + threadIdx.x) * 4;
    if (first + 4 <= p.len) {
        float4* at = reinterpret_cast<float4*>(p.x + first);
        float4 x = *at;
        x.x = scale_softcap_one(p, x.x), x.y = scale_softcap_one(p, x.y);
        x.z = scale_softcap_one(p, x.z), x.w = scale_softcap_one(p, x.w);
        *at = x;
        return;
    }
    for (uint64_t i = first; i < p.len; ++i) p.x[i] = scale_softcap_one(p, p.x[i]);
}
