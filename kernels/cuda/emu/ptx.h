// The emulated twins of ptx.cuh: asynchronous copies, ldmatrix and mma with the fragment layouts of the PTX ISA.
#pragma once
#include "warp.h"

inline void cp_async_16(void* shared, const void* global, bool valid = true) {
    emu::copy_later({shared, valid ? global : nullptr, 16});
}
inline void cp_async_8(void* shared, const void* global, bool valid = true) {
    emu::copy_later({shared, valid ? global : nullptr, 8});
}
inline void cp_async_4(void* shared, const void* global, bool valid = true) {
    emu::copy_later({shared, valid ? global : nullptr, 4});
}
inline void cp_async_commit() { emu::commit_copies(); }
template <int kPending>
inline void cp_async_wait() {
    emu::wait_copies(kPending);
}

inline void wait_for_previous() { emu::machine.waited_for_previous = true; }
inline void launch_next() {}

inline uint4 load_stream_16(const void* global) { return *static_cast<const uint4*>(global); }
// Differences of the two 16-bit numbers in a word, rounded to nearest.
inline uint32_t sub_bf16x2(uint32_t a, uint32_t b) {
    const auto x = __bfloat1622float2(emu_bits<__nv_bfloat162>(a)), y = __bfloat1622float2(emu_bits<__nv_bfloat162>(b));
    return emu_bits<uint32_t>(__floats2bfloat162_rn(x.x - y.x, x.y - y.y));
}
inline uint32_t sub_f16x2(uint32_t a, uint32_t b) {
    const auto x = __half22float2(emu_bits<__half2>(a)), y = __half22float2(emu_bits<__half2>(b));
    return emu_bits<uint32_t>(__floats2half2_rn(x.x - y.x, x.y - y.y));
}

inline float exp2_approx(float x) { return exp2f(x); }
inline float tanh_approx(float x) { return tanhf(x); }

