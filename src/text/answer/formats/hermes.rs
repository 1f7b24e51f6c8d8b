//! Hermes 2 and 3, Qwen 2.5 and 3, EXAONE 4, SmolLM3, Falcon H1.
//!
//! ```text
//! <tool_call>
//! {"name": "f", "arguments": {"a": 1}}
//! </tool_call>
//! ```

use super::{CallFormat, Op};

pub(super) const HERMES: CallFormat = CallFormat {
    names: &["hermes", "exaone4", "qwen3"],
    signs: &[&["<tool_call>"]],
    begin: &[],
    call: &[
        Op::Mark("<tool_call>"),
        Op::Space("\n"),
        Op::Object("name", "arguments"),
        Op::Space("\n"),
        Op::MaybeMark("</tool_call>"),
    ],
    between: &[Op::Space("\n")],
    end: &[],
    silent: &[],
    bare: false,
};
