//! The whole engine on a GPU against the engine on the CPU, and against itself.

use std::path::Path;

use sconce_kernels::gpu::device::GpuDevice;
use serde_json::{Value, json};

use super::Open;
use super::checkpoint::Family;
use super::engine::{Answer, Subject, config, ids, request};
use super::report::{Found, Reason, Report};
use crate::config::EngineConfig;
use crate::engine::EngineRequest;
use crate::types::{EngineEvent, FinishReason, SamplingParams};

/// Largest difference of log-probabilities of prompt tokens between bf16 on the card and f32 on the CPU.
const LOGPROB_BOUND: f32 = 0.2;

/// From less than a block to three; in chunks of [`config`]'s steps.
const MIXED: [usize; 8] = [3, 32, 61, 90, 29, 58, 87, 26];

/// Each fills its first block, or nearly so: with 38 tokens more it needs three.
const ONE_BLOCK: [usize; 8] = [31, 32, 30, 31, 32, 30, 31, 32];

/// One superpage of [`Family::Qwen3`]'s small checkpoint, 16 blocks: any one request has room in it.
const SMALL_CACHE_BYTES: u64 = 2 << 20;

/// Checks that need a few seconds each: parity of every family, batch invariance, preemption, graphs, aborts.
pub fn checks<D: GpuDevice + 'static>(report: &mut Report<'_>, folder: &Path, num_aborts: usize, open: Open<'_, D>) {
    for family in Family::ALL {
        report.line(&format!("logits of {family:?} against the CPU"), || logits(folder, family, &config(), open));
    }
    report.line("an answer does not depend on what else runs", || invariance(folder, open));
    report.line("an answer does not depend on preemption", || preemption(folder, open));
    report.line("graphs give what single launches give", || graphs(folder, open));
    report.line(&format!("{num_aborts} aborts leave no block"), || aborts(folder, num_aborts, open));
}

/// Prompts scored on both devices: the whole path of logits, in chunks, beside others.
///
/// # Errors
/// When they differ.
pub fn logits<D: GpuDevice + 'static>(
    folder: &Path,
    family: Family,
    config: &EngineConfig,
    open: Open<'_, D>,
) -> Result<Found, Reason> {
    let params = SamplingParams { temperature: 0.0, max_tokens: 3, prompt_logprobs: Some(2), ..Default::default() };
    let requests: Vec<_> = [130, 1, 33].iter().map(|&count| request(&ids(count, count), &params)).collect();
    let cpu = Subject::on_cpu(folder, family)?;
    let want = cpu.answers(&requests)?;
    cpu.stop()?;
    let gpu = Subject::on_gpu(folder, family, config, open)?;
    let got = gpu.answers(&requests)?;
    gpu.stop()?;
    let (mut worst, mut count) = (0f32, 0);
    for (got, want) in got.iter().zip(&want) {
        if got.prompt.len() != want.prompt.len() || got.tokens.len() != want.tokens.len() {
            return Err("answers of other lengths".into());
        }
        for (got, want) in got.prompt.iter().zip(&want.prompt) {
            if got.token != want.token || got.top.len() != want.top.len() {
                return Err(Reason::Failed(format!("{got:?} tells of something else than {want:?}")));
            }
            // NaN is no number that `max` keeps.
            let difference = (got.logprob - want.logprob).abs();
            worst = if difference.is_nan() { f32::INFINITY } else { worst.max(difference) };
            count += 1;
        }
    }
    if worst < LOGPROB_BOUND && count > 150 {
        return Ok(json!({"prompt_tokens": count, "worst_difference": worst}).into());
    }
    let found = format!("log-probabilities of {count} prompt tokens differ by up to {worst}");
    Err(Reason::Failed(format!("{found}, the bound is {LOGPROB_BOUND}")))
}

/// Everything that the sampler can be asked for, by more requests than run at once, whose prompts have `lengths`.
fn all_kinds(max_tokens: u32, lengths: [usize; 8]) -> Vec<EngineRequest> {
    let base = SamplingParams { max_tokens, logprobs: Some(3), ..Default::default() };
    let kinds = [
        SamplingParams { temperature: 0.0, ..base.clone() },
        SamplingParams { temperature: 1.2, seed: 4, ..base.clone() },
        SamplingParams { temperature: 0.9, top_k: 20, top_p: 0.8, seed: 5, ..base.clone() },
        SamplingParams { temperature: 1.0, min_p: 0.02, repetition_penalty: 1.3, seed: 6, ..base.clone() },
        SamplingParams { frequency_penalty: 0.7, presence_penalty: -0.4, seed: 7, logprobs: None, ..base.clone() },
        SamplingParams { logit_bias: vec![(5, 3.0), (9, -100.0)], seed: 8, ..base.clone() },
        SamplingParams { temperature: 0.0, bad_words: vec![vec![5], vec![8, 9]], ..base.clone() },
        SamplingParams { temperature: 0.0, min_tokens: 6, stop_token_ids: (0..400).collect(), ..base },
    ];
    kinds.iter().zip(lengths).enumerate().map(|(i, (params, length))| request(&ids(length, i), params)).collect()
}

/// What the last two of [`all_kinds`] asked for.
fn obeys(answers: &[Answer]) -> Result<(), Reason> {
    let [.., bad_words, min_tokens] = answers else { return Err("no answers".into()) };
    if bad_words.tokens.contains(&5) {
        return Err(Reason::Failed(format!("a bad word in {:?}", bad_words.tokens)));
    }
    match min_tokens.reason {
        Some(FinishReason::Stop) if min_tokens.tokens.len() > 6 => Ok(()),
        _ => Err(Reason::Failed(format!("not 6 tokens and then a stop token: {min_tokens:?}"))),
    }
}

