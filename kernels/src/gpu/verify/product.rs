//! Products: by GEMV with every output, norms in front, dense and packed weights; by tiles; by the library.

use super::super::device::GpuDevice;
use super::super::gemm::Gemm;
use super::super::gemm_tile::{self, Tile};
use super::super::gemv::{Gemv, GemvOutput, GemvWeight, MAX_ROWS};
use super::super::launch::{DevicePtr, Launch};
use super::packed::packed_matrix;
use super::{Bed, Checked, Half, Random, assert_close, ensure, floats};
use crate::activation::gated_activation;
use crate::backend::NormParams;
use crate::device::Cpu;
use crate::dtype::WeightType;
use crate::norm;

/// A weight as the device has it, and its values.
pub(super) struct Weight<T: Half> {
    pub(super) dense: Vec<T>,
    pub(super) packed: Option<(WeightType, Vec<u8>)>,
    values: Vec<f32>,
}

impl<T: Half> Weight<T> {
    fn dense(values: Vec<T>) -> Self {
        Self { values: floats(&values), dense: values, packed: None }
    }

    fn packed(random: &mut Random, ty: WeightType, rows: usize, k: usize) -> Checked<Self> {
        let (packed, values) = packed_matrix(random, ty, rows, k)?;
        Ok(Self { dense: Vec::new(), packed: Some((ty, packed)), values })
    }
}

/// A product's operands.
pub struct Case<T: Half> {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) x: Vec<T>,
    pub(super) weight: Weight<T>,
    pub(super) bias: Option<Vec<T>>,
    pub(super) norm: Option<(Vec<f32>, NormParams)>,
    pub(super) output: GemvOutput,
    pub(super) y: Vec<T>,
}

impl<T: Half> Case<T> {
    /// Random operands of m, n and k; with a dense weight, or a packed one.
    ///
    /// # Errors
    /// For a packed weight whose rows are no whole blocks.
    pub fn of(
        ty: Option<WeightType>,
        shape: (usize, usize, usize),
        bias: bool,
        norm: bool,
        output: GemvOutput,
    ) -> Checked<Self> {
        let (m, n, k) = shape;
        let mut random = Random((m * 1_000_003 + n * 1009 + k) as u64);
        let rows = if matches!(output, GemvOutput::Gated(_)) { 2 * n } else { n };
        Ok(Self {
            m,
            n,
            k,
            x: random.halves(m * k),
            weight: match ty {
                None => Weight::dense(random.halves(rows * k)),
                Some(ty) => Weight::packed(&mut random, ty, rows, k)?,
            },
            bias: bias.then(|| random.halves(rows)),
            norm: norm.then(|| (random.values(k), NormParams { eps: 1e-5, one_plus: m.is_multiple_of(2) })),
            output,
            y: random.halves(m * n),
        })
    }

    /// What the GEMV computes for rows `first..first + m`.
    ///
    /// # Errors
    /// When the device fails, or something is written that should not be.
    pub fn run<D: GpuDevice>(&self, bed: &mut Bed<D>, first: usize, m: usize) -> Checked<Vec<f32>> {
        self.run_by(bed, first, m, Gemv::launch)
    }

    fn run_by<D: GpuDevice>(
        &self,
        bed: &mut Bed<D>,
        first: usize,
        m: usize,
        launch: impl Fn(&Gemv) -> Launch,
    ) -> Checked<Vec<f32>> {
        let x = bed.upload(&self.x[first * self.k..(first + m) * self.k])?;
        let (dense, packed) = (
            bed.upload(&self.weight.dense)?,
            bed.upload(self.weight.packed.as_ref().map_or(&[], |(_, bytes)| bytes.as_slice()))?,
        );
        let bias = self.bias.as_ref().map(|bias| bed.upload(bias)).transpose()?;
        let norm = match &self.norm {
            None => None,
            Some((weight, params)) => Some((bed.upload(weight)?, *params)),
        };
        // Columns that belong to others lie between the rows.
        let y_stride = self.n + self.m % 3;
        let (y_half, y_f32) = (bed.alloc::<T>(m * y_stride)?, bed.alloc::<f32>(m * y_stride)?);
        let mut strided = bed.read(&y_half)?;
        for row in 0..m {
            strided[row * y_stride..][..self.n].copy_from_slice(&self.y[(first + row) * self.n..][..self.n]);
        }
        bed.write(&y_half, &strided)?;
        let f32_out = self.output == GemvOutput::F32;
        let gemv = Gemv {
            x: x.ptr(),
            weight: if self.weight.packed.is_some() { packed.ptr() } else { dense.ptr() },
            format: self.weight.packed.as_ref().map_or(GemvWeight::Dense, |(ty, _)| GemvWeight::Packed(*ty)),
            bias: bias.as_ref().map(|bias| bias.ptr()),
            norm: norm.as_ref().map(|(weight, params)| (weight.ptr(), *params)),
            y: if f32_out { y_f32.ptr() } else { y_half.ptr() },
            y_stride,
            m,
            n: self.n,
            k: self.k,
            output: self.output,
            half: T::TYPE,
        };
        bed.launch(&launch(&gemv))?;
        let y = if f32_out { bed.read(&y_f32)? } else { floats(&bed.read(&y_half)?) };
        let rows = y.chunks(y_stride.max(1));
        let untouched = rows.clone().all(|row| row[self.n..].iter().all(|value| value.is_nan()));
        ensure(untouched, || "columns of others were written".to_owned())?;
        Ok(rows.flat_map(|row| &row[..self.n]).copied().collect())
    }

