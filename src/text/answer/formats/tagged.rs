//! Qwen3-Coder (also Qwen 3.5 and later, Nemotron 3) and GLM 4.5: arguments between tags.
//!
//! ```text
//! <tool_call>            <tool_call>f
//! <function=f>           <arg_key>a</arg_key>
//! <parameter=a>          <arg_value>1</arg_value>
//! 1                      </tool_call>
//! </parameter>
//! </function>
//! </tool_call>
//! ```

use super::{CallFormat, Op, Tags};

pub(super) const QWEN3_CODER: CallFormat = CallFormat {
    names: &["qwen3_coder", "qwen3_xml", "nemotron_v3"],
    signs: &[&["<function=", "<parameter="]],
    begin: &[],
    call: &[
        Op::MaybeMark("<tool_call>"),
        Op::Space("\n"),
        Op::Mark("<function="),
        Op::Name,
        Op::Text(">"),
        Op::Tagged(&Tags {
            open: "<parameter=",
            key_end: ">",
            value_open: "",
            close: "</parameter>",
            after: "</function>",
            lines: true,
        }),
        Op::Space("\n"),
        Op::Mark("</function>"),
        Op::Space("\n"),
        Op::MaybeMark("</tool_call>"),
    ],
    between: &[Op::Space("\n")],
    end: &[],
    silent: &[],
    bare: false,
};

pub(super) const GLM: CallFormat = CallFormat {
    names: &["glm45", "glm47"],
    signs: &[&["<arg_key>", "<arg_value>"]],
    begin: &[],
    call: &[
        Op::Mark("<tool_call>"),
        Op::Space(""),
        Op::Name,
        Op::Tagged(&Tags {
            open: "<arg_key>",
            key_end: "</arg_key>",
            value_open: "<arg_value>",
            close: "</arg_value>",
            after: "</tool_call>",
            lines: false,
        }),
        Op::Space("\n"),
        Op::Mark("</tool_call>"),
    ],
    between: &[Op::Space("\n")],
    end: &[],
    silent: &[],
    bare: false,
};
