//! GEMV: every output, norms in front, edges of the tiles, independence of the number of rows.

use half::{bf16, f16};
use sconce_kernels::activation::{GateActivation, gated_activation};
use sconce_kernels::backend::NormParams;
use sconce_kernels::device::Cpu;
use sconce_kernels::dtype::WeightType;
use sconce_kernels::gpu::gemv::{Gemv, GemvOutput, GemvWeight};
use sconce_kernels::norm;

use super::emu::{Emulator, emulated};
use super::quant::{TYPES, packed_matrix};
use super::testing::{Half, Random, assert_close, floats};

/// A weight as the device has it, and its values.
struct Weight<T: Half> {
    dense: Vec<T>,
    packed: Option<(WeightType, Vec<u8>)>,
    values: Vec<f32>,
}

impl<T: Half> Weight<T> {
    fn dense(values: Vec<T>) -> Self {
        Self { values: floats(&values), dense: values, packed: None }
    }

    fn packed(random: &mut Random, ty: WeightType, rows: usize, k: usize) -> Self {
        let (packed, values) = packed_matrix(random, ty, rows, k);
        Self { dense: Vec::new(), packed: Some((ty, packed)), values }
    }
}

/// A product's operands.
struct Case<T: Half> {
    m: usize,
    n: usize,
    k: usize,
    x: Vec<T>,
    weight: Weight<T>,
    bias: Option<Vec<T>>,
    norm: Option<(Vec<f32>, NormParams)>,
    output: GemvOutput,
    y: Vec<T>,
}

impl<T: Half> Case<T> {
    fn random(shape: (usize, usize, usize), bias: bool, norm: bool, output: GemvOutput) -> Self {
        Self::of(None, shape, bias, norm, output)
    }

    fn of(ty: Option<WeightType>, shape: (usize, usize, usize), bias: bool, norm: bool, output: GemvOutput) -> Self {
        let (m, n, k) = shape;
        let mut random = Random((m * 1_000_003 + n * 1009 + k) as u64);
        let rows = if matches!(output, GemvOutput::Gated(_)) { 2 * n } else { n };
        Self {
            m,
            n,
            k,
            x: random.halves(m * k),
            weight: match ty {
                None => Weight::dense(random.halves(rows * k)),
                Some(ty) => Weight::packed(&mut random, ty, rows, k),
            },
            bias: bias.then(|| random.halves(rows)),
            norm: norm.then(|| (random.values(k), NormParams { eps: 1e-5, one_plus: m.is_multiple_of(2) })),
            output,
            y: random.halves(m * n),
        }
    }

    /// What the device computes for rows `first..first + m`.
    fn run(&self, emu: &mut Emulator, first: usize, m: usize) -> Vec<f32> {
        let x = emu.upload(&self.x[first * self.k..(first + m) * self.k]);
        let (dense, packed) = (
            emu.upload(&self.weight.dense),
            emu.upload(self.weight.packed.as_ref().map_or(&[], |(_, bytes)| bytes.as_slice())),
        );
        let bias = self.bias.as_ref().map(|bias| emu.upload(bias));
        let norm = self.norm.as_ref().map(|(weight, params)| (emu.upload(weight), *params));
        // Columns that belong to others lie between the rows.
        let y_stride = self.n + self.m % 3;
        let (mut y_half, y_f32) = (emu.alloc::<T>(m * y_stride), emu.alloc::<f32>(m * y_stride));
        let mut strided = y_half.read();
        for row in 0..m {
            strided[row * y_stride..][..self.n].copy_from_slice(&self.y[(first + row) * self.n..][..self.n]);
        }
        y_half.write(&strided);
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
        emu.launch(&gemv.launch());
        let y = if f32_out { y_f32.read() } else { floats(&y_half.read()) };
        let rows = y.chunks(y_stride.max(1));
        assert!(rows.clone().all(|row| row[self.n..].iter().all(|value| value.is_nan())), "columns of others");
        rows.flat_map(|row| &row[..self.n]).copied().collect()
    }

