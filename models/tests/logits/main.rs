//! Logits against transformers: tiny random checkpoints of every family and weight type, and two real models.

mod families;
mod real;
mod support;
