//! What this layer needs of the text side, and the threads on which its heavy half runs.
//!
//! Whatever grows with a request's body (parsing it, templates, tokenisation) takes long and comes
//! from untrusted input: it runs on blocking threads, a few at a time, and a panic there is that
//! request's error alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::error::ApiError;
use crate::text::answer::AnswerStyle;
use crate::text::{
    ChatMessage, GrammarError, GrammarSpec, IncrementalDecoder, RenderOptions, SamplingDefaults, TextError, TextModel,
};
use crate::types::Constraint;

/// Turns token ids into text one at a time.
pub trait Decoder: Send {
    /// The bytes that `token` would add.
    fn bytes_at(&self, token: u32) -> Vec<u8>;
    /// Takes the next token; gives the text that is now complete.
    fn push(&mut self, token: u32) -> String;
    /// No token follows a text that is shown whole: gives what was held back. Of an answer that was cut within a
    /// character, it is left out instead.
    fn finish(&mut self) -> String;
}

/// The text side of the served model: [`TextModel`], or a double in tests. Methods may panic; this
/// layer contains it.
pub trait TextService: Send + Sync {
    /// Token ids of a text; `add_special` puts the tokenizer's own special tokens around it.
    ///
    /// # Errors
    /// [`TextError`] when it can't be written in this vocabulary.
    fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TextError>;
    /// The text of a conversation.
    ///
    /// # Errors
    /// [`TextError`] when there is no template or it refuses the conversation.
    fn render_chat(&self, messages: &[ChatMessage], options: &RenderOptions) -> Result<String, TextError>;
    /// Token ids of a rendered conversation, with the beginning-of-sequence token exactly once.
    ///
    /// # Errors
    /// As [`TextService::encode`].
    fn encode_rendered(&self, text: &str) -> Result<Vec<u32>, TextError>;
    /// Bytes of the vocabulary's longest token.
    fn longest_token_bytes(&self) -> usize;
    /// A decoder for an answer; `continuation` for text that goes on from a prompt.
    fn decoder(&self, skip_special: bool, continuation: bool) -> Box<dyn Decoder>;
    /// The bytes of one token by itself.
    fn token_bytes(&self, token: u32) -> Vec<u8>;
    /// The model's end-of-turn tokens.
    fn eos_token_ids(&self) -> &[u32];
    /// How the model writes thoughts and tool calls.
    fn style(&self) -> &AnswerStyle;
    /// A constraint that an answer's text must satisfy.
    ///
    /// # Errors
    /// [`GrammarError`] when there is none, or none that can be enforced.
    fn constrain(&self, spec: &GrammarSpec) -> Result<Arc<dyn Constraint>, GrammarError>;
    /// The model's recommendations.
    fn defaults(&self) -> SamplingDefaults;
}

impl TextService for TextModel {
    fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TextError> {
        self.tokenizer.encode(text, add_special)
    }

    fn render_chat(&self, messages: &[ChatMessage], options: &RenderOptions) -> Result<String, TextError> {
        TextModel::render_chat(self, messages, options)
    }

    fn encode_rendered(&self, text: &str) -> Result<Vec<u32>, TextError> {
        self.tokenizer.encode_once(text)
    }

    fn longest_token_bytes(&self) -> usize {
        self.tokenizer.longest_token_bytes()
    }

    fn decoder(&self, skip_special: bool, continuation: bool) -> Box<dyn Decoder> {
        Box::new(match continuation {
            true => self.tokenizer.continuation_decoder(skip_special),
            false => self.tokenizer.decoder(skip_special),
        })
    }

    fn token_bytes(&self, token: u32) -> Vec<u8> {
        self.tokenizer.token_bytes(token)
    }

    fn eos_token_ids(&self) -> &[u32] {
        &self.eos_token_ids
    }

    fn style(&self) -> &AnswerStyle {
        &self.style
    }

    fn constrain(&self, spec: &GrammarSpec) -> Result<Arc<dyn Constraint>, GrammarError> {
        Ok(Arc::new(self.grammars.compile(spec)?))
    }

    fn defaults(&self) -> SamplingDefaults {
        self.sampling_defaults.clone()
    }
}

impl Decoder for IncrementalDecoder {
    fn bytes_at(&self, token: u32) -> Vec<u8> {
        IncrementalDecoder::bytes_at(self, token)
    }

    fn push(&mut self, token: u32) -> String {
        IncrementalDecoder::push(self, token)
    }

    fn finish(&mut self) -> String {
        IncrementalDecoder::finish(self)
    }
}

/// The text of `ids`.
pub(super) fn decode(text: &dyn TextService, ids: &[u32], skip_special: bool) -> String {
    let mut decoder = text.decoder(skip_special, false);
    let mut decoded: String = ids.iter().map(|id| decoder.push(*id)).collect();
    decoded.push_str(&decoder.finish());
    decoded
}

/// A text that could not become tokens, as the client's error.
pub(super) fn text_error(param: &str, error: TextError) -> ApiError {
    match error {
        TextError::Load { source_name, message, .. } => {
            tracing::error!(source_name, message, "the text side of the model failed");
            ApiError::Internal
        }
        // These messages speak of the template or the vocabulary, on one line.
        other => ApiError::value(param, format!("Invalid '{param}': {other}")),
    }
}

