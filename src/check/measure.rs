//! Steps of real models' shapes with random weights, each beside a floor measured in the same run.
//!
//! The floor of a decode step is the time to read weights and cache once at the bandwidth of a product with one row, or
//! the time of its products at the rate of a large one, whichever is longer.

use std::path::Path;
use std::time::{Duration, Instant};

use sconce_kernels::backend::StepInput;
use sconce_kernels::error::KernelError;
use sconce_kernels::gpu::backend::{GpuBackend, GpuSizes};
use sconce_kernels::gpu::device::GpuDevice;
use sconce_kernels::gpu::gemm::Gemm;
use sconce_kernels::gpu::gemv::{Gemv, GemvOutput, GemvWeight};
use sconce_kernels::gpu::launch::{DevicePtr, HalfType};
use sconce_kernels::kv::{ArenaGeometry, BLOCK_SIZE, KvDtype, SeqSpan};
use sconce_models::checkpoint::Checkpoint;
use sconce_models::config::{SpecOptions, model_spec};
use sconce_models::load::random;
use sconce_models::model::{CacheLayout, Model};
use sconce_models::spec::ModelSpec;
use serde::Serialize;
use serde_json::{Value, json};

use super::parity::Open;
use super::{Line, line};

/// What is measured of a shape: sequences, tokens in their caches, tokens computed a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Sequences.
    pub batch: usize,
    /// Tokens that each has in its cache already.
    pub context: usize,
    /// Tokens of each that the step computes: 1 for decode.
    pub tokens: usize,
}

/// A model's shape and what of it to measure, most worth first.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Name.
    pub name: &'static str,
    /// `config.json`.
    pub config: Value,
    /// What to measure.
    pub points: Vec<Point>,
}

/// What the card does at best.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Floors {
    /// Bytes a second that a product of one row reads.
    pub bytes_per_second: f64,
    /// Operations a second of a large product.
    pub flops: f64,
}

/// Tokens of a step at most.
const MAX_TOKENS: usize = 8192;

/// Sequences at most.
const MAX_SEQS: usize = 256;

/// Layers of a shape at most.
const MAX_LAYERS: usize = 128;

/// Repetitions that a median is taken of.
const RUNS: usize = 5;

/// Longest time of one repetition's loop.
const RUN_TIME: Duration = Duration::from_millis(400);

fn decode(batch: usize, context: usize) -> Point {
    Point { batch, context, tokens: 1 }
}

fn llama(name: &'static str, sizes: [usize; 6], tied: bool) -> Shape {
    let [hidden, inner, layers, heads, kv_heads, head_dim] = sizes;
    let config = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": hidden, "intermediate_size": inner,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim,
        "vocab_size": 128_256, "max_position_embeddings": 131_072, "rms_norm_eps": 1e-5, "rope_theta": 500_000.0,
        "hidden_act": "silu", "tie_word_embeddings": tied,
    });
    Shape { name, config, points: points() }
}

fn points() -> Vec<Point> {
    let prefill = Point { batch: 1, context: 0, tokens: MAX_TOKENS };
    vec![
        decode(1, 1024),
        decode(64, 1024),
        decode(256, 1024),
        prefill,
        decode(16, 8192),
        decode(32, 1024),
        decode(1, 128),
    ]
}

/// The shapes, most worth first.
pub fn shapes() -> Vec<Shape> {
    let common = |more: Value| {
        let mut config = json!({
            "hidden_size": 2560, "max_position_embeddings": 131_072, "rms_norm_eps": 1e-6, "rope_theta": 1_000_000.0,
            "tie_word_embeddings": true,
        });
        if let (Some(config), Value::Object(more)) = (config.as_object_mut(), more) {
            config.extend(more);
        }
        config
    };
    let qwen3 = common(json!({
        "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "intermediate_size": 9728, "num_hidden_layers": 36,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936, "hidden_act": "silu",
    }));
    let gemma3 = common(json!({
        "model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "intermediate_size": 10_240,
        "num_hidden_layers": 34, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
        "vocab_size": 262_208, "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256,
        "sliding_window": 1024, "sliding_window_pattern": 6, "rope_local_base_freq": 10_000.0,
    }));
    vec![
        llama("Llama-3.1-8B", [4096, 14_336, 32, 32, 8, 128], false),
        llama("Llama-3.2-1B", [2048, 8192, 16, 32, 8, 64], true),
        Shape { name: "Qwen3-4B", config: qwen3, points: points() },
        Shape { name: "Gemma-3-4B", config: gemma3, points: points() },
    ]
}

