//! Microkernels in plain Rust: the reference for the others, and what other architectures run.

use super::kernel::{Args, Set, Variant};
use super::layout::{Element, Format, TILE, with_element, with_format};
use super::pack::{group, scales};
use crate::dtype::WeightType;

pub(super) fn int8_kernels(ty: WeightType) -> Option<Set> {
    with_format!(ty, F => {
        const SINGLE: &[Variant] = &[Variant { rows: 1, tiles: 1, run: int8::<F, 1> }];
        const BATCH: &[Variant] =
            &[Variant { rows: 4, tiles: 1, run: int8::<F, 4> }, Variant { rows: 1, tiles: 1, run: int8::<F, 1> }];
        Some(Set { single: SINGLE, batch: BATCH })
    }, dense => None)
}

pub(super) fn dense_kernels(ty: WeightType) -> Set {
    with_element!(ty, E => {
        const SINGLE: &[Variant] = &[Variant { rows: 1, tiles: 1, run: dense::<E, 1> }];
        const BATCH: &[Variant] =
            &[Variant { rows: 4, tiles: 1, run: dense::<E, 4> }, Variant { rows: 1, tiles: 1, run: dense::<E, 1> }];
        Set { single: SINGLE, batch: BATCH }
    })
}

/// # Safety
/// See `Variant`: `M` rows, one tile.
unsafe fn int8<F: Format, const M: usize>(a: &Args) {
    let num_blocks = a.cols / 32;
    // SAFETY: the caller's operands cover one tile and M rows of `cols` columns.
    let (tile, q, act) = unsafe {
        (
            std::slice::from_raw_parts(a.tile, a.tile_bytes),
            std::slice::from_raw_parts(a.q, M * a.cols),
            std::slice::from_raw_parts(a.blocks, M * num_blocks),
        )
    };
    let (quants, tail) = tile.split_at(a.scales_at);
    let mut acc = [[0.0f32; TILE]; M];
    for (b, quants) in quants.chunks_exact(F::QUANT_BYTES).enumerate() {
        let mut values = [[0; 64]; 8];
        for (g, value) in values.iter_mut().enumerate() {
            *value = group::<F>(quants, g);
        }
        let (d, m) = scales::<F>(tail, b);
        for (i, acc) in acc.iter_mut().enumerate() {
            let q = &q[i * a.cols + b * 32..][..32];
            let act = &act[i * num_blocks + b];
            let neg = [act.neg - act.neg_hi, act.neg_hi];
            for h in 0..2 {
                let mut dot = [neg[h] * F::CENTER; TILE];
                for (values, q) in values[4 * h..4 * h + 4].iter().zip(q[16 * h..16 * h + 16].chunks_exact(4)) {
                    for r in 0..TILE {
                        for c in 0..4 {
                            dot[r] += i32::from(values[4 * r + c]) * i32::from(q[c]);
                        }
                    }
                }
                let sum = -neg[h] as f32;
                for r in 0..TILE {
                    acc[r] += act.scale * (dot[r] as f32 * d[h][r] + m[h][r] * sum);
                }
            }
        }
    }
    for (i, values) in acc.iter().enumerate() {
        // SAFETY: row i of this tile is within y (caller).
        unsafe { a.sink.put(i, 0, values) };
    }
}

/// # Safety
/// See `Variant`: `M` rows, one tile of elements `E`.
unsafe fn dense<E: Element, const M: usize>(a: &Args) {
    // SAFETY: the caller's operands cover one tile and M rows of `cols` columns.
    let (tile, x) = unsafe {
        (std::slice::from_raw_parts(a.tile, a.cols * TILE * E::BYTES), std::slice::from_raw_parts(a.x, M * a.cols))
    };
    let mut acc = [[0.0f32; TILE]; M];
    for (k, column) in tile.chunks_exact(TILE * E::BYTES).enumerate() {
        let mut w = [0.0; TILE];
        for (value, bytes) in w.iter_mut().zip(column.chunks_exact(E::BYTES)) {
            *value = E::value(bytes);
        }
        for (i, acc) in acc.iter_mut().enumerate() {
            let x = x[i * a.cols + k];
            for r in 0..TILE {
                acc[r] += w[r] * x;
            }
        }
    }
    for (i, values) in acc.iter().enumerate() {
        // SAFETY: row i of this tile is within y (caller).
        unsafe { a.sink.put(i, 0, values) };
    }
}