/// The display form of a token: its text, or its bytes spelled out where they are no text.
pub(super) fn token_display(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => {
            let hex = bytes.iter().map(|b| format!("\\x{b:02x}"));
            std::iter::once("bytes:".to_owned()).chain(hex).collect()
        }
    }
}

/// Bodies up to this size are small: their text takes some ten milliseconds, a large one's may take a second.
const SMALL_BODY_BYTES: usize = 64 << 10;

/// Text threads for small requests and others for large ones, so that nobody's small request waits for the text of
/// somebody else's large one. The work on a request is about linear in its body, whatever its kind.
#[derive(Debug)]
pub(super) struct TextPools {
    small: TextPool,
    large: TextPool,
}

impl TextPools {
    /// Each pool has this many threads and this long a queue.
    pub(super) fn new(threads: usize, most_waiting: usize) -> Self {
        Self { small: TextPool::new(threads, most_waiting), large: TextPool::new(threads, most_waiting) }
    }

    /// Where the text of a request with a body of `bytes` bytes is worked on.
    pub(super) fn of(&self, bytes: usize) -> &TextPool {
        if bytes <= SMALL_BODY_BYTES { &self.small } else { &self.large }
    }
}

/// A few blocking threads for text, with a bounded queue before them.
#[derive(Debug)]
pub(super) struct TextPool {
    threads: Arc<Semaphore>,
    waiting: AtomicUsize,
    most_waiting: usize,
}

impl TextPool {
    pub(super) fn new(threads: usize, most_waiting: usize) -> Self {
        Self { threads: Arc::new(Semaphore::new(threads.max(1))), waiting: AtomicUsize::new(0), most_waiting }
    }

    /// Runs `work` on a text thread.
    ///
    /// # Errors
    /// [`ApiError::QueueFull`] when too many wait, [`ApiError::Internal`] when `work` panics, and
    /// whatever `work` itself returns.
    pub(super) async fn run<T, F>(&self, work: F) -> Result<T, ApiError>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T, ApiError> + Send + 'static,
    {
        let _counted = self.count()?;
        let Ok(permit) = self.threads.clone().acquire_owned().await else { return Err(ApiError::Internal) };
        let task = tokio::task::spawn_blocking(move || {
            // Held by the work itself: a client that leaves must not let more run than there are threads.
            let _permit = permit;
            work()
        });
        task.await.unwrap_or_else(|e| {
            tracing::error!(panic = e.is_panic(), "text processing of a request failed");
            Err(ApiError::Internal)
        })
    }

    fn count(&self) -> Result<Waiting<'_>, ApiError> {
        let guard = Waiting(&self.waiting);
        if self.waiting.fetch_add(1, Ordering::AcqRel) >= self.most_waiting {
            return Err(ApiError::QueueFull { retry_after: Duration::from_secs(1) });
        }
        Ok(guard)
    }
}

/// Uncounts on drop.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_that_are_no_text_show_their_bytes() {
        assert_eq!(token_display("é".as_bytes()), "é");
        assert_eq!(token_display(&[0xe2, 0x9c]), "bytes:\\xe2\\x9c");
    }

    #[tokio::test]
    async fn a_panic_is_that_requests_error_and_gives_its_place_back() {
        let pool = TextPool::new(1, 1);
        for _ in 0..3 {
            assert_eq!(pool.run::<(), _>(|| panic!("broken template")).await, Err(ApiError::Internal));
        }
        assert_eq!(pool.run(|| Ok(5)).await, Ok(5));
    }

    #[tokio::test]
    async fn small_requests_do_not_wait_for_large_ones() {
        let pools = Arc::new(TextPools::new(1, 8));
        let (release, gate) = std::sync::mpsc::channel::<()>();
        let large = pools.clone();
        let wait = move || gate.recv().map_err(|_| ApiError::Internal);
        let held = tokio::spawn(async move { large.of(SMALL_BODY_BYTES + 1).run(wait).await });
        tokio::task::yield_now().await;
        assert_eq!(pools.of(SMALL_BODY_BYTES).run(|| Ok(5)).await, Ok(5));
        assert!(!held.is_finished());
        release.send(()).unwrap();
        assert_eq!(held.await.unwrap(), Ok(()));
    }

    #[tokio::test]
    async fn too_many_waiting_are_refused() {
        let pool = Arc::new(TextPool::new(1, 1));
        let (release, gate) = std::sync::mpsc::channel::<()>();
        let (started, running) = tokio::sync::oneshot::channel();
        let first = tokio::spawn({
            let pool = pool.clone();
            async move {
                let work = move || {
                    let _ = started.send(());
                    gate.recv().map_err(|_| ApiError::Internal)
                };
                pool.run(work).await
            }
        });
        running.await.unwrap();
        assert!(matches!(pool.run(|| Ok(())).await, Err(ApiError::QueueFull { .. })));
        release.send(()).unwrap();
        assert_eq!(first.await.unwrap(), Ok(()));
    }
}
