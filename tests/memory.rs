//! What loading a model costs in memory beyond what it keeps. Each model is loaded in a process of its own (this test
//! again) that watches its anonymous memory; pages of the mapped file are the page cache's, and don't count.
//! `SCONCE_TEST_MODELS` names the folder that holds the models; without it the test says so and passes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sconce::config::{AttentionChoice, CpuActivations, DeviceChoice, EngineConfig, KvCacheDtype};
use sconce::text::TextOptions;

const CHILD: &str = "SCONCE_TEST_MEMORY_OF";
/// Bytes beside the weights: tokenizer, buffers, one layer under way. A second copy of either model takes more.
const ALLOWANCE: u64 = 64_000_000;

#[test]
fn loading_takes_the_weights_and_little_more() {
    if let Some(path) = std::env::var_os(CHILD) {
        return load(Path::new(&path));
    }
    for file in ["SmolLM2-135M-Instruct.Q4_1.gguf", "gemma-3-270m-q4_k_m.gguf"] {
        match std::env::var_os("SCONCE_TEST_MODELS") {
            Some(folder) => check(&PathBuf::from(folder).join(file)),
            None => println!("skipped: SCONCE_TEST_MODELS names no folder with {file}"),
        }
    }
}

fn check(path: &Path) {
    let this = std::env::current_exe().expect("this test");
    let mut child = Command::new(this);
    child.args(["--exact", "loading_takes_the_weights_and_little_more", "--nocapture"]).env(CHILD, path);
    let output = child.output().expect("this test again");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let value = |name: &str| -> u64 {
        let line =
            text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
        line.trim().parse().expect("a number")
    };
    let (weights, peak) = (value("weights"), value("peak"));
    println!("{}: {weights} bytes of weights, {peak} at the peak", path.display());
    assert!(weights > 50_000_000, "{weights} bytes of weights");
    // Weights as kept are anonymous memory: a peak below them would mean that nothing was measured.
    assert!(peak > weights, "{peak} bytes at the peak, {weights} of weights");
    assert!(peak <= weights + ALLOWANCE, "{peak} bytes at the peak, {weights} of weights");
}

/// Loads the model and prints what its weights take, and what this process took at most until then.
fn load(path: &Path) {
    let config = EngineConfig {
        max_model_len: Some(1024),
        max_num_seqs: 16,
        max_batch_tokens: 512,
        max_queued_tokens: 1 << 16,
        device: DeviceChoice::Cpu,
        deterministic: false,
        kv_cache_bytes: 1 << 30,
        kv_cache_fixed: None,
        kv_cache_dtype: Some(KvCacheDtype::F16),
        cuda_graphs: true,
        attention_kernel: AttentionChoice::Auto,
        gpu_memory_utilization: 0.9,
        threads: 2,
        prefix_cache: true,
        cpu_activations: CpuActivations::Int8,
    };
    let (done, peak) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                peak.fetch_max(anonymous_bytes(), Ordering::Relaxed);
                // Loading goes on meanwhile; nothing waits for this.
                std::thread::yield_now();
            }
        });
        let runtime = sconce::runtime::start(path, &config, &TextOptions::default(), None, &mut |_, _| {});
        done.store(true, Ordering::Relaxed);
        let runtime = runtime.unwrap_or_else(|e| panic!("{e}"));
        peak.fetch_max(anonymous_bytes(), Ordering::Relaxed);
        println!("\nweights {}", runtime.weight_bytes);
        runtime.engine.shutdown();
        runtime.join();
    });
    println!("peak {}", peak.load(Ordering::Relaxed));
}

fn anonymous_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc/self/status");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("RssAnon");
    1024 * line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("kilobytes")
}
