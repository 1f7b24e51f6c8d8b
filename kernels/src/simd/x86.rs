//! AVX-512 (16 lanes) and AVX2 + FMA + F16C (8 lanes).

use std::arch::x86_64::*;

use super::{Kernel, Simd};

/// 16 lanes.
#[derive(Clone, Copy)]
pub(crate) struct Avx512;

/// 8 lanes.
#[derive(Clone, Copy)]
pub(crate) struct Avx2;

/// # Safety
/// The machine has these features; the kernel's own contract.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
pub(super) unsafe fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the caller's promise.
    unsafe { kernel.run::<Avx512>() }
}

/// # Safety
/// The machine has these features; the kernel's own contract.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the caller's promise.
    unsafe { kernel.run::<Avx2>() }
}

/// A method that is one expression over intrinsics.
macro_rules! op {
    ($(fn $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty = $body:expr;)*) => {$(
        #[inline(always)]
        fn $name($($arg: $ty),*) -> $ret {
            // SAFETY: register arithmetic; only code under `run_*` names this type, so the features are there.
            unsafe { $body }
        }
    )*};
}

/// A method that reads or writes memory.
macro_rules! memory {
    ($(fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? = $body:expr;)*) => {$(
        #[inline(always)]
        unsafe fn $name($($arg: $ty),*) $(-> $ret)? {
            // SAFETY: the pointer is good for the lanes by the trait's contract; features as above.
            unsafe { $body }
        }
    )*};
}

impl Simd for Avx512 {
    const LANES: usize = 16;
    const TILE: usize = 4;
    type V = __m512;

    memory! {
        fn load(p: *const f32) -> __m512 = _mm512_loadu_ps(p);
        fn store(p: *mut f32, v: __m512) = _mm512_storeu_ps(p, v);
        fn load_f16(p: *const u16) -> __m512 = _mm512_cvtph_ps(_mm256_loadu_si256(p.cast()));
        fn load_bf16(p: *const u16) -> __m512 =
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()))));
        fn store_f16(p: *mut u16, v: __m512) = {
            let limit = _mm512_set1_ps(65504.0);
            // Bounds first: min and max return their second operand for NaN.
            let bounded = _mm512_max_ps(_mm512_set1_ps(-65504.0), _mm512_min_ps(limit, v));
            _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(bounded));
        };
        fn store_bf16(p: *mut u16, v: __m512) = {
            let bits = _mm512_castps_si512(v);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
            let rounded = _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc0_0000));
            _mm256_storeu_si256(p.cast(), _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(rounded)));
        };
        fn load_pair(p: *const f32) -> __m512 =
            _mm512_castpd_ps(_mm512_set1_pd(p.cast::<f64>().read_unaligned()));
    }
    op! {
        fn splat(x: f32) -> __m512 = _mm512_set1_ps(x);
        fn add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
        fn sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
        fn mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        fn div(a: __m512, b: __m512) -> __m512 = _mm512_div_ps(a, b);
        fn fma(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
        fn max(a: __m512, b: __m512) -> __m512 = _mm512_max_ps(a, b);
        fn min(a: __m512, b: __m512) -> __m512 = _mm512_min_ps(a, b);
        fn round(v: __m512) -> __m512 = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v);
        fn pow2(n: __m512) -> __m512 = _mm512_castsi512_ps(_mm512_slli_epi32::<23>(
            _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127))));
        fn keep_if_ge(x: __m512, bound: __m512, v: __m512) -> __m512 =
            _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(x, bound), v);
        fn copysign(v: __m512, sign: __m512) -> __m512 = {
            let mask = _mm512_set1_ps(-0.0);
            _mm512_or_ps(_mm512_andnot_ps(mask, v), _mm512_and_ps(mask, sign))
        };
        fn even_lanes(v: __m512) -> __m512 = _mm512_maskz_mov_ps(0x5555, v);
        fn add_pairs(a: __m512, b: __m512) -> __m512 = {
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
            _mm512_add_ps(_mm512_permutex2var_ps(a, even, b), _mm512_permutex2var_ps(a, odd, b))
        };
        fn sum(v: __m512) -> f32 = {
            let high = _mm512_extractf32x8_ps::<1>(v);
            Avx2::sum(_mm256_add_ps(_mm512_castps512_ps256(v), high))
        };
        fn largest(v: __m512) -> f32 = {
            let high = _mm512_extractf32x8_ps::<1>(v);
            Avx2::largest(_mm256_max_ps(_mm512_castps512_ps256(v), high))
        };
    }
}

