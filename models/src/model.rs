//! The graph: one forward pass over any `ModelSpec`, written once for every device and weight format.

use sconce_kernels::activation::GateActivation;
use sconce_kernels::attention::AttentionShape;
use sconce_kernels::backend::{AttentionLayer, Backend, NormParams, StepInput};
use sconce_kernels::error::KernelError;
use sconce_kernels::kv::{CacheGroup, CacheSpec, KvDtype, LayerSlot, group_layers, layer_slots};

use crate::spec::{Activation, AttentionSpec, LayerSpec, ModelSpec};

/// Weights of one decoder layer.
pub(crate) struct LayerWeights<B: Backend> {
    pub(crate) attn_norm: B::Vector,
    /// Row-stacked q, k, v.
    pub(crate) qkv: B::Linear,
    pub(crate) qk_norm: Option<(B::Vector, B::Vector)>,
    pub(crate) o: B::Linear,
    pub(crate) post_attn_norm: Option<B::Vector>,
    pub(crate) ffn_norm: B::Vector,
    /// Row-stacked gate, up.
    pub(crate) gate_up: B::Linear,
    pub(crate) down: B::Linear,
    pub(crate) post_ffn_norm: Option<B::Vector>,
}

/// All weights of a model on one device.
pub(crate) struct Weights<B: Backend> {
    /// `[vocab, hidden]`; also the output head when that is tied.
    pub(crate) embed: B::Linear,
    pub(crate) layers: Vec<LayerWeights<B>>,
    pub(crate) final_norm: B::Vector,
    /// Absent when tied.
    pub(crate) head: Option<B::Linear>,
}

/// Activations, reused from step to step.
struct Buffers<B: Backend> {
    residual: B::Buffer,
    normed: B::Buffer,
    qkv: B::Buffer,
    attn: B::Buffer,
    /// Output of a projection that a post-norm takes in.
    projected: B::Buffer,
    gate_up: B::Buffer,
    activated: B::Buffer,
    last: B::Buffer,
    logits: B::Logits,
}

impl<B: Backend> Default for Buffers<B> {
    fn default() -> Self {
        Self {
            residual: B::Buffer::default(),
            normed: B::Buffer::default(),
            qkv: B::Buffer::default(),
            attn: B::Buffer::default(),
            projected: B::Buffer::default(),
            gate_up: B::Buffer::default(),
            activated: B::Buffer::default(),
            last: B::Buffer::default(),
            logits: B::Logits::default(),
        }
    }
}

/// Where each layer caches what, for a model served with KV entries of one dtype.
#[derive(Clone, Debug)]
pub struct CacheLayout {
    /// Layers of one kind and width together.
    pub groups: Vec<CacheGroup>,
    /// One entry a layer.
    pub slots: Vec<LayerSlot>,
}

impl CacheLayout {
    /// The layout of `spec` with keys and values kept as `dtype`.
    pub fn new(spec: &ModelSpec, dtype: KvDtype) -> Self {
        let specs: Vec<CacheSpec> = spec.layers.iter().map(|l| cache_spec(&l.attention, dtype)).collect();
        let groups = group_layers(&specs);
        let slots = layer_slots(&groups);
        Self { groups, slots }
    }

    /// The attention of each group's layers: its first one's, which the others share.
    pub fn shapes(&self, spec: &ModelSpec) -> Vec<AttentionShape> {
        let first = |group: &CacheGroup| group.layers.first().map(|&layer| shape(&spec.layers[layer].attention));
        self.groups.iter().filter_map(first).collect()
    }
}

fn cache_spec(attention: &AttentionSpec, dtype: KvDtype) -> CacheSpec {
    CacheSpec {
        kind: attention.kind,
        num_kv_heads: attention.num_kv_heads,
        head_dim_k: attention.head_dim_k,
        head_dim_v: attention.head_dim_v,
        dtype,
    }
}

/// A model ready to compute.
pub struct Model<B: Backend> {
    spec: ModelSpec,
    layout: CacheLayout,
    shapes: Vec<AttentionShape>,
    weights: Weights<B>,
    buffers: Buffers<B>,
}

impl<B: Backend> Model<B> {
    pub(crate) fn new(spec: ModelSpec, layout: CacheLayout, weights: Weights<B>) -> Self {
        let shapes = spec.layers.iter().map(|l| shape(&l.attention)).collect();
        Self { spec, layout, shapes, weights, buffers: Buffers::default() }
    }

