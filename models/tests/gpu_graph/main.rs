//! The graph on the emulated GPU against the graph on the CPU: the same checkpoint, the same tokens. No card is needed.

#[expect(dead_code, reason = "it is the server's own")]
#[expect(unreachable_pub, reason = "it is the server's own")]
#[path = "../../../src/check/checkpoint.rs"]
mod checkpoint;
mod invariance;
mod sessions;

use std::path::{Path, PathBuf};

use checkpoint::{Family, VOCAB, write};
use sconce_emulator::{EmulatedDevice, Issued, emulated_device};
use sconce_kernels::gpu::device::GpuDevice;
use sessions::{GpuSession, cpu_logits};

/// Root mean square of the difference, relative to that of the reference: bf16 keeps 8 bits of activations.
const BF16_BOUND: f32 = 0.02;

fn rms_error(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    assert!(got.iter().all(|x| x.is_finite()));
    let square = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x) * f64::from(x)).sum::<f64>();
    let difference = square(&mut got.iter().zip(want).map(|(a, b)| a - b));
    (difference / square(&mut want.iter().copied())).sqrt() as f32
}

fn tokens(count: usize) -> Vec<u32> {
    (0..count).map(|i| ((i * i * 31 + i * 7 + 3) % VOCAB) as u32).collect()
}

fn check(family: Family, device: EmulatedDevice, folder: &Path) {
    let checkpoint = write(folder, family, 5).expect("files");
    let tokens = tokens(75);
    let want = cpu_logits(&checkpoint, &tokens);
    let mut gpu = GpuSession::open(device, &checkpoint, false);
    let got = gpu.step(0, 0, &tokens);
    let error = rms_error(&got, &want);
    assert!(error < BF16_BOUND, "{family:?}: {error}");
    // Some tokens in a chunk, then one by one, in another slot: the cache is read back.
    let mut later = gpu.step(1, 0, &tokens[..40]);
    for position in 40..tokens.len() {
        later.extend(gpu.step(1, position, &tokens[position..=position]));
    }
    let error = rms_error(&later, &want);
    assert!(error < BF16_BOUND, "{family:?}, decoded: {error}");
}

#[test]
fn llama_agrees_with_the_cpu() {
    let folder = tempfile::tempdir().expect("folder");
    emulated_device(|device| check(Family::Llama, device, folder.path()));
}

#[test]
fn qwen2_agrees_with_the_cpu() {
    let folder = tempfile::tempdir().expect("folder");
    emulated_device(|device| check(Family::Qwen2, device, folder.path()));
}

#[test]
fn qwen3_agrees_with_the_cpu() {
    let folder = tempfile::tempdir().expect("folder");
    emulated_device(|device| check(Family::Qwen3, device, folder.path()));
}

#[test]
fn gemma3_agrees_with_the_cpu() {
    let folder = tempfile::tempdir().expect("folder");
    emulated_device(|device| check(Family::Gemma3, device, folder.path()));
}

/// What steps issue: a regression in the number of launches or a stray copy shows here, without a card.
#[test]
fn a_step_uploads_once_and_launches_nine_a_layer_or_five_when_it_decodes() {
    let folder = tempfile::tempdir().expect("folder");
    emulated_device(|device| {
        let checkpoint = write(folder.path(), Family::Llama, 7).expect("files");
        let mut gpu = GpuSession::open(device, &checkpoint, false);
        let allocs = gpu.device().num_allocs();
        gpu.device().take_issued();
        let launch = |name: &str| Issued::Launch(name.to_owned());
        let issued_by = |gpu: &mut GpuSession, start: usize, tokens: &[u32]| {
            gpu.step(0, start, tokens);
            let mut issued = gpu.device().take_issued();
            assert!(matches!(issued.remove(0), Issued::Upload(_)));
            issued
        };
        let expected = |front: &[Issued], layer: &[Issued], head: &[Issued]| [front, layer, layer, head].concat();

        let front = [launch("update_tables"), launch("rope_rows"), launch("embed_bf16")];
        let layer = [
            launch("rms_norm_bf16"),
            Issued::Gemm(31, 512, 128),
            launch("qkv_post_bf16"),
            launch("attention_bf16_64"),
            Issued::Gemm(31, 128, 256),
            launch("rms_norm_bf16"),
            Issued::Gemm(31, 192, 128),
            launch("gated_bf16"),
            Issued::Gemm(31, 128, 96),
        ];
        let head = [launch("rms_norm_bf16"), Issued::Gemm(31, 928, 128)];
        assert_eq!(issued_by(&mut gpu, 0, &tokens(31)), expected(&front, &layer, &head));

        let layer = [
            launch("gemv_norm_bf16"),
            launch("attention_bf16_64"),
            launch("gemv_bf16"),
            launch("gemv_norm_bf16"),
            launch("gemv_bf16"),
        ];
        let head = [launch("rms_norm_bf16"), launch("gemv_bf16")];
        assert_eq!(issued_by(&mut gpu, 31, &[9]), expected(&front[1..], &layer, &head));
        // The 33rd token begins a block: one table entry travels.
        assert_eq!(issued_by(&mut gpu, 32, &[9]), expected(&front, &layer, &head));
        assert_eq!(gpu.device().num_allocs(), allocs);
    });
}