impl Simd for Avx2 {
    const LANES: usize = 8;
    const TILE: usize = 2;
    type V = __m256;

    memory! {
        fn load(p: *const f32) -> __m256 = _mm256_loadu_ps(p);
        fn store(p: *mut f32, v: __m256) = _mm256_storeu_ps(p, v);
        fn load_f16(p: *const u16) -> __m256 = _mm256_cvtph_ps(_mm_loadu_si128(p.cast()));
        fn load_bf16(p: *const u16) -> __m256 =
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()))));
        fn store_f16(p: *mut u16, v: __m256) = {
            let limit = _mm256_set1_ps(65504.0);
            let bounded = _mm256_max_ps(_mm256_set1_ps(-65504.0), _mm256_min_ps(limit, v));
            _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(bounded));
        };
        fn store_bf16(p: *mut u16, v: __m256) = {
            let bits = _mm256_castps_si256(v);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
            let rounded = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0_0000), nan);
            let halves = _mm256_srli_epi32::<16>(rounded);
            // packus works by 128-bit halves: gather their low quarters.
            let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(halves, halves));
            _mm_storeu_si128(p.cast(), _mm256_castsi256_si128(packed));
        };
        fn load_pair(p: *const f32) -> __m256 =
            _mm256_castpd_ps(_mm256_set1_pd(p.cast::<f64>().read_unaligned()));
    }
    op! {
        fn splat(x: f32) -> __m256 = _mm256_set1_ps(x);
        fn add(a: __m256, b: __m256) -> __m256 = _mm256_add_ps(a, b);
        fn sub(a: __m256, b: __m256) -> __m256 = _mm256_sub_ps(a, b);
        fn mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
        fn div(a: __m256, b: __m256) -> __m256 = _mm256_div_ps(a, b);
        fn fma(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps(a, b, c);
        fn max(a: __m256, b: __m256) -> __m256 = _mm256_max_ps(a, b);
        fn min(a: __m256, b: __m256) -> __m256 = _mm256_min_ps(a, b);
        fn round(v: __m256) -> __m256 = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v);
        fn pow2(n: __m256) -> __m256 = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(
            _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127))));
        fn keep_if_ge(x: __m256, bound: __m256, v: __m256) -> __m256 =
            _mm256_and_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(x, bound), v);
        fn copysign(v: __m256, sign: __m256) -> __m256 = {
            let mask = _mm256_set1_ps(-0.0);
            _mm256_or_ps(_mm256_andnot_ps(mask, v), _mm256_and_ps(mask, sign))
        };
        fn even_lanes(v: __m256) -> __m256 =
            _mm256_and_ps(_mm256_castsi256_ps(_mm256_set1_epi64x(0xffff_ffff)), v);
        fn add_pairs(a: __m256, b: __m256) -> __m256 =
            // hadd gives a0 b0 a1 b1 by 64-bit quarters: swap the middle ones.
            _mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(_mm256_castps_pd(_mm256_hadd_ps(a, b))));
        fn sum(v: __m256) -> f32 = {
            let half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let quarter = _mm_add_ps(half, _mm_movehl_ps(half, half));
            _mm_cvtss_f32(_mm_add_ss(quarter, _mm_movehdup_ps(quarter)))
        };
        fn largest(v: __m256) -> f32 = {
            let half = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let quarter = _mm_max_ps(half, _mm_movehl_ps(half, half));
            _mm_cvtss_f32(_mm_max_ss(quarter, _mm_movehdup_ps(quarter)))
        };
    }
}
