//! Microkernels for AVX-512 with VNNI: 16 rows of a tile are the 32-bit lanes of a register.
//!
//! A block costs 8 `vpdpbusd` and 2 to 4 f32 operations for each row and tile. The rest is shared: unpacked values by
//! the rows of a call, activations by its tiles. Shapes are those that keep everything in registers.

// Registers are indexed by row and tile throughout.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use super::kernel::{Args, Set, Variant};
use super::layout::{Element, Format, Scales, TILE, with_element, with_format};
use crate::dtype::WeightType;

macro_rules! variants {
    ($kernel:ident, $T:ident, $($rows:literal x $tiles:literal),*) => {
        &[$(Variant { rows: $rows, tiles: $tiles, run: $kernel::<$T, $rows, $tiles> }),*]
    };
}

pub(super) fn int8_kernels(ty: WeightType) -> Option<Set> {
    with_format!(ty, F => {
        const SINGLE: &[Variant] = variants!(int8, F, 1 x 4, 1 x 1);
        // Two scales a block need more registers.
        const BATCH: &[Variant] = if F::HALVES {
            variants!(int8, F, 4 x 1, 2 x 1, 1 x 1)
        } else {
            variants!(int8, F, 4 x 2, 3 x 2, 2 x 2, 1 x 2, 4 x 1, 2 x 1, 1 x 1)
        };
        Some(Set { single: SINGLE, batch: BATCH })
    }, dense => None)
}

pub(super) fn dense_kernels(ty: WeightType) -> Set {
    with_element!(ty, E => {
        const SINGLE: &[Variant] = variants!(dense, E, 1 x 4, 1 x 1);
        const BATCH: &[Variant] = variants!(dense, E, 6 x 4, 4 x 4, 2 x 4, 1 x 4, 6 x 1, 4 x 1, 2 x 1, 1 x 1);
        Set { single: SINGLE, batch: BATCH }
    })
}

/// `v` shifted right by `right` bits (left if negative), in 16-bit lanes: bits from the neighbour byte must be masked
/// off. The amount is a constant once loops are unrolled.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn shift(v: __m512i, right: isize) -> __m512i {
    match right {
        -4 => _mm512_slli_epi16::<4>(v),
        -3 => _mm512_slli_epi16::<3>(v),
        -2 => _mm512_slli_epi16::<2>(v),
        -1 => _mm512_slli_epi16::<1>(v),
        0 => v,
        1 => _mm512_srli_epi16::<1>(v),
        2 => _mm512_srli_epi16::<2>(v),
        3 => _mm512_srli_epi16::<3>(v),
        4 => _mm512_srli_epi16::<4>(v),
        5 => _mm512_srli_epi16::<5>(v),
        6 => _mm512_srli_epi16::<6>(v),
        _ => _mm512_srli_epi16::<7>(v),
    }
}

/// The values of group `g` of a block (see `layout`).
///
/// # Safety
/// `quants` points at a block of format `F`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn group<F: Format>(quants: *const u8, g: usize) -> __m512i {
    // SAFETY: chunk g % LOW of the low plane is inside the block.
    let low = unsafe { _mm512_loadu_si512(quants.add(64 * (g % F::LOW)).cast()) };
    if F::LOW == 8 {
        return low;
    }
    let low_mask = _mm512_set1_epi8((1 << F::LOW.min(4)) - 1);
    let low = _mm512_and_si512(shift(low, (g / F::LOW * F::LOW) as isize), low_mask);
    if F::HIGH == 0 {
        return low;
    }
    let bits = F::HIGH.max(1);
    // SAFETY: as above, in the high plane.
    let high = unsafe { _mm512_loadu_si512(quants.add(64 * (F::LOW + g % bits)).cast()) };
    let high_mask = _mm512_set1_epi8((((1 << bits) - 1) << F::LOW) as i8);
    let high = shift(high, (g / bits * bits) as isize - F::LOW as isize);
    // low | (high & mask)
    _mm512_ternarylogic_epi32::<0xf8>(low, high, high_mask)
}

