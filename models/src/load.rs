//! From a checkpoint to weights on a device: stacks projections, checks shapes, never holds a model twice.

use sconce_kernels::backend::Backend;
use sconce_kernels::dtype::WeightType;
use sconce_kernels::error::KernelError;
use sconce_kernels::linear::MatrixView;
use sconce_kernels::rope::RopeTable;

use crate::checkpoint::{Checkpoint, TensorView};
use crate::error::ModelError;
use crate::model::{CacheLayout, LayerWeights, Model, Weights};
use crate::names::{LayerNames, TensorNames};
use crate::rope::frequencies;
use crate::spec::{LayerSpec, ModelSpec, RopeSpec};

/// Loads `spec`'s weights from `checkpoint` onto `backend` and gives the backend its rope tables.
/// `progress(done, total)` is called after every layer.
///
/// # Errors
/// A tensor that is missing or has another shape than the configuration says, or a device error.
pub fn load<B: Backend>(
    checkpoint: &Checkpoint,
    spec: ModelSpec,
    layout: CacheLayout,
    backend: &mut B,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Model<B>, ModelError> {
    let names = TensorNames::of(checkpoint)?;
    let mut loader = Loader { checkpoint, backend };
    let hidden = spec.hidden_size;
    let total = spec.layers.len() + 1;
    let mut layers = Vec::with_capacity(spec.layers.len());
    for (index, layer) in spec.layers.iter().enumerate() {
        layers.push(loader.layer(&names.layer(index), layer, hidden)?);
        progress(index + 1, total);
    }
    let embed = loader.linear(&[(&names.embed, spec.vocab_size)], hidden, None)?;
    let head = if spec.tied_embeddings {
        None
    } else {
        Some(loader.linear(&[(&names.lm_head, spec.vocab_size)], hidden, None)?)
    };
    let weights = Weights { embed, layers, final_norm: loader.vector(&names.final_norm, hidden)?, head };
    progress(total, total);
    let failed = |error: KernelError| ModelError::tensor(checkpoint.path(), "rope", error);
    backend.set_ropes(rope_tables(&spec)).map_err(failed)?;
    Ok(Model::new(spec, layout, weights))
}

/// A model of `spec`'s shape with random weights: what measurements compute. `block` has the bytes of bf16 values that
/// every matrix begins with; it must be as long as the largest.
///
/// # Errors
/// A device error, or a block that is too short.
pub fn random<B: Backend>(
    spec: ModelSpec,
    layout: CacheLayout,
    backend: &mut B,
    block: &[u8],
) -> Result<Model<B>, KernelError> {
    let matrix = |backend: &mut B, rows: usize, cols: usize| {
        let bytes = rows * cols * 2;
        let data = block.get(..bytes).ok_or(KernelError::Size {
            what: "bytes of random weights",
            expected: bytes,
            actual: block.len(),
        })?;
        backend.linear_from(&[MatrixView { ty: WeightType::BF16, data, rows, cols }], None)
    };
    let one = if spec.norm.one_plus { 0.0 } else { 1.0 };
    let hidden = spec.hidden_size;
    let mut layers = Vec::with_capacity(spec.layers.len());
    for layer in &spec.layers {
        let a = &layer.attention;
        let qkv = a.num_heads * a.head_dim_k + a.num_kv_heads * (a.head_dim_k + a.head_dim_v);
        let mut vector = |len: usize| backend.vector_from(vec![one; len]);
        let qk_norm = if a.qk_norm { Some((vector(a.head_dim_k)?, vector(a.head_dim_k)?)) } else { None };
        let post_attn_norm = layer.post_attention_norm.then(|| vector(hidden)).transpose()?;
        let post_ffn_norm = layer.post_ffn_norm.then(|| vector(hidden)).transpose()?;
        layers.push(LayerWeights {
            attn_norm: vector(hidden)?,
            ffn_norm: vector(hidden)?,
            qk_norm,
            post_attn_norm,
            post_ffn_norm,
            qkv: matrix(backend, qkv, hidden)?,
            o: matrix(backend, hidden, a.num_heads * a.head_dim_v)?,
            gate_up: matrix(backend, 2 * layer.ffn.intermediate_size, hidden)?,
            down: matrix(backend, hidden, layer.ffn.intermediate_size)?,
        });
    }
    let embed = matrix(backend, spec.vocab_size, hidden)?;
    let head = if spec.tied_embeddings { None } else { Some(matrix(backend, spec.vocab_size, hidden)?) };
    let final_norm = backend.vector_from(vec![one; hidden])?;
    backend.set_ropes(rope_tables(&spec))?;
    Ok(Model::new(spec, layout, Weights { embed, layers, final_norm, head }))
}

fn rope_tables(spec: &ModelSpec) -> Vec<RopeTable> {
    let table = |rope: &RopeSpec| {
        let (inv_freq, attention_factor) = frequencies(rope, spec.max_position);
        RopeTable { inv_freq, attention_factor, rot_dim: rope.rot_dim, interleaved: rope.interleaved }
    };
    spec.ropes.iter().map(table).collect()
}

struct Loader<'a, B> {
    checkpoint: &'a Checkpoint,
    backend: &'a mut B,
}

