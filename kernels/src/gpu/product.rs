//! Which kernel computes a product: few rows read the weight once as it lies, many go to tiles or to the library.
//!
//! | rows | dense | packed | mixed, or too large to expand | deterministic |
//! |---|---|---|---|---|
//! | up to 8 | `gemv` | `gemv` | `gemv` | `gemv` |
//! | up to 16 | library | `gemv` | `gemv` | `gemv` |
//! | up to 512 | library | `gemm_quant` | `gemm_tile`, `gemm_quant` | `gemm_tile`, `gemm_quant` |
//! | more | library | expanded into a workspace, then the library | the same | the same |
//!
//! A row's bits are the same in `gemv` and in every tile of `gemm_tile` and `gemm_quant`, so that in deterministic mode they
//! don't depend on the number of rows.

use super::device::GpuDevice;
use super::gemm::Gemm;
use super::gemm_tile::{self, Tile};
use super::gemv::{Gemv, GemvOutput, GemvWeight};
use super::launch::{DevicePtr, HalfType};
use super::qkv_post::Heads;
use super::quant::{TILE, dequantize};
use super::weights::{GpuLinear, GpuPart};
use crate::backend::NormParams;
use crate::error::KernelError;

/// Rows up to which a dense product is not the library's.
pub const FEW_ROWS: usize = 8;

/// Rows up to which the GEMV is preferred to tiles: it reads the weight again, from the L2 cache, for every 8 rows. To be
/// measured.
pub const GEMV_ROWS: usize = 16;

/// Rows up to which a packed product is not the library's: from there on its faster products are worth the expansion, which
/// moves 8 times the bytes of a 4-bit weight. To be measured.
pub const PACKED_ROWS: usize = 512;

/// Where a product reads and writes.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// Rows.
    pub m: usize,
    /// `[m, in_features]`
    pub x: DevicePtr,
    /// RMS norm of `x` in front; only where [`Products::fuses`].
    pub norm: Option<(DevicePtr, NormParams)>,
    /// `[m, stride]`
    pub y: DevicePtr,
    /// Elements from one row of `y` to the next.
    pub stride: usize,
    /// What becomes of the sums.
    pub output: GemvOutput,
}

/// What products need beside their operands.
#[derive(Clone, Copy, Debug)]
pub struct Products {
    /// Type of activations and dense weights.
    pub half: HalfType,
    /// A row's bits depend on that row alone.
    pub deterministic: bool,
    /// Every product of the library first looks for its fastest algorithm.
    pub tuning: bool,
    /// Room for an expanded matrix.
    pub workspace: DevicePtr,
    /// Its bytes.
    pub workspace_bytes: usize,
}

impl Products {
    /// Whether a product of `m` rows can take in what is in front of it and behind. Not in deterministic mode: that would
    /// round elsewhere than the kernels that it replaces.
    pub fn fuses(&self, m: usize) -> bool {
        !self.deterministic && m <= FEW_ROWS
    }

    /// Whether a norm in front and a gate behind can be part of a product of `m` rows.
    pub fn fuses_gate(&self, w: &GpuLinear, m: usize) -> bool {
        let whole = |part: &GpuPart| part.packed.is_none() || (part.rows / 2).is_multiple_of(TILE);
        self.fuses(m) && matches!(&w.parts[..], [part] if whole(part))
    }

    /// Whether a norm in front and rope and cache writes behind can be part of a product of `m` rows.
    pub fn fuses_heads(&self, w: &GpuLinear, m: usize, heads: &Heads) -> bool {
        let whole = |part: &GpuPart| [part.first, part.rows].iter().all(|at| at.is_multiple_of(heads.head_dim()));
        self.fuses(m) && w.parts.iter().all(|part| format(part).takes(heads) && whole(part))
    }

    /// Issues a product.
    ///
    /// # Errors
    /// When the device fails.
    pub fn issue<D: GpuDevice>(&self, device: &mut D, w: &GpuLinear, product: &Product) -> Result<(), KernelError> {
        let expands = w.is_packed() && w.out_features * w.in_features * 2 <= self.workspace_bytes;
        match w.dense() {
            Some(weight) if !self.deterministic && product.m > FEW_ROWS => self.issue_gemm(device, w, product, weight),
            None if !self.deterministic && product.m > PACKED_ROWS && expands => {
                for part in &w.parts {
                    if let Some(layout) = part.packed {
                        let out = self.workspace.byte_add(part.first * w.in_features * 2);
                        device.launch(&dequantize(&layout, part.at, out, self.half))?;
                    }
                }
                self.issue_gemm(device, w, product, self.workspace)
            }
            _ => self.issue_kernels(device, w, product),
        }
    }

    fn issue_gemm<D: GpuDevice>(
        &self,
        device: &mut D,
        w: &GpuLinear,
        product: &Product,
        weight: DevicePtr,
    ) -> Result<(), KernelError> {
        let Product { m, x, y, stride, output, .. } = *product;
        let gemm = Gemm {
            m,
            // Padding rows of a dense weight are zeros, and the output has room for them where it is padded.
            n: stride,
            k: w.in_features,
            a: x,
            w: weight,
            bias: w.bias,
            out: y,
            half: self.half,
            out_f32: output == GemvOutput::F32,
            accumulate: output == GemvOutput::Added,
        };
        let widths = [w.out_features, if w.dense().is_some() { w.padded_rows() } else { w.out_features }];
        assert!(widths.contains(&stride), "product: {} outputs in rows of {stride}", w.out_features);
        if self.tuning {
            device.tune(&gemm)?;
        }
        Ok(device.gemm(&gemm)?)
    }

    /// A kernel of ours for each part.
    fn issue_kernels<D: GpuDevice>(&self, device: &mut D, w: &GpuLinear, product: &Product) -> Result<(), KernelError> {
        let out_bytes = if product.output == GemvOutput::F32 { 4 } else { 2 };
        for part in &w.parts {
            let y = product.y.byte_add(part.first * out_bytes);
            let gemv = self.gemv(w, part, &Product { y, ..*product });
            let few = product.m <= GEMV_ROWS;
            device.launch(&if few { gemv.launch() } else { gemm_tile::launch(&gemv, Tile::of(&gemv)) })?;
        }
        Ok(())
    }

    fn gemv(&self, w: &GpuLinear, part: &GpuPart, product: &Product) -> Gemv {
        let gated = matches!(product.output, GemvOutput::Gated(_));
        Gemv {
            x: product.x,
            weight: part.at,
            format: format(part),
            bias: (w.bias != DevicePtr::NULL).then(|| w.bias.byte_add(part.first * 2)),
            norm: product.norm,
            y: product.y,
            y_stride: product.stride,
            m: product.m,
            n: if gated { part.rows / 2 } else { part.rows },
            k: w.in_features,
            output: match product.output {
                GemvOutput::Heads(heads) => GemvOutput::Heads(heads.from_column(part.first)),
                output => output,
            },
            half: self.half,
        }
    }
}

fn format(part: &GpuPart) -> GemvWeight {
    part.packed.map_or(GemvWeight::Dense, |layout| GemvWeight::Packed(layout.ty()))
}