    /// The same in f64 sums, from x as the device rounds it.
    fn reference(&self) -> Vec<f32> {
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
            GemvOutput::Half | GemvOutput::F32 => product,
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
    fn check(&self, emu: &mut Emulator) {
        let relative = if self.output == GemvOutput::F32 { 1e-5 } else { T::ROUNDING + 1e-5 };
        let absolute = if self.norm.is_some() { 16.0 * T::ROUNDING } else { 1e-3 };
        let got = self.run(emu, 0, self.m);
        assert_close(&got, &self.reference(), relative, absolute);
    }
}

const GATED: GemvOutput = GemvOutput::Gated(GateActivation::Silu);

/// (m, n, k): one element of everything; a row beyond a tile; slices that end within, on and behind a warp's turn; several tiles of rows.
const SHAPES: [(usize, usize, usize); 7] =
    [(1, 1, 8), (3, 17, 40), (8, 16, 128), (2, 33, 1032), (7, 8, 1024), (5, 40, 2096), (19, 24, 264)];

fn check_type<T: Half>(emu: &mut Emulator) {
    for (i, shape) in SHAPES.into_iter().enumerate() {
        for output in [GemvOutput::Half, GemvOutput::F32, GemvOutput::Added, GATED] {
            Case::<T>::random(shape, i % 2 == 0, false, output).check(emu);
        }
        Case::<T>::random(shape, i % 2 == 1, true, if i % 2 == 0 { GemvOutput::F32 } else { GATED }).check(emu);
    }
}

#[test]
fn products_of_bf16_match() {
    emulated(|emu| {
        check_type::<bf16>(emu);
    });
}

#[test]
fn products_of_f16_match() {
    emulated(|emu| {
        check_type::<f16>(emu);
    });
}

#[test]
fn every_activation_is_applied_to_the_gate() {
    emulated(|emu| {
        for activation in [GateActivation::GeluTanh, GateActivation::Gelu] {
            Case::<bf16>::random((2, 24, 64), true, false, GemvOutput::Gated(activation)).check(emu);
        }
    });
}

#[test]
fn a_rows_bits_do_not_depend_on_the_number_of_rows() {
    emulated(|emu| {
        for (norm, output) in [(false, GemvOutput::F32), (true, GATED)] {
            let case = Case::<bf16>::random((8, 20, 1544), true, norm, output);
            let all = case.run(emu, 0, 8);
            for (first, m) in [(0, 1), (7, 1), (2, 3), (1, 7)] {
                assert_eq!(case.run(emu, first, m), all[first * 20..(first + m) * 20], "rows {first}..{}", first + m);
            }
        }
    });
}

#[test]
fn no_rows_launch_nothing() {
    emulated(|emu| Case::<bf16>::random((0, 16, 64), false, true, GemvOutput::F32).check(emu));
}

/// Widths of whole blocks: less than a slice, a slice, more slices than warps and a part of one.
fn packed_widths(ty: WeightType) -> [usize; 3] {
    if ty.block_len() == 32 { [96, 256, 2144] } else { [256, 512, 2304] }
}

fn check_packed<T: Half>(emu: &mut Emulator) {
    for ty in TYPES {
        let [short, slice, long] = packed_widths(ty);
        Case::<T>::of(Some(ty), (3, 17, short), true, false, GemvOutput::F32).check(emu);
        Case::<T>::of(Some(ty), (9, 32, slice), true, true, GATED).check(emu);
        Case::<T>::of(Some(ty), (8, 16, long), false, false, GemvOutput::Added).check(emu);
    }
}

#[test]
fn products_of_packed_weights_and_bf16_match() {
    emulated(|emu| {
        check_packed::<bf16>(emu);
    });
}

#[test]
fn products_of_packed_weights_and_f16_match() {
    emulated(|emu| {
        check_packed::<f16>(emu);
    });
}

#[test]
fn a_rows_bits_do_not_depend_on_the_number_of_rows_with_packed_weights() {
    emulated(|emu| {
        for ty in [WeightType::Q4K, WeightType::Q2K, WeightType::Q8_0] {
            let case = Case::<bf16>::of(Some(ty), (8, 16, 2304), false, true, GATED);
            let all = case.run(emu, 0, 8);
            for (first, m) in [(0, 1), (5, 2), (1, 7)] {
                assert_eq!(case.run(emu, first, m), all[first * 16..(first + m) * 16], "{ty:?}, {m} rows");
            }
        }
    });
}
