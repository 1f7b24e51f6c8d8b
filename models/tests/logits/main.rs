//! Logits against transformers and candle: tiny random checkpoints of every family and weight type, two real models.

mod candle;
mod families;
mod real;
mod support;
