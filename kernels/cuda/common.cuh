// What every kernel begins with: how kernels and shared memory are declared, number types, reductions, 16-byte loads.
//
// The same source is compiled by nvcc and, with SCONCE_EMU defined, by a host compiler against emu/emu.h. No fast-math
// switch is set: where an approximation is good enough the code says so by name (__expf, rsqrtf, __fdividef, exp2_approx).
#pragma once

#if defined(SCONCE_EMU)
#include "emu/emu.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <math.h>
#include <stdint.h>

// Declares a kernel: name, parameter struct, threads a block, blocks an SM at least. The body follows; its parameter is `p`.
#define KERNEL(name, Params, threads, blocks)                               \
    static_assert(sizeof(Params) <= 256, "parameters of " #name);           \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ Params p)

// The block's dynamic shared memory, aligned to 128 bytes.
extern __shared__ __align__(128) unsigned char sconce_dynamic_shared[];
#define SHARED_MEMORY(T, name) T* name = reinterpret_cast<T*>(sconce_dynamic_shared)

// A small static shared array.
#define SHARED(T, name, count) __shared__ __align__(16) T name[count]
#endif

#include "ptx.cuh"

constexpr uint32_t kFullMask = 0xffffffffu;

// f32 value of a storage type.
__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_fp8_e4m3 x) {
    return __half2float(__half(__nv_cvt_fp8_to_halfraw(x.__x, __NV_E4M3)));
}

// Rounds to nearest, ties to even; e4m3 saturates at 448, f16 overflows to infinity.
template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
    return x;
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
    return __float2bfloat16_rn(x);
}
template <>
__device__ __forceinline__ __half from_float<__half>(float x) {
    return __float2half_rn(x);
}
template <>
__device__ __forceinline__ __nv_fp8_e4m3 from_float<__nv_fp8_e4m3>(float x) {
    __nv_fp8_e4m3 y;
    y.__x = __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
    return y;
}

// Two values in one register, the first in the low half: a fragment of mma.
template <class T>
__device__ __forceinline__ uint32_t pack_pair(float low, float high) {
    T pair[2] = {from_float<T>(low), from_float<T>(high)};
    uint32_t bits;
    memcpy(&bits, pair, 4);
    return bits;
}

// 16 bytes of values, loaded and stored at once; addresses are multiples of 16.
template <class T>
struct alignas(16) Pack {
    static constexpr int kSize = 16 / sizeof(T);
    T v[kSize];
};
template <class T>
__device__ __forceinline__ Pack<T> load_pack(const T* address) {
    Pack<T> pack;
    *reinterpret_cast<uint4*>(&pack) = *reinterpret_cast<const uint4*>(address);
    return pack;
}
template <class T>
__device__ __forceinline__ void store_pack(T* address, const Pack<T>& pack) {
    *reinterpret_cast<uint4*>(address) = *reinterpret_cast<const uint4*>(&pack);
}

// Sum over the warp in every lane, always in the same order: pairs at distance 16, 8, 4, 2, 1.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int distance = 16; distance > 0; distance >>= 1) x += __shfl_xor_sync(kFullMask, x, distance);
    return x;
}
// Maximum over the warp in every lane.
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int distance = 16; distance > 0; distance >>= 1) x = fmaxf(x, __shfl_xor_sync(kFullMask, x, distance));
    return x;
}

// Sum over a block of whole warps in every thread, in the order of the warps. All threads call it.
__device__ __forceinline__ float block_sum(float x) {
    SHARED(float, partial, 32);
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
    __syncthreads();
    float sum = partial[0];
    for (unsigned warp = 1; warp < blockDim.x / 32; ++warp) sum += partial[warp];
    // Nobody may begin the next reduction while another still reads this one.
    __syncthreads();
    return sum;
}
// Maximum over a block of whole warps in every thread.
__device__ __forceinline__ float block_max(float x) {
    SHARED(float, partial, 32);
    x = warp_max(x);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
    __syncthreads();
    float largest = partial[0];
    for (unsigned warp = 1; warp < blockDim.x / 32; ++warp) largest = fmaxf(largest, partial[warp]);
    __syncthreads();
    return largest;
}