/// What a step of one token issues behind its first.
fn decoded(device: EmulatedDevice, checkpoint: &Path) -> Vec<Issued> {
    let mut gpu = GpuSession::open(device, checkpoint, false);
    gpu.step(0, 0, &[5]);
    gpu.device().take_issued();
    gpu.step(0, 1, &[9]);
    let issued = gpu.device().take_issued();
    issued.into_iter().filter(|issued| matches!(issued, Issued::Launch(_) | Issued::Gemm(..))).collect()
}

/// Matrices of one type are one part, and so a product.
#[test]
fn packed_weights_decode_in_five_launches_a_layer() {
    emulated_device(|device| {
        let gemv = "gemv_q4_0_bf16";
        let layer = [gemv, "attention_bf16_64", gemv, gemv, gemv];
        let expected = [["rope_rows", "embed_q4_0_bf16"].as_slice(), &layer, &["rms_norm_bf16", gemv]].concat();
        let expected: Vec<Issued> = expected.into_iter().map(|name| Issued::Launch(name.to_owned())).collect();
        assert_eq!(decoded(device, &fixture("llama-q4_0")), expected);
    });
}

/// A head's norm needs the whole head, which no block has.
#[test]
fn norms_of_heads_take_a_launch_more() {
    let folder = tempfile::tempdir().expect("folder");
    emulated_device(|device| {
        let checkpoint = write(folder.path(), Family::Qwen3, 7).expect("files");
        let layer =
            ["gemv_norm_bf16", "qkv_post_bf16", "attention_bf16_128", "gemv_bf16", "gemv_norm_bf16", "gemv_bf16"];
        let layer = layer.map(|name| Issued::Launch(name.to_owned()));
        assert_eq!(decoded(device, &checkpoint)[2..8], layer);
    });
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/fixtures/gguf/{name}.gguf"))
}

/// Block-quantised weights stay packed; few rows and many take different kernels.
fn check_packed(ty: &str, device: EmulatedDevice) {
    let checkpoint = fixture(&format!("llama-{ty}"));
    let tokens: Vec<u32> = (0..75).map(|i| (i * i * 31 + i * 7 + 3) % 128).collect();
    let want = cpu_logits(&checkpoint, &tokens);
    let mut gpu = GpuSession::open(device, &checkpoint, false);
    let error = rms_error(&gpu.step(0, 0, &tokens), &want);
    assert!(error < BF16_BOUND, "{ty}, many rows: {error}");
    let mut few = gpu.step(1, 0, &tokens[..40]);
    (40..75).for_each(|at| few.extend(gpu.step(1, at, &tokens[at..=at])));
    let error = rms_error(&few, &want);
    assert!(error < BF16_BOUND, "{ty}, few rows: {error}");
}

#[test]
fn q4_0_weights_agree_with_the_cpu() {
    emulated_device(|device| check_packed("q4_0", device));
}

#[test]
fn q8_0_weights_agree_with_the_cpu() {
    emulated_device(|device| check_packed("q8_0", device));
}

#[test]
fn q4_k_weights_agree_with_the_cpu() {
    emulated_device(|device| check_packed("q4_k", device));
}

#[test]
fn q6_k_weights_agree_with_the_cpu() {
    emulated_device(|device| check_packed("q6_k", device));
}
