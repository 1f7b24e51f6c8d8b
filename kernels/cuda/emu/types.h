// CUDA's vector and 16-bit types for the host: the same names, sizes, alignments and roundings.
#pragma once
#include <cstdint>
#include <cstring>

template <class To, class From>
inline To emu_bits(const From& from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

#define EMU_VECTOR2(name, T, align) \
    struct alignas(align) name {    \
        T x, y;                     \
    };                              \
    inline name make_##name(T x, T y) { return {x, y}; }
#define EMU_VECTOR4(name, T, align) \
    struct alignas(align) name {    \
        T x, y, z, w;               \
    };                              \
    inline name make_##name(T x, T y, T z, T w) { return {x, y, z, w}; }

using uchar = unsigned char;
using ushort = unsigned short;
using uint = unsigned int;
EMU_VECTOR2(char2, signed char, 2)
EMU_VECTOR4(char4, signed char, 4)
EMU_VECTOR2(uchar2, unsigned char, 2)
EMU_VECTOR4(uchar4, unsigned char, 4)
EMU_VECTOR2(short2, short, 4)
EMU_VECTOR4(short4, short, 8)
EMU_VECTOR2(ushort2, unsigned short, 4)
EMU_VECTOR4(ushort4, unsigned short, 8)
EMU_VECTOR2(int2, int, 8)
EMU_VECTOR4(int4, int, 16)
EMU_VECTOR2(uint2, unsigned, 8)
EMU_VECTOR4(uint4, unsigned, 16)
EMU_VECTOR2(float2, float, 8)
EMU_VECTOR4(float4, float, 16)
EMU_VECTOR2(double2, double, 16)
EMU_VECTOR2(longlong2, long long, 16)
EMU_VECTOR2(ulonglong2, unsigned long long, 16)

struct uint3 {
    unsigned x, y, z;
};
struct int3 {
    int x, y, z;
};
struct float3 {
    float x, y, z;
};
struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};

// bfloat16: the upper half of an f32.
struct __nv_bfloat16 {
    uint16_t bits;
};
struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};

inline float __bfloat162float(__nv_bfloat16 value) { return emu_bits<float>(static_cast<uint32_t>(value.bits) << 16); }

// To nearest, ties to even.
inline __nv_bfloat16 __float2bfloat16_rn(float value) {
    const uint32_t bits = emu_bits<uint32_t>(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
    return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16)};
}
inline __nv_bfloat16 __float2bfloat16(float value) { return __float2bfloat16_rn(value); }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__float2bfloat16_rn(x), __float2bfloat16_rn(y)}; }
inline float2 __bfloat1622float2(__nv_bfloat162 v) { return {__bfloat162float(v.x), __bfloat162float(v.y)}; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 value) { return value.bits; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) { return {bits}; }

struct __half_raw {
    unsigned short x;
};
struct alignas(4) __half2_raw {
    unsigned short x, y;
};
// IEEE half precision.
struct __half {
    uint16_t bits;
    __half() = default;
    __half(__half_raw raw) : bits(raw.x) {}
};
struct alignas(4) __half2 {
    __half x, y;
};
using half = __half;
using half2 = __half2;

inline __half __ushort_as_half(unsigned short bits) { return __half(__half_raw{bits}); }
inline unsigned short __half_as_ushort(__half value) { return value.bits; }

