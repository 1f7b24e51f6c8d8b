//! The whole engine on the emulated GPU, one step ahead: what clients hear is what the CPU says, whoever else is there.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use sconce::check::checkpoint::{Family, VOCAB, write};
use sconce::check::measure::{self, Point};
use sconce::check::parity;
use sconce::config::{CpuActivations, DeviceChoice, EngineConfig, KvCacheDtype};
use sconce::engine::EngineRequest;
use sconce::runtime::{Runtime, start, start_on};
use sconce::text::TextOptions;
use sconce::types::{EngineEvent, FinishReason, SamplingParams, TokenLogprobs};
use sconce_emulator::{emulated_device, emulated_devices};

fn checkpoint(folder: &Path, family: Family) -> PathBuf {
    let path = write(folder, family, 11).expect("files");
    let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/text/byte_level.json");
    std::fs::copy(tokenizer, path.join("tokenizer.json")).expect("tokenizer.json");
    path
}

fn config(deterministic: bool) -> EngineConfig {
    EngineConfig {
        max_model_len: Some(256),
        max_num_seqs: 6,
        max_batch_tokens: 48,
        max_queued_tokens: 10_000,
        device: DeviceChoice::Cpu,
        deterministic,
        kv_cache_bytes: 8 << 20,
        kv_cache_fixed: Some(8 << 20),
        kv_cache_dtype: None,
        cuda_graphs: true,
        gpu_memory_utilization: 0.9,
        threads: 1,
        prefix_cache: true,
        cpu_activations: CpuActivations::F32,
    }
}

const NO_TEXT: TextOptions = TextOptions { chat_template: None, use_generation_config: false };

fn ids(count: usize, seed: usize) -> Vec<u32> {
    (0..count).map(|i| ((i * 131 + seed * 977 + i * i * 7) % VOCAB) as u32).collect()
}

fn request(prompt: &[u32], params: &SamplingParams) -> EngineRequest {
    EngineRequest {
        request_id: "test".into(),
        prompt: prompt.into(),
        params: Arc::new(params.clone()),
        num_choices: 1,
        cache_salt: 0,
        arrival: Instant::now(),
        deadline: None,
    }
}

/// What a request brought.
#[derive(Debug, Default, PartialEq)]
struct Answer {
    tokens: Vec<u32>,
    logprobs: Vec<TokenLogprobs>,
    prompt: Vec<TokenLogprobs>,
    cached: usize,
    reason: Option<FinishReason>,
}

fn answers(runtime: &Runtime, requests: &[EngineRequest]) -> Vec<Answer> {
    let submit = |request: &EngineRequest| runtime.engine.submit(request.clone()).expect("accepted");
    let streams: Vec<_> = requests.iter().map(submit).collect();
    let read = |mut stream: sconce::engine::RequestStream| {
        let mut answer = Answer::default();
        while answer.reason.is_none() {
            match stream.blocking_next().expect("an event") {
                EngineEvent::Token { token, logprobs, .. } => {
                    answer.tokens.push(token);
                    answer.logprobs.extend(logprobs);
                }
                EngineEvent::PromptLogprobs { entries, .. } => answer.prompt.extend(entries),
                EngineEvent::Started { cached_tokens, .. } => answer.cached = cached_tokens,
                EngineEvent::Finished { reason, .. } => answer.reason = Some(reason),
                EngineEvent::Error(error) => panic!("{error}"),
            }
        }
        answer
    };
    streams.into_iter().map(read).collect()
}

fn stop(runtime: Runtime) {
    // The engine tells when it has nothing more to do, which may be after the last answer's end.
    let begin = Instant::now();
    while runtime.engine.stats().used_blocks.load(Ordering::Relaxed) > 0 {
        assert!(begin.elapsed().as_secs() < 60, "blocks are still in use");
        std::thread::yield_now();
    }
    runtime.engine.shutdown();
    runtime.join();
}

/// Prompts are scored alike: the whole path of logits, with chunks, beside others.
#[test]
fn scores_of_prompts_are_those_of_the_cpu() {
    let folder = tempfile::tempdir().expect("folder");
    emulated_device(|device| {
        let path = checkpoint(folder.path(), Family::Gemma3);
        let params = SamplingParams { temperature: 0.0, max_tokens: 3, prompt_logprobs: Some(2), ..Default::default() };
        let requests: Vec<_> = [70, 1, 33].iter().map(|&count| request(&ids(count, count), &params)).collect();
        let on_cpu = EngineConfig { kv_cache_dtype: Some(KvCacheDtype::F32), ..config(false) };
        let cpu = start(&path, &on_cpu, &NO_TEXT, None, &mut |_, _| {}).expect("a CPU engine");
        let want = answers(&cpu, &requests);
        cpu.engine.shutdown();
        cpu.join();
        let gpu = start_on(device, &path, &config(false), &NO_TEXT, &mut |_, _| {}).expect("a GPU engine");
        let got = answers(&gpu, &requests);
        for (got, want) in got.iter().zip(&want) {
            assert_eq!((got.tokens.len(), got.prompt.len()), (3, want.prompt.len()));
            for (got, want) in got.prompt.iter().zip(&want.prompt) {
                assert_eq!((got.token, got.top.len()), (want.token, 2));
                assert!((got.logprob - want.logprob).abs() < 0.15, "{got:?}, on the CPU {want:?}");
            }
        }
        assert!(want.iter().map(|answer| answer.prompt.len()).sum::<usize>() > 90);
        stop(gpu);
    });
}

/// Everything that the sampler can be asked for.
fn all_kinds() -> Vec<EngineRequest> {
    let base = SamplingParams { max_tokens: 12, logprobs: Some(3), ..Default::default() };
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
    kinds.iter().enumerate().map(|(i, params)| request(&ids(3 + 29 * i % 90, i), params)).collect()
}

