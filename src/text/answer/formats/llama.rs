//! Llama 3.1 to 4: JSON that nothing marks, or a list of calls as Python writes them.
//!
//! ```text
//! {"name": "f", "parameters": {"a": 1}}
//! <|python_tag|>{"name": "f", "parameters": {"a": 1}}; {"name": "g", "parameters": {}}
//! [f(a=1), g(b="x")]
//! ```

use super::{CallFormat, Op};

pub(super) const LLAMA_JSON: CallFormat = CallFormat {
    names: &["llama3_json", "llama4_json"],
    signs: &[
        &["<|python_tag|>"],
        &["<|python_start|>", "\"parameters\""],
        &["<|start_header_id|>", "tool_calls", "\"parameters\": "],
    ],
    begin: &[],
    call: &[Op::MaybeMark("<|python_tag|>"), Op::Space(""), Op::Object("name", "parameters")],
    between: &[Op::MaybeText(";"), Op::Space(" ")],
    end: &[],
    silent: &["<|python_start|>", "<|python_end|>"],
    bare: true,
};

pub(super) const LLAMA_PYTHONIC: CallFormat = CallFormat {
    names: &["pythonic", "llama4_pythonic"],
    signs: &[&["func_name1(params_name1=params_value1"]],
    begin: &[Op::MaybeMark("<|python_start|>"), Op::Text("[")],
    call: &[Op::Name, Op::Text("("), Op::Keywords, Op::Text(")")],
    between: &[Op::Text(","), Op::Space(" ")],
    end: &[Op::Text("]"), Op::MaybeMark("<|python_end|>")],
    silent: &[],
    bare: true,
};
