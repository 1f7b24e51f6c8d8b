//! A closed loop: so many streams are open until every prompt is answered.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use futures_util::future::join_all;

use super::BenchError;
use super::client::{Prompt, Target, Timeline};
use super::summary::Summary;

/// What is asked of the server.
#[derive(Clone, Debug)]
pub struct Load {
    /// Requests open at once.
    pub streams: usize,
    /// One request each. A prompt that was sent before may come from a prefix cache.
    pub prompts: Vec<Prompt>,
    /// Tokens of each answer.
    pub max_tokens: usize,
}

/// Runs a load; its requests share one pool of connections.
///
/// # Errors
/// When no client can be made, or the first error of a request when none was answered.
pub async fn run(target: &Target, load: &Load) -> Result<Summary, BenchError> {
    let http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(load.streams).build()?;
    let next = AtomicUsize::new(0);
    let stream = async || {
        let mut answers: Vec<Result<Timeline, BenchError>> = Vec::new();
        while let Some(prompt) = load.prompts.get(next.fetch_add(1, Ordering::Relaxed)) {
            answers.push(target.complete(&http, prompt, load.max_tokens).await);
        }
        answers
    };
    let begin = Instant::now();
    let answers = join_all((0..load.streams).map(|_| stream())).await;
    let wall = begin.elapsed().as_secs_f64();
    let (mut timelines, mut failures) = (Vec::new(), Vec::new());
    for answer in answers.into_iter().flatten() {
        match answer {
            Ok(timeline) => timelines.push(timeline),
            Err(error) => failures.push(error),
        }
    }
    match (timelines.is_empty(), failures.first()) {
        (true, Some(first)) => Err(first.clone()),
        _ => Ok(Summary::new(load.streams, &timelines, failures.len(), wall)),
    }
}
