// Gated activations: out[M, I] = act(gate_up[M, 0..I]) * gate_up[M, I..2I]. CPU reference: src/activation.rs.
#include "activation.cuh"

struct GatedParams {
    const void* gate_up;  // [rows, 2 width], T
    void* out;            // [rows, width], T
    int rows;
    int width;            // a multiple of 8
    int activation;       // enum Activation
    int chunks;           // blocks a row
};

constexpr int kThreads = 256;

// One pack a thread: block b takes chunk b % chunks of row b / chunks.
template <class T, Activation kActivation>
__device__ __forceinline__ void gated(const GatedParams& p) {
    const int row = blockIdx.x / p.chunks, chunk = blockIdx.x % p.chunks;
    const int column = (chunk * kThreads + threadIdx.x) * 8;
    if (column >= p.width) return;
    const T* gate_up = static_cast<const T*>(p.gate_up) + static_cast<size_t>(row) * 2 * p.width + column;
    const Pack<T> gate = load_pack(gate_up), up = load_pack(gate_up + p.width);
    Pack<T> y;
#pragma unroll
    for (int i = 0; i < 8; ++i) y.v[i] = from_float<T>(activate<kActivation>(to_float(gate.v[i])) * to_float(up.v[i]));
    store_pack(static_cast<T*>(p.out) + static_cast<size_t>(row) * p.width + column, y);
}

template <class T>
__device__ __forceinline__ void gated_any(const GatedParams& p) {
    wait_for_previous();
    launch_next();
    switch (p.activation) {
        case kSilu: gated<T, kSilu>(p); break;
        case kGeluTanh: gated<T, kGeluTanh>(p); break;
        default: gated<T, kGelu>(p);
    }
}

KERNEL(gated_bf16, GatedParams, kThreads, 1) { gated_any<__nv_bfloat16>(p); }
KERNEL(gated_f16, GatedParams, kThreads, 1) { gated_any<__half>(p); }
