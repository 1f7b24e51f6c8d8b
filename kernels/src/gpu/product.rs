//! Which kernel computes a product: few rows read the weight once as it lies, many go to the library.
//!
//! | rows | dense | packed |
//! |---|---|---|
//! | up to 8 | `gemv` | `gemv` |
//! | up to 64 | library | `gemv` |
//! | more | library | expanded into a workspace, then the library |
//!
//! In deterministic mode every product is `gemv`, whose rows don't depend on one another, in pieces of 64 rows.

use super::device::GpuDevice;
use super::gemm::Gemm;
use super::gemv::{Gemv, GemvOutput, GemvWeight, MAX_ROWS};
use super::launch::{DevicePtr, HalfType};
use super::qkv_post::Heads;
use super::quant::{TILE, dequantize};
use super::weights::{GpuLinear, GpuPart};
use crate::backend::NormParams;
use crate::error::KernelError;

/// Rows up to which a dense product is not the library's.
pub const FEW_ROWS: usize = 8;

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
        let few = product.m <= if w.dense().is_some() { FEW_ROWS } else { MAX_ROWS };
        if few || self.deterministic {
            return self.issue_gemv(device, w, product);
        }
        match w.dense() {
            Some(weight) => self.issue_gemm(device, w, product, weight),
            None if w.is_packed() && w.out_features * w.in_features * 2 <= self.workspace_bytes => {
                for part in &w.parts {
                    if let Some(layout) = part.packed {
                        let out = self.workspace.byte_add(part.first * w.in_features * 2);
                        device.launch(&dequantize(&layout, part.at, out, self.half))?;
                    }
                }
                self.issue_gemm(device, w, product, self.workspace)
            }
            // A head that nobody expands, or dense and packed rows together.
            None => self.issue_gemv(device, w, product),
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

    fn issue_gemv<D: GpuDevice>(&self, device: &mut D, w: &GpuLinear, product: &Product) -> Result<(), KernelError> {
        let out_bytes = if product.output == GemvOutput::F32 { 4 } else { 2 };
        for part in &w.parts {
            let mut row = 0;
            while row < product.m {
                let m = (product.m - row).min(MAX_ROWS);
                let x = product.x.byte_add(row * w.in_features * 2);
                let y = product.y.byte_add((row * product.stride + part.first) * out_bytes);
                device.launch(&self.gemv(w, part, &Product { m, x, y, ..*product }).launch())?;
                row += m;
            }
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