namespace emu {

template <int kMatrices>
struct MatrixRegisters {
    uint32_t r[kMatrices];
};

// 8x8 matrices of 16-bit elements: lane 8 i + j brings the address of row j of matrix i; register i of lane l gets
// elements 2 (l % 4) and the next of row l / 4, or of that column when transposed.
template <int kMatrices, bool kTransposed>
void run_ldmatrix(WarpCall* const* lanes, uint32_t) {
    using Call = LaneCall<const uint16_t*, MatrixRegisters<kMatrices>>;
    for (int lane = 0; lane < 32; ++lane) {
        Call* call = static_cast<Call*>(lanes[lane]);
        for (int i = 0; i < kMatrices; ++i) {
            uint32_t elements[2];
            for (int half = 0; half < 2; ++half) {
                const int major = lane / 4, minor = 2 * (lane % 4) + half;
                const int row = kTransposed ? minor : major, column = kTransposed ? major : minor;
                elements[half] = static_cast<Call*>(lanes[8 * i + row])->in[column];
            }
            call->out.r[i] = elements[0] | elements[1] << 16;
        }
    }
}

template <int kMatrices, bool kTransposed>
inline void ldmatrix(uint32_t* r, const void* row) {
    if (alive(~0u) != ~0u) fail("ldmatrix in a warp that is not whole");
    if (reinterpret_cast<uintptr_t>(row) % 16) fail("ldmatrix from an address that is no multiple of 16");
    if (lane_index() < 8 * kMatrices && !is_shared(row, 16)) fail("ldmatrix outside shared memory");
    const auto result = collective<const uint16_t*, MatrixRegisters<kMatrices>>(
        "ldmatrix", ~0u, static_cast<const uint16_t*>(row), run_ldmatrix<kMatrices, kTransposed>);
    for (int i = 0; i < kMatrices; ++i) r[i] = result.r[i];
}

struct MmaIn {
    uint32_t a[4], b[2];
    float c[4];
};
struct MmaOut {
    float d[4];
};

inline float half_of(const __nv_bfloat16*, uint32_t pair, int half) {
    return __bfloat162float(__ushort_as_bfloat16(static_cast<unsigned short>(pair >> (16 * half))));
}
inline float half_of(const __half*, uint32_t pair, int half) {
    return __half2float(__ushort_as_half(static_cast<unsigned short>(pair >> (16 * half))));
}

// A row of D or B.
typedef float MmaRow __attribute__((vector_size(32)));

// D += A B, each sum in the order of k. Local arrays alone: the sanitizer has nothing to find, and is slow at it.
__attribute__((no_sanitize("address"))) inline void multiply(const float (*a)[16], const MmaRow* b, MmaRow* d) {
    for (int row = 0; row < 16; ++row) {
        MmaRow sum = d[row];
        for (int k = 0; k < 16; ++k) sum += a[row][k] * b[k];
        d[row] = sum;
    }
}

// D[16][8] = A[16][16] B[16][8] + C. With g = lane / 4 and t = lane % 4, register pairs hold
// A: a0 (g, 2t), a1 (g + 8, 2t), a2 (g, 2t + 8), a3 (g + 8, 2t + 8); B: b0 (2t, g), b1 (2t + 8, g);
// C, D: 0 (g, 2t), 1 (g, 2t + 1), 2 (g + 8, 2t), 3 (g + 8, 2t + 1).
template <class T>
void run_mma(WarpCall* const* lanes, uint32_t) {
    using Call = LaneCall<MmaIn, MmaOut>;
    const T* type = nullptr;
    float a[16][16];
    MmaRow b[16], d[16];
    for (int lane = 0; lane < 32; ++lane) {
        const MmaIn& in = static_cast<Call*>(lanes[lane])->in;
        const int g = lane / 4, t = lane % 4;
        for (int half = 0; half < 2; ++half) {
            for (int i = 0; i < 4; ++i) a[g + 8 * (i & 1)][2 * t + 8 * (i >> 1) + half] = half_of(type, in.a[i], half);
            for (int i = 0; i < 2; ++i) b[2 * t + 8 * i + half][g] = half_of(type, in.b[i], half);
        }
        for (int i = 0; i < 4; ++i) d[g + 8 * (i >> 1)][2 * t + (i & 1)] = in.c[i];
    }
    multiply(a, b, d);
    for (int lane = 0; lane < 32; ++lane) {
        Call* call = static_cast<Call*>(lanes[lane]);
        for (int i = 0; i < 4; ++i) call->out.d[i] = d[lane / 4 + 8 * (i >> 1)][2 * (lane % 4) + (i & 1)];
    }
}

inline uint32_t half_bits(const __nv_bfloat16*, float value) {
    return __bfloat16_as_ushort(__float2bfloat16_rn(value));
}
inline uint32_t half_bits(const __half*, float value) { return __half_as_ushort(__float2half_rn(value)); }

}  // namespace emu

// The product of two 11-bit significands is exact in f32: one rounding, as the instruction's.
template <class T>
inline uint32_t multiply_pair(uint32_t a, uint32_t b) {
    const T* type = nullptr;
    uint32_t product = 0;
    for (int half = 0; half < 2; ++half) {
        product |= emu::half_bits(type, emu::half_of(type, a, half) * emu::half_of(type, b, half)) << (16 * half);
    }
    return product;
}

inline void ldmatrix_x4(uint32_t* r, const void* row) { emu::ldmatrix<4, false>(r, row); }
inline void ldmatrix_x4_trans(uint32_t* r, const void* row) { emu::ldmatrix<4, true>(r, row); }
inline void ldmatrix_x2(uint32_t* r, const void* row) { emu::ldmatrix<2, false>(r, row); }
inline void ldmatrix_x2_trans(uint32_t* r, const void* row) { emu::ldmatrix<2, true>(r, row); }

template <class T>
inline void mma_m16n8k16(float* d, const uint32_t* a, const uint32_t* b) {
    if (emu::alive(~0u) != ~0u) emu::fail("mma in a warp that is not whole");
    emu::MmaIn in;
    for (int i = 0; i < 4; ++i) in.a[i] = a[i], in.c[i] = d[i];
    for (int i = 0; i < 2; ++i) in.b[i] = b[i];
    const auto out = emu::collective<emu::MmaIn, emu::MmaOut>("mma", ~0u, in, emu::run_mma<T>);
    for (int i = 0; i < 4; ++i) d[i] = out.d[i];
}
