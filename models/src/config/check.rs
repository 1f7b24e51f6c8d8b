//! What must hold of a spec, wherever it came from: sizes in range, heads that divide, finite numbers.

use std::path::Path;

use sconce_kernels::kv::CacheKind;

use crate::error::{ModelError, REDOWNLOAD};
use crate::spec::{LayerSpec, ModelSpec, RopeScaling, RopeSpec};

/// Refuses a spec that no graph can be built from.
pub(super) fn check(path: &Path, spec: &ModelSpec) -> Result<(), ModelError> {
    let fail = |field: String, problem: String| Err(ModelError::malformed(path, field, problem, REDOWNLOAD));
    for (field, value, limit) in [
        ("vocabulary size", spec.vocab_size, 1 << 24),
        ("hidden size", spec.hidden_size, 1 << 20),
        ("number of layers", spec.layers.len(), 4096),
        ("context length", spec.max_position, 1 << 28),
    ] {
        if value == 0 || value > limit {
            return fail(field.to_owned(), format!("{value} isn't in 1..={limit}"));
        }
    }
    if !(spec.norm.eps > 0.0 && spec.norm.eps < 1.0) {
        return fail("norm epsilon".to_owned(), format!("{} isn't between 0 and 1", spec.norm.eps));
    }
    if let Some(cap) = spec.final_softcap
        && !(cap.is_finite() && cap > 0.0)
    {
        return fail("final soft cap".to_owned(), format!("{cap} isn't positive"));
    }
    for (index, layer) in spec.layers.iter().enumerate() {
        if let Err(problem) = check_layer(layer, spec.ropes.as_slice()) {
            return fail(format!("layer {index}"), problem);
        }
    }
    for rope in &spec.ropes {
        if let Err(problem) = check_rope(rope) {
            return fail("rope".to_owned(), problem);
        }
    }
    Ok(())
}

fn check_layer(layer: &LayerSpec, ropes: &[RopeSpec]) -> Result<(), String> {
    let a = &layer.attention;
    for (field, value, limit) in [
        ("attention heads", a.num_heads, 1 << 16),
        ("key/value heads", a.num_kv_heads, 1 << 16),
        ("key head width", a.head_dim_k, 1 << 16),
        ("value head width", a.head_dim_v, 1 << 16),
        ("feed-forward width", layer.ffn.intermediate_size, 1 << 24),
    ] {
        if value == 0 || value > limit {
            return Err(format!("{field} of {value} isn't in 1..={limit}"));
        }
    }
    if !a.num_heads.is_multiple_of(a.num_kv_heads) {
        return Err(format!("{} attention heads can't share {} key/value heads", a.num_heads, a.num_kv_heads));
    }
    if !(a.scale.is_finite() && a.scale > 0.0) {
        return Err(format!("attention scale {} isn't positive", a.scale));
    }
    if a.softcap.is_some_and(|cap| !(cap.is_finite() && cap > 0.0)) {
        return Err("attention soft cap isn't positive".to_owned());
    }
    if matches!(a.kind, CacheKind::SlidingWindow { window: 0 }) {
        return Err("sliding window of 0".to_owned());
    }
    match a.rope.map(|index| ropes.get(index)) {
        Some(None) => Err("no such rope table".to_owned()),
        Some(Some(rope)) if rope.rot_dim > a.head_dim_k => {
            Err(format!("rope rotates {} of {} dimensions", rope.rot_dim, a.head_dim_k))
        }
        _ => Ok(()),
    }
}

fn check_rope(rope: &RopeSpec) -> Result<(), String> {
    let positive = |name: &str, value: f32| {
        if value.is_finite() && value > 0.0 { Ok(()) } else { Err(format!("{name} {value} isn't positive")) }
    };
    let list = |name: &str, values: &[f32]| {
        if values.len() != rope.rot_dim / 2 {
            return Err(format!("{name} has {} entries, expected {}", values.len(), rope.rot_dim / 2));
        }
        values.iter().try_for_each(|&v| positive(name, v))
    };
    positive("base", rope.theta)?;
    if rope.theta <= 1.0 {
        return Err(format!("base {} isn't above 1", rope.theta));
    }
    if rope.rot_dim == 0 || !rope.rot_dim.is_multiple_of(2) {
        return Err(format!("rotated width {} isn't even and positive", rope.rot_dim));
    }
    match &rope.scaling {
        RopeScaling::None => Ok(()),
        RopeScaling::Linear { factor } => positive("factor", *factor),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position } => {
            positive("factor", *factor)?;
            positive("low_freq_factor", *low_freq_factor)?;
            positive("high_freq_factor - low_freq_factor", high_freq_factor - low_freq_factor)?;
            positive("original_max_position_embeddings", *original_max_position as f32)
        }
        RopeScaling::Yarn { factor, beta_fast, beta_slow, attention_factor, original_max_position, .. } => {
            positive("factor", *factor)?;
            positive("beta_fast", *beta_fast)?;
            positive("beta_slow", *beta_slow)?;
            positive("attention_factor", *attention_factor)?;
            positive("original_max_position_embeddings", *original_max_position as f32)
        }
        RopeScaling::LongRope { short_factor, long_factor, attention_factor, .. } => {
            positive("attention_factor", *attention_factor)?;
            list("short_factor", short_factor)?;
            list("long_factor", long_factor)
        }
        RopeScaling::Factors { factors } => list("rope_freqs.weight", factors),
    }
}
