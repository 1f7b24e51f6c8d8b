//! FunctionGemma and Gemma 4. Gemma 1 to 3 were taught no format of their own and get none.
//!
//! ```text
//! <start_function_call>call:f{a:<escape>x<escape>}<end_function_call>
//! <|tool_call>call:f{a:<|"|>x<|"|>,b:[1,true]}<tool_call|>
//! ```

use super::{CallFormat, Dialect, Op};

pub(super) const GEMMA4: CallFormat = CallFormat {
    names: &["gemma4"],
    signs: &[&["<|tool_call>call:"]],
    begin: &[],
    call: &[
        Op::Mark("<|tool_call>"),
        Op::Space(""),
        Op::Text("call:"),
        Op::Name,
        Op::Arguments(Dialect::Gemma, "<|\"|>"),
        Op::Space(""),
        Op::Mark("<tool_call|>"),
    ],
    between: &[Op::Space("")],
    end: &[],
    silent: &[],
    bare: false,
};

pub(super) const FUNCTION_GEMMA: CallFormat = CallFormat {
    names: &["functiongemma"],
    signs: &[&["<start_function_call>"]],
    begin: &[],
    call: &[
        Op::Mark("<start_function_call>"),
        Op::Space(""),
        Op::Text("call:"),
        Op::Name,
        Op::Arguments(Dialect::Gemma, "<escape>"),
        Op::Space(""),
        Op::Mark("<end_function_call>"),
    ],
    between: &[Op::Space("")],
    end: &[],
    silent: &[],
    bare: false,
};