impl<B: Backend> Loader<'_, B> {
    fn layer(&mut self, names: &LayerNames, spec: &LayerSpec, hidden: usize) -> Result<LayerWeights<B>, ModelError> {
        let a = &spec.attention;
        let (q, k, v) = (a.num_heads * a.head_dim_k, a.num_kv_heads * a.head_dim_k, a.num_kv_heads * a.head_dim_v);
        let inner = spec.ffn.intermediate_size;
        let qkv_bias = self.biases(a.qkv_bias, &[(&names.q_bias, q), (&names.k_bias, k), (&names.v_bias, v)])?;
        let o_bias = self.biases(a.o_bias, &[(&names.o_bias, hidden)])?;
        let gate_up_bias = self.biases(spec.ffn.bias, &[(&names.gate_bias, inner), (&names.up_bias, inner)])?;
        let down_bias = self.biases(spec.ffn.bias, &[(&names.down_bias, hidden)])?;
        let qk_norm = if a.qk_norm {
            Some((self.vector(&names.q_norm, a.head_dim_k)?, self.vector(&names.k_norm, a.head_dim_k)?))
        } else {
            None
        };
        Ok(LayerWeights {
            attn_norm: self.vector(&names.attn_norm, hidden)?,
            qkv: self.linear(&[(&names.q, q), (&names.k, k), (&names.v, v)], hidden, qkv_bias)?,
            qk_norm,
            o: self.linear(&[(&names.o, hidden)], a.num_heads * a.head_dim_v, o_bias)?,
            post_attn_norm: self.optional_vector(spec.post_attention_norm, &names.post_attn_norm, hidden)?,
            ffn_norm: self.vector(&names.ffn_norm, hidden)?,
            gate_up: self.linear(&[(&names.gate, inner), (&names.up, inner)], hidden, gate_up_bias)?,
            down: self.linear(&[(&names.down, hidden)], inner, down_bias)?,
            post_ffn_norm: self.optional_vector(spec.post_ffn_norm, &names.post_ffn_norm, hidden)?,
        })
    }

    /// Row-stacks matrices `[rows, cols]`.
    fn linear(
        &mut self,
        parts: &[(&String, usize)],
        cols: usize,
        bias: Option<Vec<f32>>,
    ) -> Result<B::Linear, ModelError> {
        let mut views = Vec::with_capacity(parts.len());
        for &(name, rows) in parts {
            let tensor = self.checkpoint.tensor(name)?;
            self.expect_shape(name, &tensor, &[rows, cols])?;
            views.push(MatrixView { ty: tensor.ty, data: tensor.data, rows, cols });
        }
        let failed = |error| {
            let name = parts.first().map_or("", |(name, _)| name.as_str());
            ModelError::tensor(self.checkpoint.file_of(name), name, error)
        };
        self.backend.linear_from(&views, bias).map_err(failed)
    }

    fn optional_vector(&mut self, wanted: bool, name: &str, len: usize) -> Result<Option<B::Vector>, ModelError> {
        wanted.then(|| self.vector(name, len)).transpose()
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<B::Vector, ModelError> {
        let data = self.floats(name, len)?;
        let failed = |error| ModelError::tensor(self.checkpoint.file_of(name), name, error);
        self.backend.vector_from(data).map_err(failed)
    }

    fn biases(&self, wanted: bool, parts: &[(&String, usize)]) -> Result<Option<Vec<f32>>, ModelError> {
        if !wanted {
            return Ok(None);
        }
        let mut all = Vec::new();
        for &(name, len) in parts {
            all.extend(self.floats(name, len)?);
        }
        Ok(Some(all))
    }

    fn floats(&self, name: &str, len: usize) -> Result<Vec<f32>, ModelError> {
        let tensor = self.checkpoint.tensor(name)?;
        self.expect_shape(name, &tensor, &[len])?;
        let mut out = vec![0.0; len];
        sconce_kernels::dequant::dequantize(tensor.ty, tensor.data, &mut out)
            .map_err(|error| ModelError::tensor(self.checkpoint.file_of(name), name, error))?;
        Ok(out)
    }

    fn expect_shape(&self, name: &str, tensor: &TensorView<'_>, expected: &[usize]) -> Result<(), ModelError> {
        if tensor.shape == expected {
            return Ok(());
        }
        let problem = format!("has shape {:?} but the configuration asks for {expected:?}", tensor.shape);
        let remedy = "weights and configuration don't belong together: download both again";
        Err(ModelError::malformed(self.checkpoint.file_of(name), format!("tensor {name}"), problem, remedy))
    }
}
