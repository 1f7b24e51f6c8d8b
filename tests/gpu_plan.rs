//! What the plan for a GPU predicts is what a start takes there, to the byte.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use sconce::check::checkpoint::{Family, write};
use sconce::config::{Config, EngineConfig, Machine, RawConfig};
use sconce::runtime::{GpuPlan, RESERVE_BYTES, start_on};
use sconce::text::TextOptions;
use sconce_emulator::emulated_device;
use sconce_kernels::gpu::device::GpuDevice;
use sconce_models::checkpoint::Checkpoint;
use sconce_models::config::{SpecOptions, model_spec};

fn config(max_model_len: usize, deterministic: bool) -> EngineConfig {
    let raw = RawConfig {
        max_model_len: Some(max_model_len),
        max_num_seqs: Some(5),
        max_batch_tokens: Some(40),
        kv_cache_memory: "16MiB".parse().ok(),
        deterministic: Some(deterministic),
        ..RawConfig::default()
    };
    Config::resolve(&raw, &RawConfig::default(), &Machine::default()).expect("a configuration").engine
}

fn models(folder: &Path) -> Vec<PathBuf> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let random = write(folder, Family::Gemma3, 3).expect("files");
    std::fs::copy(fixtures.join("text/byte_level.json"), random.join("tokenizer.json")).expect("tokenizer.json");
    vec![random, fixtures.join("gguf/llama-q4_0.gguf")]
}

#[test]
fn a_start_takes_what_the_plan_says() {
    let folder = tempfile::tempdir().expect("folder");
    for path in models(folder.path()) {
        for deterministic in [false, true] {
            emulated_device(|device| {
                let checkpoint = Checkpoint::open(&path).expect("a checkpoint");
                let config = config(64, deterministic);
                let spec = model_spec(&checkpoint, &SpecOptions { max_model_len: Some(64) }).expect("a model");
                let plan = GpuPlan::new(device.info(), 1 << 30, (&checkpoint, &spec), &config).expect("a plan");
                let allocated = device.allocated();
                let text = TextOptions { chat_template: None, use_generation_config: false };
                let runtime = start_on(device, &path, &config, &text, None).expect("an engine");
                assert_eq!(allocated.load(Ordering::Relaxed), plan.total() - RESERVE_BYTES, "{}", path.display());
                let weights: u64 =
                    plan.taken.iter().filter(|(what, _)| *what == "weights").map(|(_, bytes)| bytes).sum();
                assert!(weights > 0 && weights <= runtime.weight_bytes as u64 * 21 / 20, "packed, not expanded");
                let phases: Vec<_> = runtime.phases.iter().map(|phase| phase.name).collect();
                assert!(phases.contains(&"memory plan") && phases.contains(&"KV cache"), "{phases:?}");
                runtime.engine.shutdown();
                runtime.join();
            });
        }
    }
}

#[test]
fn the_cache_gets_what_the_share_of_free_memory_leaves() {
    let folder = tempfile::tempdir().expect("folder");
    let path = write(folder.path(), Family::Llama, 3).expect("files");
    emulated_device(|device| {
        let checkpoint = Checkpoint::open(&path).expect("a checkpoint");
        let spec = model_spec(&checkpoint, &SpecOptions { max_model_len: Some(64) }).expect("a model");
        let config = EngineConfig { kv_cache_fixed: None, gpu_memory_utilization: 0.5, ..config(64, false) };
        let plan = |free: u64| GpuPlan::new(device.info(), free, (&checkpoint, &spec), &config);
        let page = plan(4 << 30).expect("a plan").sizes.geometry.superpage_bytes as u64;
        for free in [2 << 30, 4 << 30] {
            let total = plan(free).expect("a plan").total();
            assert!(total <= free / 2 && total + page > free / 2, "{total} of {free}");
        }
        let error = plan(600 << 20).expect_err("too small a card").to_string();
        assert!(error.contains("weights and workspaces") && error.contains("max-num-seqs"), "{error}");
    });
}
