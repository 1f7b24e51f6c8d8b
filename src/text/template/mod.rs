//! Chat templates: Jinja from the model's files, rendered as transformers renders it.
//!
//! A template is untrusted: it gets no loader, no files and no clock but `strftime_now`, a budget
//! of work (fuel, which bounds time and memory), a recursion limit and a cap on its output. What
//! it raises is the client's error. One gap is left: minijinja charges nothing for `+` on lists and
//! has no hook for it. So `x = x + x` some 33 times takes memory and time without bound: a template
//! that does it whatever the conversation fails the start, since the trial renders while loading
//! have a limit of time; only the model's file or the operator's `--chat-template` can do it at all.
//! And `x = x + [m]` for each message, which published templates do, takes time that grows with the
//! square of the messages: whoever takes requests bounds their number.

mod functions;
mod python;

use std::io;
use std::sync::mpsc;
use std::time::{Duration, SystemTime};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, Value};
use serde_json::{Map, Value as Json};

use super::error::TextError;
use super::message::ChatMessage;

/// Work a render may do: instructions, plus one for each 64 bytes it makes.
const BASE_FUEL: u64 = 100_000;
/// Further fuel for each message, content part and tool call. In conversations of a few messages published templates
/// take 65 for each in the median, 850 at most; but some look back from every message (Gemma 4's takes 3.5 times the
/// index of each), and this gets them past 1,000 messages. A million of it burns in some 25 ms.
const FUEL_PER_ITEM: u64 = 5_000;
/// Further fuel for each byte of the conversation: 32 copies of it.
const FUEL_PER_INPUT_BYTE: f64 = 0.5;
/// Output may be this long, plus [`OUTPUT_PER_INPUT`] times the conversation.
const BASE_OUTPUT_BYTES: usize = 4 << 20;
const OUTPUT_PER_INPUT: usize = 4;
/// minijinja counts a macro call as several; real templates nest a handful deep.
const RECURSION_LIMIT: usize = 200;
/// Templates of published models are below 40 KiB.
const MAX_SOURCE_BYTES: usize = 1 << 20;
/// The trial renders of a template take milliseconds; what goes on for this long doesn't end.
const TRIAL_LIMIT: Duration = Duration::from_secs(4);
/// What helps against an unusable template, wherever it came from.
const REMEDY: &str = "correct the template, or give another with --chat-template FILE.jinja";

/// What a render is asked for, beside the messages.
#[derive(Clone, Debug, Default)]
pub struct RenderOptions {
    /// End with the opening of an assistant turn.
    pub add_generation_prompt: bool,
    /// Leave the last message open, for the model to go on with it.
    pub continue_final_message: bool,
    /// Tool definitions, in OpenAI's shape.
    pub tools: Option<Vec<Json>>,
    /// Further variables (`enable_thinking`, ...). They don't replace the ones above.
    pub kwargs: Map<String, Json>,
    /// The time that `strftime_now` tells (UTC); the present when absent.
    pub now: Option<SystemTime>,
}

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
    source: String,
    /// Texts of special tokens: `bos_token`, `eos_token`, ...
    tokens: Map<String, Json>,
    /// Content is wanted as a list of typed parts.
    typed: bool,
}

