//! The whole engine on a GPU against the engine on the CPU, and against itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sconce_kernels::gpu::device::{GpuDevice, GpuError};
use serde_json::{Value, json};

use super::checkpoint::{self, Family, VOCAB};
use super::{Line, line};
use crate::config::{CpuActivations, DeviceChoice, EngineConfig, KvCacheDtype};
use crate::engine::{EngineRequest, RequestStream};
use crate::runtime::{Runtime, StartError, start, start_on};
use crate::text::TextOptions;
use crate::types::{EngineEvent, FinishReason, SamplingParams, TokenLogprobs};

/// Largest difference of log-probabilities of prompt tokens between bf16 on the card and f32 on the CPU.
const LOGPROB_BOUND: f32 = 0.2;

/// The server's own tokenizer of nothing: one token a byte and some more.
const TOKENIZER: &str = include_str!("../../tests/fixtures/text/byte_level.json");

/// How long blocks may stay in use after the last answer.
const SETTLE: Duration = Duration::from_secs(60);

/// What a request brought.
#[derive(Debug, Default, PartialEq)]
struct Answer {
    tokens: Vec<u32>,
    logprobs: Vec<TokenLogprobs>,
    prompt: Vec<TokenLogprobs>,
    reason: Option<FinishReason>,
}

/// Opens the device anew for each check.
pub type Open<'a, D> = &'a mut dyn FnMut() -> Result<D, GpuError>;

/// Checks that need a few seconds each: parity of every family, batch invariance, graphs, aborts.
pub fn checks<D: GpuDevice + 'static>(folder: &Path, num_aborts: usize, open: Open<'_, D>) -> Vec<Line> {
    let mut lines = Vec::new();
    for family in Family::ALL {
        lines.push(line(&format!("logits of {family:?} against the CPU"), || parity(folder, family, open)));
    }
    lines.push(line("an answer does not depend on what else runs", || invariance(folder, open)));
    lines.push(line("graphs give what single launches give", || graphs(folder, open)));
    lines.push(line(&format!("{num_aborts} aborts leave no block"), || aborts(folder, num_aborts, open)));
    lines
}

fn config() -> EngineConfig {
    EngineConfig {
        max_model_len: Some(512),
        max_num_seqs: 8,
        max_batch_tokens: 96,
        max_queued_tokens: 100_000,
        device: DeviceChoice::Cpu,
        deterministic: false,
        kv_cache_bytes: 16 << 20,
        kv_cache_fixed: Some(16 << 20),
        kv_cache_dtype: None,
        cuda_graphs: true,
        gpu_memory_utilization: 0.9,
        threads: 2,
        prefix_cache: true,
        cpu_activations: CpuActivations::F32,
    }
}

const NO_TEXT: TextOptions = TextOptions { chat_template: None, use_generation_config: false };

fn write(folder: &Path, family: Family) -> Result<PathBuf, String> {
    let written = checkpoint::write(folder, family, 11).and_then(|path| {
        std::fs::write(path.join("tokenizer.json"), TOKENIZER)?;
        Ok(path)
    });
    written.map_err(|error| format!("{}: {error}", folder.display()))
}

fn on_gpu<D: GpuDevice + 'static>(path: &Path, config: &EngineConfig, open: Open<'_, D>) -> Result<Runtime, String> {
    let started = open().map_err(StartError::from).and_then(|d| start_on(d, path, config, &NO_TEXT, &mut |_, _| {}));
    started.map_err(|error| error.to_string())
}

fn ids(count: usize, seed: usize) -> Vec<u32> {
    (0..count).map(|i| ((i * 131 + seed * 977 + i * i * 7) % VOCAB) as u32).collect()
}

fn request(prompt: &[u32], params: &SamplingParams) -> EngineRequest {
    EngineRequest {
        request_id: "check".into(),
        prompt: prompt.into(),
        params: Arc::new(params.clone()),
        num_choices: 1,
        cache_salt: 0,
        arrival: Instant::now(),
        deadline: None,
    }
}

fn submit(runtime: &Runtime, request: &EngineRequest) -> Result<RequestStream, String> {
    runtime.engine.submit(request.clone()).map_err(|error| error.to_string())
}

fn answers(runtime: &Runtime, requests: &[EngineRequest]) -> Result<Vec<Answer>, String> {
    let streams: Vec<_> = requests.iter().map(|request| submit(runtime, request)).collect::<Result<_, _>>()?;
    streams.into_iter().map(read).collect()
}

fn read(mut stream: RequestStream) -> Result<Answer, String> {
    let mut answer = Answer::default();
    while answer.reason.is_none() {
        match stream.blocking_next().ok_or("the engine died")? {
            EngineEvent::Token { token, logprobs, .. } => {
                answer.tokens.push(token);
                answer.logprobs.extend(logprobs);
            }
            EngineEvent::PromptLogprobs { entries, .. } => answer.prompt.extend(entries),
            EngineEvent::Started { .. } => {}
            EngineEvent::Finished { reason, .. } => answer.reason = Some(reason),
            EngineEvent::Error(error) => return Err(error.to_string()),
        }
    }
    Ok(answer)
}

