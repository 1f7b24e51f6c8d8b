//! The kernels whose rates are measured.

use half::bf16;
use sconce_kernels::activation::GateActivation;
use sconce_kernels::backend::NormParams;
use sconce_kernels::dtype::WeightType;
use sconce_kernels::gpu::activation::Gated;
use sconce_kernels::gpu::device::GpuDevice;
use sconce_kernels::gpu::embed::Embed;
use sconce_kernels::gpu::gemm::Gemm;
use sconce_kernels::gpu::gemm_tile::{self, Tile};
use sconce_kernels::gpu::gemv::{Gemv, GemvOutput, GemvWeight, MAX_ROWS};
use sconce_kernels::gpu::launch::{DevicePtr, HalfType, Launch};
use sconce_kernels::gpu::logprobs::{Logprobs, ScoreRow};
use sconce_kernels::gpu::norm::{NormTarget, RmsNorm};
use sconce_kernels::gpu::pod;
use sconce_kernels::gpu::product::FEW_ROWS;
use sconce_kernels::gpu::quant::{QuantLayout, dequantize};
use sconce_kernels::gpu::sample_rows::{RING, SamplePlace, SampleResult, SampleTable};
use sconce_kernels::gpu::sampling::{LIST_CAPACITY, SampleWorkspace, Sampling};
use sconce_kernels::gpu::verify::Random;
use sconce_kernels::sampling::{Filters, SampleSpec};

use super::cached;
use super::rates::{Issue, Operands, Rates, Work};

const HALF: HalfType = HalfType::Bf16;

/// A list of kernels of one kind.
type List<D> = fn(&mut Rates<'_, '_, D>);

/// All lists with their names, most worth first.
pub(super) fn all<D: GpuDevice>() -> Vec<(&'static str, List<D>)> {
    vec![
        ("attention", cached::attention),
        ("gemv", gemv),
        ("gemv of packed weights", gemv_packed),
        ("the library's products", library),
        ("products by tiles", tiles),
        ("norms and activations", rows),
        ("qkv_post", cached::qkv_post),
        ("sampling", sampling),
        ("expansion", expansion),
    ]
}