    /// What was loaded.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Its cache groups.
    pub fn layout(&self) -> &CacheLayout {
        &self.layout
    }

    /// The logits of the last `forward`, `[logit_rows, vocab]`.
    pub fn logits_mut(&mut self) -> &mut B::Logits {
        &mut self.buffers.logits
    }

    /// Bytes of all weight matrices on the device.
    pub fn weight_bytes(&self, backend: &B) -> usize {
        let w = &self.weights;
        let layers = w.layers.iter().flat_map(|l| [&l.qkv, &l.o, &l.gate_up, &l.down]);
        layers.chain([&w.embed]).chain(&w.head).map(|linear| backend.linear_bytes(linear)).sum()
    }

    /// One forward pass; the logits are then in [`Self::logits_mut`]. `alive` is called after every layer: a long pass
    /// is slow, not stuck.
    ///
    /// # Errors
    /// When an operation refuses its operands or the device fails.
    pub fn forward(&mut self, backend: &mut B, step: &StepInput<'_>, alive: &dyn Fn()) -> Result<(), KernelError> {
        backend.begin_step(step)?;
        self.compute(backend, step, alive)
    }

    /// The part of [`Self::forward`] behind `begin_step`: on a device, launches alone, which a graph can capture.
    ///
    /// # Errors
    /// As for [`Self::forward`].
    pub fn compute(&mut self, backend: &mut B, step: &StepInput<'_>, alive: &dyn Fn()) -> Result<(), KernelError> {
        let (m, hidden) = (step.tokens.len(), self.spec.hidden_size);
        backend.prepare(step)?;
        backend.resize(&mut self.buffers.residual, m * hidden)?;
        backend.resize(&mut self.buffers.normed, m * hidden)?;
        backend.embed(step, &self.weights.embed, self.spec.embedding_multiplier, &mut self.buffers.residual)?;
        for layer in 0..self.spec.layers.len() {
            self.attention_block(backend, step, layer)?;
            self.ffn_block(backend, m, layer)?;
            alive();
        }
        self.head(backend, step)
    }

