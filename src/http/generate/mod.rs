//! From a prepared job to pieces of its answer: submits to the engine, listens, and ends it in
//! time. What both endpoints do the same way is here; what they say differently is a [`Format`].

mod choice;
mod prompt;
mod record;
mod run;

pub(super) use choice::{Piece, StopRule, TokenEntry, finite};
pub(super) use prompt::Prompt;
pub(super) use record::{Record, Usage};
pub(super) use run::{Api, Format, Head, check, handle, json_response};

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::{Sleep, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::error::{ApiError, Unavailable};
use super::text::TextService;
use crate::engine::{EngineHandle, EngineRequest, RequestStream};
use crate::text::answer::{AnswerRules, AnswerStyle};
use crate::types::{Claim, Constraint, EngineEvent, FinishReason, SamplingParams};
use choice::Choice;

/// A request ready for the engine: everything is tokenised and checked.
pub(super) struct Job {
    /// At least one prompt with the parameters that hold for it.
    pub(super) prompts: Vec<(Prompt, SamplingParams)>,
    /// Continuations of each prompt.
    pub(super) n: u32,
    pub(super) stop: StopRule,
    pub(super) skip_special: bool,
    /// The answer goes on from the prompt's text, rather than being a turn of its own.
    pub(super) continuation: bool,
    pub(super) cache_salt: u64,
    /// How to find thoughts and tool calls in the text; without it, all of it is content.
    pub(super) reading: Option<(AnswerStyle, Arc<AnswerRules>)>,
    /// What the text must be, and how long it took to find that out.
    pub(super) constraint: Option<(Arc<dyn Constraint>, Duration)>,
}

/// What surrounds a job.
pub(super) struct Surroundings<'a> {
    pub(super) engine: &'a EngineHandle,
    pub(super) text: &'a dyn TextService,
    pub(super) request_id: String,
    pub(super) arrival: Instant,
    pub(super) deadline: Option<Instant>,
    pub(super) cut: CancellationToken,
}

/// One prompt in the engine.
struct Source {
    stream: RequestStream,
    prompt: Prompt,
    /// Choices of this prompt that are not finished.
    open: usize,
    /// Events that wait for the log-probabilities of the prompt.
    held: Vec<EngineEvent>,
}

/// An answer under way. Dropping it aborts whatever is left of it in the engine.
pub(super) struct Generation {
    sources: Vec<Source>,
    choices: Vec<ChoiceState>,
    n: usize,
    /// Where to look for the next event first.
    next_source: usize,
    ready: VecDeque<Piece>,
    deadline: Option<Pin<Box<Sleep>>>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    record: Record,
    ended: bool,
    worst: FinishReason,
}

struct ChoiceState {
    choice: Choice,
    started: bool,
    begun: bool,
    last_token: Option<Instant>,
}

impl Generation {
    /// Submits every prompt; all are accepted or none.
    ///
    /// # Errors
    /// What the engine refuses.
    pub(super) fn start(job: Job, around: &Surroundings<'_>, mut record: Record) -> Result<Self, ApiError> {
        let n = job.n.max(1) as usize;
        if let Some((_, time)) = &job.constraint {
            record.grammar_compiled(*time);
        }
        let (mut sources, mut choices) = (Vec::new(), Vec::new());
        for (prompt, params) in job.prompts {
            let params = Arc::new(params);
            record.usage.prompt += prompt.ids.len();
            let request = EngineRequest {
                request_id: around.request_id.clone(),
                prompt: prompt.ids.clone(),
                params: params.clone(),
                num_choices: job.n.max(1),
                cache_salt: job.cache_salt,
                claim: Claim::default(),
                constraint: job.constraint.as_ref().map(|(constraint, _)| constraint.clone()),
                arrival: around.arrival,
                deadline: around.deadline,
            };
            for _ in 0..n {
                let decoder = around.text.decoder(job.skip_special, job.continuation);
                let machine = job.reading.as_ref().map(|(style, rules)| style.machine(rules));
                let choice = Choice::new(choices.len(), (decoder, machine), &job.stop, params.clone());
                choices.push(ChoiceState { choice, started: false, begun: false, last_token: None });
            }
            match around.engine.submit(request) {
                Ok(stream) => sources.push(Source { stream, prompt, open: n, held: Vec::new() }),
                Err(e) => {
                    let error = ApiError::from(e);
                    record.fail(&error);
                    return Err(error);
                }
            }
        }
        Ok(Self {
            sources,
            choices,
            n,
            next_source: 0,
            ready: VecDeque::new(),
            deadline: around.deadline.map(|d| Box::pin(sleep_until(d.into()))),
            cut: Box::pin(around.cut.clone().cancelled_owned()),
            record,
            ended: false,
            worst: FinishReason::Stop,
        })
    }

    /// Token counts so far.
    pub(super) fn usage(&self) -> Usage {
        self.record.usage
    }

    /// The prompt of the choice `index`.
    pub(super) fn prompt(&self, index: usize) -> Option<&Prompt> {
        self.sources.get(index / self.n).map(|s| &s.prompt)
    }

