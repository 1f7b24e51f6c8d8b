//! Times attention: GFLOP/s of a 1024-token prefill, GB/s of decode at contexts of 1k and 8k.
//!
//! `cargo run --release -p sconce-kernels --example attention [threads]`

use std::time::Instant;

use sconce_kernels::arena::KvArena;
use sconce_kernels::attention::{Attention, AttentionScratch, AttentionShape, attention};
use sconce_kernels::device::{Cpu, Isa};
use sconce_kernels::kv::{ArenaGeometry, BLOCK_SIZE, CacheGroup, CacheKind, CacheSpec, KvDtype, LayerSlot, SeqSpan};
use sconce_kernels::qkv_post::{QkvPost, qkv_post};

struct Model {
    name: &'static str,
    shape: AttentionShape,
}

fn model(name: &'static str, num_heads: usize, num_kv_heads: usize, dim: usize) -> Model {
    let scale = (dim as f32).powf(-0.5);
    let kind = CacheKind::Full;
    Model {
        name,
        shape: AttentionShape { num_heads, num_kv_heads, head_dim_k: dim, head_dim_v: dim, scale, softcap: None, kind },
    }
}

/// Best seconds of one call, over at least 0.3 s.
fn best(mut call: impl FnMut()) -> f64 {
    let (begin, mut best) = (Instant::now(), f64::MAX);
    while begin.elapsed().as_secs_f64() < 0.3 {
        let start = Instant::now();
        call();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

fn time(cpu: &Cpu, model: &Model, dtype: KvDtype) {
    const CONTEXT: usize = 8192;
    let shape = &model.shape;
    let spec = CacheSpec {
        kind: shape.kind,
        num_kv_heads: shape.num_kv_heads,
        head_dim_k: shape.head_dim_k,
        head_dim_v: shape.head_dim_v,
        dtype,
    };
    let geometry = ArenaGeometry::new(&[CacheGroup { spec, layers: vec![0] }]);
    let superpages = (CONTEXT / BLOCK_SIZE).div_ceil(geometry.groups[0].blocks_per_superpage);
    let Ok(mut arena) = KvArena::new(geometry, superpages) else { return println!("no memory") };
    let table: Vec<u32> = (0..(CONTEXT / BLOCK_SIZE) as u32).rev().collect();
    let slot = LayerSlot { group: 0, index: 0 };
    let mut qkv: Vec<f32> = (0..CONTEXT * shape.qkv_width())
        .map(|i| ((i as u32).wrapping_mul(2_654_435_761) >> 16) as f32 / 32768.0 - 1.0)
        .collect();
    let mut out = vec![0.0; CONTEXT * shape.out_width()];
    let mut scratch = AttentionScratch::default();
    let all = SeqSpan { first_row: 0, num_rows: CONTEXT, start: 0, table: &table };
    let post = QkvPost { shape, norms: None, rope: None };
    let write = best(|| qkv_post(cpu, post, &mut qkv, &[all], (&mut arena, slot)));

    let rows = 1024;
    let spans = [SeqSpan { num_rows: rows, ..all }];
    let call = Attention { shape, spans: &spans, arena: &arena, slot };
    let seconds = best(|| {
        attention(cpu, call, &qkv[..rows * shape.qkv_width()], &mut out[..rows * shape.out_width()], &mut scratch)
    });
    let pairs = (rows * (rows + 1) / 2 * shape.num_heads) as f64;
    let gflops = 2.0 * pairs * (shape.head_dim_k + shape.head_dim_v) as f64 / seconds / 1e9;
    print!(
        "{:?} {} {}: write {:.0} ns/row, prefill {gflops:.0} GFLOP/s",
        cpu.isa,
        model.name,
        dtype.name(),
        write / CONTEXT as f64 * 1e9
    );
    for context in [1024, 8192] {
        let spans = [SeqSpan { first_row: 0, num_rows: 1, start: context - 1, table: &table }];
        let call = Attention { shape, spans: &spans, arena: &arena, slot };
        let seconds =
            best(|| attention(cpu, call, &qkv[..shape.qkv_width()], &mut out[..shape.out_width()], &mut scratch));
        let bytes = (context * spec.bytes_per_token()) as f64;
        print!(", decode {context}: {:.1} GB/s {:.0} us", bytes / seconds / 1e9, seconds * 1e6);
    }
    println!();
}

fn main() {
    let threads = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(1);
    for isa in [Isa::Avx512, Isa::Avx2, Isa::Portable].into_iter().filter(|&isa| isa <= Isa::detect()) {
        let cpu = Cpu { isa, ..Cpu::new(threads) };
        for model in
            [model("smollm2 9/3x64", 9, 3, 64), model("gemma3 4/1x256", 4, 1, 256), model("llama 8/2x128", 8, 2, 128)]
        {
            for dtype in [KvDtype::F16, KvDtype::F32] {
                time(&cpu, &model, dtype);
            }
        }
    }
}
