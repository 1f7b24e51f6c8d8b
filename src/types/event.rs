//! What the engine tells a request.

/// Why a choice ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// An end-of-turn token, a stop token or a stop string.
    Stop,
    /// `max_tokens` or the context was reached.
    Length,
    /// The client went away or cancelled.
    Abort,
}

impl FinishReason {
    /// The word used in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Abort => "abort",
        }
    }
}

/// Why an accepted request can't be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The deadline passed.
    #[error("the request exceeded its time limit")]
    Timeout,
    /// A fault while computing this request; others go on.
    #[error("internal error while processing this request: {0}")]
    Internal(String),
    /// What the answer had to look like asks too much: the client's fault.
    #[error("what the answer must look like can't be followed: {0}")]
    Constraint(String),
    /// The engine is gone.
    #[error("the engine stopped")]
    EngineDead,
    /// The server is shutting down and its grace period is over.
    #[error("the server is shutting down")]
    Shutdown,
}

/// A likely token and its log-probability (natural logarithm, raw distribution).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TopLogprob {
    /// Token id.
    pub token: u32,
    /// Natural logarithm of its probability; finite.
    pub logprob: f32,
}

/// Log-probabilities at one position.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// The token at this position.
    pub token: u32,
    /// Its log-probability; finite (clamped to -9999).
    pub logprob: f32,
    /// Its rank, 1 for the most likely token.
    pub rank: u32,
    /// The most likely tokens, best first, as many as were asked for.
    pub top: Vec<TopLogprob>,
}

/// One message to a request. `choice` counts the `n` continuations from 0.
#[derive(Clone, Debug, PartialEq)]
pub enum EngineEvent {
    /// The prompt begins to be computed; `cached_tokens` of it came from the prefix cache.
    Started {
        /// Which continuation.
        choice: u32,
        /// Prompt tokens answered by the prefix cache.
        cached_tokens: usize,
    },
    /// Log-probabilities of prompt tokens, from position `first` (the first token has none).
    PromptLogprobs {
        /// Which continuation (always 0).
        choice: u32,
        /// Position of the first entry.
        first: usize,
        /// One entry a prompt token.
        entries: Vec<TokenLogprobs>,
    },
    /// A generated token. A stop token is reported too, followed by `Finished`.
    Token {
        /// Which continuation.
        choice: u32,
        /// Token id.
        token: u32,
        /// Present when asked for.
        logprobs: Option<TokenLogprobs>,
    },
    /// The choice is complete.
    Finished {
        /// Which continuation.
        choice: u32,
        /// Why.
        reason: FinishReason,
        /// The stop token (end-of-turn or client's) that ended it, if one did: its text is not part of the answer.
        stop_token: Option<u32>,
    },
    /// The whole request failed; nothing follows.
    Error(RequestError),
}