    /// Makes every buffer large enough for steps of `max_tokens` rows and `max_logit_rows` logits, so that no step
    /// allocates.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn reserve(&mut self, backend: &mut B, max_tokens: usize, max_logit_rows: usize) -> Result<(), KernelError> {
        let (hidden, layers, b) = (self.spec.hidden_size, &self.spec.layers, &mut self.buffers);
        let widest = |of: fn(&LayerSpec) -> usize| layers.iter().map(of).max().unwrap_or(0);
        let post_norms = layers.iter().any(|l| l.post_attention_norm || l.post_ffn_norm);
        backend.resize(&mut b.residual, max_tokens * hidden)?;
        backend.resize(&mut b.normed, max_tokens * hidden)?;
        backend
            .resize(&mut b.qkv, max_tokens * self.shapes.iter().map(AttentionShape::qkv_width).max().unwrap_or(0))?;
        backend.resize(&mut b.attn, max_tokens * widest(|l| l.attention.num_heads * l.attention.head_dim_v))?;
        backend.resize(&mut b.projected, if post_norms { max_tokens * hidden } else { 0 })?;
        backend.resize(&mut b.gate_up, max_tokens * 2 * widest(|l| l.ffn.intermediate_size))?;
        backend.resize(&mut b.activated, max_tokens * widest(|l| l.ffn.intermediate_size))?;
        backend.resize(&mut b.last, max_logit_rows * hidden)?;
        let layers = self.weights.layers.iter();
        backend.reserve_for(layers.flat_map(|layer| [&layer.qkv, &layer.o, &layer.gate_up, &layer.down]))?;
        backend.resize_logits(&mut b.logits, max_logit_rows * self.spec.vocab_size)
    }

    fn norm(&self) -> NormParams {
        NormParams { eps: self.spec.norm.eps, one_plus: self.spec.norm.one_plus }
    }

    /// `x += attention(norm(x))`, with an optional norm on the way back.
    fn attention_block(&mut self, backend: &mut B, step: &StepInput<'_>, index: usize) -> Result<(), KernelError> {
        let (m, norm, shape) = (step.tokens.len(), self.norm(), &self.shapes[index]);
        let (weights, buffers) = (&self.weights.layers[index], &mut self.buffers);
        let qk_norm = weights.qk_norm.as_ref().map(|(q, k)| (q, k));
        let rope = self.spec.layers[index].attention.rope;
        let layer = AttentionLayer { shape, slot: self.layout.slots[index], rope, qk_norm, norm };
        backend.resize(&mut buffers.qkv, m * shape.qkv_width())?;
        let (residual, out) = (&buffers.residual, (&mut buffers.normed, &mut buffers.qkv));
        backend.norm_qkv(step, &layer, residual, (&weights.attn_norm, norm), out, &weights.qkv)?;
        backend.resize(&mut buffers.attn, m * shape.num_heads * shape.head_dim_v)?;
        backend.attention(step, &layer, &buffers.qkv, &mut buffers.attn)?;
        match &weights.post_attn_norm {
            None => backend.linear(&weights.o, &buffers.attn, &mut buffers.residual, true),
            Some(post_norm) => {
                backend.resize(&mut buffers.projected, m * self.spec.hidden_size)?;
                backend.linear(&weights.o, &buffers.attn, &mut buffers.projected, false)?;
                backend.rms_norm_add(&buffers.projected, post_norm, norm, &mut buffers.residual)
            }
        }
    }

    /// `x += down(act(gate(norm(x))) * up(norm(x)))`, with an optional norm on the way back.
    fn ffn_block(&mut self, backend: &mut B, m: usize, index: usize) -> Result<(), KernelError> {
        let (norm, ffn) = (self.norm(), &self.spec.layers[index].ffn);
        let (weights, buffers) = (&self.weights.layers[index], &mut self.buffers);
        backend.resize(&mut buffers.gate_up, m * 2 * ffn.intermediate_size)?;
        backend.resize(&mut buffers.activated, m * ffn.intermediate_size)?;
        let gate_up = (&weights.gate_up, gate_activation(ffn.activation));
        let (residual, scratch) = (&buffers.residual, (&mut buffers.normed, &mut buffers.gate_up));
        let (norm_of, out) = ((&weights.ffn_norm, norm), &mut buffers.activated);
        backend.norm_gated(residual, norm_of, scratch, gate_up, out, ffn.intermediate_size)?;
        match &weights.post_ffn_norm {
            None => backend.linear(&weights.down, &buffers.activated, &mut buffers.residual, true),
            Some(post_norm) => {
                backend.resize(&mut buffers.projected, m * self.spec.hidden_size)?;
                backend.linear(&weights.down, &buffers.activated, &mut buffers.projected, false)?;
                backend.rms_norm_add(&buffers.projected, post_norm, norm, &mut buffers.residual)
            }
        }
    }

    /// Final norm and output head, for the rows whose logits are wanted.
    fn head(&mut self, backend: &mut B, step: &StepInput<'_>) -> Result<(), KernelError> {
        let (rows, hidden, norm) = (step.logit_rows.len(), self.spec.hidden_size, self.norm());
        let buffers = &mut self.buffers;
        backend.resize(&mut buffers.last, rows * hidden)?;
        backend.resize_logits(&mut buffers.logits, rows * self.spec.vocab_size)?;
        if rows > 0 {
            backend.gather_norm(step, &buffers.residual, &self.weights.final_norm, norm, &mut buffers.last)?;
            let head = self.weights.head.as_ref().unwrap_or(&self.weights.embed);
            backend.head(head, &buffers.last, &mut buffers.logits)?;
            backend.scale_and_softcap(&mut buffers.logits, self.spec.logit_multiplier, self.spec.final_softcap)?;
        }
        Ok(())
    }
}

fn shape(attention: &AttentionSpec) -> AttentionShape {
    AttentionShape {
        num_heads: attention.num_heads,
        num_kv_heads: attention.num_kv_heads,
        head_dim_k: attention.head_dim_k,
        head_dim_v: attention.head_dim_v,
        scale: attention.scale,
        softcap: attention.softcap,
        kind: attention.kind,
    }
}

fn gate_activation(activation: Activation) -> GateActivation {
    match activation {
        Activation::Silu => GateActivation::Silu,
        Activation::GeluTanh => GateActivation::GeluTanh,
        Activation::Gelu => GateActivation::Gelu,
    }
}
