//! Single kernels against their CPU references, on any device: the tests run this on the emulated one, `gpu-check` on a
//! card.
//!
//! # Layout
//! - `bed`: typed memory on a device; `values`: seeded values, 16-bit types, comparison; `cache`: a paged cache
//! - one file an operation: random problems, the reference, the comparison
//! - `suite`: what is checked on a card
//!
//! Outputs are poisoned before a launch. A wrong result names what was computed and the worst element; the tolerances are
//! derived where they stand.

pub mod activation;
pub mod attention;
mod bed;
mod cache;
pub mod draws;
pub mod heads;
pub mod logprobs;
pub mod norm;
pub mod packed;
pub mod product;
pub mod qkv_post;
pub mod sampling;
mod suite;
mod values;

use std::fmt;

pub use bed::{Array, Bed};
pub use cache::{DeviceCache, PagedCache, cache_dtype, slot_of};
pub use suite::{Check, checks};
pub use values::{Half, Random, assert_close, cached, e4m3, floats};

use super::device::GpuError;
use crate::error::KernelError;

/// What is wrong.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// The device failed.
    Device(GpuError),
    /// A result is not what it should be.
    Wrong(String),
}

/// Nothing is wrong, or what is.
pub type Checked<T = ()> = Result<T, Fault>;

impl Fault {
    /// The same fault of something.
    #[must_use]
    pub fn of(self, what: impl fmt::Display) -> Self {
        match self {
            Self::Wrong(text) => Self::Wrong(format!("{what}: {text}")),
            device => device,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(error) => error.fmt(f),
            Self::Wrong(text) => f.write_str(text),
        }
    }
}

impl From<GpuError> for Fault {
    fn from(error: GpuError) -> Self {
        Self::Device(error)
    }
}

impl From<KernelError> for Fault {
    fn from(error: KernelError) -> Self {
        match error {
            KernelError::Device(error) => Self::Device(error),
            other => Self::Wrong(other.to_string()),
        }
    }
}

/// An error with this text unless `condition` holds.
fn ensure(condition: bool, text: impl FnOnce() -> String) -> Checked {
    if condition { Ok(()) } else { Err(Fault::Wrong(text())) }
}
