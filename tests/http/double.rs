//! Doubles for the two neighbours of the HTTP layer: an engine that a test plays by hand, and a
//! text side whose tokens are bytes.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use sconce::engine::{Command, EngineEnd, EngineInfo, EngineRequest, engine_channel};
use sconce::http::{App, Decoder, HttpConfig, Shutdown, TextService, serve};
use sconce::telemetry::{Telemetry, TelemetryConfig};
use sconce::text::answer::AnswerStyle;
use sconce::text::{
    ChatMessage, GrammarError, GrammarSpec, MessageContent, RenderOptions, SamplingDefaults, TextError, Tokenizer,
};
use sconce::types::{Constraint, ConstraintState, EngineEvent, FinishReason, TokenLogprobs, TopLogprob};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// Nothing in these tests may take longer; reaching it is a failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const EOS: u32 = 256;
pub(crate) const BOS: u32 = 257;
pub(crate) const VOCAB: usize = 300;
pub(crate) const CONTEXT: usize = 512;
pub(crate) const KEY: &str = "sk-test";

/// Waits for `future`, but not forever.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("timed out: {what}"))
}

/// Token ids are bytes; 256 ends a turn, 257 begins a text. The text `panic!` panics.
pub(crate) struct ByteText;

pub(crate) fn ids(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

impl TextService for ByteText {
    fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TextError> {
        assert!(!text.contains("panic!"), "a broken tokenizer");
        Ok(add_special.then_some(BOS).into_iter().chain(ids(text)).collect())
    }

    fn render_chat(&self, messages: &[ChatMessage], options: &RenderOptions) -> Result<String, TextError> {
        let mut text = String::new();
        for m in messages {
            let content = match &m.content {
                Some(MessageContent::Text(t)) => t.clone(),
                Some(MessageContent::Parts(parts)) => parts.concat(),
                None => String::new(),
            };
            if content == "refuse" {
                return Err(TextError::Template("roles must alternate".into()));
            }
            text.push_str(&format!("{}:{content}\n", m.role));
        }
        if options.add_generation_prompt {
            text.push_str("assistant:");
        }
        Ok(text)
    }

    fn encode_rendered(&self, text: &str) -> Result<Vec<u32>, TextError> {
        self.encode(text, true)
    }

    fn longest_token_bytes(&self) -> usize {
        1
    }

    fn decoder(&self, _skip_special: bool, _continuation: bool) -> Box<dyn Decoder> {
        Box::new(ByteDecoder(Vec::new()))
    }

    fn token_bytes(&self, token: u32) -> Vec<u8> {
        u8::try_from(token).into_iter().collect()
    }

    fn eos_token_ids(&self) -> &[u32] {
        &[EOS]
    }

    fn style(&self) -> &AnswerStyle {
        &STYLE
    }

    /// Refuses the grammar `refuse`; any other is only kept.
    fn constrain(&self, spec: &GrammarSpec) -> Result<Arc<dyn Constraint>, GrammarError> {
        match spec {
            GrammarSpec::Grammar(text) if text == "refuse" => {
                Err(GrammarError::Syntax { line: Some(1), message: "line 1 of the grammar: refused".into() })
            }
            _ => Ok(Arc::new(Wanted(spec.clone()))),
        }
    }

    fn defaults(&self) -> SamplingDefaults {
        SamplingDefaults { top_k: Some(40), ..SamplingDefaults::default() }
    }
}

/// A specification on its way to the engine; shown by `{:?}`.
#[derive(Debug)]
struct Wanted(#[expect(dead_code, reason = "shown")] GrammarSpec);

impl Constraint for Wanted {
    fn begin(&self) -> Box<dyn ConstraintState> {
        unreachable!("the engine is a double")
    }
}

/// Thoughts in `<think>`, calls in `<tool_call>`, all of it plain text here.
static STYLE: LazyLock<AnswerStyle> = LazyLock::new(|| {
    let tokenizer = include_bytes!("../fixtures/text/sentencepiece.json");
    let tokenizer = Tokenizer::from_json(tokenizer, "sentencepiece.json", None, None).unwrap();
    AnswerStyle::named(Some("hermes"), Some("deepseek_r1"), "", &tokenizer).unwrap()
});

struct ByteDecoder(Vec<u8>);

impl Decoder for ByteDecoder {
    fn bytes_at(&self, token: u32) -> Vec<u8> {
        ByteText.token_bytes(token)
    }

    fn push(&mut self, token: u32) -> String {
        assert!(token != VOCAB as u32 - 1, "a broken decoder");
        self.0.extend(ByteText.token_bytes(token));
        match std::str::from_utf8(&self.0) {
            Ok(text) => {
                let text = text.to_owned();
                self.0.clear();
                text
            }
            Err(_) => String::new(),
        }
    }

    fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.0)).into_owned()
    }
}

/// What the engine was told, apart from new requests.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Abort(u64),
    Stop(u64, u32),
    Shutdown,
}

/// A request as the engine got it; the test plays the answer.
pub(crate) struct Added {
    pub(crate) id: u64,
    pub(crate) request: EngineRequest,
    pub(crate) events: mpsc::UnboundedSender<EngineEvent>,
}

impl Added {
    pub(crate) fn send(&self, event: EngineEvent) {
        // A request that was given up has nobody to listen.
        let _ = self.events.send(event);
    }