inline float __half2float(__half value) {
    const uint32_t sign = (value.bits & 0x8000u) << 16, magnitude = value.bits & 0x7fffu;
    if (magnitude >= 0x7c00u) return emu_bits<float>(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
    // The exponent is 112 too small; a product with 2^112 puts that right for subnormals too.
    return emu_bits<float>(sign | emu_bits<uint32_t>(emu_bits<float>(magnitude << 13) * 0x1p112f));
}

// To nearest, ties to even; beyond the range infinity.
inline __half __float2half_rn(float value) {
    const uint32_t bits = emu_bits<uint32_t>(value), magnitude = bits & 0x7fffffffu;
    const unsigned short sign = static_cast<unsigned short>(bits >> 16 & 0x8000u);
    if (magnitude > 0x7f800000u) return __ushort_as_half(0x7fff);
    if (magnitude >= 0x477ff000u) return __ushort_as_half(sign | 0x7c00u);
    if (magnitude < 0x38800000u) {
        // Subnormal: adding 0.5 leaves the value, rounded, in the lowest bits of the sum.
        const float sum = emu_bits<float>(magnitude) + 0.5f;
        return __ushort_as_half(sign | static_cast<unsigned short>(emu_bits<uint32_t>(sum) - 0x3f000000u));
    }
    const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1);
    return __ushort_as_half(sign | static_cast<unsigned short>((rounded - 0x38000000u) >> 13));
}
inline __half __float2half(float value) { return __float2half_rn(value); }
inline __half2 __floats2half2_rn(float x, float y) { return {__float2half_rn(x), __float2half_rn(y)}; }
inline float2 __half22float2(__half2 v) { return {__half2float(v.x), __half2float(v.y)}; }

// Eight-bit floats: e4m3 without infinities, largest value 448, NaN 0x7f.
struct __nv_fp8_e4m3 {
    uint8_t __x;
};
using __nv_fp8_storage_t = unsigned char;
using __nv_fp8x2_storage_t = unsigned short;
enum __nv_saturation_t { __NV_NOSAT, __NV_SATFINITE };
enum __nv_fp8_interpretation_t { __NV_E4M3, __NV_E5M2 };

inline float emu_e4m3_to_float(uint8_t value) {
    const uint32_t sign = (value & 0x80u) << 24, magnitude = value & 0x7fu;
    if (magnitude == 0x7f) return emu_bits<float>(sign | 0x7fc00000u);
    return emu_bits<float>(sign | emu_bits<uint32_t>(emu_bits<float>(magnitude << 20) * 0x1p120f));
}

// Only e4m3 with saturation, to nearest, ties to even.
inline __nv_fp8_storage_t __nv_cvt_float_to_fp8(float value, __nv_saturation_t, __nv_fp8_interpretation_t) {
    const uint32_t bits = emu_bits<uint32_t>(value), magnitude = bits & 0x7fffffffu;
    const uint8_t sign = static_cast<uint8_t>(bits >> 24 & 0x80u);
    if (magnitude > 0x7f800000u) return sign | 0x7f;
    if (magnitude >= emu_bits<uint32_t>(448.0f)) return sign | 0x7e;
    if (magnitude < emu_bits<uint32_t>(0x1p-6f)) {
        // Steps of 2^-9: the sum with 2^14 rounds to them.
        const float sum = emu_bits<float>(magnitude) + 0x1p14f;
        return sign | static_cast<uint8_t>(emu_bits<uint32_t>(sum) - emu_bits<uint32_t>(0x1p14f));
    }
    const uint32_t rounded = magnitude + 0x7ffffu + (magnitude >> 20 & 1);
    return sign | static_cast<uint8_t>((rounded - (120u << 23)) >> 20);
}
inline __nv_fp8x2_storage_t __nv_cvt_float2_to_fp8x2(float2 v, __nv_saturation_t s, __nv_fp8_interpretation_t i) {
    return static_cast<unsigned short>(__nv_cvt_float_to_fp8(v.x, s, i) | __nv_cvt_float_to_fp8(v.y, s, i) << 8);
}
inline __half_raw __nv_cvt_fp8_to_halfraw(__nv_fp8_storage_t value, __nv_fp8_interpretation_t) {
    return {__half_as_ushort(__float2half_rn(emu_e4m3_to_float(value)))};
}
inline __half2_raw __nv_cvt_fp8x2_to_halfraw2(__nv_fp8x2_storage_t v, __nv_fp8_interpretation_t i) {
    return {__nv_cvt_fp8_to_halfraw(v & 0xff, i).x, __nv_cvt_fp8_to_halfraw(static_cast<uint8_t>(v >> 8), i).x};
}
