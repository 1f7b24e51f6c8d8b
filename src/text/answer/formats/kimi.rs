//! Kimi K2.
//!
//! ```text
//! <|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{"a": 1}<|tool_call_end|>
//! <|tool_calls_section_end|>
//! ```

use super::{CallFormat, Dialect, Op};

pub(super) const KIMI_K2: CallFormat = CallFormat {
    names: &["kimi_k2"],
    signs: &[&["<|tool_call_argument_begin|>"]],
    begin: &[Op::Mark("<|tool_calls_section_begin|>"), Op::Space("")],
    call: &[
        Op::Mark("<|tool_call_begin|>"),
        Op::Space(""),
        Op::Id,
        Op::Space(""),
        Op::Mark("<|tool_call_argument_begin|>"),
        Op::Space(""),
        Op::Arguments(Dialect::Json, ""),
        Op::Space(""),
        Op::Mark("<|tool_call_end|>"),
    ],
    between: &[Op::Space("")],
    end: &[Op::Space(""), Op::Mark("<|tool_calls_section_end|>")],
    silent: &[],
    bare: false,
};
