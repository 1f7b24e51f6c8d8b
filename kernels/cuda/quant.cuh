// Block-quantised weights (GGUF) as planes that a warp loads whole: the file's integers and scales, in another order.
//
// A matrix is cut into tiles of 16 rows, a tile into slices of 256 columns; both are padded with zeros. A slice is
//
//   [low plane][high plane][head][subs]          contiguous, a multiple of 16 bytes; slices of a tile follow one another
//
// In mma's fragments lane (g = lane / 4, t = lane % 4) holds rows g and g + 8 ("half" 0 and 1) of a step of 32 columns, and
// of these 8 elements in 4 pairs: columns 8 t .. 8 t + 8, or, where a scale belongs to 16 columns (kHalves), 4 t .. 4 t + 4 of
// either half of the step, so that one mma never mixes two scales.
//
//   plane of b bits   word w of a lane at ((w / 4) * 32 + lane) * 16 + w % 4 * 4; words (half * 8 + step) * b / 4, field
//                     (half * 8 + step) % (4 / b) * 4 + pair; a field's first element at bit b * field, its second at 16 + that
//   head              a scale for each 32 columns: d[g][half][step] f16, then m likewise
//                     a scale for 256 columns: [g][d of half 0, d of half 1, (m of half 0, m of half 1)] f16
//   subs              [g][half][step] bytes, or [g][half][16] where kHalves; then minima likewise. Nibbles: scale | min << 4.
//                     Scales of centred types are signed; 128 is added
//
// A value is scale * (q - center) + min with scale = d * sub, min = -(m * submin), or scale = d, min = m.
// src/gpu/quant.rs packs; nothing is rounded.
#pragma once
#include "common.cuh"

enum Scales { kBlockScales, kSuperScales, kSuperNibbles };

template <int kLowBits, int kHighBits, bool kHalfSteps, int kCenterValue, Scales kScaleKind>
struct Format {
    static constexpr int kLow = kLowBits, kHigh = kHighBits, kCenter = kCenterValue;
    static constexpr bool kHalves = kHalfSteps, kMin = kCenterValue == 0;
    static constexpr Scales kScales = kScaleKind;
    static constexpr int kLowBytes = 512 * kLow, kHighBytes = 512 * kHigh;
    // Of one g: words of d alone and of the whole head, words of the sub-scales alone and of all subs.
    static constexpr int kScaleWords = kScales == kBlockScales ? 8 : 1, kHeadWords = kScaleWords * (kMin ? 2 : 1);
    static constexpr int kSubWords = kScales == kBlockScales ? 0 : kHalves ? 8 : 4;
    static constexpr int kSubsWords = kSubWords * (kMin && kScales == kSuperScales ? 2 : 1);
    static constexpr int kHeadAt = kLowBytes + kHighBytes, kSubsAt = kHeadAt + 32 * kHeadWords;
    static constexpr int kSliceBytes = kSubsAt + 32 * kSubsWords;
};

using Q4_0 = Format<4, 0, false, 8, kBlockScales>;
using Q4_1 = Format<4, 0, false, 0, kBlockScales>;
using Q5_0 = Format<4, 1, false, 16, kBlockScales>;
using Q5_1 = Format<4, 1, false, 0, kBlockScales>;
using Q8_0 = Format<4, 4, false, 128, kBlockScales>;
using Q2_K = Format<2, 0, true, 0, kSuperNibbles>;
using Q3_K = Format<2, 1, true, 4, kSuperScales>;
using Q4_K = Format<4, 0, false, 0, kSuperScales>;
using Q5_K = Format<4, 1, false, 0, kSuperScales>;
using Q6_K = Format<4, 2, true, 32, kSuperScales>;

constexpr int kSliceColumns = 256;
constexpr int kSliceSteps = 8;
constexpr int kTileRows = 16;

// Columns of a lane's first and last four elements in a step.
template <class F>
__device__ __forceinline__ int first_column(int t) {
    return F::kHalves ? 4 * t : 8 * t;
}
template <class F>
__device__ __forceinline__ int second_column(int t) {
    return F::kHalves ? 16 + 4 * t : 8 * t + 4;
}

// Where word `i` of a part of the head or the subs lies, `words` of them for a g.
__device__ __forceinline__ int part_word(int i, int words, int g) { return (i / words * 8 * words + g * words + i % words) * 4; }
// d and m of 256 columns lie side by side, those of 32 columns in two parts.
template <class F>
__device__ __forceinline__ int head_word_at(int i, int g) {
    return F::kHeadAt + part_word(i, F::kScales == kBlockScales ? F::kScaleWords : F::kHeadWords, g);
}
template <class F>
__device__ __forceinline__ int sub_word_at(int i, int g) {
    return F::kSubsAt + part_word(i, F::kSubWords ? F::kSubWords : 1, g);
}