impl ChatTemplate {
    /// Compiles `source`. `tokens` are the variables that name special tokens.
    ///
    /// # Errors
    /// [`TextError::Load`] when it is no template, or one that doesn't end; `name` says where it came from.
    pub fn new(source: &str, tokens: Map<String, Json>, name: &str) -> Result<Self, TextError> {
        let unusable = |message: String| TextError::unusable(name, message, REMEDY);
        if source.len() > MAX_SOURCE_BYTES {
            return Err(unusable(format!("the template is longer than {MAX_SOURCE_BYTES} bytes")));
        }
        let mut env = environment().map_err(|e| unusable(e.to_string()))?;
        let compiled = functions::without_generation_tags(source);
        env.add_template_owned("chat", compiled).map_err(|e| unusable(describe(&e)))?;
        let template = Self { env, source: source.to_owned(), tokens, typed: false };
        let tried = within(TRIAL_LIMIT, move || Self { typed: template.wants_typed_content(), ..template });
        tried.ok_or_else(|| unusable(format!("rendering one message took longer than {} s", TRIAL_LIMIT.as_secs())))
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders a conversation.
    ///
    /// # Errors
    /// [`TextError::Template`] with the template's own message when it raises one, or with the
    /// limit that was exceeded.
    pub fn render(&self, messages: &[ChatMessage], options: &RenderOptions) -> Result<String, TextError> {
        if options.continue_final_message && options.add_generation_prompt {
            let message = "continue_final_message and add_generation_prompt exclude each other";
            return Err(TextError::Template(message.into()));
        }
        let list = messages.iter().map(|m| m.to_value(self.typed));
        if !options.continue_final_message {
            return self.render_filled(list.collect(), options);
        }
        let mut list: Vec<Json> = list.collect();
        if !list.last_mut().is_some_and(mark_end) {
            return Err(TextError::Template("continue_final_message needs a last message with text".into()));
        }
        cut_at_mark(self.render_filled(list, options)?)
    }

    /// Renders with absent content undefined and arguments of calls as objects, as most templates that
    /// know tools expect. One that fails on it gets, in turn, null or the empty text for the content
    /// (some join every content with `+`), and the arguments as JSON text (DeepSeek's).
    fn render_filled(&self, messages: Vec<Json>, options: &RenderOptions) -> Result<String, TextError> {
        let nothing: Json =
            if self.typed { serde_json::json!([{"type": "text", "text": ""}]) } else { Json::String(String::new()) };
        let is_silent = |m: &Json| m.get("content").is_none();
        let calls = messages.iter().any(|m| m.get("tool_calls").is_some_and(Json::is_array));
        let silent = messages.iter().any(is_silent);
        let mut first = None;
        for as_text in [false, true].into_iter().filter(|as_text| calls || !as_text) {
            for content in [None, Some(&Json::Null), Some(&nothing)].into_iter().filter(|c| silent || c.is_none()) {
                let mut list = messages.clone();
                for message in &mut list {
                    if let (Some(content), true) = (content, is_silent(message)) {
                        message["content"] = content.clone();
                    }
                    let calls = message.get_mut("tool_calls").filter(|_| as_text).and_then(Json::as_array_mut);
                    calls.into_iter().flatten().for_each(arguments_as_text);
                }
                match self.render_values(list, options) {
                    Ok(text) => return Ok(text),
                    // The first error is about what the client sent.
                    Err(error) => first = first.or(Some(error)),
                }
            }
        }
        Err(first.unwrap_or_else(|| TextError::Template("there is nothing to render".into())))
    }

    fn render_values(&self, messages: Vec<Json>, options: &RenderOptions) -> Result<String, TextError> {
        let mut context = self.tokens.clone();
        context.extend(options.kwargs.clone());
        let num_items: usize = messages.iter().map(num_items).sum();
        context.insert("messages".into(), messages.into());
        context.insert("tools".into(), options.tools.clone().map_or(Json::Null, Json::from));
        context.insert("add_generation_prompt".into(), options.add_generation_prompt.into());
        let context = Json::Object(context);
        let input_bytes = python::size_hint(&context);
        let mut env = self.env.clone();
        let fuel = BASE_FUEL + num_items as u64 * FUEL_PER_ITEM + (input_bytes as f64 * FUEL_PER_INPUT_BYTE) as u64;
        env.set_fuel(Some(fuel));
        functions::set_clock(&mut env, options.now);
        let failed = |e: minijinja::Error| TextError::Template(describe(&e));
        let template = env.get_template("chat").map_err(failed)?;
        let limit = BASE_OUTPUT_BYTES.saturating_add(input_bytes.saturating_mul(OUTPUT_PER_INPUT));
        let mut output = CappedOutput { bytes: Vec::new(), limit };
        template.render_captured_to(Value::from(Serde(context)), &mut output).map_err(failed)?;
        String::from_utf8(output.bytes).map_err(|_| TextError::Template("the output is not UTF-8".into()))
    }

    /// Tries which form of content shows up in the output, as there is no declaration of it.
    fn wants_typed_content(&self) -> bool {
        const NEEDLE: &str = "sconce-content-probe";
        let shows = |typed: bool| {
            let message = ChatMessage::new("user", NEEDLE).to_value(typed);
            self.render_values(vec![message], &RenderOptions::default()).is_ok_and(|text| text.contains(NEEDLE))
        };
        // A list printed as a whole also contains the text, so the plain form is asked first.
        !shows(false) && shows(true)
    }
}

/// What `work` gives on a thread of its own; `None` if that takes longer than `limit`. Nothing can stop the
/// thread then: it goes on until the process ends.
fn within<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (sender, receiver) = mpsc::channel();
    // Nobody may be there any more to take what comes late.
    let run = move || drop(sender.send(work()));
    std::thread::Builder::new().name("template trial".into()).spawn(run).ok()?;
    receiver.recv_timeout(limit).ok()
}