/// Measures floors, then every point of every shape until `until`.
pub fn measurements<D: GpuDevice>(folder: &Path, shapes: &[Shape], until: Instant, open: Open<'_, D>) -> Vec<Line> {
    let mut found = None;
    let mut lines = vec![line("floors", || {
        let mut device = open().map_err(|error| error.to_string())?;
        let floors = floors(&mut device, 1 << 31, 8192).map_err(|error| error.to_string())?;
        found = Some(floors);
        serde_json::to_value(floors).map_err(|error| error.to_string())
    })];
    for shape in shapes {
        if Instant::now() >= until {
            lines.push(line(shape.name, || Err("left out: the time was up".to_owned())));
            continue;
        }
        let mut bench = match Bench::new(folder, shape, MAX_TOKENS, open) {
            Ok(bench) => bench,
            Err(reason) => {
                lines.push(line(shape.name, || Err(reason)));
                continue;
            }
        };
        for point in &shape.points {
            let name = format!("{} {}", shape.name, point.describe());
            lines.push(line(&name, || match Instant::now() < until {
                true => bench.measure(*point, found),
                false => Err("left out: the time was up".to_owned()),
            }));
        }
    }
    lines
}

impl Point {
    fn describe(&self) -> String {
        if self.tokens == 1 {
            format!("decode batch {} context {}", self.batch, self.context)
        } else {
            format!("prefill {} tokens", self.batch * self.tokens)
        }
    }
}

/// The card's bandwidth from a product of one row over `bytes` of weights, and its rate from one of `size` cubed.
///
/// # Errors
/// When the device fails.
pub fn floors<D: GpuDevice>(device: &mut D, bytes: usize, size: usize) -> Result<Floors, KernelError> {
    let (k, half) = (size, HalfType::Bf16);
    let n = bytes / (2 * k);
    let weight = device.alloc(n * k * 2, "a floor's weights")?;
    let operands = device.alloc(3 * size * size * 2 + n * 2, "a floor's operands")?;
    device.fill(weight, 0x3c, n * k * 2)?;
    device.fill(operands, 0x3c, 3 * size * size * 2 + n * 2)?;
    let y = operands.byte_add(3 * size * size * 2);
    let (output, format) = (GemvOutput::Half, GemvWeight::Dense);
    let gemv = Gemv { x: operands, weight, format, bias: None, norm: None, y, y_stride: n, m: 1, n, k, output, half };
    let launch = gemv.launch();
    let read = median(&mut On(device), |on| Ok(on.0.launch(&launch)?))?;
    let square = |index: usize| operands.byte_add(index * size * size * 2);
    let gemm = Gemm {
        m: size,
        n: size,
        k: size,
        a: square(0),
        w: square(1),
        bias: DevicePtr::NULL,
        out: square(2),
        half,
        out_f32: false,
        accumulate: false,
    };
    device.tune(&gemm)?;
    let product = median(&mut On(device), |on| Ok(on.0.gemm(&gemm)?))?;
    let flops = 2.0 * (size as f64).powi(3) / product.seconds;
    Ok(Floors { bytes_per_second: (n * k * 2) as f64 / read.seconds, flops })
}

/// Seconds an iteration.
#[derive(Clone, Copy, Debug)]
struct Timing {
    seconds: f64,
    fastest: f64,
    slowest: f64,
}

/// What is timed: something that issues work, and waits for it.
trait Timed {
    fn wait(&mut self) -> Result<(), KernelError>;
}

struct On<'a, D>(&'a mut D);

impl<D: GpuDevice> Timed for On<'_, D> {
    fn wait(&mut self) -> Result<(), KernelError> {
        Ok(self.0.synchronize()?)
    }
}

impl<D: GpuDevice> Timed for GpuBackend<D> {
    fn wait(&mut self) -> Result<(), KernelError> {
        Ok(self.device().synchronize()?)
    }
}

/// The median of several loops, each long enough that its start and end don't count.
fn median<T: Timed>(
    timed: &mut T,
    mut once: impl FnMut(&mut T) -> Result<(), KernelError>,
) -> Result<Timing, KernelError> {
    let mut times = Vec::with_capacity(RUNS);
    let mut iterations = 1;
    once(timed)?;
    timed.wait()?;
    while times.len() < RUNS {
        let begin = Instant::now();
        for _ in 0..iterations {
            once(timed)?;
        }
        timed.wait()?;
        let elapsed = begin.elapsed();
        if elapsed < RUN_TIME / 8 && iterations < 1 << 12 {
            iterations *= 2;
            continue;
        }
        times.push(elapsed.as_secs_f64() / f64::from(iterations));
    }
    times.sort_by(f64::total_cmp);
    Ok(Timing { seconds: times[RUNS / 2], fastest: times[0], slowest: times[RUNS - 1] })
}

