// CUDA for the host compiler: what common.cuh includes in place of the toolkit when SCONCE_EMU is defined.
//
//   types.h        vector, half, bf16 and fp8 types        fiber.{h,cpp}   stacks and the switch between them
//   intrinsics.h   atomics, bits, fast mathematics         block.{h,cpp}   one block: barrier, warps, copies, poison
//   warp.h         shuffles and votes                      launch.cpp      kernels by name, grids, C linkage
//   ptx.h          twins of ptx.cuh                        selftest.cu     kernels with planted faults, to test all this
//   ptx_sm90a.h    twins of ptx_sm90a.cuh                  async.{h,cpp}   mbarriers, tensor copies, products under way
//   selftest_sm90a.cu   the same for these
#pragma once
#include <stdint.h>

#include <type_traits>

#include "block.h"
#include "intrinsics.h"
#include "warp.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __align__(n) alignas(n)

#define threadIdx (emu::current->index)
#define blockIdx (emu::machine.block_index)
#define blockDim (emu::machine.block_dim)
#define gridDim (emu::machine.grid_dim)
#define warpSize 32

namespace emu {

// A kernel of this library, known by name from the time the library is opened.
struct Kernel {
    const char* name;
    const char* file;
    const char* params_name;
    size_t params_bytes;
    unsigned threads;
    void (*entry)(const void* params);
};

struct Registration {
    __attribute__((visibility("default"))) explicit Registration(const Kernel& kernel);
};

}  // namespace emu

#define KERNEL(name, Params, threads, blocks)                                                                     \
    static_assert(sizeof(Params) <= 256 && std::is_trivially_copyable<Params>::value, "parameters of " #name);    \
    static void name(const Params& p);                                                                            \
    static void name##_entry(const void* params) { name(*static_cast<const Params*>(params)); }                   \
    static const emu::Registration name##_registration({#name, __FILE__, #Params, sizeof(Params), threads, name##_entry}); \
    static void name([[maybe_unused]] const Params& p)

#define SHARED_MEMORY(T, name) T* name = reinterpret_cast<T*>(emu::machine.shared)

#define SHARED(T, name, count)                                                              \
    static emu::SharedArray<T, count> name##_storage;                                       \
    static T(&name)[count] = name##_storage.values;                                         \
    emu::shared_array(name, sizeof(name), offsetof(decltype(name##_storage), guard) + 64, name##_storage.seen_by)