/// One step ahead, several at once, more requests than slots, from the cache or not: each hears what it hears alone.
#[test]
fn an_answer_does_not_depend_on_what_else_runs() {
    let folder = tempfile::tempdir().expect("folder");
    emulated_device(|device| {
        let path = checkpoint(folder.path(), Family::Gemma3);
        let allocs = device.alloc_counter();
        let gpu = start_on(device, &path, &config(true), &NO_TEXT, &mut |_, _| {}).expect("a GPU engine");
        let (requests, taken) = (all_kinds(), allocs.load(Ordering::Relaxed));
        let strip = |answer: &Answer| Answer {
            cached: 0,
            tokens: answer.tokens.clone(),
            ..Answer { logprobs: answer.logprobs.clone(), reason: answer.reason, ..Default::default() }
        };
        let alone: Vec<_> = requests.iter().flat_map(|r| answers(&gpu, std::slice::from_ref(r))).collect();
        let again = answers(&gpu, &requests);
        assert!(again.iter().any(|answer| answer.cached > 0), "prompts are in the cache now");
        let salted: Vec<_> = requests.iter().map(|r| EngineRequest { cache_salt: 9, ..r.clone() }).collect();
        let anew = answers(&gpu, &salted);
        for (i, alone) in alone.iter().enumerate() {
            assert_eq!(strip(&again[i]), strip(alone), "request {i} from the cache, beside others");
            assert_eq!(strip(&anew[i]), strip(alone), "request {i} beside others");
        }
        let last = alone.last().expect("some");
        assert!(
            last.reason == Some(FinishReason::Stop) && last.tokens.len() > 6,
            "min_tokens, then a stop token: {last:?}"
        );
        assert!(!alone[6].tokens.contains(&5));
        assert_eq!(allocs.load(Ordering::Relaxed), taken, "a running engine takes no memory");
        stop(gpu);
    });
}

/// More histories at once than a step's metadata has room for: long prompts with penalties, all admitted together.
#[test]
fn histories_beyond_the_room_of_a_step_go_ahead() {
    let folder = tempfile::tempdir().expect("folder");
    emulated_device(|device| {
        let path = checkpoint(folder.path(), Family::Llama);
        let wide = EngineConfig { max_num_seqs: 24, max_model_len: Some(64), max_batch_tokens: 1600, ..config(true) };
        let gpu = start_on(device, &path, &wide, &NO_TEXT, &mut |_, _| {}).expect("a GPU engine");
        let params = SamplingParams { temperature: 0.0, frequency_penalty: 1.5, max_tokens: 3, ..Default::default() };
        let requests: Vec<_> = (0..24).map(|i| request(&ids(60, i), &params)).collect();
        let together = answers(&gpu, &requests);
        for (request, together) in requests.iter().zip(&together).step_by(7) {
            let alone = answers(&gpu, std::slice::from_ref(request));
            assert_eq!(alone[0].tokens, together.tokens);
        }
        stop(gpu);
    });
}

/// Clients that go, at any time, leave nothing behind.
#[test]
fn requests_that_are_dropped_free_their_blocks() {
    let folder = tempfile::tempdir().expect("folder");
    emulated_device(|device| {
        let path = checkpoint(folder.path(), Family::Llama);
        let gpu = start_on(device, &path, &config(false), &NO_TEXT, &mut |_, _| {}).expect("a GPU engine");
        let params = SamplingParams { max_tokens: 40, ..Default::default() };
        for round in 0..30usize {
            let mut streams: Vec<_> = (0..4)
                .map(|i| gpu.engine.submit(request(&ids(10 + 20 * i, round), &params)).expect("accepted"))
                .collect();
            for stream in streams.iter_mut().take(round % 4) {
                while !matches!(stream.blocking_next(), Some(EngineEvent::Token { .. })) {}
            }
        }
        let want = answers(&gpu, &[request(&ids(30, 77), &params)]);
        assert_eq!(want[0].tokens.len(), 40);
        stop(gpu);
    });
}

/// What `gpu-check` does on a card, on the emulated one: all checks pass, and a small shape is measured to the end.
#[test]
fn the_checks_of_a_card_pass_here() {
    let folder = tempfile::tempdir().expect("folder");
    emulated_devices(|open| {
        let lines = parity::checks(folder.path(), 40, open);
        assert!(lines.len() > 6 && lines.iter().all(|line| line.ok), "{lines:#?}");
    });
}

#[test]
fn a_shape_is_measured_with_floors() {
    let folder = tempfile::tempdir().expect("folder");
    emulated_devices(|open| {
        let config = serde_json::json!({
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 128, "intermediate_size": 64,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64, "vocab_size": 200,
            "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true,
        });
        let shape = measure::Shape { name: "tiny", config, points: vec![] };
        let floors = measure::floors(&mut open().expect("a device"), 1 << 18, 64).expect("floors");
        assert!(floors.bytes_per_second > 0.0 && floors.flops > 0.0);
        let mut bench = measure::Bench::new(folder.path(), &shape, 64, open).expect("a model");
        for point in [Point { batch: 3, context: 40, tokens: 1 }, Point { batch: 1, context: 0, tokens: 33 }] {
            let result = bench.measure(point, Some(floors)).expect("measured");
            assert!(result["ms"].as_f64().is_some_and(|ms| ms > 0.0), "{result}");
            assert!(result["share_of_floor"].as_f64().is_some_and(|share| share > 0.0), "{result}");
        }
        assert!(bench.measure(Point { batch: 1, context: 0, tokens: 65 }, None).is_err(), "more than a step");
    });
}
