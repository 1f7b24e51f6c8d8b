//! The wgmma attention kernels against the mma.sync kernels on the card: the same steps over the same cache, longer ones
//! than the CPU's reference has time for.

use std::path::Path;

use half::{bf16, f16};
use sconce_kernels::attention::AttentionShape;
use sconce_kernels::gpu::attention::{Attention, AttentionTiles};
use sconce_kernels::gpu::attention_sm90a::{self, ArenaMap};
use sconce_kernels::gpu::device::{GpuDevice, GpuError};
use sconce_kernels::gpu::launch::{DevicePtr, HalfType, Launch};
use sconce_kernels::gpu::verify::{Array, Bed, Checked, DeviceCache, Fault, PagedCache, Random, slot_of};
use sconce_kernels::gpu::work_list::{SplitPolicy, WorkPlanner, WorkSpan};
use sconce_kernels::kv::{CacheKind, KvDtype};
use serde_json::{Value, json};

use super::Open;
use super::checkpoint::Family;
use super::engine::config;
use super::parity::logits;
use super::report::Report;
use crate::config::{AttentionChoice, EngineConfig};

/// How much is compared.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Tokens of the longest sequence, 256 or more.
    pub longest: usize,
    /// KV heads; four query heads each.
    pub num_kv_heads: usize,
    /// Launches of a case, compared bit by bit: a race shows as a difference, sooner or later.
    pub launches: usize,
}

/// What a card does in seconds.
pub const CARD: Scale = Scale { longest: 8192, num_kv_heads: 8, launches: 8 };

/// One step.
struct Case {
    name: &'static str,
    half: HalfType,
    head_dim: usize,
    kind: CacheKind,
    softcap: Option<f32>,
    /// Tokens in the cache and rows to compute, of each sequence.
    spans: Vec<(usize, usize)>,
}

impl Case {
    /// Tokens of each sequence when the step is done.
    fn lengths(&self) -> Vec<usize> {
        self.spans.iter().map(|(start, rows)| start + rows).collect()
    }
}

/// Prefill, decode, both at once, windows, a soft cap; `longest` tokens at most.
fn cases(longest: usize) -> Vec<Case> {
    let full = |name, half, head_dim, spans| Case { name, half, head_dim, kind: CacheKind::Full, softcap: None, spans };
    let window = CacheKind::SlidingWindow { window: longest / 8 + 5 };
    let decode = || (0..8).map(|i| (longest - 1 - i * longest / 9, 1)).collect::<Vec<_>>();
    let mixed = || vec![(longest / 2, longest / 4), (longest - 1, 1), (3, 1), (0, longest / 8), (63, 1), (64, 33)];
    vec![
        full("prefill", HalfType::Bf16, 128, vec![(0, longest)]),
        full("prefill, heads of 64", HalfType::F16, 64, vec![(0, longest)]),
        full("decode", HalfType::Bf16, 128, decode()),
        full("decode, heads of 64", HalfType::Bf16, 64, decode()),
        full("one row of one sequence", HalfType::F16, 128, vec![(longest - 1, 1)]),
        full("prompts and rows at once", HalfType::Bf16, 128, mixed()),
        Case { kind: window, ..full("a sliding window", HalfType::Bf16, 128, mixed()) },
        Case { softcap: Some(20.0), ..full("a soft cap", HalfType::F16, 128, mixed()) },
    ]
}

/// Compares the kernels, and engines that use them with the CPU. Skipped, with the reason, on a card that has no such
/// instructions.
pub fn wgmma<D: GpuDevice + 'static>(report: &mut Report<'_>, folder: &Path, scale: Scale, open: Open<'_, D>) {
    let mut has_wgmma = false;
    report.line("attention with wgmma is attention with mma.sync", || {
        let device = open()?;
        let compute = device.info().compute;
        if compute != attention_sm90a::COMPUTE {
            return Ok(json!({"skipped": format!("compute capability {}.{}, not 9.0", compute.0, compute.1)}).into());
        }
        has_wgmma = true;
        let mut bed = Bed::new(device);
        let (mut results, mut wrong) = (serde_json::Map::new(), Vec::new());
        for case in cases(scale.longest) {
            match compare(&mut bed, &case, scale) {
                Ok(worst) => _ = results.insert(case.name.to_owned(), json!({"worst_difference": worst})),
                Err(fault) => wrong.push(fault.of(case.name).to_string()),
            }
        }
        if wrong.is_empty() { Ok(Value::Object(results).into()) } else { Err(wrong.join("; ").into()) }
    });
    if has_wgmma {
        let config = EngineConfig { attention_kernel: AttentionChoice::Wgmma, ..config() };
        for family in [Family::Llama, Family::Qwen3] {
            let name = format!("logits of {family:?} with wgmma against the CPU");
            report.line(&name, || logits(folder, family, &config, open));
        }
    }
}

/// One step on the device, ready for either family.
struct Step<'a> {
    shape: AttentionShape,
    half: HalfType,
    rows: usize,
    spans: Vec<WorkSpan>,
    cache: DeviceCache<'a>,
    qkv: Array<u8>,
}

/// What a case attends with.
fn shape(case: &Case, num_kv_heads: usize) -> AttentionShape {
    let (num_heads, head_dim) = (4 * num_kv_heads, case.head_dim);
    let (head_dim_k, head_dim_v, scale) = (head_dim, head_dim, 0.5 * (head_dim as f32).powf(-0.5));
    AttentionShape { num_heads, num_kv_heads, head_dim_k, head_dim_v, scale, softcap: case.softcap, kind: case.kind }
}

