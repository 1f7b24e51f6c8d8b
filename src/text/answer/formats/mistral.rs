//! Mistral: a list of JSON objects; from Tekken's eleventh version on, names between tokens.
//!
//! ```text
//! [TOOL_CALLS][{"name": "f", "arguments": {"a": 1}, "id": "123456789"}]
//! [TOOL_CALLS]f[CALL_ID]123456789[ARGS]{"a": 1}[TOOL_CALLS]g[ARGS]{}
//! ```

use super::{CallFormat, Dialect, Op};

pub(super) const MISTRAL_NAMES: CallFormat = CallFormat {
    names: &["mistral", "mistral_names"],
    signs: &[&["[TOOL_CALLS]", "[ARGS]"]],
    begin: &[],
    call: &[
        Op::Mark("[TOOL_CALLS]"),
        Op::Space(""),
        Op::Name,
        Op::MaybeId("[CALL_ID]"),
        Op::Mark("[ARGS]"),
        Op::Space(""),
        Op::Arguments(Dialect::Json, ""),
    ],
    between: &[Op::Space("")],
    end: &[],
    silent: &[],
    bare: false,
};

pub(super) const MISTRAL_LIST: CallFormat = CallFormat {
    names: &["mistral", "mistral_list"],
    signs: &[&["[TOOL_CALLS]"]],
    begin: &[Op::Mark("[TOOL_CALLS]"), Op::Space(""), Op::Text("["), Op::Space("")],
    call: &[Op::Object("name", "arguments")],
    between: &[Op::Space(""), Op::Text(","), Op::Space(" ")],
    end: &[Op::Space(""), Op::Text("]")],
    silent: &[],
    bare: false,
};