/// Scale and minimum (to be added) of half `h` of block `b`, for 16 rows.
///
/// # Safety
/// `scales` points at a tile's scales of format `F` with more than `b` blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn scale_min<F: Format>(scales: *const u8, b: usize, h: usize) -> (__m512, __m512) {
    // SAFETY: offsets are those of the format's unit, which holds block b.
    unsafe {
        let unit = scales.add(b * 32 / F::UNIT * F::SCALE_BYTES);
        let d = _mm512_cvtph_ps(_mm256_loadu_si256(unit.cast()));
        let m = if F::MIN { _mm512_cvtph_ps(_mm256_loadu_si256(unit.add(32).cast())) } else { _mm512_setzero_ps() };
        if F::SCALES == Scales::Block {
            return (d, m);
        }
        let sub = if F::HALVES { b * 2 % F::SUBS + h } else { b % F::SUBS };
        let at = unit.add(F::HEAD_BYTES + sub * TILE);
        let bytes = _mm_loadu_si128(at.cast());
        let (scale, min) = if F::SCALES == Scales::SuperNibbles {
            let low = _mm_set1_epi8(15);
            (_mm_and_si128(bytes, low), _mm_and_si128(_mm_srli_epi16::<4>(bytes), low))
        } else if F::MIN {
            (bytes, _mm_loadu_si128(at.add(F::SUBS * TILE).cast()))
        } else {
            (bytes, bytes)
        };
        let d = _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(scale)));
        if !F::MIN {
            return (d, m);
        }
        let min = _mm512_mul_ps(m, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(min)));
        (d, _mm512_sub_ps(_mm512_setzero_ps(), min))
    }
}

/// # Safety
/// See `Variant`: `M` rows, `N` tiles.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn int8<F: Format, const M: usize, const N: usize>(a: &Args) {
    let num_blocks = a.cols / 32;
    prefetch_results::<M, N>(a);
    let mut acc = [[_mm512_setzero_ps(); N]; M];
    for b in 0..num_blocks {
        prefetch::<M>(a, b);
        // SAFETY: block b of each tile and row is inside the operands (caller).
        unsafe {
            if F::HALVES {
                add_halves::<F, M, N>(a, b, &mut acc);
            } else {
                add_block::<F, M, N>(a, b, &mut acc);
            }
        }
    }
    for (i, acc) in acc.iter().enumerate() {
        for (j, &acc) in acc.iter().enumerate() {
            let mut values = [0.0; TILE];
            // SAFETY: `values` is one register long; the row and tile are inside y (caller).
            unsafe {
                _mm512_storeu_ps(values.as_mut_ptr(), acc);
                a.sink.put(i, j, &values);
            }
        }
    }
}

/// Fetches what comes next, beside the work on block `b`: the next `M` rows (two blocks at a time), which the next call
/// most likely reads, and a share of the weights after these.
#[inline]
#[target_feature(enable = "avx512f")]
fn prefetch<const M: usize>(a: &Args, b: usize) {
    for line in b * a.ahead_lines..(b + 1) * a.ahead_lines {
        _mm_prefetch::<_MM_HINT_T1>(a.ahead.wrapping_add(line * 64).cast());
    }
    if !b.is_multiple_of(2) {
        return;
    }
    for i in M..2 * M {
        _mm_prefetch::<_MM_HINT_T0>(a.q.wrapping_add(i * a.cols + b * 32));
        if b.is_multiple_of(4) {
            _mm_prefetch::<_MM_HINT_T0>(a.blocks.wrapping_add(i * (a.cols / 32) + b).cast());
        }
    }
}

/// Fetches the lines of y that `M` rows and `N` tiles end in: stores that miss would stall each other.
#[inline]
#[target_feature(enable = "avx512f")]
fn prefetch_results<const M: usize, const N: usize>(a: &Args) {
    for i in 0..M {
        for j in 0..N {
            _mm_prefetch::<_MM_HINT_T0>(a.sink.y.wrapping_add(i * a.sink.stride + j * TILE).cast());
        }
    }
}

/// Adds the integer products of groups `from..from + len` of block `b` to `dot`.
///
/// # Safety
/// See `Variant`; `b` is a block of the row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn add_groups<F: Format, const M: usize, const N: usize>(
    a: &Args,
    b: usize,
    (from, len): (usize, usize),
    dot: &mut [[__m512i; N]; M],
) {
    for g in from..from + len {
        let mut w = [_mm512_setzero_si512(); N];
        for j in 0..N {
            // SAFETY: inside the operands (caller).
            w[j] = unsafe { group::<F>(a.tile.add(j * a.tile_bytes + b * F::QUANT_BYTES), g) };
        }
        for i in 0..M {
            // SAFETY: four values of the row (caller).
            let x = unsafe { a.q.add(i * a.cols + b * 32 + g * 4).cast::<i32>().read_unaligned() };
            let x = _mm512_set1_epi32(x);
            for j in 0..N {
                dot[i][j] = _mm512_dpbusd_epi32(dot[i][j], w[j], x);
            }
        }
    }
}

