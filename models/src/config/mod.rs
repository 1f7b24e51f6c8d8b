//! From a checkpoint's own description to a `ModelSpec`.
//!
//! # Layout
//! - `hf`: typed reads of `config.json`; `families`: what each architecture makes of it; `hf_rope`: its rope keys
//! - `gguf`: the same from GGUF metadata
//! - `check`: what must hold of any spec before a graph is built from it

mod check;
pub(crate) mod families;
pub(crate) mod gguf;
pub(crate) mod hf;
mod hf_rope;

use crate::checkpoint::Checkpoint;
use crate::error::{ModelError, REDOWNLOAD};
use crate::names::TensorNames;
use crate::registry;
use crate::spec::ModelSpec;

/// What the operator decides about a model.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpecOptions {
    /// Longest context to serve; `None` for all that the checkpoint declares. It also chooses the LongRoPE factors.
    pub max_model_len: Option<usize>,
}

/// Describes the checkpoint. `max_position` of the result is the context to serve.
///
/// # Errors
/// An architecture that isn't supported, a key that is missing, out of range or asks for something that would change
/// the numbers and isn't implemented, or a `max_model_len` beyond what the checkpoint declares.
pub fn model_spec(checkpoint: &Checkpoint, options: &SpecOptions) -> Result<ModelSpec, ModelError> {
    let family = registry::find(checkpoint)?;
    let mut spec = match checkpoint.gguf() {
        Some(gguf) => gguf::model_spec(checkpoint, gguf, family)?,
        None => families::model_spec(checkpoint, family)?,
    };
    check::check(&checkpoint.description(), &spec)?;
    refuse_further_layers(checkpoint, spec.layers.len())?;
    match options.max_model_len {
        Some(len) if len == 0 || len > spec.max_position => Err(ModelError::unsupported(
            &checkpoint.description(),
            "max-model-len",
            format!("{len} isn't in 1..={}, the context that the checkpoint declares", spec.max_position),
            "choose a length in that range",
        )),
        Some(len) => {
            spec.max_position = len;
            Ok(spec)
        }
        None => Ok(spec),
    }
}

/// Weights of layers beyond the last: the number of layers is wrong, and what the rest computes is nonsense.
fn refuse_further_layers(checkpoint: &Checkpoint, num_layers: usize) -> Result<(), ModelError> {
    // Without any names there is nothing to compare; loading says what is missing.
    let Ok(names) = TensorNames::of(checkpoint) else { return Ok(()) };
    let prefix = names.layer_prefix();
    let layer_of = |name: &str| name.strip_prefix(&prefix)?.split('.').next()?.parse::<usize>().ok();
    let beyond = checkpoint.tensors().iter().find(|tensor| layer_of(&tensor.name).is_some_and(|n| n >= num_layers));
    let Some(tensor) = beyond else { return Ok(()) };
    let field = if checkpoint.gguf().is_some() { "block_count" } else { "num_hidden_layers" };
    let problem = format!("{num_layers} layers, but there is a tensor {}", tensor.name);
    Err(ModelError::malformed(&checkpoint.description(), field, problem, REDOWNLOAD))
}
