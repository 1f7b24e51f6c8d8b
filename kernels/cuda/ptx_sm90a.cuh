// Hopper's own instructions, for files named *_sm90a.cu: mbarriers, tensor copies (TMA), products of a warpgroup (wgmma).
// The only place of their inline assembly; each has its twin in emu/ptx_sm90a.h.
#pragma once
#include "common.cuh"

// A tensor map, as the host's driver makes it; opaque. It lies in a kernel's parameters, 64-byte aligned.
struct alignas(64) TensorMap {
    uint64_t words[16];
};

#if defined(SCONCE_EMU)
#include "emu/ptx_sm90a.h"
#else

// A barrier in shared memory for `arrivals` arrivals a phase. Others may use it behind fence_async() and a __syncthreads().
__device__ __forceinline__ void mbarrier_init(uint64_t* barrier, uint32_t arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void mbarrier_arrive(uint64_t* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// Arrives, and has the phase wait for `bytes` more bytes of tensor copies.
__device__ __forceinline__ void mbarrier_arrive_expect(uint64_t* barrier, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
}
// Waits until the phase of that parity is over: 0, 1, 0, ... from the barrier's first on. The one before the first counts as over.
__device__ __forceinline__ void mbarrier_wait(uint64_t* barrier, uint32_t parity) {
    asm volatile(
        "{\n.reg .pred over;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 over, [%0], %1;\n"
        "@!over bra again;\n}" ::"r"(shared_address(barrier)),
        "r"(parity)
        : "memory");
}

// Makes this thread's stores to shared memory visible to tensor copies and wgmma, which read behind a barrier.
__device__ __forceinline__ void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Copies the map's box at (column, row) to shared memory; elements outside the tensor become zeros. The barrier's phase
// counts the bytes of the whole box. One thread issues it. `shared` is a multiple of 1024 where the map swizzles.
__device__ __forceinline__ void tensor_load(void* shared, const TensorMap* map, int column, int row, uint64_t* barrier) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
            shared_address(shared)),
        "l"(map), "r"(column), "r"(row), "r"(shared_address(barrier))
        : "memory");
}

// Waits for `threads` threads, whole warps, at the block's barrier of that number; 0 is __syncthreads().
__device__ __forceinline__ void named_barrier(uint32_t number, uint32_t threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

// Registers a thread of this warpgroup may use from here on: less than it has, or more, of what others gave up.
template <int kRegisters>
__device__ __forceinline__ void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// Orders this warpgroup's accesses to registers in front of the products that follow.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
// Closes the group of products issued since the last commit.
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most the kPending latest groups are under way, those that sum into `d` not among them: `d` may be read.
template <int kPending, int kCount>
__device__ __forceinline__ void wgmma_wait(float (&d)[kCount]) {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
    // The compiler takes `d` for known once a product is issued; this keeps it from reading ahead of the wait.
#pragma unroll
    for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// d[64][kColumns] = a[64][16] b[16][kColumns] (+ d if `accumulate`) of a warpgroup, f32 sums, under way until wgmma_wait.
// `a` is a fragment of mma_m16n8k16 of the warp's 16 rows, `d` one of its results for every 8 columns. `b` describes an
// operand in shared memory: with k contiguous, or (kTransposed) with the columns contiguous.
template <class T, int kColumns, bool kTransposed>
__device__ __forceinline__ void wgmma(float (&d)[kColumns / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate);

#define WGMMA_D8(i)                                                                                                \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]),     \
        "+f"(d[i + 7])
#define WGMMA_D32(i) WGMMA_D8(i), WGMMA_D8(i + 8), WGMMA_D8(i + 16), WGMMA_D8(i + 24)
#define WGMMA_LOW                                                                \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "     \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define WGMMA_HIGH                                                                       \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "   \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define WGMMA_OPERANDS "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate))
#define WGMMA(T, type, transposed)                                                                                     \
    template <>                                                                                                        \
    __device__ __forceinline__ void wgmma<T, 64, transposed>(float(&d)[32], const uint32_t(&a)[4], uint64_t b,          \
                                                             bool accumulate) {                                        \
        asm volatile("{\n.reg .pred sum;\nsetp.ne.b32 sum, %37, 0;\n"                                                  \
                     "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " {" WGMMA_LOW                         \
                     "}, {%32, %33, %34, %35}, %36, sum, 1, 1, " #transposed ";\n}"                                    \
                     : WGMMA_D32(0)                                                                                    \
                     : WGMMA_OPERANDS);                                                                                \
    }                                                                                                                  \
    template <>                                                                                                        \
    __device__ __forceinline__ void wgmma<T, 128, transposed>(float(&d)[64], const uint32_t(&a)[4], uint64_t b,         \
                                                              bool accumulate) {                                       \
        asm volatile("{\n.reg .pred sum;\nsetp.ne.b32 sum, %69, 0;\n"                                                  \
                     "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {" WGMMA_LOW ", " WGMMA_HIGH        \
                     "}, {%64, %65, %66, %67}, %68, sum, 1, 1, " #transposed ";\n}"                                    \
                     : WGMMA_D32(0), WGMMA_D32(32)                                                                     \
                     : WGMMA_OPERANDS);                                                                                \
    }
WGMMA(__nv_bfloat16, "bf16", 0)
WGMMA(__nv_bfloat16, "bf16", 1)
WGMMA(__half, "f16", 0)
WGMMA(__half, "f16", 1)
#undef WGMMA
#undef WGMMA_OPERANDS
#undef WGMMA_HIGH
#undef WGMMA_LOW
#undef WGMMA_D32
#undef WGMMA_D8
#endif

// Names an operand of wgmma in shared memory that lies swizzled in atoms of 8 rows x 128 bytes, 1024 bytes each.
//   k contiguous:        a row is a column of B; `stride` bytes from 8 columns to the next 8; `leading` is not used
//   columns contiguous:  a row is a k; `stride` bytes from 8 k to the next 8, `leading` from 64 columns to the next 64
__device__ __forceinline__ uint64_t wgmma_operand(uint32_t address, uint32_t leading, uint32_t stride) {
    const auto field = [](uint32_t bytes) { return static_cast<uint64_t>((bytes & 0x3ffff) >> 4); };
    constexpr uint64_t kSwizzle128 = 1;
    return field(address) | field(leading) << 16 | field(stride) << 32 | kSwizzle128 << 62;
}