// A lane's part of a slice in registers.
template <class F>
struct SliceRegisters {
    uint32_t lows[4 * F::kLow], highs[F::kHigh ? 4 * F::kHigh : 1];
    uint32_t heads[F::kHeadWords], subs[F::kSubsWords ? F::kSubsWords : 1];

    __device__ __forceinline__ uint32_t low(int w) const { return lows[w]; }
    __device__ __forceinline__ uint32_t high(int w) const { return highs[w]; }
    __device__ __forceinline__ uint32_t head(int i) const { return heads[i]; }
    __device__ __forceinline__ uint32_t sub(int i) const { return subs[i]; }

    __device__ __forceinline__ void load(const unsigned char* slice, int lane) {
        load_plane<F::kLow>(lows, slice, lane);
        if (F::kHigh) load_plane<F::kHigh>(highs, slice + F::kLowBytes, lane);
#pragma unroll
        for (int i = 0; i < F::kHeadWords; i += F::kHeadWords < 4 ? F::kHeadWords : 4) {
            load_words < F::kHeadWords < 4 ? F::kHeadWords : 4 > (heads + i, slice + head_word_at<F>(i, lane / 4));
        }
#pragma unroll
        for (int i = 0; i < F::kSubsWords; i += 4) load_words<4>(subs + i, slice + sub_word_at<F>(i, lane / 4));
    }

  private:
    template <int kWords>
    static __device__ __forceinline__ void load_words(uint32_t* words, const unsigned char* address) {
        if (kWords == 4) {
            const uint4 v = load_stream_16(address);
            words[0] = v.x, words[1] = v.y, words[2] = v.z, words[3] = v.w;
        } else {
#pragma unroll
            for (int i = 0; i < kWords; ++i) words[i] = reinterpret_cast<const uint32_t*>(address)[i];
        }
    }
    template <int kBits>
    static __device__ __forceinline__ void load_plane(uint32_t* words, const unsigned char* plane, int lane) {
#pragma unroll
        for (int i = 0; i < kBits; ++i) load_words<4>(words + 4 * i, plane + (i * 32 + lane) * 16);
    }
};

// The same, read where it lies.
template <class F>
struct SliceMemory {
    const unsigned char* slice;
    int lane;

    __device__ __forceinline__ uint32_t word(int at) const { return *reinterpret_cast<const uint32_t*>(slice + at); }
    __device__ __forceinline__ uint32_t low(int w) const { return word((w / 4 * 32 + lane) * 16 + w % 4 * 4); }
    __device__ __forceinline__ uint32_t high(int w) const { return word(F::kLowBytes + (w / 4 * 32 + lane) * 16 + w % 4 * 4); }
    __device__ __forceinline__ uint32_t head(int i) const { return word(head_word_at<F>(i, lane / 4)); }
    __device__ __forceinline__ uint32_t sub(int i) const { return word(sub_word_at<F>(i, lane / 4)); }
};

// A pair of one plane, shifted to bit kTo of either half of the word.
template <int kBits, int kTo>
__device__ __forceinline__ uint32_t plane_pair(uint32_t word, int field) {
    const uint32_t mask = ((1u << kBits) - 1) * 0x00010001u << kTo;
    const int from = kBits * field;
    return (from >= kTo ? word >> (from - kTo) : word << (kTo - from)) & mask;
}
template <class F, class Slice>
__device__ __forceinline__ uint32_t low_pair(const Slice& s, int half, int step, int pair) {
    const int at = half * 8 + step;
    return plane_pair<F::kLow, 0>(s.low(at * F::kLow / 4), at % (4 / F::kLow) * 4 + pair);
}
// kTo: the bit that the plane's lowest bit goes to.
template <class F, int kTo, class Slice>
__device__ __forceinline__ uint32_t high_pair(const Slice& s, int half, int step, int pair) {
    constexpr int kBits = F::kHigh ? F::kHigh : 1;
    const int at = half * 8 + step;
    return F::kHigh ? plane_pair<kBits, kTo>(s.high(at * kBits / 4), at % (4 / kBits) * 4 + pair) : 0;
}

// f16 number `upper` of a word.
__device__ __forceinline__ float half_at(uint32_t word, int upper) {
    return __half2float(__ushort_as_half(static_cast<unsigned short>(word >> (16 * upper))));
}
// Byte `i` of a word minus `offset`, by way of 2^23 + byte: a conversion would take four times as long.
__device__ __forceinline__ float byte_at(uint32_t word, int i, float offset) {
    return __uint_as_float(__byte_perm(word, 0x4B000000u, 0x7440u + i)) - (8388608.0f + offset);
}