impl<'a> Step<'a> {
    /// Random queries, and keys and values of every token that is there. What nobody wrote is NaN.
    fn new<D: GpuDevice>(
        bed: &mut Bed<D>,
        case: &Case,
        shape: AttentionShape,
        cache: &'a mut PagedCache,
    ) -> Result<Self, GpuError> {
        let mut next = numbers(case.half);
        cache.fill(&case.lengths(), &mut next);
        let mut rows = 0;
        let spans = case.spans.iter().enumerate().map(|(sequence, &(start, num_rows))| {
            rows += num_rows;
            let (slot, first_row) = (slot_of(sequence), (rows - num_rows) as u32);
            WorkSpan { slot, first_row, num_rows: num_rows as u32, start: start as u32 }
        });
        let spans = spans.collect();
        let qkv: Vec<u8> = (0..rows * shape.qkv_width()).flat_map(|_| next()).collect();
        let (cache, qkv) = (cache.upload(bed, &vec![0; case.spans.len()])?, bed.upload(&qkv)?);
        Ok(Self { shape, half: case.half, rows, spans, cache, qkv })
    }

    /// The launch of a family, and where it writes.
    fn prepare<D: GpuDevice>(
        &self,
        bed: &mut Bed<D>,
        tiles: &AttentionTiles,
        arena: Option<&ArenaMap>,
    ) -> Result<(Launch, Array<u8>), GpuError> {
        let workspace = tiles.workspace(self.shape.num_kv_heads);
        let mut planner = WorkPlanner::new(tiles.work_shape(&self.shape, SplitPolicy::Adaptive));
        let work = bed.upload(planner.plan(&self.spans))?.ptr();
        let partials = bed.alloc::<f32>(workspace.partials)?.ptr();
        let tickets = bed.upload(&vec![0u32; workspace.tickets])?.ptr();
        let written = bed.alloc::<u8>(self.rows * self.shape.out_width() * 2)?;
        let (cache, shape, qkv, half) = (self.cache.layer(), &self.shape, self.qkv.ptr(), self.half);
        let (out, sinks) = (written.ptr(), DevicePtr::NULL);
        let launch = Attention { shape, tiles, cache, qkv, arena, out, work, partials, tickets, sinks, half }.launch();
        Ok((launch, written))
    }

    /// What a launch writes.
    fn run<D: GpuDevice>(&self, bed: &mut Bed<D>, (launch, out): &(Launch, Array<u8>)) -> Result<Vec<u8>, GpuError> {
        bed.device().fill(out.ptr(), 0xff, out.len())?;
        bed.launch(launch)?;
        bed.read(out)
    }
}

/// Runs both families on a case; gives the largest difference.
fn compare<D: GpuDevice>(bed: &mut Bed<D>, case: &Case, scale: Scale) -> Checked<f32> {
    let shape = shape(case, scale.num_kv_heads);
    let mma = AttentionTiles::new(&shape, false, bed.device().info().into()).ok_or_else(|| wrong("no tiles"))?;
    let wgmma = attention_sm90a::tiles_on(&shape, false, bed.device())?;
    let dtype = if case.half == HalfType::Bf16 { KvDtype::Bf16 } else { KvDtype::F16 };
    let mut cache = PagedCache::new(&shape, dtype, &case.lengths(), 7);
    let step = Step::new(bed, case, shape, &mut cache)?;
    let map = step.cache.map(bed, case.half)?;
    let old = step.prepare(bed, &mma, None)?;
    let new = step.prepare(bed, &wgmma, Some(&map))?;
    let (want, got) = (step.run(bed, &old)?, step.run(bed, &new)?);
    let worst = largest_difference(case.half, &got, &want);
    // Each rounds probabilities below 1 and values below 2, and the result; the orders of summation differ.
    let bound = if case.half == HalfType::Bf16 { 4.0 / 256.0 } else { 4.0 / 2048.0 };
    if worst.is_nan() || worst > bound {
        return Err(wrong(format!("outputs differ by up to {worst}, the bound is {bound}")));
    }
    for repeat in 1..scale.launches {
        if step.run(bed, &new)? != got {
            return Err(wrong(format!("launch {repeat} gives other bits than the first")));
        }
    }
    Ok(worst)
}

fn wrong(text: impl Into<String>) -> Fault {
    Fault::Wrong(text.into())
}

fn largest_difference(half: HalfType, got: &[u8], want: &[u8]) -> f32 {
    let value = |pair: &[u8]| match half {
        HalfType::Bf16 => bf16::from_le_bytes([pair[0], pair[1]]).to_f32(),
        HalfType::F16 => f16::from_le_bytes([pair[0], pair[1]]).to_f32(),
    };
    let pairs = got.chunks(2).zip(want.chunks(2));
    // NaN is no number that `max` keeps.
    pairs
        .map(|(a, b)| (value(a) - value(b)).abs())
        .fold(0.0, |worst, d| if d > worst || d.is_nan() { d } else { worst })
}

/// Numbers of magnitude 1/8 to 2, each exponent as likely as another.
fn numbers(half: HalfType) -> impl FnMut() -> [u8; 2] {
    let mut random = Random(7);
    let (exponent_bit, bias) = match half {
        HalfType::Bf16 => (7, 127),
        HalfType::F16 => (10, 15),
    };
    move || {
        let bits = random.bits();
        let (mantissa, exponent) = (bits as u16 & ((1 << exponent_bit) - 1), bias - 3 + (bits >> 16) as u16 % 4);
        (((bits >> 31) as u16 & 1) << 15 | exponent << exponent_bit | mantissa).to_le_bytes()
    }
}
