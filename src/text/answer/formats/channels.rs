//! Answers made of messages that each say for whom they are: gpt-oss (harmony) and Muse.
//!
//! ```text
//! <|channel|>analysis<|message|>Hm.<|end|><|start|>assistant to=functions.f<|channel|>commentary json<|message|>{"a": 1}<|call|>
//! <|channel|>final<|message|>Hello.<|return|>
//!
//!  to=self<|message|>Hm.<|eom|><|start|>assistant to=f<|message|><atem:function_calls>
//! <atem:invoke name="f">
//! <atem:parameter name="a">1</atem:parameter>
//! </atem:invoke>
//! </atem:function_calls><|eot|>
//! ```

use super::{CallFormat, ChannelFormat, Dialect, Op, Tags};

pub(super) const HARMONY: ChannelFormat = ChannelFormat {
    names: &["openai", "openai_gptoss"],
    signs: &[&["<|channel|>", "<|message|>", "functions."]],
    start: "<|start|>",
    message: "<|message|>",
    channel: "<|channel|>",
    ends: &["<|end|>", "<|call|>", "<|return|>"],
    inner: &["<|constrain|>"],
    tools: "functions.",
    call: CallFormat {
        names: &["openai"],
        signs: &[],
        begin: &[],
        call: &[Op::Space(""), Op::Arguments(Dialect::Json, ""), Op::Space("")],
        between: &[],
        end: &[],
        silent: &[],
        bare: false,
    },
};

pub(super) const MUSE: ChannelFormat = ChannelFormat {
    names: &["muse"],
    signs: &[&["<atem:function_calls>"]],
    start: "<|start|>",
    message: "<|message|>",
    channel: "<|channel|>",
    ends: &["<|eom|>", "<|eot|>"],
    inner: &[],
    tools: "",
    call: CallFormat {
        names: &["muse"],
        signs: &[],
        begin: &[],
        call: &[
            Op::Space(""),
            Op::Mark("<atem:function_calls>"),
            Op::Space("\n"),
            Op::Mark("<atem:invoke name=\""),
            Op::Name,
            Op::Text("\">"),
            Op::Tagged(&Tags {
                open: "<atem:parameter name=\"",
                key_end: "\">",
                value_open: "",
                close: "</atem:parameter>",
                after: "</atem:invoke>",
                lines: false,
            }),
            Op::Space("\n"),
            Op::Mark("</atem:invoke>"),
            Op::Space("\n"),
            Op::Mark("</atem:function_calls>"),
        ],
        between: &[],
        end: &[],
        silent: &[],
        bare: false,
    },
};
