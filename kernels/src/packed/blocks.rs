//! One block of a GGUF file taken apart: unsigned integers and their scales, as the file has them.
//!
//! Every block-quantised type is read here and nowhere else; `dequantize` and the packer build on it.
//! A value is `d * scale * (q - center)` or `d * scale * q - dmin * min` (with 32-blocks: `d * q + m`).
//! The block structures are those of ggml's `ggml-common.h`.

/// The parts of one block. Blocks of 32 use `q[..32]`, `d` and `m` alone.
pub(crate) struct Block {
    /// Unsigned values in their order along the row.
    pub(crate) q: [u8; 256],
    /// Scale, f16 bits.
    pub(crate) d: u16,
    /// Minimum of a 32-block (added) or scale of the minima (subtracted), f16 bits.
    pub(crate) m: u16,
    /// Sub-block scales, for each 16 or 32 values; negative ones in two's complement.
    pub(crate) scales: [u8; 16],
    /// Sub-block minima.
    pub(crate) mins: [u8; 16],
}

impl Block {
    pub(crate) fn new() -> Self {
        Self { q: [0; 256], d: 0, m: 0, scales: [0; 16], mins: [0; 16] }
    }
}

fn half(src: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([src[at], src[at + 1]])
}

/// 16 bytes: the low nibbles are values 0..16, the high ones 16..32.
fn nibbles(src: &[u8], q: &mut [u8; 256]) {
    for (j, &byte) in src[..16].iter().enumerate() {
        q[j] = byte & 15;
        q[j + 16] = byte >> 4;
    }
}

/// Adds bit j of `src[..4]` as bit 4 of value j.
fn fifth_bits(src: &[u8], q: &mut [u8; 256]) {
    for (j, value) in q[..32].iter_mut().enumerate() {
        *value |= (src[j / 8] >> (j % 8) & 1) << 4;
    }
}

pub(crate) fn q4_0(src: &[u8], out: &mut Block) {
    out.d = half(src, 0);
    nibbles(&src[2..], &mut out.q);
}

pub(crate) fn q4_1(src: &[u8], out: &mut Block) {
    out.d = half(src, 0);
    out.m = half(src, 2);
    nibbles(&src[4..], &mut out.q);
}

pub(crate) fn q5_0(src: &[u8], out: &mut Block) {
    out.d = half(src, 0);
    nibbles(&src[6..], &mut out.q);
    fifth_bits(&src[2..], &mut out.q);
}

pub(crate) fn q5_1(src: &[u8], out: &mut Block) {
    out.d = half(src, 0);
    out.m = half(src, 2);
    nibbles(&src[8..], &mut out.q);
    fifth_bits(&src[4..], &mut out.q);
}

pub(crate) fn q8_0(src: &[u8], out: &mut Block) {
    out.d = half(src, 0);
    for (value, &byte) in out.q.iter_mut().zip(&src[2..34]) {
        *value = byte ^ 0x80;
    }
}

pub(crate) fn q2_k(src: &[u8], out: &mut Block) {
    for (i, &byte) in src[..16].iter().enumerate() {
        out.scales[i] = byte & 15;
        out.mins[i] = byte >> 4;
    }
    two_bits(&src[16..80], &mut out.q);
    out.d = half(src, 80);
    out.m = half(src, 82);
}

/// 64 bytes: bits 2j of byte 32n + l are value 128n + 32j + l.
fn two_bits(src: &[u8], q: &mut [u8; 256]) {
    for (n, bytes) in src.chunks_exact(32).enumerate() {
        for (j, out) in q[128 * n..128 * n + 128].chunks_exact_mut(32).enumerate() {
            for (value, &byte) in out.iter_mut().zip(bytes) {
                *value = byte >> (2 * j) & 3;
            }
        }
    }
}

pub(crate) fn q3_k(src: &[u8], out: &mut Block) {
    two_bits(&src[32..96], &mut out.q);
    for (i, values) in out.q.chunks_exact_mut(32).enumerate() {
        for (value, &mask) in values.iter_mut().zip(&src[..32]) {
            *value |= (mask >> i & 1) << 2;
        }
    }
    let packed = &src[96..108];
    for i in 0..16 {
        let low = packed[i % 8] >> (4 * (i / 8)) & 15;
        let high = packed[8 + i % 4] >> (2 * (i / 4)) & 3;
        out.scales[i] = (low | high << 4).wrapping_sub(32);
    }
    out.d = half(src, 108);
}

/// The 12 bytes with eight 6-bit scales and eight 6-bit minima of Q4_K and Q5_K.
fn six_bit_scales(src: &[u8], out: &mut Block) {
    for i in 0..4 {
        out.scales[i] = src[i] & 63;
        out.mins[i] = src[i + 4] & 63;
        out.scales[i + 4] = src[i + 8] & 15 | src[i] >> 6 << 4;
        out.mins[i + 4] = src[i + 8] >> 4 | src[i + 4] >> 6 << 4;
    }
}

/// 128 bytes: each 32 hold 64 values, the low nibbles first.
fn nibbles_by_64(src: &[u8], q: &mut [u8; 256]) {
    for (bytes, out) in src.chunks_exact(32).zip(q.chunks_exact_mut(64)) {
        let (low, high) = out.split_at_mut(32);
        for ((&byte, l), h) in bytes.iter().zip(low).zip(high) {
            *l = byte & 15;
            *h = byte >> 4;
        }
    }
}

pub(crate) fn q4_k(src: &[u8], out: &mut Block) {
    out.d = half(src, 0);
    out.m = half(src, 2);
    six_bit_scales(&src[4..16], out);
    nibbles_by_64(&src[16..144], &mut out.q);
}

pub(crate) fn q5_k(src: &[u8], out: &mut Block) {
    out.d = half(src, 0);
    out.m = half(src, 2);
    six_bit_scales(&src[4..16], out);
    nibbles_by_64(&src[48..176], &mut out.q);
    for (i, values) in out.q.chunks_exact_mut(32).enumerate() {
        for (value, &bits) in values.iter_mut().zip(&src[16..48]) {
            *value |= (bits >> i & 1) << 4;
        }
    }
}

pub(crate) fn q6_k(src: &[u8], out: &mut Block) {
    let (low, high) = (&src[..128], &src[128..192]);
    for (i, values) in out.q.chunks_exact_mut(32).enumerate() {
        // Of 128 values: the first 64 in the low nibbles of 64 bytes, the others in the high ones.
        let (n, j) = (i / 4, i % 4);
        let low = &low[64 * n + 32 * (j % 2)..][..32];
        let high = &high[32 * n..][..32];
        for ((value, &l), &h) in values.iter_mut().zip(low).zip(high) {
            *value = l >> (4 * (j / 2)) & 15 | (h >> (2 * j) & 3) << 4;
        }
    }
    out.scales.copy_from_slice(&src[192..208]);
    out.d = half(src, 208);
}
