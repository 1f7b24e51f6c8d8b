//! Moves the blocks of a file into the packed layout, one tile at a time.

use half::f16;

use super::blocks::Block;
use super::layout::{Element, Format, Geometry, Scales, TILE, with_element, with_format};
use crate::dtype::WeightType;

/// Packs the rows of one tile (`rows.len() <= 16` slices, each a row of the file) into `tile` (zeroed).
pub(crate) fn pack_tile(ty: WeightType, geometry: &Geometry, rows: &[&[u8]], tile: &mut [u8]) {
    with_format!(ty, F => {
        let (quants, scales) = tile.split_at_mut(geometry.scales_at);
        pack_blocks::<F>(ty, rows, quants, scales);
    }, dense => pack_dense(ty.block_bytes(), rows, tile));
}

/// `[column][row]` of elements of `size` bytes.
fn pack_dense(size: usize, rows: &[&[u8]], tile: &mut [u8]) {
    for (r, row) in rows.iter().enumerate() {
        for (value, out) in row.chunks_exact(size).zip(tile.chunks_exact_mut(TILE * size)) {
            out[r * size..(r + 1) * size].copy_from_slice(value);
        }
    }
}

fn pack_blocks<F: Format>(ty: WeightType, rows: &[&[u8]], quants: &mut [u8], scales: &mut [u8]) {
    let mut blocks: [Block; TILE] = std::array::from_fn(|_| Block::new());
    let blocks = &mut blocks[..rows.len()];
    let quants = quants.chunks_exact_mut(F::UNIT / 32 * F::QUANT_BYTES);
    for (u, (quants, scales)) in quants.zip(scales.chunks_exact_mut(F::SCALE_BYTES)).enumerate() {
        for (row, block) in rows.iter().zip(blocks.iter_mut()) {
            (F::READ)(&row[u * ty.block_bytes()..][..ty.block_bytes()], block);
        }
        for (b, out) in quants.chunks_exact_mut(F::QUANT_BYTES).enumerate() {
            let (low, high) = out.split_at_mut(64 * F::LOW);
            put_plane(F::LOW, 0, blocks, b, low);
            put_plane(F::HIGH, F::LOW, blocks, b, high);
        }
        put_scales::<F>(blocks, scales);
    }
}

/// Bits `shift .. shift + bits` of block `b`'s values, as `layout` describes; 4 values at a time.
#[inline(always)]
fn put_plane(bits: usize, shift: usize, blocks: &[Block], b: usize, plane: &mut [u8]) {
    let mask = 0x0101_0101 * ((1u32 << bits) - 1).min(255);
    for (r, block) in blocks.iter().enumerate() {
        let q = &block.q[b * 32..][..32];
        for (chunk, out) in plane.chunks_exact_mut(64).enumerate() {
            let mut word = 0;
            for j in 0..8 / bits {
                let at = 4 * (chunk + j * bits);
                let values = u32::from_le_bytes([q[at], q[at + 1], q[at + 2], q[at + 3]]);
                word |= (values >> shift & mask) << (j * bits);
            }
            out[4 * r..4 * r + 4].copy_from_slice(&word.to_le_bytes());
        }
    }
}

fn put_scales<F: Format>(blocks: &[Block], out: &mut [u8]) {
    for (r, block) in blocks.iter().enumerate() {
        out[2 * r..2 * r + 2].copy_from_slice(&block.d.to_le_bytes());
        if F::MIN {
            out[32 + 2 * r..34 + 2 * r].copy_from_slice(&block.m.to_le_bytes());
        }
        let subs = &mut out[F::HEAD_BYTES..];
        for i in 0..F::SUBS {
            match F::SCALES {
                Scales::Block => {}
                Scales::SuperNibbles => subs[i * TILE + r] = block.scales[i] | block.mins[i] << 4,
                Scales::Super => {
                    subs[i * TILE + r] = block.scales[i];
                    if F::MIN {
                        subs[(F::SUBS + i) * TILE + r] = block.mins[i];
                    }
                }
            }
        }
    }
}

/// The 64 values of group `g` of a block (see `layout`).
#[inline(always)]
pub(crate) fn group<F: Format>(quants: &[u8], g: usize) -> [u8; 64] {
    let mut out = [0; 64];
    let low_mask = ((1u32 << F::LOW) - 1) as u8;
    let low = &quants[64 * (g % F::LOW)..][..64];
    for (value, &byte) in out.iter_mut().zip(low) {
        *value = byte >> (g / F::LOW * F::LOW) & low_mask;
    }
    if F::HIGH > 0 {
        let bits = F::HIGH.max(1);
        let high = &quants[64 * (F::LOW + g % bits)..][..64];
        for (value, &byte) in out.iter_mut().zip(high) {
            *value |= (byte >> (g / bits * bits) & ((1 << bits) - 1) as u8) << F::LOW;
        }
    }
    out
}