/// A model of random weights on the card.
pub struct Bench<D: GpuDevice> {
    backend: GpuBackend<D>,
    model: Model<GpuBackend<D>>,
    geometry: ArenaGeometry,
    num_superpages: usize,
    max_tokens: usize,
}

impl<D: GpuDevice> Bench<D> {
    /// Loads the shape; the cache takes what memory is left.
    ///
    /// # Errors
    /// One line, when the shape doesn't fit the card.
    pub fn new(folder: &Path, shape: &Shape, max_tokens: usize, open: Open<'_, D>) -> Result<Self, String> {
        let spec = spec(folder, shape)?;
        let device = open().map_err(|error| error.to_string())?;
        Self::load(spec, device, max_tokens).map_err(|error| error.to_string())
    }

    fn load(spec: ModelSpec, device: D, max_tokens: usize) -> Result<Self, KernelError> {
        let layout = CacheLayout::new(&spec, KvDtype::Bf16);
        let geometry = ArenaGeometry::new(&layout.groups);
        let rows = MAX_SEQS.min(max_tokens);
        let widest = spec.layers.iter().map(|l| 2 * l.ffn.intermediate_size).max().unwrap_or(0);
        let workspace = max_tokens * (2 * widest + 8 * spec.hidden_size) * 2 + 2 * rows * spec.vocab_size * 4;
        let taken = weight_count(&spec) * 2 + workspace + (1 << 30).min(device.info().total_bytes as usize / 8);
        let left = (device.free_bytes()? as usize).saturating_sub(taken);
        let num_superpages = geometry.superpages_in(left).max(1);
        let sizes = GpuSizes {
            max_tokens,
            max_seqs: rows,
            max_logit_rows: rows,
            max_model_len: 2 * MAX_TOKENS.min(max_tokens * 4),
            num_superpages,
            extra_bytes: 0,
            deterministic: false,
        };
        let shapes = layout.shapes(&spec);
        let mut backend = GpuBackend::new(device, HalfType::Bf16, geometry.clone(), &shapes, sizes)?;
        let mut model = random(spec.clone(), layout, &mut backend, &block(largest_matrix(&spec) * 2))?;
        model.reserve(&mut backend, max_tokens, rows)?;
        let staging = backend.meta_capacity();
        backend.device().reserve_staging(staging, 0)?;
        Ok(Self { backend, model, geometry, num_superpages, max_tokens })
    }

    /// Measures one point.
    ///
    /// # Errors
    /// One line, when it doesn't fit.
    pub fn measure(&mut self, point: Point, floors: Option<Floors>) -> Result<Value, String> {
        let rows = point.batch * point.tokens;
        if rows > self.max_tokens {
            return Err(format!("left out: a step has at most {} tokens", self.max_tokens));
        }
        let tables = self.tables(point).ok_or("left out: the cache doesn't fit")?;
        let timing = self.time(point, &tables).map_err(|error| error.to_string())?;
        let spec = self.model.spec();
        let kv: usize = spec
            .layers
            .iter()
            .map(|layer| {
                let a = &layer.attention;
                let first = a.kind.first_visible(point.context + point.tokens - 1);
                let read = point.context.max(1) + point.tokens - 1 - first.min(point.context);
                point.batch * read * a.num_kv_heads * (a.head_dim_k + a.head_dim_v) * 2
            })
            .sum();
        let head = spec.vocab_size * spec.hidden_size;
        // An embedding that is no output head is read a row at a time.
        let weights = weight_count(spec) - if spec.tied_embeddings { 0 } else { head };
        let flops = 2.0 * ((weights - head) * rows + head * point.batch) as f64;
        let floor = floors.map(|floors| {
            let read = weights as f64 * 2.0 / floors.bytes_per_second;
            read.max(flops / floors.flops) + kv as f64 / floors.bytes_per_second
        });
        Ok(json!({
            "batch": point.batch, "context": point.context, "tokens": point.tokens,
            "ms": timing.seconds * 1e3, "ms_fastest": timing.fastest * 1e3, "ms_slowest": timing.slowest * 1e3,
            "tokens_per_second": rows as f64 / timing.seconds, "floor_ms": floor.map(|s| s * 1e3),
            "share_of_floor": floor.map(|s| s / timing.seconds), "weight_bytes": weights * 2, "kv_bytes": kv,
        }))
    }

