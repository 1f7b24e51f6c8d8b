//! Lists of calls between markers: LFM2 (as Python writes them), Command A, Jamba, Granite and Phi-4-mini (JSON).
//!
//! ```text
//! <|tool_call_start|>[f(a=1), g(b="x")]<|tool_call_end|>
//! <|START_ACTION|>[{"tool_call_id": "0", "tool_name": "f", "parameters": {"a": 1}}]<|END_ACTION|>
//! <tool_calls>[{"name": "f", "arguments": {"a": 1}}]</tool_calls>
//! <|tool_call|>[{"name": "f", "arguments": {"a": 1}}]<|/tool_call|>
//! ```

use super::{CallFormat, Op};

pub(super) const LFM2: CallFormat = CallFormat {
    names: &["lfm2"],
    signs: &[&["<|tool_call_start|>"]],
    begin: &[Op::Mark("<|tool_call_start|>"), Op::Space(""), Op::Text("["), Op::Space("")],
    call: &[Op::Name, Op::Text("("), Op::Keywords, Op::Text(")")],
    between: &[Op::Space(""), Op::Text(","), Op::Space(" ")],
    end: &[Op::Space(""), Op::Text("]"), Op::Space(""), Op::MaybeMark("<|tool_call_end|>")],
    silent: &[],
    bare: false,
};

pub(super) const COMMAND_A: CallFormat = CallFormat {
    names: &["cohere_command", "command_a"],
    signs: &[&["<|START_ACTION|>"]],
    begin: &[Op::Mark("<|START_ACTION|>"), Op::Space(""), Op::Text("["), Op::Space("\n    ")],
    call: &[Op::Object("tool_name", "parameters")],
    between: &[Op::Space(""), Op::Text(","), Op::Space("\n    ")],
    end: &[Op::Space("\n"), Op::Text("]"), Op::Space(""), Op::Mark("<|END_ACTION|>")],
    silent: &[],
    bare: false,
};

pub(super) const JAMBA: CallFormat = CallFormat {
    names: &["jamba"],
    signs: &[&["<tool_calls>"]],
    begin: &[Op::Mark("<tool_calls>"), Op::Space(""), Op::Text("["), Op::Space("\n    ")],
    call: &[Op::Object("name", "arguments")],
    between: &[Op::Space(""), Op::Text(","), Op::Space("\n    ")],
    end: &[Op::Space("\n"), Op::Text("]"), Op::Space(""), Op::Mark("</tool_calls>")],
    silent: &[],
    bare: false,
};

pub(super) const GRANITE: CallFormat = CallFormat {
    names: &["granite", "phi4_mini_json"],
    signs: &[&["<|tool_call|>"]],
    begin: &[Op::Mark("<|tool_call|>"), Op::Space(""), Op::Text("["), Op::Space("")],
    call: &[Op::Object("name", "arguments")],
    between: &[Op::Space(""), Op::Text(","), Op::Space(" ")],
    end: &[Op::Space(""), Op::Text("]"), Op::Space(""), Op::MaybeMark("<|/tool_call|>")],
    silent: &[],
    bare: false,
};