    /// The next piece; `None` when all choices are complete. After an error nothing follows.
    /// Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Option<Result<Piece, ApiError>> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Some(Ok(piece));
            }
            if self.ended {
                return None;
            }
            if self.sources.iter().all(|s| s.open == 0) {
                self.complete();
                return None;
            }
            if let Err(error) = self.step().await {
                self.ended = true;
                self.record.fail(&error);
                // Frees what the other prompts hold.
                self.sources.clear();
                return Some(Err(error));
            }
        }
    }

    fn complete(&mut self) {
        self.ended = true;
        self.sources.iter_mut().for_each(|s| s.stream.complete());
        let longest = self.choices.iter().map(|c| c.choice.num_tokens()).max().unwrap_or(0);
        self.record.longest = longest as usize;
        self.record.complete(self.worst);
    }

    /// Waits for one event and takes it.
    async fn step(&mut self) -> Result<(), ApiError> {
        let (source, event) = poll_fn(|cx| self.poll_step(cx)).await?;
        let event = event.ok_or(ApiError::Unavailable(Unavailable::EngineDead))?;
        // A fault in this request's text must not take the connection down without a word.
        catch_unwind(AssertUnwindSafe(|| self.take(source, event))).unwrap_or_else(|_| {
            tracing::error!("a request's text processing panicked");
            Err(ApiError::Internal)
        })
    }

    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Result<(usize, Option<EngineEvent>), ApiError>> {
        if self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(ApiError::Unavailable(Unavailable::Shutdown)));
        }
        if self.deadline.as_mut().is_some_and(|d| d.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(Err(ApiError::Timeout));
        }
        self.poll_event(cx).map(Ok)
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<(usize, Option<EngineEvent>)> {
        let count = self.sources.len();
        for i in (0..count).map(|i| (self.next_source + i) % count.max(1)) {
            let Some(source) = self.sources.get_mut(i).filter(|s| s.open > 0) else { continue };
            if let Poll::Ready(event) = source.stream.poll_next(cx) {
                self.next_source = i;
                return Poll::Ready((i, event));
            }
        }
        Poll::Pending
    }

    fn take(&mut self, at: usize, event: EngineEvent) -> Result<(), ApiError> {
        let Some(source) = self.sources.get_mut(at) else { return Ok(()) };
        match event {
            EngineEvent::Started { choice, cached_tokens } => {
                let Some(state) = self.choices.get_mut(at * self.n + choice as usize) else { return Ok(()) };
                // A sequence that was preempted starts again; it counts once.
                if !std::mem::replace(&mut state.started, true) {
                    let prompt = source.prompt.ids.len();
                    let cached = cached_tokens.min(prompt);
                    self.record.started(prompt, cached);
                    self.record.usage.cached += if choice == 0 { cached } else { 0 };
                }
                Ok(())
            }
            EngineEvent::PromptLogprobs { first, entries, .. } => {
                source.prompt.add_logprobs(first, entries);
                if source.prompt.is_scored() {
                    let held = std::mem::take(&mut source.held);
                    held.into_iter().try_for_each(|event| self.take(at, event))?;
                }
                Ok(())
            }
            EngineEvent::Error(error) => Err(error.into()),
            EngineEvent::Token { .. } | EngineEvent::Finished { .. } if !source.prompt.is_scored() => {
                if matches!(event, EngineEvent::Finished { choice: 0, .. }) {
                    tracing::error!("a prompt's log-probabilities are incomplete at the end of its first choice");
                    return Err(ApiError::Internal);
                }
                source.held.push(event);
                Ok(())
            }
            EngineEvent::Token { choice, token, logprobs } => {
                let Some(state) = Self::open_choice(&mut self.choices, at * self.n + choice as usize) else {
                    return Ok(());
                };
                state.last_token = Some(self.record.token(state.last_token));
                self.ready.extend(begin(state, &source.prompt));
                let thought = state.choice.reasoning_tokens();
                let piece = state.choice.push(token, logprobs);
                self.record.usage.reasoning += state.choice.reasoning_tokens() - thought;
                let stopped = piece.as_ref().is_some_and(|p| p.finish.is_some());
                self.ready.extend(piece);
                if stopped {
                    source.stream.stop_choice(choice);
                    source.open = source.open.saturating_sub(1);
                }
                Ok(())
            }
            EngineEvent::Finished { choice, reason, .. } => {
                let Some(state) = Self::open_choice(&mut self.choices, at * self.n + choice as usize) else {
                    return Ok(());
                };
                if reason == FinishReason::Abort {
                    // Nobody here asked for that; a client must not take it for a complete answer.
                    return Err(ApiError::Internal);
                }
                self.ready.extend(begin(state, &source.prompt));
                let piece = state.choice.finish(reason);
                if piece.finish == Some(FinishReason::Length) {
                    self.worst = FinishReason::Length;
                }
                self.ready.push_back(piece);
                source.open = source.open.saturating_sub(1);
                Ok(())
            }
        }
    }

    fn open_choice(choices: &mut [ChoiceState], index: usize) -> Option<&mut ChoiceState> {
        choices.get_mut(index).filter(|s| !s.choice.finished())
    }
}

/// The echoed prompt, once, before the first token of a choice.
fn begin(state: &mut ChoiceState, prompt: &Prompt) -> Option<Piece> {
    if std::mem::replace(&mut state.begun, true) {
        return None;
    }
    prompt.echo.as_ref().map(|echo| state.choice.begin_with(echo.text.clone(), prompt.echo_entries(echo)))
}