/// An environment with the settings and helpers of transformers' `apply_chat_template`.
fn environment() -> Result<Environment<'static>, minijinja::Error> {
    let mut env = Environment::new();
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    env.set_recursion_limit(RECURSION_LIMIT);
    env.set_debug(false);
    env.set_unknown_method_callback(functions::python_method);
    env.set_formatter(python::format_value);
    functions::register(&mut env);
    Ok(env)
}

/// The arguments of a call as its JSON text.
fn arguments_as_text(call: &mut Json) {
    if let Some(arguments) = call.pointer_mut("/function/arguments").filter(|a| a.is_object()) {
        *arguments = Json::String(arguments.to_string());
    }
}

/// A message, its content parts and its tool calls.
fn num_items(message: &Json) -> usize {
    let within = |name| message.get(name).and_then(Json::as_array).map_or(0, Vec::len);
    1 + within("content") + within("tool_calls")
}

/// One line: what went wrong and where.
fn describe(error: &minijinja::Error) -> String {
    if error.kind() == ErrorKind::OutOfFuel {
        return "rendering took more work than is allowed".into();
    }
    let mut innermost = error;
    while let Some(source) = std::error::Error::source(innermost).and_then(|e| e.downcast_ref::<minijinja::Error>()) {
        innermost = source;
    }
    if let Some(message) = innermost.detail().and_then(|d| d.strip_prefix(functions::RAISED)) {
        return message.replace('\n', " ");
    }
    let detail = innermost.detail().unwrap_or_default().replace('\n', " ");
    let line = innermost.line().or(error.line()).map(|l| format!(" (line {l})")).unwrap_or_default();
    let colon = if detail.is_empty() { "" } else { ": " };
    format!("{}{colon}{detail}{line}", innermost.kind())
}

/// Marks where the last message ends. A template that trims messages takes the blank at the mark's
/// end with it, and so tells that it trims.
const END_MARK: &str = "\u{1}sconce-end-of-message\u{1} ";

/// Appends [`END_MARK`] to the text of a message; false if it has none.
fn mark_end(message: &mut Json) -> bool {
    let text = match message.get_mut("content") {
        Some(Json::Array(parts)) => parts.last_mut().and_then(|part| part.get_mut("text")),
        content => content,
    };
    match text {
        Some(Json::String(text)) => {
            text.push_str(END_MARK);
            true
        }
        _ => false,
    }
}

/// Cuts the text where the last message ends.
fn cut_at_mark(mut text: String) -> Result<String, TextError> {
    let Some(at) = text.rfind(END_MARK.trim_end()) else {
        let message = "continue_final_message is set, but the template leaves out or changes the last message";
        return Err(TextError::Template(message.into()));
    };
    let trims = !text.get(at..).is_some_and(|rest| rest.starts_with(END_MARK));
    text.truncate(at);
    if trims {
        text.truncate(text.trim_end().len());
    }
    Ok(text)
}

/// Refuses to grow past `limit`.
struct CappedOutput {
    bytes: Vec<u8>,
    limit: usize,
}

impl io::Write for CappedOutput {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + data.len() > self.limit {
            return Err(io::Error::other(format!("the output is longer than {} bytes", self.limit)));
        }
        self.bytes.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_without_end_is_given_up() {
        let (_never, forever) = mpsc::channel::<()>();
        assert_eq!(within(Duration::from_millis(1), move || forever.recv()), None);
        assert_eq!(within(Duration::from_secs(600), || 7), Some(7));
    }
}
