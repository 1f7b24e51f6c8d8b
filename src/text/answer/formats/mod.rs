//! The table of formats: tool calls, reasoning, and messages with channels. A new one is a file and a line here.

mod channels;
mod deepseek;
mod gemma;
mod hermes;
mod kimi;
mod lists;
mod llama;
mod mistral;
mod tagged;

use super::format::{CallFormat, Op, Tags};
use super::value::Dialect;

/// In the order in which their signs are looked for: what is more particular comes first.
pub(super) const CALLS: &[&CallFormat] = &[
    &gemma::GEMMA4,
    &gemma::FUNCTION_GEMMA,
    &kimi::KIMI_K2,
    &deepseek::DEEPSEEK_V3,
    &deepseek::DEEPSEEK_V31,
    &tagged::GLM,
    &tagged::QWEN3_CODER,
    &mistral::MISTRAL_NAMES,
    &mistral::MISTRAL_LIST,
    &lists::LFM2,
    &lists::COMMAND_A,
    &lists::JAMBA,
    &lists::GRANITE,
    &hermes::HERMES,
    &llama::LLAMA_JSON,
    &llama::LLAMA_PYTHONIC,
];

/// Formats whose messages have channels; they are looked for before all others.
pub(super) const CHANNELS: &[&ChannelFormat] = &[&channels::MUSE, &channels::HARMONY];

/// Marks around what the model thinks.
#[derive(Debug)]
pub(super) struct ReasoningFormat {
    /// As vLLM's `--reasoning-parser` spells it, and what else it goes by there.
    pub(super) names: &'static [&'static str],
    /// What a chat template's text holds if its model thinks.
    pub(super) signs: &'static [&'static str],
    pub(super) open: &'static str,
    pub(super) close: &'static str,
    /// Markers that say nothing: around the answer, say.
    pub(super) silent: &'static [&'static str],
}

/// In the order in which their signs are looked for.
pub(super) const REASONING: &[&ReasoningFormat] = &[
    &ReasoningFormat {
        names: &["gemma4"],
        signs: &["<|channel>thought"],
        open: "<|channel>thought\n",
        close: "<channel|>",
        silent: &[],
    },
    &ReasoningFormat { names: &["mistral"], signs: &["[THINK]"], open: "[THINK]", close: "[/THINK]", silent: &[] },
    &ReasoningFormat {
        names: &["cohere_command"],
        signs: &["<|START_THINKING|>"],
        open: "<|START_THINKING|>",
        close: "<|END_THINKING|>",
        silent: &["<|START_RESPONSE|>", "<|END_RESPONSE|>"],
    },
    &ReasoningFormat {
        names: &["seed_oss"],
        signs: &["<seed:think>"],
        open: "<seed:think>",
        close: "</seed:think>",
        silent: &[],
    },
    &ReasoningFormat {
        names: &[
            "deepseek_r1",
            "deepseek_v3",
            "exaone4",
            "glm45",
            "holo2",
            "kimi_k2",
            "minimax_m2",
            "nemotron_v3",
            "qwen3",
            "step3",
        ],
        signs: &["<think>", "</think>"],
        open: "<think>",
        close: "</think>",
        silent: &[],
    },
];

/// Messages, each with a header.
///
/// ```text
/// header message body end  start header message body end
/// ```
#[derive(Debug)]
pub(super) struct ChannelFormat {
    /// Names as a tool parser and as a reasoning parser.
    pub(super) names: &'static [&'static str],
    pub(super) signs: &'static [&'static [&'static str]],
    pub(super) start: &'static str,
    pub(super) message: &'static str,
    pub(super) channel: &'static str,
    pub(super) ends: &'static [&'static str],
    /// Further markers that headers hold.
    pub(super) inner: &'static [&'static str],
    /// What stands before the name of a tool that a message is for.
    pub(super) tools: &'static str,
    /// The body of a message for a tool.
    pub(super) call: CallFormat,
}