    /// Block tables of each group and sequence; `None` if there are too few blocks.
    fn tables(&self, point: Point) -> Option<Vec<Vec<Vec<u32>>>> {
        let blocks = (point.context + point.tokens).div_ceil(BLOCK_SIZE);
        let groups = self.geometry.groups.len();
        let each = |group: usize| {
            let bps = self.geometry.groups[group].blocks_per_superpage;
            let place = |index: usize| (index / bps * groups + group) * bps + index % bps;
            let last = place(point.batch * blocks - 1) / bps;
            let table = |seq: usize| (0..blocks).map(|block| place(seq * blocks + block) as u32).collect();
            (last < self.num_superpages).then(|| (0..point.batch).map(table).collect())
        };
        (0..groups).map(each).collect()
    }

    fn time(&mut self, point: Point, tables: &[Vec<Vec<u32>>]) -> Result<Timing, KernelError> {
        let Point { batch, context, tokens } = point;
        let rows = batch * tokens;
        let ids: Vec<u32> = (0..rows as u32).map(|row| row * 7 % 1000).collect();
        let positions: Vec<u32> = (0..rows).map(|row| (context + row % tokens) as u32).collect();
        let mut groups: Vec<Vec<SeqSpan<'_>>> = Vec::with_capacity(tables.len());
        for tables in tables {
            let spans = tables.iter().enumerate();
            let span =
                spans.map(|(seq, table)| SeqSpan { first_row: seq * tokens, num_rows: tokens, start: context, table });
            groups.push(span.collect());
        }
        let logit_rows: Vec<u32> = (0..batch).map(|seq| (seq * tokens + tokens - 1) as u32).collect();
        let step =
            StepInput { tokens: &ids, positions: &positions, groups: &groups, logit_rows: &logit_rows, slots: &[] };
        let (model, backend) = (&mut self.model, &mut self.backend);
        backend.set_tuning(true);
        model.forward(backend, &step, &|| {})?;
        backend.set_tuning(false);
        if tokens > 1 {
            return median(backend, |backend| model.forward(backend, &step, &|| {}));
        }
        backend.begin_fixed_step(&step)?;
        backend.device().begin_capture()?;
        let captured = model.compute(backend, &step, &|| {});
        let graph = backend.device().end_capture();
        captured?;
        let graph = graph?;
        median(backend, |backend| {
            backend.begin_fixed_step(&step)?;
            Ok(backend.device().replay(graph)?)
        })
    }
}

/// The shape as the loader would see it.
fn spec(folder: &Path, shape: &Shape) -> Result<ModelSpec, String> {
    let folder = folder.join(shape.name);
    // A checkpoint has at least as many tensors as layers; nobody reads these.
    let tensor = |index: usize| json!({"dtype": "BF16", "shape": [1], "data_offsets": [2 * index, 2 * index + 2]});
    let tensors = (0..MAX_LAYERS).map(|index| (format!("none.{index}"), tensor(index)));
    let header = Value::Object(tensors.collect()).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + 2 * MAX_LAYERS, 0);
    let written = std::fs::create_dir_all(&folder)
        .and_then(|()| std::fs::write(folder.join("config.json"), shape.config.to_string()))
        .and_then(|()| std::fs::write(folder.join("model.safetensors"), file));
    written.map_err(|error| format!("{}: {error}", folder.display()))?;
    let checkpoint = Checkpoint::open(&folder).map_err(|error| error.to_string())?;
    model_spec(&checkpoint, &SpecOptions { max_model_len: None }).map_err(|error| error.to_string())
}

/// Matrices of the model, `[rows, cols]`: those of the layers, then the embedding and, untied, the head.
fn matrices(spec: &ModelSpec) -> Vec<[usize; 2]> {
    let hidden = spec.hidden_size;
    let layers = spec.layers.iter().flat_map(|layer| {
        let (a, inner) = (&layer.attention, layer.ffn.intermediate_size);
        let qkv = a.num_heads * a.head_dim_k + a.num_kv_heads * (a.head_dim_k + a.head_dim_v);
        [[qkv, hidden], [hidden, a.num_heads * a.head_dim_v], [2 * inner, hidden], [hidden, inner]]
    });
    let ends = [[spec.vocab_size, hidden]; 2].into_iter().take(if spec.tied_embeddings { 1 } else { 2 });
    layers.chain(ends).collect()
}

fn weight_count(spec: &ModelSpec) -> usize {
    matrices(spec).iter().map(|[rows, cols]| rows * cols).sum()
}

fn largest_matrix(spec: &ModelSpec) -> usize {
    matrices(spec).iter().map(|[rows, cols]| rows * cols).max().unwrap_or(0)
}

/// bf16 values between 1/128 and 1/64 of either sign, so that sums neither vanish nor overflow.
fn block(bytes: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut pairs = Vec::with_capacity(bytes);
    while pairs.len() < bytes {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let bits = (state >> 33) as u16;
        pairs.extend((0x3c00 | bits & 0x807f).to_le_bytes());
    }
    pairs
}
