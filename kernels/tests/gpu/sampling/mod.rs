//! Sampling against the CPU's.
//!
//! - `draws`: tokens of random rows, faults, the distribution, independence of the other rows
//! - `edits`: what a sequence's history does to its logits, over many steps

mod draws;
mod edits;
