// Kernels that test the emulator: planted faults that it must report, and probes of its operations.
#include "../common.cuh"

struct SelfTestParams {
    const void* in;
    void* out;
    int n;
    int correct;  // 0: with the fault
};

// A thread more than there are elements reads, or writes.
KERNEL(fault_read_past, SelfTestParams, 64, 1) {
    wait_for_previous();
    const int i = threadIdx.x + (p.correct ? 0 : 1);
    static_cast<float*>(p.out)[threadIdx.x] = static_cast<const float*>(p.in)[i];
}
KERNEL(fault_write_past, SelfTestParams, 64, 1) {
    wait_for_previous();
    static_cast<unsigned char*>(p.out)[threadIdx.x + (p.correct ? 0 : 1)] = 1;
}
// Shared memory of n floats is written beyond its end.
KERNEL(fault_shared_past, SelfTestParams, 64, 1) {
    wait_for_previous();
    SHARED_MEMORY(float, tile);
    tile[p.n - (p.correct ? 1 : 0)] = 1.0f;
}
__device__ __forceinline__ void write_static(int i) {
    SHARED(float, tile, 33);
    tile[i] = 1.0f;
}
KERNEL(fault_static_past, SelfTestParams, 64, 1) {
    wait_for_previous();
    write_static(p.correct ? 32 : 33);
}
// Threads read what another wrote.
KERNEL(fault_barrier, SelfTestParams, 64, 1) {
    wait_for_previous();
    SHARED_MEMORY(float, tile);
    tile[threadIdx.x] = static_cast<const float*>(p.in)[threadIdx.x];
    if (p.correct) __syncthreads();
    static_cast<float*>(p.out)[threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}
// The same in a static array and with a warp's barrier.
KERNEL(fault_syncwarp, SelfTestParams, 32, 1) {
    wait_for_previous();
    SHARED(float, tile, 32);
    tile[threadIdx.x] = static_cast<const float*>(p.in)[threadIdx.x];
    if (p.correct) __syncwarp();
    static_cast<float*>(p.out)[threadIdx.x] = tile[31 - threadIdx.x];
}
// Reads a copy that was not waited for: two groups, of which the fault leaves the second pending.
KERNEL(fault_copy, SelfTestParams, 16, 1) {
    wait_for_previous();
    SHARED_MEMORY(float, tile);
    const float* in = static_cast<const float*>(p.in);
    const int at = threadIdx.x * 4, half = blockDim.x * 4;
    cp_async_16(tile + at, in + at);
    cp_async_commit();
    cp_async_16(tile + half + at, in + half + at, threadIdx.x != 0);
    cp_async_commit();
    if (p.correct) {
        cp_async_wait<0>();
    } else {
        cp_async_wait<1>();
    }
    __syncthreads();
    for (int i = threadIdx.x; i < p.n; i += blockDim.x) static_cast<float*>(p.out)[i] = tile[i];
}
// A barrier, or a shuffle, that half of the threads don't reach.
KERNEL(fault_divergent_barrier, SelfTestParams, 64, 1) {
    wait_for_previous();
    if (p.correct || threadIdx.x < 32) __syncthreads();
}
KERNEL(fault_divergent_shuffle, SelfTestParams, 32, 1) {
    wait_for_previous();
    float x = 1.0f;
    if (p.correct || threadIdx.x < 16) x = __shfl_xor_sync(kFullMask, x, 1);
    __syncthreads();
    static_cast<float*>(p.out)[threadIdx.x] = x;
}
KERNEL(fault_no_wait, SelfTestParams, 32, 1) {
    if (p.correct) wait_for_previous();
}

// out[16][8] = in.a[16][n] in.b[8][n]^T, fragments by ldmatrix; `correct` 2 reads B transposed from [n][8] rows.
template <class T>
__device__ __forceinline__ void probe_mma(const SelfTestParams& p) {
    wait_for_previous();
    SHARED_MEMORY(T, tile);
    const T* in = static_cast<const T*>(p.in);
    for (int i = threadIdx.x; i < 24 * p.n; i += 32) tile[i] = in[i];
    __syncthreads();
    const T *a_tile = tile, *b_tile = tile + 16 * p.n;
    const int lane = threadIdx.x, row = lane % 8, matrix = lane / 8;
    float d[4] = {0, 0, 0, 0};
    for (int k = 0; k < p.n; k += 16) {
        uint32_t a[4], b[2];
        ldmatrix_x4(a, a_tile + (row + 8 * (matrix % 2)) * p.n + k + 8 * (matrix / 2));
        if (p.correct == 2) {
            ldmatrix_x2_trans(b, b_tile + (k + row + 8 * (matrix % 2)) * 8);
        } else {
            ldmatrix_x2(b, b_tile + row * p.n + k + 8 * (matrix % 2));
        }
        mma_m16n8k16<T>(d, a, b);
    }
    float* out = static_cast<float*>(p.out) + lane / 4 * 8 + 2 * (lane % 4);
    out[0] = d[0], out[1] = d[1], out[64] = d[2], out[65] = d[3];
}
KERNEL(probe_mma_bf16, SelfTestParams, 32, 1) { probe_mma<__nv_bfloat16>(p); }
KERNEL(probe_mma_f16, SelfTestParams, 32, 1) { probe_mma<__half>(p); }

// Eight results a lane of shuffles and votes.
KERNEL(probe_warp, SelfTestParams, 32, 1) {
    wait_for_previous();
    uint32_t* out = static_cast<uint32_t*>(p.out) + threadIdx.x * 8;
    const uint32_t lane = threadIdx.x, low = lane < 16 ? 0x0000ffffu : 0xffff0000u;
    out[0] = __shfl_xor_sync(kFullMask, lane, 5);
    out[1] = __shfl_up_sync(kFullMask, lane, 3);
    out[2] = __shfl_down_sync(kFullMask, lane, 3, 8);
    out[3] = __shfl_sync(kFullMask, lane, 9, 16);
    out[4] = __ballot_sync(low, lane % 3 == 0);
    out[5] = static_cast<uint32_t>(__any_sync(low, lane == 20));
    out[6] = static_cast<uint32_t>(__all_sync(low, lane < 16));
    // The upper half has gone when the lower half meets.
    if (lane >= 16) return;
    out[7] = __shfl_xor_sync(0x0000ffffu, lane, 1);
}

// Conversions: in[n] f32 -> out[n][3] u32 bits of bf16, f16 and e4m3, and back, [n][3] f32.
KERNEL(probe_types, SelfTestParams, 64, 1) {
    wait_for_previous();
    for (int i = threadIdx.x; i < p.n; i += blockDim.x) {
        const float x = static_cast<const float*>(p.in)[i];
        uint32_t* bits = static_cast<uint32_t*>(p.out) + i * 3;
        float* back = static_cast<float*>(p.out) + 3 * p.n + i * 3;
        const __nv_bfloat16 b = from_float<__nv_bfloat16>(x);
        const __half h = from_float<__half>(x);
        const __nv_fp8_e4m3 e = from_float<__nv_fp8_e4m3>(x);
        bits[0] = __bfloat16_as_ushort(b), bits[1] = __half_as_ushort(h), bits[2] = e.__x;
        back[0] = to_float(b), back[1] = to_float(h), back[2] = to_float(e);
    }
}

// Every block adds its number to out[1] in an order that differs; the last one to finish writes the sum to out[2].
KERNEL(probe_last_block, SelfTestParams, 32, 1) {
    wait_for_previous();
    unsigned* out = static_cast<unsigned*>(p.out);
    SHARED(unsigned, ticket, 1);
    if (threadIdx.x == 0) {
        out[3 + blockIdx.x] = atomicAdd(out + 1, blockIdx.x + 1);
        __threadfence();
        ticket[0] = atomicAdd(out, 1u);
    }
    __syncthreads();
    if (ticket[0] == gridDim.x - 1 && threadIdx.x == 31) out[2] = out[1];
}

// Reductions of common.cuh, one right behind the other: out[thread] = 3 sums and 3 maxima of in[3][threads].
KERNEL(probe_reductions, SelfTestParams, 128, 1) {
    wait_for_previous();
    const float* in = static_cast<const float*>(p.in) + threadIdx.x;
    float* out = static_cast<float*>(p.out) + threadIdx.x * 6;
    for (int i = 0; i < 3; ++i) out[i] = block_sum(in[i * blockDim.x]);
    for (int i = 0; i < 3; ++i) out[3 + i] = block_max(in[i * blockDim.x]);
}
