//! DeepSeek V3 and R1, and V3.1.
//!
//! ```text
//! <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f
//! ```json
//! {"a": 1}
//! ```<｜tool▁call▁end｜><｜tool▁calls▁end｜>
//!
//! <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{"a": 1}<｜tool▁call▁end｜><｜tool▁calls▁end｜>
//! ```

use super::{CallFormat, Dialect, Op};

pub(super) const DEEPSEEK_V3: CallFormat = CallFormat {
    names: &["deepseek_v3"],
    signs: &[&["<｜tool▁call▁begin｜>", "```"]],
    begin: &[Op::Mark("<｜tool▁calls▁begin｜>"), Op::Space("")],
    call: &[
        Op::Mark("<｜tool▁call▁begin｜>"),
        Op::Text("function"),
        Op::Mark("<｜tool▁sep｜>"),
        Op::Name,
        Op::Space("\n"),
        Op::Text("```json"),
        Op::Space("\n"),
        Op::Arguments(Dialect::Json, ""),
        Op::Space("\n"),
        Op::Text("```"),
        Op::Mark("<｜tool▁call▁end｜>"),
    ],
    between: &[Op::Space("\n")],
    end: &[Op::Space(""), Op::Mark("<｜tool▁calls▁end｜>")],
    silent: &[],
    bare: false,
};

pub(super) const DEEPSEEK_V31: CallFormat = CallFormat {
    names: &["deepseek_v31"],
    signs: &[&["<｜tool▁call▁begin｜>"]],
    begin: &[Op::Mark("<｜tool▁calls▁begin｜>"), Op::Space("")],
    call: &[
        Op::Mark("<｜tool▁call▁begin｜>"),
        Op::Name,
        Op::Mark("<｜tool▁sep｜>"),
        Op::Space(""),
        Op::Arguments(Dialect::Json, ""),
        Op::Space(""),
        Op::Mark("<｜tool▁call▁end｜>"),
    ],
    between: &[Op::Space("")],
    end: &[Op::Space(""), Op::Mark("<｜tool▁calls▁end｜>")],
    silent: &[],
    bare: false,
};
