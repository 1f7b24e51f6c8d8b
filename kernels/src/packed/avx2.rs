//! Microkernels for AVX2: the 16 rows of a tile are the 32-bit lanes of two registers, handled one after the other.
//!
//! `vpmaddubsw` adds two products in 16 bits and saturates. Values of up to 6 bits times 127 fit twice over, so a few
//! groups are summed before widening; 8-bit values are multiplied as magnitude times signed activation instead:
//! 128 * 127 * 2 fits just so.

use std::arch::x86_64::*;

use super::kernel::{Args, Set, Variant};
use super::layout::{Element, Format, Scales, TILE, with_element, with_format};
use crate::dtype::WeightType;

macro_rules! variants {
    ($kernel:ident, $T:ident, $($rows:literal),*) => {
        &[$(Variant { rows: $rows, tiles: 1, run: $kernel::<$T, $rows> }),*]
    };
}

pub(super) fn int8_kernels(ty: WeightType) -> Option<Set> {
    with_format!(ty, F => {
        const SINGLE: &[Variant] = variants!(int8, F, 1);
        const BATCH: &[Variant] = variants!(int8, F, 4, 2, 1);
        Some(Set { single: SINGLE, batch: BATCH })
    }, dense => None)
}

pub(super) fn dense_kernels(ty: WeightType) -> Set {
    with_element!(ty, E => {
        const SINGLE: &[Variant] = variants!(dense, E, 1);
        const BATCH: &[Variant] = variants!(dense, E, 6, 4, 2, 1);
        Set { single: SINGLE, batch: BATCH }
    })
}

/// `v` shifted right by `right` bits (left if negative), in 16-bit lanes: bits from the neighbour byte must be masked
/// off. The amount is a constant once loops are unrolled.
#[inline]
#[target_feature(enable = "avx2")]
fn shift(v: __m256i, right: isize) -> __m256i {
    match right {
        -4 => _mm256_slli_epi16::<4>(v),
        -3 => _mm256_slli_epi16::<3>(v),
        -2 => _mm256_slli_epi16::<2>(v),
        -1 => _mm256_slli_epi16::<1>(v),
        0 => v,
        1 => _mm256_srli_epi16::<1>(v),
        2 => _mm256_srli_epi16::<2>(v),
        3 => _mm256_srli_epi16::<3>(v),
        4 => _mm256_srli_epi16::<4>(v),
        5 => _mm256_srli_epi16::<5>(v),
        6 => _mm256_srli_epi16::<6>(v),
        _ => _mm256_srli_epi16::<7>(v),
    }
}

/// Half of the values of group `g` of a block (see `layout`): 8 rows from `quants` on. 8-bit values come out signed.
///
/// # Safety
/// `quants` points at a block of format `F`, or 32 bytes past its start for the second 8 rows.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn group<F: Format>(quants: *const u8, g: usize) -> __m256i {
    // SAFETY: chunk g % LOW of the low plane is inside the block.
    let low = unsafe { _mm256_loadu_si256(quants.add(64 * (g % F::LOW)).cast()) };
    if F::LOW == 8 {
        return _mm256_xor_si256(low, _mm256_set1_epi8(-128));
    }
    let low_mask = _mm256_set1_epi8((1 << F::LOW.min(4)) - 1);
    let low = _mm256_and_si256(shift(low, (g / F::LOW * F::LOW) as isize), low_mask);
    if F::HIGH == 0 {
        return low;
    }
    let bits = F::HIGH.max(1);
    // SAFETY: as above, in the high plane.
    let high = unsafe { _mm256_loadu_si256(quants.add(64 * (F::LOW + g % bits)).cast()) };
    let high_mask = _mm256_set1_epi8((((1 << bits) - 1) << F::LOW) as i8);
    let high = shift(high, (g / bits * bits) as isize - F::LOW as isize);
    _mm256_or_si256(low, _mm256_and_si256(high, high_mask))
}

/// Scale and minimum (to be added) of half `h` of block `b`, for the 8 rows from `row` on.
///
/// # Safety
/// `scales` points at a tile's scales of format `F` with more than `b` blocks; `row` is 0 or 8.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn scale_min<F: Format>(scales: *const u8, b: usize, h: usize, row: usize) -> (__m256, __m256) {
    // SAFETY: offsets are those of the format's unit, which holds block b.
    unsafe {
        let unit = scales.add(b * 32 / F::UNIT * F::SCALE_BYTES);
        let d = _mm256_cvtph_ps(_mm_loadu_si128(unit.add(2 * row).cast()));
        if F::SCALES == Scales::Block {
            let m = if F::MIN { load::<super::layout::Half>(unit.add(32 + 2 * row)) } else { _mm256_setzero_ps() };
            return (d, m);
        }
        let sub = if F::HALVES { b * 2 % F::SUBS + h } else { b % F::SUBS };
        let at = unit.add(F::HEAD_BYTES + sub * TILE + row);
        let bytes = _mm_loadl_epi64(at.cast());
        let (scale, min) = if F::SCALES == Scales::SuperNibbles {
            let low = _mm_set1_epi8(15);
            (_mm_and_si128(bytes, low), _mm_and_si128(_mm_srli_epi16::<4>(bytes), low))
        } else if F::MIN {
            (bytes, _mm_loadl_epi64(at.add(F::SUBS * TILE).cast()))
        } else {
            (bytes, bytes)
        };
        let d = _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(scale)));
        if !F::MIN {
            return (d, _mm256_setzero_ps());
        }
        let m = load::<super::layout::Half>(unit.add(32 + 2 * row));
        let min = _mm256_mul_ps(m, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(min)));
        (d, _mm256_sub_ps(_mm256_setzero_ps(), min))
    }
}

