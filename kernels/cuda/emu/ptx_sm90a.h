// The emulated twins of ptx_sm90a.cuh; what runs beside the threads is in async.h.
#pragma once
#include "async.h"
#include "ptx.h"

inline uint32_t shared_address(const void* shared) { return emu::shared_window(shared); }

inline void mbarrier_init(uint64_t* barrier, uint32_t arrivals) { emu::mbarrier_init(barrier, arrivals); }
inline void mbarrier_arrive(uint64_t* barrier) { emu::mbarrier_arrive(barrier, 0); }
inline void mbarrier_arrive_expect(uint64_t* barrier, uint32_t bytes) { emu::mbarrier_arrive(barrier, bytes); }
inline void mbarrier_wait(uint64_t* barrier, uint32_t parity) { emu::mbarrier_wait(barrier, parity); }
// Not emulated: what one thread stores all see.
inline void fence_async() {}
inline void tensor_load(void* shared, const TensorMap* map, int column, int row, uint64_t* barrier) {
    emu::tensor_copy(shared, *reinterpret_cast<const emu::TensorRows*>(map), column, row, barrier);
}
inline void named_barrier(uint32_t number, uint32_t threads) { emu::named_barrier(number, threads); }
template <int kRegisters>
inline void give_registers() {}
template <int kRegisters>
inline void take_registers() {}

inline void wgmma_fence() { emu::product_fence(); }
inline void wgmma_commit() { emu::product_commit(); }
template <int kPending, int kCount>
inline void wgmma_wait(float (&)[kCount]) {
    emu::product_wait(kPending);
}

namespace emu {

template <int kColumns>
struct WgmmaIn {
    uint32_t a[4];
    float c[kColumns / 2];
    Operand b;
};
template <int kColumns>
struct WgmmaOut {
    float d[kColumns / 2];
};

// A warp's 16 rows of a warpgroup's 64; with g = lane / 4 and t = lane % 4 its registers hold
// A: as mma m16n8k16; D: 4 j (g, 8 j + 2t), 4 j + 1 (g, 8 j + 2t + 1), 4 j + 2 and 4 j + 3 the same of row g + 8.
template <class T, int kColumns>
void run_wgmma(WarpCall* const* lanes, uint32_t) {
    using Call = LaneCall<WgmmaIn<kColumns>, WgmmaOut<kColumns>>;
    const T* type = nullptr;
    static float a[16][16], b[kColumns][16];
    const Operand& operand = static_cast<Call*>(lanes[0])->in.b;
    for (int column = 0; column < kColumns; ++column) {
        for (int k = 0; k < 16; ++k) b[column][k] = half_of(type, operand.at(column, k), 0);
    }
    for (int lane = 0; lane < 32; ++lane) {
        const auto& in = static_cast<Call*>(lanes[lane])->in;
        if (in.b.descriptor != operand.descriptor) fail("wgmma: lanes disagree about an operand");
        for (int i = 0; i < 8; ++i) {
            a[lane / 4 + i / 2 % 2 * 8][2 * (lane % 4) + i / 4 * 8 + i % 2] = half_of(type, in.a[i / 2], i % 2);
        }
    }
    for (int lane = 0; lane < 32; ++lane) {
        Call* call = static_cast<Call*>(lanes[lane]);
        for (int i = 0; i < kColumns / 2; ++i) {
            const int row = lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + 2 * (lane % 4) + i % 2;
            float sum = call->in.c[i];
            for (int k = 0; k < 16; ++k) sum += a[row][k] * b[column][k];
            call->out.d[i] = sum;
        }
    }
}

}  // namespace emu

template <class T, int kColumns, bool kTransposed>
inline void wgmma(float (&d)[kColumns / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
    if (emu::alive(~0u) != ~0u) emu::fail("wgmma in a warp that is not whole");
    emu::WgmmaIn<kColumns> in;
    in.b = {b, kColumns, kTransposed};
    in.b.check();
    memcpy(in.a, a, sizeof in.a);
    const float* c = emu::accumulators(d);
    for (int i = 0; i < kColumns / 2; ++i) in.c[i] = accumulate ? c[i] : 0.0f;
    const auto out = emu::collective<emu::WgmmaIn<kColumns>, emu::WgmmaOut<kColumns>>("wgmma", ~0u, in,
                                                                                     emu::run_wgmma<T, kColumns>);
    emu::product_issued(d, out.d, kColumns / 2, a, in.b);
}
