//! Load on an OpenAI-compatible server: streamed completions, and when their tokens came.
//!
//! # Layout
//! - `client`: one streamed request; `load`: so many at once until all are done; `summary`: rates and percentiles

mod client;
mod load;
mod summary;

pub use client::{Prompt, Target, Timeline};
pub use load::{Load, run};
pub use summary::{Percentiles, Summary};

/// Why there is no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BenchError(String);

impl From<reqwest::Error> for BenchError {
    fn from(error: reqwest::Error) -> Self {
        // The cause is in the source: the message alone says that sending failed.
        let cause = std::error::Error::source(&error).map_or(String::new(), |source| format!(": {source}"));
        Self(format!("{error}{cause}"))
    }
}
