// Kernels that test the emulation of Hopper's instructions: a product by tensor copies and wgmma, with planted faults.
#include "../ptx_sm90a.cuh"

enum HopperFault { kNone, kNoWaitForCopy, kNoFence, kTooManyBytes, kReadEarly, kSlotWritten, kSumWritten, kFragmentWritten, kNoCommit };

struct alignas(64) HopperTestParams {
    TensorMap map;    // B: rows of 64
    const void* a;    // [64][64]
    float* out;       // [64][64]
    int row;          // of B's first
    int transposed;   // B is [k][n], else [n][k]
    int fault;
    int padding[9];
};

// Slot of 64 rows of 128 bytes, aligned as the swizzle wants it.
__device__ __forceinline__ unsigned char* test_slot(unsigned char* shared) {
    return shared + (2048 - shared_address(shared) % 1024);
}

template <class T, bool kTransposed>
__device__ __forceinline__ void multiply(const HopperTestParams& p, unsigned char* slot, float (&sum)[32], uint32_t (&a)[4][4]) {
    const uint32_t address = shared_address(slot);
    if (p.fault != kNoFence) wgmma_fence();
    for (int step = 0; step < 4; ++step) {
        wgmma<T, 64, kTransposed>(sum, a[step], wgmma_operand(address + step * (kTransposed ? 2048 : 32), 16, 1024), step > 0);
    }
    if (p.fault != kNoCommit) wgmma_commit();
}

template <class T>
__device__ __forceinline__ void test_product(const HopperTestParams& p) {
    SHARED_MEMORY(unsigned char, shared);
    wait_for_previous();
    uint64_t* barrier = reinterpret_cast<uint64_t*>(shared);
    unsigned char* slot = test_slot(shared);
    if (threadIdx.x == 0) {
        mbarrier_init(barrier, 1);
        fence_async();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(barrier, p.fault == kTooManyBytes ? 8193 : 8192);
        for (int box = 0; box < 2; ++box) tensor_load(slot + box * 4096, &p.map, 0, p.row + box * 32, barrier);
    }
    if (p.fault != kNoWaitForCopy) mbarrier_wait(barrier, 0);
    uint32_t a[4][4];
    const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
    for (int i = 0; i < 16; ++i) {
        const T* from = static_cast<const T*>(p.a) + (row + i % 2 * 8) * 64 + i / 4 * 16 + i / 2 % 2 * 8 + column;
        a[i / 4][i % 4] = *reinterpret_cast<const uint32_t*>(from);
    }
    float sum[32];
    if (p.transposed) {
        multiply<T, true>(p, slot, sum, a);
    } else {
        multiply<T, false>(p, slot, sum, a);
    }
    if (p.fault == kSlotWritten) slot[threadIdx.x] = 1;
    if (p.fault == kSumWritten) sum[3] = 0.0f;
    if (p.fault == kFragmentWritten) a[2][1] += 1;
    if (p.fault == kReadEarly) p.out[threadIdx.x] = sum[0];
    wgmma_wait<0>(sum);
    if (p.fault == kNoWaitForCopy) mbarrier_wait(barrier, 0);
    if (p.fault == kReadEarly) return;
    for (int i = 0; i < 32; ++i) p.out[(row + i / 2 % 2 * 8) * 64 + i / 4 * 8 + column + i % 2] = sum[i];
}

KERNEL(hopper_product_bf16, HopperTestParams, 128, 1) { test_product<__nv_bfloat16>(p); }
KERNEL(hopper_product_f16, HopperTestParams, 128, 1) { test_product<__half>(p); }