/// # Safety
/// See `Variant`; `b` is a block of the row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn add_block<F: Format, const M: usize, const N: usize>(a: &Args, b: usize, acc: &mut [[__m512; N]; M]) {
    let num_blocks = a.cols / 32;
    let mut dot = [[_mm512_setzero_si512(); N]; M];
    // SAFETY: all inside the operands (caller).
    unsafe {
        if !F::MIN {
            for i in 0..M {
                let block = &*a.blocks.add(i * num_blocks + b);
                dot[i] = [_mm512_set1_epi32(block.neg * F::CENTER); N];
            }
        }
        add_groups::<F, M, N>(a, b, (0, 8), &mut dot);
        for j in 0..N {
            let (d, m) = scale_min::<F>(a.tile.add(j * a.tile_bytes + a.scales_at), b, 0);
            for i in 0..M {
                let block = &*a.blocks.add(i * num_blocks + b);
                if F::MIN {
                    acc[i][j] = _mm512_fmadd_ps(m, _mm512_set1_ps(block.sum), acc[i][j]);
                }
                let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(dot[i][j]), d);
                acc[i][j] = _mm512_fmadd_ps(scaled, _mm512_set1_ps(block.scale), acc[i][j]);
            }
        }
    }
}

/// # Safety
/// See `Variant`; `b` is a block of the row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn add_halves<F: Format, const M: usize, const N: usize>(a: &Args, b: usize, acc: &mut [[__m512; N]; M]) {
    let num_blocks = a.cols / 32;
    let mut sum = [[_mm512_setzero_ps(); N]; M];
    for h in 0..2 {
        let mut dot = [[_mm512_setzero_si512(); N]; M];
        // SAFETY: all inside the operands (caller).
        unsafe {
            let mut neg = [0; M];
            for i in 0..M {
                let block = &*a.blocks.add(i * num_blocks + b);
                neg[i] = if h == 0 { block.neg - block.neg_hi } else { block.neg_hi };
                if !F::MIN {
                    dot[i] = [_mm512_set1_epi32(neg[i] * F::CENTER); N];
                }
            }
            add_groups::<F, M, N>(a, b, (4 * h, 4), &mut dot);
            for j in 0..N {
                let (d, m) = scale_min::<F>(a.tile.add(j * a.tile_bytes + a.scales_at), b, h);
                for i in 0..M {
                    sum[i][j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[i][j]), d, sum[i][j]);
                    if F::MIN {
                        sum[i][j] = _mm512_fmadd_ps(m, _mm512_set1_ps(-neg[i] as f32), sum[i][j]);
                    }
                }
            }
        }
    }
    for i in 0..M {
        // SAFETY: inside the operands (caller).
        let scale = unsafe { _mm512_set1_ps((*a.blocks.add(i * num_blocks + b)).scale) };
        for j in 0..N {
            acc[i][j] = _mm512_fmadd_ps(sum[i][j], scale, acc[i][j]);
        }
    }
}

/// # Safety
/// See `Variant`: `M` rows, `N` tiles of elements `E`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn dense<E: Element, const M: usize, const N: usize>(a: &Args) {
    prefetch_results::<M, N>(a);
    let mut acc = [[_mm512_setzero_ps(); N]; M];
    for k in 0..a.cols {
        let mut w = [_mm512_setzero_ps(); N];
        for j in 0..N {
            // SAFETY: column k of the tile (caller).
            w[j] = unsafe { load::<E>(a.tile.add(j * a.tile_bytes + k * TILE * E::BYTES)) };
        }
        for i in 0..M {
            // SAFETY: column k of the row (caller).
            let x = _mm512_set1_ps(unsafe { *a.x.add(i * a.cols + k) });
            for j in 0..N {
                acc[i][j] = _mm512_fmadd_ps(w[j], x, acc[i][j]);
            }
        }
    }
    for (i, acc) in acc.iter().enumerate() {
        for (j, &acc) in acc.iter().enumerate() {
            let mut values = [0.0; TILE];
            // SAFETY: `values` is one register long; the row and tile are inside y (caller).
            unsafe {
                _mm512_storeu_ps(values.as_mut_ptr(), acc);
                a.sink.put(i, j, &values);
            }
        }
    }
}

/// 16 elements as f32.
///
/// # Safety
/// `at` points at 16 elements `E`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn load<E: Element>(at: *const u8) -> __m512 {
    // SAFETY: by the caller.
    unsafe {
        match E::TYPE {
            WeightType::F16 => _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())),
            WeightType::BF16 => {
                let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
            }
            _ => _mm512_loadu_ps(at.cast()),
        }
    }
}