// Scale and minimum of half step `sub` (0 unless kHalves).
template <class F, class Slice>
__device__ __forceinline__ float2 scale_and_min(const Slice& s, int half, int step, int sub) {
    if (F::kScales == kBlockScales) {
        const int word = half * 4 + step / 2;
        return make_float2(half_at(s.head(word), step % 2), F::kMin ? half_at(s.head((F::kMin ? 8 : 0) + word), step % 2) : 0.0f);
    }
    const float d = half_at(s.head(0), half);
    const int byte = F::kHalves ? half * 16 + 2 * step + sub : half * 8 + step;
    const uint32_t word = s.sub(byte / 4);
    if (!F::kMin) return make_float2(d * byte_at(word, byte % 4, 128.0f), 0.0f);
    const float m = half_at(s.head(F::kMin ? 1 : 0), half);
    if (F::kScales == kSuperNibbles) {
        return make_float2(d * byte_at(word & 0x0F0F0F0Fu, byte % 4, 0.0f), -(m * byte_at(word >> 4 & 0x0F0F0F0Fu, byte % 4, 0.0f)));
    }
    constexpr int kMins = F::kSubsWords > F::kSubWords ? F::kSubWords : 0;
    return make_float2(d * byte_at(word, byte % 4, 0.0f), -(m * byte_at(s.sub(kMins + byte / 4), byte % 4, 0.0f)));
}

// The 8 values of a lane in a step, in the order of its columns.
template <class F, class Slice>
__device__ __forceinline__ void values(const Slice& s, int half, int step, float* out) {
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
        const uint32_t q = low_pair<F>(s, half, step, pair) | high_pair<F, F::kLow>(s, half, step, pair);
        const float2 by = scale_and_min<F>(s, half, step, F::kHalves ? pair / 2 : 0);
        out[2 * pair] = fmaf(static_cast<float>(static_cast<int>(q & 0xFFFF) - F::kCenter), by.x, by.y);
        out[2 * pair + 1] = fmaf(static_cast<float>(static_cast<int>(q >> 16) - F::kCenter), by.x, by.y);
    }
}

// Pairs of q - center as T, exactly: the integer goes into the mantissa of 128 (bf16) or 1024 (f16).
__device__ __forceinline__ uint32_t subtract_pair(const __nv_bfloat16*, uint32_t a, uint32_t b) { return sub_bf16x2(a, b); }
__device__ __forceinline__ uint32_t subtract_pair(const __half*, uint32_t a, uint32_t b) { return sub_f16x2(a, b); }

template <class T>
__device__ __forceinline__ uint32_t twice(float x) {
    return pack_pair<T>(x, x);
}
template <class F, class Slice>
__device__ __forceinline__ uint32_t integer_pair(const __half* type, const Slice& s, int half, int step, int pair) {
    const uint32_t q = low_pair<F>(s, half, step, pair) | high_pair<F, F::kLow>(s, half, step, pair);
    return subtract_pair(type, q | 0x64006400u, twice<__half>(1024.0f + F::kCenter));
}
template <class F, class Slice>
__device__ __forceinline__ uint32_t integer_pair(const __nv_bfloat16* type, const Slice& s, int half, int step, int pair) {
    if (F::kLow + F::kHigh < 8) {
        const uint32_t q = low_pair<F>(s, half, step, pair) | high_pair<F, F::kLow>(s, half, step, pair);
        return subtract_pair(type, q | 0x43004300u, twice<__nv_bfloat16>(128.0f + F::kCenter));
    }
    // Eight bits don't fit the seven of the mantissa: 16 high - 128 from that of 2048, then the low ones.
    const uint32_t high = subtract_pair(type, high_pair<F, 0>(s, half, step, pair) | 0x45004500u, twice<__nv_bfloat16>(2176.0f));
    const uint32_t minus_low = subtract_pair(type, twice<__nv_bfloat16>(128.0f), low_pair<F>(s, half, step, pair) | 0x43004300u);
    return subtract_pair(type, high, minus_low);
}

// A of one of a step's two mma.
template <class T, class F, class Slice>
__device__ __forceinline__ void integer_fragment(const Slice& s, int step, int i, uint32_t* a) {
    const T* type = nullptr;
    a[0] = integer_pair<F>(type, s, 0, step, 2 * i), a[1] = integer_pair<F>(type, s, 1, step, 2 * i);
    a[2] = integer_pair<F>(type, s, 0, step, 2 * i + 1), a[3] = integer_pair<F>(type, s, 1, step, 2 * i + 1);
}

// d[16][8] += scale * c + min * (sums of x), the scales those of rows g and g + 8.
__device__ __forceinline__ void add_scaled(float* d, const float* c, const float* x_sum, float2 low, float2 high, bool has_min) {
    d[0] = fmaf(low.x, c[0], d[0]), d[1] = fmaf(low.x, c[1], d[1]);
    d[2] = fmaf(high.x, c[2], d[2]), d[3] = fmaf(high.x, c[3], d[3]);
    if (has_min) {
        d[0] = fmaf(low.y, x_sum[0], d[0]), d[1] = fmaf(low.y, x_sum[1], d[1]);
        d[2] = fmaf(high.y, x_sum[2], d[2]), d[3] = fmaf(high.y, x_sum[3], d[3]);
    }
}