    /// The same in f64 sums, from x as the device rounds it.
    pub fn reference(&self) -> Vec<f32> {
        let (cpu, mut x) = (Cpu::new(1), floats(&self.x));
        if let Some((weight, params)) = &self.norm {
            let norm = norm::RmsNorm { weight, eps: params.eps, one_plus: params.one_plus };
            norm::rms_norm(&cpu, norm, &floats(&self.x), &mut x);
            x.iter_mut().for_each(|x| *x = T::of(*x).value());
        }
        let weight = &self.weight.values;
        let rows = weight.len() / self.k;
        let dot = |x: &[f32], row: usize| {
            let products = x.iter().zip(&weight[row * self.k..][..self.k]).map(|(&x, &w)| f64::from(x) * f64::from(w));
            (products.sum::<f64>() + self.bias.as_ref().map_or(0.0, |bias| f64::from(bias[row].value()))) as f32
        };
        let product: Vec<f32> =
            x.chunks(self.k).flat_map(|x| (0..rows).map(move |row| (x, row))).map(|(x, row)| dot(x, row)).collect();
        match self.output {
            GemvOutput::Half | GemvOutput::F32 | GemvOutput::Heads(_) => product,
            GemvOutput::Added => product.iter().zip(&self.y).map(|(product, y)| product + y.value()).collect(),
            GemvOutput::Gated(activation) => {
                let mut out = vec![0.0; self.m * self.n];
                gated_activation(&cpu, activation, self.n, &product, &mut out);
                out
            }
        }
    }

    /// Sums in f32 of k products below 1; a factor that differs in the last place may round a normed x the other way; one
    /// rounding of the result. A gate passes its error on, times an up of at most a few dozen.
    ///
    /// # Errors
    /// When a result is not the reference's.
    pub fn check<D: GpuDevice>(&self, bed: &mut Bed<D>) -> Checked {
        let close = self.run(bed, 0, self.m).and_then(|got| self.close(&got));
        close.map_err(|fault| fault.of(self.describe()))
    }

    fn close(&self, got: &[f32]) -> Checked {
        let relative = if self.output == GemvOutput::F32 { 1e-5 } else { T::ROUNDING + 1e-5 };
        let absolute = if self.norm.is_some() { 16.0 * T::ROUNDING } else { 1e-3 };
        assert_close(got, &self.reference(), relative, absolute)
    }

    /// The same by tiles, without a norm or a gate, and every row has the bits that the GEMV gives it.
    ///
    /// # Errors
    /// When a result is not the reference's, or not the GEMV's.
    pub fn check_tiles<D: GpuDevice>(&self, bed: &mut Bed<D>, tile: Tile) -> Checked {
        let compared = self.run_by(bed, 0, self.m, |product| gemm_tile::launch(product, tile)).and_then(|got| {
            self.close(&got)?;
            for first in (0..self.m).step_by(MAX_ROWS) {
                let gemv = self.run(bed, first, (self.m - first).min(MAX_ROWS))?;
                let other = gemv.iter().zip(&got[first * self.n..]).position(|(a, b)| a.to_bits() != b.to_bits());
                ensure(other.is_none(), || {
                    format!("value {} has other bits than the GEMV's", first * self.n + other.unwrap_or(0))
                })?;
            }
            Ok(())
        });
        compared.map_err(|fault| fault.of(format!("{tile:?} tiles, {}", self.describe())))
    }

    /// The same by the library, without a norm or a gate.
    ///
    /// # Errors
    /// When a result is not the reference's.
    pub fn check_library<D: GpuDevice>(&self, bed: &mut Bed<D>) -> Checked {
        let (a, w) = (bed.upload(&self.x)?, bed.upload(&self.weight.dense)?);
        let bias = self.bias.as_ref().map(|bias| bed.upload(bias)).transpose()?;
        let (y_half, y_f32) = (bed.upload(&self.y)?, bed.alloc::<f32>(self.y.len())?);
        let out_f32 = self.output == GemvOutput::F32;
        let gemm = Gemm {
            m: self.m,
            n: self.n,
            k: self.k,
            a: a.ptr(),
            w: w.ptr(),
            bias: bias.map_or(DevicePtr::NULL, |bias| bias.ptr()),
            out: if out_f32 { y_f32.ptr() } else { y_half.ptr() },
            half: T::TYPE,
            out_f32,
            accumulate: self.output == GemvOutput::Added,
        };
        bed.device().gemm(&gemm)?;
        let y = if out_f32 { bed.read(&y_f32)? } else { floats(&bed.read(&y_half)?) };
        let relative = if out_f32 { 1e-5 } else { T::ROUNDING + 1e-5 };
        assert_close(&y, &self.reference(), relative, 1e-3).map_err(|fault| fault.of(self.describe()))
    }

    fn describe(&self) -> String {
        let format = self.weight.packed.as_ref().map_or("dense", |(ty, _)| ty.name());
        let (bias, norm) = (self.bias.is_some(), self.norm.is_some());
        let Self { m, n, k, output, .. } = self;
        format!("{m} x {n} x {k}, {format} weight, {output:?}, bias {bias}, norm {norm}")
    }
}