/// Ends an engine, of which no block may be in use any more.
fn stop(runtime: Runtime) -> Result<(), String> {
    let begin = Instant::now();
    let used = || runtime.engine.stats().used_blocks.load(Ordering::Relaxed);
    while used() > 0 {
        if begin.elapsed() > SETTLE {
            return Err(format!("{} blocks are still in use", used()));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    runtime.engine.shutdown();
    runtime.join();
    Ok(())
}

/// Prompts scored on both devices, in chunks, beside others.
fn parity<D: GpuDevice + 'static>(folder: &Path, family: Family, open: Open<'_, D>) -> Result<Value, String> {
    let path = write(folder, family)?;
    let params = SamplingParams { temperature: 0.0, max_tokens: 3, prompt_logprobs: Some(2), ..Default::default() };
    let requests: Vec<_> = [130, 1, 33].iter().map(|&count| request(&ids(count, count), &params)).collect();
    let on_cpu = EngineConfig { kv_cache_dtype: Some(KvCacheDtype::F32), ..config() };
    let cpu = start(&path, &on_cpu, &NO_TEXT, None, &mut |_, _| {}).map_err(|error| error.to_string())?;
    let want = answers(&cpu, &requests)?;
    stop(cpu)?;
    let gpu = on_gpu(&path, &config(), open)?;
    let got = answers(&gpu, &requests)?;
    stop(gpu)?;
    let (mut worst, mut count) = (0f32, 0);
    for (got, want) in got.iter().zip(&want) {
        if got.prompt.len() != want.prompt.len() || got.tokens.len() != want.tokens.len() {
            return Err("answers of other lengths".to_owned());
        }
        for (got, want) in got.prompt.iter().zip(&want.prompt) {
            // NaN is no number that `max` keeps.
            let difference = (got.logprob - want.logprob).abs();
            worst = if difference.is_nan() { f32::INFINITY } else { worst.max(difference) };
            count += 1;
        }
    }
    if worst < LOGPROB_BOUND && count > 150 {
        return Ok(json!({"prompt_tokens": count, "worst_difference": worst}));
    }
    Err(format!("log-probabilities of {count} prompt tokens differ by up to {worst}, the bound is {LOGPROB_BOUND}"))
}

/// Everything that the sampler can be asked for.
fn all_kinds() -> Vec<EngineRequest> {
    let base = SamplingParams { max_tokens: 24, logprobs: Some(3), ..Default::default() };
    let kinds = [
        SamplingParams { temperature: 0.0, ..base.clone() },
        SamplingParams { temperature: 1.2, seed: 4, ..base.clone() },
        SamplingParams { temperature: 0.9, top_k: 20, top_p: 0.8, seed: 5, ..base.clone() },
        SamplingParams { temperature: 1.0, min_p: 0.02, repetition_penalty: 1.3, seed: 6, ..base.clone() },
        SamplingParams { frequency_penalty: 0.7, presence_penalty: -0.4, seed: 7, ..base.clone() },
        SamplingParams { logit_bias: vec![(5, 3.0), (9, -100.0)], seed: 8, ..base.clone() },
        SamplingParams { temperature: 0.0, bad_words: vec![vec![5], vec![8, 9]], ..base.clone() },
        SamplingParams { temperature: 0.0, min_tokens: 6, stop_token_ids: (0..400).collect(), ..base },
    ];
    kinds.iter().enumerate().map(|(i, params)| request(&ids(3 + 29 * i % 90, i), params)).collect()
}

fn same(what: &str, got: &[Answer], want: &[Answer]) -> Result<(), String> {
    match got.iter().zip(want).position(|(got, want)| got != want) {
        None => Ok(()),
        Some(index) => Err(format!("{what}: request {index} brought {:?}, not {:?}", got[index], want[index])),
    }
}

/// Deterministic: alone, from the cache beside others, and anew beside others, to the last bit.
fn invariance<D: GpuDevice + 'static>(folder: &Path, open: Open<'_, D>) -> Result<Value, String> {
    let path = write(folder, Family::Gemma3)?;
    let gpu = on_gpu(&path, &EngineConfig { deterministic: true, ..config() }, open)?;
    let requests = all_kinds();
    let mut alone = Vec::new();
    for request in &requests {
        alone.extend(answers(&gpu, std::slice::from_ref(request))?);
    }
    same("from the cache, beside others", &answers(&gpu, &requests)?, &alone)?;
    let salted: Vec<_> = requests.iter().map(|r| EngineRequest { cache_salt: 9, ..r.clone() }).collect();
    same("beside others", &answers(&gpu, &salted)?, &alone)?;
    stop(gpu)?;
    Ok(json!({"requests": 3 * requests.len()}))
}

/// The same requests with captured graphs and without.
fn graphs<D: GpuDevice + 'static>(folder: &Path, open: Open<'_, D>) -> Result<Value, String> {
    let path = write(folder, Family::Qwen3)?;
    let mut both = Vec::new();
    for cuda_graphs in [false, true] {
        let gpu = on_gpu(&path, &EngineConfig { cuda_graphs, deterministic: true, ..config() }, open)?;
        both.push(answers(&gpu, &all_kinds())?);
        stop(gpu)?;
    }
    same("with graphs", &both[1], &both[0])?;
    Ok(Value::Null)
}

/// Clients that go, in any phase.
fn aborts<D: GpuDevice + 'static>(folder: &Path, count: usize, open: Open<'_, D>) -> Result<Value, String> {
    let path = write(folder, Family::Llama)?;
    let gpu = on_gpu(&path, &config(), open)?;
    let params = SamplingParams { max_tokens: 40, ..Default::default() };
    let mut done = 0;
    while done < count {
        let mut streams = Vec::new();
        for i in 0..8.min(count - done) {
            streams.push(submit(&gpu, &request(&ids(10 + 20 * i, done), &params))?);
        }
        done += streams.len();
        for stream in streams.iter_mut().take(done / 8 % 5) {
            while !matches!(stream.blocking_next().ok_or("the engine died")?, EngineEvent::Token { .. }) {}
        }
    }
    let last = answers(&gpu, &[request(&ids(30, 77), &params)])?;
    stop(gpu)?;
    let tokens = last.first().map_or(0, |answer| answer.tokens.len());
    if tokens == 40 { Ok(json!({"aborts": done})) } else { Err(format!("{tokens} tokens after the aborts, not 40")) }
}