/// Equal to the last bit, but for what came from the cache.
fn same(what: &str, got: &[Answer], want: &[Answer]) -> Result<(), Reason> {
    let parts = |answer: &Answer| (answer.tokens.clone(), answer.logprobs.clone(), answer.reason);
    match got.iter().zip(want).position(|(got, want)| parts(got) != parts(want)) {
        None => Ok(()),
        Some(i) => Err(Reason::Failed(format!("{what}: request {i} brought {:?}, not {:?}", got[i], want[i]))),
    }
}

/// Deterministic: alone, from the cache beside others, and anew beside others that came in another order.
///
/// # Errors
/// When an answer depends on that.
pub fn invariance<D: GpuDevice + 'static>(folder: &Path, open: Open<'_, D>) -> Result<Found, Reason> {
    let config = EngineConfig { deterministic: true, ..config() };
    let gpu = Subject::on_gpu(folder, Family::Gemma3, &config, open)?;
    let requests = all_kinds(10, MIXED);
    let mut alone = gpu.one_by_one(&requests)?;
    obeys(&alone)?;
    let again = gpu.answers(&requests)?;
    same("from the cache, beside others", &again, &alone)?;
    if !again.iter().any(|answer| answer.cached > 0) {
        return Err("no prompt came from the cache".into());
    }
    let salted: Vec<_> = requests.iter().rev().map(|r| EngineRequest { cache_salt: 9, ..r.clone() }).collect();
    alone.reverse();
    same("beside others, in another order", &gpu.answers(&salted)?, &alone)?;
    gpu.stop()?;
    Ok(json!({"requests": 3 * requests.len()}).into())
}

/// Deterministic, with room for everybody's blocks and then for those of fewer than are admitted: sequences give way while a
/// step of theirs is in flight, and are computed again, from what is cached of them, and anew where nothing is cached and
/// who came last comes first.
///
/// # Errors
/// When an answer depends on that, or none was preempted.
pub fn preemption<D: GpuDevice + 'static>(folder: &Path, open: Open<'_, D>) -> Result<Found, Reason> {
    let roomy = EngineConfig { deterministic: true, max_num_seqs: 8, ..config() };
    let cached = EngineConfig { kv_cache_fixed: Some(SMALL_CACHE_BYTES), ..roomy.clone() };
    let uncached = EngineConfig { prefix_cache: false, ..cached.clone() };
    let mut requests = all_kinds(38, ONE_BLOCK);
    let mut run = |config: &EngineConfig, requests: &[EngineRequest]| -> Result<_, Reason> {
        let gpu = Subject::on_gpu(folder, Family::Qwen3, config, open)?;
        let answers = gpu.answers(requests)?;
        let preemptions = gpu.preemptions();
        gpu.stop().map(|()| (answers, preemptions))
    };
    let (mut want, none) = run(&roomy, &requests)?;
    let (got, some) = run(&cached, &requests)?;
    same("preempted", &got, &want)?;
    // All but the last, which ends early: its place would make room for another.
    requests[..7].reverse();
    want[..7].reverse();
    let (got, more) = run(&uncached, &requests)?;
    same("preempted, nothing cached, in another order", &got, &want)?;
    if none > 0 || some == 0 || more == 0 {
        return Err(Reason::Failed(format!("{none} preemptions with room, {some} and {more} without")));
    }
    Ok(json!({"preemptions": some, "without_cache": more}).into())
}

/// The same requests with captured graphs and without.
///
/// # Errors
/// When an answer depends on that.
pub fn graphs<D: GpuDevice + 'static>(folder: &Path, open: Open<'_, D>) -> Result<Found, Reason> {
    let mut both = Vec::new();
    for cuda_graphs in [false, true] {
        let config = EngineConfig { cuda_graphs, deterministic: true, ..config() };
        let gpu = Subject::on_gpu(folder, Family::Qwen3, &config, open)?;
        both.push(gpu.answers(&all_kinds(10, MIXED))?);
        gpu.stop()?;
    }
    same("with graphs", &both[1], &both[0])?;
    Ok(Value::Null.into())
}

/// Clients that go, in any phase.
///
/// # Errors
/// When a later request suffers, or a block is left in use.
pub fn aborts<D: GpuDevice + 'static>(folder: &Path, count: usize, open: Open<'_, D>) -> Result<Found, Reason> {
    let gpu = Subject::on_gpu(folder, Family::Llama, &config(), open)?;
    let params = SamplingParams { max_tokens: 40, ..Default::default() };
    let mut done = 0;
    while done < count {
        let mut streams = Vec::new();
        for i in 0..8.min(count - done) {
            streams.push(gpu.submit(&request(&ids(10 + 20 * i, done), &params))?);
        }
        done += streams.len();
        for stream in streams.iter_mut().take(done / 8 % 5) {
            while !matches!(stream.blocking_next().ok_or("the engine died")?, EngineEvent::Token { .. }) {}
        }
    }
    let last = gpu.answers(&[request(&ids(30, 77), &params)])?;
    gpu.stop()?;
    let tokens = last.first().map_or(0, |answer| answer.tokens.len());
    if tokens == 40 {
        return Ok(json!({"aborts": done}).into());
    }
    Err(Reason::Failed(format!("{tokens} tokens after the aborts, not 40")))
}