/// Names, outputs and inputs of a layer's matrices and of the head.
fn matrices(sizes: &Operands) -> [(&'static str, usize, usize); 5] {
    let (heads, kv_heads, dim) = sizes.heads;
    [
        ("qkv", (heads + 2 * kv_heads) * dim, sizes.hidden),
        ("o", sizes.hidden, heads * dim),
        ("gate_up", 2 * sizes.inner, sizes.hidden),
        ("down", sizes.hidden, sizes.inner),
        ("head", sizes.vocab, sizes.hidden),
    ]
}

/// A product with a weight of so many bytes.
fn product(m: usize, n: usize, k: usize, weight: usize) -> Work {
    Work { bytes: weight + 2 * m * (n + k), flops: 2.0 * (m * n * k) as f64 }
}

/// Types of packed weights that are measured.
const PACKED: [WeightType; 3] = [WeightType::Q4K, WeightType::Q8_0, WeightType::Q4_1];

fn gemv<D: GpuDevice>(rates: &mut Rates<'_, '_, D>) {
    let sizes = rates.bench.sizes.clone();
    for &m in sizes.batches.iter().filter(|&&m| m <= MAX_ROWS) {
        for (name, n, k) in matrices(&sizes) {
            ours(rates, &format!("gemv {name}, {m} rows"), GemvWeight::Dense, (m, n, k), Gemv::launch);
        }
    }
}

fn gemv_packed<D: GpuDevice>(rates: &mut Rates<'_, '_, D>) {
    let sizes = rates.bench.sizes.clone();
    let [.., (name, n, k), _, _] = matrices(&sizes);
    for ty in PACKED {
        for &m in sizes.batches.iter().filter(|&&m| m <= MAX_ROWS) {
            let name = format!("gemv {name} of {}, {m} rows", ty.name());
            ours(rates, &name, GemvWeight::Packed(ty), (m, n, k), Gemv::launch);
        }
    }
}

/// Of many rows, with the bits that the GEMV gives each.
fn tiles<D: GpuDevice>(rates: &mut Rates<'_, '_, D>) {
    let sizes = rates.bench.sizes.clone();
    let launch = |gemv: &Gemv| gemm_tile::launch(gemv, Tile::of(gemv));
    for m in step_rows(&sizes).into_iter().filter(|&m| m > FEW_ROWS) {
        for (name, n, k) in matrices(&sizes) {
            ours(rates, &format!("tiles {name}, {m} rows"), GemvWeight::Dense, (m, n, k), launch);
        }
        let [.., (name, n, k), _, _] = matrices(&sizes);
        for ty in PACKED {
            ours(rates, &format!("tiles {name} of {}, {m} rows", ty.name()), GemvWeight::Packed(ty), (m, n, k), launch);
        }
    }
}

/// A line for a kernel of ours that computes a product.
fn ours<D: GpuDevice>(
    rates: &mut Rates<'_, '_, D>,
    name: &str,
    format: GemvWeight,
    (m, n, k): (usize, usize, usize),
    launch: fn(&Gemv) -> Launch,
) {
    let weight_bytes = match format {
        GemvWeight::Dense => 2 * n * k,
        GemvWeight::Packed(ty) => QuantLayout::new(ty, n, k).map_or(0, |layout| layout.bytes()),
    };
    rates.line(name, product(m, n, k, weight_bytes), |bench| {
        let (weights, xs, y) = (bench.parts(weight_bytes)?, bench.parts(2 * m * k)?, bench.out(2 * m * n)?);
        Ok(Box::new(move |index| {
            let (x, weight, output) = (xs(index), weights(index), GemvOutput::Half);
            let (bias, norm, y_stride) = (None, None, n);
            let gemv = Gemv { x, weight, format, bias, norm, y, y_stride, m, n, k, output, half: HALF };
            Issue::from(launch(&gemv))
        }))
    });
}

fn library<D: GpuDevice>(rates: &mut Rates<'_, '_, D>) {
    let sizes = rates.bench.sizes.clone();
    let batches = sizes.batches.iter().copied().filter(|&m| m > FEW_ROWS);
    for m in batches.chain([sizes.prompt]) {
        for (name, n, k) in matrices(&sizes) {
            rates.line(&format!("library {name}, {m} rows"), product(m, n, k, n * k * 2), |bench| {
                let (weights, rows, out) = (bench.parts(2 * n * k)?, bench.parts(2 * m * k)?, bench.out(2 * m * n)?);
                Ok(Box::new(move |index| {
                    let (a, w, bias) = (rows(index), weights(index), DevicePtr::NULL);
                    Issue::Gemm(Gemm { m, n, k, a, w, bias, out, half: HALF, out_f32: false, accumulate: false })
                }))
            });
        }
    }
}

/// Rows of decode steps and of a prompt.
pub(super) fn step_rows(sizes: &Operands) -> Vec<usize> {
    sizes.batches.iter().copied().chain([sizes.prompt]).collect()
}

fn rows<D: GpuDevice>(rates: &mut Rates<'_, '_, D>) {
    let Operands { hidden, inner, vocab, .. } = rates.bench.sizes;
    let params = NormParams { eps: 1e-5, one_plus: false };
    for rows in step_rows(&rates.bench.sizes.clone()) {
        rates.line(&format!("norm, {rows} rows"), Work::bytes(4 * rows * hidden), |bench| {
            let weight = bench.put(&vec![1f32; hidden])?;
            let (xs, out, target) = (bench.parts(2 * rows * hidden)?, bench.out(2 * rows * hidden)?, NormTarget::Rows);
            Ok(Box::new(move |index| {
                let norm = RmsNorm { x: xs(index), weight, out, target, rows, width: hidden, params, half: HALF };
                Issue::from(norm.launch())
            }))
        });
        rates.line(&format!("silu, {rows} rows"), Work::bytes(6 * rows * inner), |bench| {
            let (xs, out) = (bench.parts(4 * rows * inner)?, bench.out(2 * rows * inner)?);
            let activation = GateActivation::Silu;
            Ok(Box::new(move |index| {
                let gated = Gated { gate_up: xs(index), out, rows, width: inner, activation, half: HALF };
                Issue::from(gated.launch())
            }))
        });
        rates.line(&format!("embed, {rows} rows"), Work::bytes(4 * rows * hidden), |bench| {
            let tokens: Vec<u32> = (0..rows).map(|row| (row * 7919 % vocab) as u32).collect();
            let (tokens, row_slot) = (bench.put(&tokens)?, bench.put(&vec![0i32; rows])?);
            let (tables, next_token) = (bench.parts(2 * vocab * hidden)?, bench.put(&[0u32])?);
            let out = bench.out(2 * rows * hidden)?;
            Ok(Box::new(move |index| {
                let (table, packed, scale, width) = (tables(index), None, 1.0, hidden);
                let embed =
                    Embed { table, packed, vocab, tokens, row_slot, next_token, out, rows, width, scale, half: HALF };
                Issue::from(embed.launch())
            }))
        });
    }
}

fn sampling<D: GpuDevice>(rates: &mut Rates<'_, '_, D>) {
    let sizes = rates.bench.sizes.clone();
    let (vocab, most) = (sizes.vocab, sizes.batches.iter().copied().max().unwrap_or(1));
    let mut random = Random(1);
    // Bell-shaped, as a model's are, not flat.
    let row: Vec<f32> = (0..vocab).map(|_| random.values(3).iter().sum::<f32>() * 6.0).collect();
    let Ok(logits) = rates.bench.put(&row.repeat(most)) else { return };
    let top_p = SampleSpec { filters: Filters { top_k: 0, top_p: 0.9, min_p: 0.0 }, ..SampleSpec::default() };
    let greedy = SampleSpec { temperature: 0.0, ..SampleSpec::default() };
    for &batch in &sizes.batches {
        for (name, spec) in [("greedy", greedy), ("top-p", top_p)] {
            rates.line(&format!("sampling {name}, {batch} rows"), Work::bytes(4 * batch * vocab), |bench| {
                let mut table = SampleTable::default();
                for row in 0..batch as u32 {
                    let place = SamplePlace { logit_row: row, slot: row, position: 9, ..SamplePlace::default() };
                    table.push(&SampleSpec { seed: u64::from(row), ..spec }, &place, vocab)?;
                }
                let space = bench.put(&vec![0u8; SampleWorkspace::bytes(batch, LIST_CAPACITY)])?;
                let sampling = Sampling {
                    logits,
                    logit_stride: vocab,
                    vocab,
                    rows: bench.put(pod::words(table.rows()))?,
                    side: DevicePtr::NULL,
                    raw: DevicePtr::NULL,
                    counts: DevicePtr::NULL,
                    count_stride: 0,
                    rings: bench.out(4 * batch * RING)?,
                    allowed: DevicePtr::NULL,
                    allowed_stride: 0,
                    next_token: bench.out(4 * batch)?,
                    results: bench.out(size_of::<SampleResult>() * batch)?,
                    workspace: SampleWorkspace { at: space, rows: batch, list_capacity: LIST_CAPACITY },
                };
                let launches = sampling.sample(batch, table.needs());
                Ok(Box::new(move |_| Issue::Kernels(launches.clone())))
            });
        }
        rates.line(&format!("log-probabilities, {batch} rows"), Work::bytes(4 * batch * vocab), |bench| {
            let rows: Vec<ScoreRow> = (0..batch as u32).map(|row| ScoreRow::prompt(row, row, 5)).collect();
            let workspace = bench.put(&vec![0u8; Logprobs::workspace_bytes(batch, vocab)])?;
            let (raw, results, max_rows) = (DevicePtr::NULL, DevicePtr::NULL, batch);
            let (rows, records) = (bench.put(pod::words(&rows))?, bench.out(176 * batch)?);
            let launch =
                Logprobs { logits, logit_stride: vocab, vocab, raw, rows, results, records, workspace, max_rows }
                    .launch(batch);
            Ok(Box::new(move |_| Issue::from(launch.clone())))
        });
    }
}

fn expansion<D: GpuDevice>(rates: &mut Rates<'_, '_, D>) {
    let [.., (name, n, k), _, _] = matrices(&rates.bench.sizes);
    for ty in [WeightType::Q4K, WeightType::Q8_0, WeightType::Q4_1] {
        let Ok(layout) = QuantLayout::new(ty, n, k) else { continue };
        let work = Work::bytes(layout.bytes() + n * k * size_of::<bf16>());
        rates.line(&format!("expansion of {name} from {}", ty.name()), work, |bench| {
            let (packed, out) = (bench.parts(layout.bytes())?, bench.out(2 * n * k)?);
            Ok(Box::new(move |index| Issue::from(dequantize(&layout, packed(index), out, HALF))))
        });
    }
}