    pub(crate) fn started(&self, cached_tokens: usize) -> &Self {
        for choice in 0..self.request.num_choices {
            self.send(EngineEvent::Started { choice, cached_tokens });
        }
        self
    }

    pub(crate) fn token(&self, choice: u32, token: u32) -> &Self {
        let logprobs = self.request.params.logprobs.map(|k| logprobs(token, k));
        self.send(EngineEvent::Token { choice, token, logprobs });
        self
    }

    pub(crate) fn text(&self, choice: u32, text: &str) -> &Self {
        text.bytes().for_each(|b| {
            self.token(choice, b.into());
        });
        self
    }

    pub(crate) fn finish(&self, choice: u32, reason: FinishReason) -> &Self {
        self.send(EngineEvent::Finished { choice, reason, stop_token: None });
        self
    }

    /// Ends the choice with the end-of-turn token.
    pub(crate) fn eos(&self, choice: u32) -> &Self {
        self.token(choice, EOS);
        self.send(EngineEvent::Finished { choice, reason: FinishReason::Stop, stop_token: Some(EOS) });
        self
    }
}

/// Log-probabilities that tell the token: `-token / 100`, alternatives below it.
pub(crate) fn logprobs(token: u32, k: u32) -> TokenLogprobs {
    let top = |i: u32| TopLogprob { token: token + i, logprob: -((token + 100 * i) as f32) / 100.0 };
    TokenLogprobs { token, logprob: -(token as f32) / 100.0, rank: 1, top: (0..k).map(top).collect() }
}

/// The engine's end, in the hands of a test.
pub(crate) struct Engine {
    added: mpsc::UnboundedReceiver<Added>,
    told: mpsc::UnboundedReceiver<Told>,
}

impl Engine {
    fn new(end: EngineEnd) -> Self {
        let (add, added) = mpsc::unbounded_channel();
        let (tell, told) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            while let Ok(command) = end.commands.recv() {
                let alive = match command {
                    Command::Add { id, request, events } => {
                        let tokens = request.prompt.len() as u64 * u64::from(request.num_choices);
                        end.stats().queued_tokens.fetch_sub(tokens, std::sync::atomic::Ordering::Relaxed);
                        add.send(Added { id, request, events }).is_ok()
                    }
                    Command::Abort { id } => tell.send(Told::Abort(id)).is_ok(),
                    Command::StopChoice { id, choice } => tell.send(Told::Stop(id, choice)).is_ok(),
                    Command::Shutdown => tell.send(Told::Shutdown).is_ok(),
                };
                if !alive {
                    break;
                }
            }
        });
        Self { added, told }
    }

    pub(crate) async fn added(&mut self) -> Added {
        soon("a request reaches the engine", self.added.recv()).await.unwrap()
    }

    pub(crate) async fn told(&mut self) -> Told {
        soon("the engine is told something", self.told.recv()).await.unwrap()
    }

    /// What was told without waiting.
    pub(crate) fn told_now(&mut self) -> Option<Told> {
        self.told.try_recv().ok()
    }
}

/// A server on a free port with a played engine.
pub(crate) struct Server {
    pub(crate) addr: std::net::SocketAddr,
    pub(crate) app: Arc<App>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) engine: Engine,
    pub(crate) shutdown: watch::Sender<Shutdown>,
    pub(crate) task: JoinHandle<()>,
}

pub(crate) fn config() -> HttpConfig {
    HttpConfig {
        served_names: vec!["org/model".into(), "alias".into()],
        drain_delay: Duration::ZERO,
        ..HttpConfig::default()
    }
}

pub(crate) fn info() -> EngineInfo {
    EngineInfo {
        max_model_len: CONTEXT,
        vocab_size: VOCAB,
        kv_capacity_tokens: 4 * CONTEXT,
        max_queued_tokens: 1 << 20,
        max_num_seqs: 8,
        block_size: 32,
        num_blocks: 64,
    }
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with(config(), info()).await
    }

    pub(crate) async fn with(config: HttpConfig, info: EngineInfo) -> Self {
        let (mut server, handle) = Self::loading(config, info).await;
        server.app.ready(handle.0, Arc::new(ByteText));
        server.engine = Engine::new(handle.1);
        server
    }

    /// A server whose model is not loaded yet, and what `App::ready` wants.
    pub(crate) async fn loading(
        config: HttpConfig,
        info: EngineInfo,
    ) -> (Self, (sconce::engine::EngineHandle, EngineEnd)) {
        let telemetry = Telemetry::new(&TelemetryConfig { model_name: "org/model".into(), vllm_names: true });
        let app = App::new(config, telemetry.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (shutdown, wanted) = watch::channel(Shutdown::No);
        let task = tokio::spawn(serve(listener, app.clone(), wanted));
        let engine = Engine { added: mpsc::unbounded_channel().1, told: mpsc::unbounded_channel().1 };
        (Self { addr, app, telemetry, engine, shutdown, task }, engine_channel(info))
    }

    /// The value of one series of the exposition.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let text = self.telemetry.render();
        let line = text.lines().find(|l| l.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
        line.and_then(|l| l.rsplit(' ').next()).map_or(0.0, |v| v.parse().unwrap())
    }

    /// Waits until a series has a value; it may be written just after the client has its answer.
    pub(crate) async fn metric_becomes(&self, series: &str, value: f64) {
        let changed = async {
            while self.metric(series) != value {
                tokio::task::yield_now().await;
            }
        };
        soon(&format!("{series} becomes {value}"), changed).await;
    }
}