/// Groups whose products may be added in 16 bits without overflow: `2 * 127 * largest value * groups <= 32767`.
const fn groups_in_16_bits<F: Format>() -> usize {
    match F::LOW + F::HIGH {
        ..=4 => 8,
        5 => 4,
        6 => 2,
        _ => 1,
    }
}

/// Integer products of groups `from..from + len` of block `b`, 8 rows from `row` on, for `M` rows of activations.
///
/// # Safety
/// See `Variant`; `b` is a block of the row, `row` 0 or 8.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dots<F: Format, const M: usize>(a: &Args, b: usize, row: usize, (from, len): (usize, usize)) -> [__m256i; M] {
    let ones = _mm256_set1_epi16(1);
    let at_once = if groups_in_16_bits::<F>() < len { groups_in_16_bits::<F>() } else { len };
    let mut dot = [_mm256_setzero_si256(); M];
    for start in (from..from + len).step_by(at_once) {
        let mut sums = [_mm256_setzero_si256(); M];
        for g in start..start + at_once {
            // SAFETY: inside the operands (caller).
            let w = unsafe { group::<F>(a.tile.add(b * F::QUANT_BYTES + row * 4), g) };
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: four values of the row (caller).
                let x = unsafe { a.q.add(i * a.cols + b * 32 + g * 4).cast::<i32>().read_unaligned() };
                let x = _mm256_set1_epi32(x);
                let product = if F::LOW == 8 {
                    _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
                } else {
                    _mm256_maddubs_epi16(w, x)
                };
                *sum = _mm256_add_epi16(*sum, product);
            }
        }
        for (dot, sum) in dot.iter_mut().zip(sums) {
            *dot = _mm256_add_epi32(*dot, _mm256_madd_epi16(sum, ones));
        }
    }
    dot
}

/// # Safety
/// See `Variant`: `M` rows, one tile.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn int8<F: Format, const M: usize>(a: &Args) {
    let num_blocks = a.cols / 32;
    let mut values = [[0.0f32; TILE]; M];
    // 8-bit values are signed already.
    let center = if F::LOW == 8 { 0 } else { F::CENTER };
    for row in [0, 8] {
        let mut acc = [_mm256_setzero_ps(); M];
        for b in 0..num_blocks {
            let parts = if F::HALVES { 2 } else { 1 };
            for h in 0..parts {
                // SAFETY: block b of the tile and of each row is inside the operands (caller).
                unsafe {
                    let dot = dots::<F, M>(a, b, row, (h * 4, 8 / parts));
                    let (d, m) = scale_min::<F>(a.tile.add(a.scales_at), b, h, row);
                    for i in 0..M {
                        let block = &*a.blocks.add(i * num_blocks + b);
                        let neg = match (F::HALVES, h) {
                            (false, _) => block.neg,
                            (true, 0) => block.neg - block.neg_hi,
                            (true, _) => block.neg_hi,
                        };
                        if F::MIN {
                            let sum = if F::HALVES { block.scale * -neg as f32 } else { block.sum };
                            acc[i] = _mm256_fmadd_ps(m, _mm256_set1_ps(sum), acc[i]);
                        }
                        let dot = _mm256_add_epi32(dot[i], _mm256_set1_epi32(neg * center));
                        let scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(dot), d);
                        acc[i] = _mm256_fmadd_ps(scaled, _mm256_set1_ps(block.scale), acc[i]);
                    }
                }
            }
        }
        for (values, acc) in values.iter_mut().zip(acc) {
            // SAFETY: 8 of the 16 values.
            unsafe { _mm256_storeu_ps(values.as_mut_ptr().add(row), acc) };
        }
    }
    for (i, values) in values.iter().enumerate() {
        // SAFETY: row i of this tile is within y (caller).
        unsafe { a.sink.put(i, 0, values) };
    }
}

/// # Safety
/// See `Variant`: `M` rows, one tile of elements `E`.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dense<E: Element, const M: usize>(a: &Args) {
    let mut acc = [[_mm256_setzero_ps(); 2]; M];
    for k in 0..a.cols {
        // SAFETY: column k of the tile (caller).
        let w = unsafe {
            let at = a.tile.add(k * TILE * E::BYTES);
            [load::<E>(at), load::<E>(at.add(8 * E::BYTES))]
        };
        for (i, acc) in acc.iter_mut().enumerate() {
            // SAFETY: column k of the row (caller).
            let x = _mm256_set1_ps(unsafe { *a.x.add(i * a.cols + k) });
            acc[0] = _mm256_fmadd_ps(w[0], x, acc[0]);
            acc[1] = _mm256_fmadd_ps(w[1], x, acc[1]);
        }
    }
    for (i, acc) in acc.iter().enumerate() {
        let mut values = [0.0; TILE];
        // SAFETY: `values` is two registers long; the row is within y (caller).
        unsafe {
            _mm256_storeu_ps(values.as_mut_ptr(), acc[0]);
            _mm256_storeu_ps(values.as_mut_ptr().add(8), acc[1]);
            a.sink.put(i, 0, &values);
        }
    }
}

/// 8 elements as f32.
///
/// # Safety
/// `at` points at 8 elements `E`.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn load<E: Element>(at: *const u8) -> __m256 {
    // SAFETY: by the caller.
    unsafe {
        match E::TYPE {
            WeightType::F16 => _mm256_cvtph_ps(_mm_loadu_si128(at.cast())),
            WeightType::BF16 => {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            }
            _ => _mm256_loadu_ps(at.cast()),
        }
    }
}