/// Scales and minima (to be added) of block `b`, the first and second half of its columns; equal unless `HALVES`.
#[inline(always)]
pub(crate) fn scales<F: Format>(scales: &[u8], b: usize) -> ([[f32; TILE]; 2], [[f32; TILE]; 2]) {
    let unit = &scales[b * 32 / F::UNIT * F::SCALE_BYTES..][..F::SCALE_BYTES];
    let half = |at: usize| f16::from_bits(u16::from_le_bytes([unit[at], unit[at + 1]])).to_f32();
    let mut d = [[0.0; TILE]; 2];
    let mut m = [[0.0; TILE]; 2];
    for h in 0..2 {
        let sub = if F::HALVES { b * 2 % F::SUBS + h } else { b % F::SUBS };
        for r in 0..TILE {
            let at = F::HEAD_BYTES + sub * TILE + r;
            let scale = match F::SCALES {
                Scales::Block => 1,
                Scales::Super => i32::from(unit[at] as i8),
                Scales::SuperNibbles => i32::from(unit[at] & 15),
            };
            d[h][r] = half(2 * r) * scale as f32;
            if F::MIN {
                m[h][r] = match F::SCALES {
                    Scales::Block => half(32 + 2 * r),
                    Scales::Super => -(half(32 + 2 * r) * f32::from(unit[at + F::SUBS * TILE])),
                    Scales::SuperNibbles => -(half(32 + 2 * r) * f32::from(unit[at] >> 4)),
                };
            }
        }
    }
    (d, m)
}

/// A packed tile of `cols` columns as f32, `[column][row]`, exactly what `dequantize` gives.
pub(crate) fn dequantize_tile(ty: WeightType, geometry: &Geometry, tile: &[u8], out: &mut [f32]) {
    let (quants, tail) = tile.split_at(geometry.scales_at);
    with_format!(ty, F => dequantize_blocks::<F>(quants, tail, out), dense => with_element!(ty, E => dequantize_dense::<E>(tile, out)));
}

fn dequantize_dense<E: Element>(tile: &[u8], out: &mut [f32]) {
    for (bytes, value) in tile.chunks_exact(E::BYTES).zip(out) {
        *value = E::value(bytes);
    }
}

fn dequantize_blocks<F: Format>(quants: &[u8], tail: &[u8], out: &mut [f32]) {
    let blocks = quants.chunks_exact(F::QUANT_BYTES).zip(out.chunks_exact_mut(32 * TILE));
    for (b, (quants, out)) in blocks.enumerate() {
        let (d, m) = scales::<F>(tail, b);
        for (g, out) in out.chunks_exact_mut(4 * TILE).enumerate() {
            let values = group::<F>(quants, g);
            let (d, m) = (&d[g / 4], &m[g / 4]);
            for (c, out) in out.chunks_exact_mut(TILE).enumerate() {
                for r in 0..TILE {
                    out[r] = (i32::from(values[4 * r + c]) - F::CENTER) as f32 * d[r] + m[r];
                }
            }
        }
    }
}

/// Row `r` of a packed tile as f32; `out.len()` is the number of columns.
pub(crate) fn dequantize_row(ty: WeightType, geometry: &Geometry, tile: &[u8], r: usize, out: &mut [f32]) {
    let (quants, tail) = tile.split_at(geometry.scales_at);
    with_format!(ty, F => dequantize_row_blocks::<F>(quants, tail, r, out), dense => with_element!(ty, E => {
        for (bytes, value) in tile.chunks_exact(TILE * E::BYTES).zip(out) {
            *value = E::value(&bytes[r * E::BYTES..]);
        }
    }));
}

fn dequantize_row_blocks<F: Format>(quants: &[u8], tail: &[u8], r: usize, out: &mut [f32]) {
    for (b, (quants, out)) in quants.chunks_exact(F::QUANT_BYTES).zip(out.chunks_exact_mut(32)).enumerate() {
        let (d, m) = scales::<F>(tail, b);
        for (g, out) in out.chunks_exact_mut(4).enumerate() {
            let values = group::<F>(quants, g);
            for (value, &q) in out.iter_mut().zip(&values[4 * r..4 * r + 4]) {
                *value = (i32::from(q) - F::CENTER) as f32 * d[g / 4][r] + m[g / 4][r];
            }
        }
    }
}
