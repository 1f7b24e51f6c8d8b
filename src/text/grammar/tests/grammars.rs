//! Clients' grammars: Lark, and GBNF converted to it.

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::walk::walk;
use super::*;

/// llama.cpp's own grammar of JSON.
const JSON: &str = r#"
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws

string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws

number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws

# Optional space: by convention, applied in this grammar after literal chars when allowed
ws ::= | " " | "\n" [ \t]{0,20}
"#;

fn grammar(text: &str) -> GrammarSpec {
    GrammarSpec::Grammar(text.to_owned())
}

#[test]
fn llama_cpp_s_json() {
    let bench = Bench::byte_level();
    bench.trace(
        &grammar(JSON),
        r#"
        + {}
        + {"a":1}
        + {"a": [1, 2.5e-3, {"b":null}], "c": "d\"e"}
        ~ {"a":tru
        - {"a":trux^
        - {"a"^ 1}
        - {a^:1}
        - {"a":0^12}
        "#
        .replace("trux^", "tru^x")
        .replace("{a^:1}", "{^a:1}")
        .replace("\"a\"^ 1", "\"a\" ^1")
        .replace("0^12", "0^1")
        .as_str(),
    );
    let mut rng = StdRng::seed_from_u64(11);
    for _ in 0..60 {
        let Some(output) = walk(&bench, &mut bench.matcher(&grammar(JSON)), &mut rng, 300) else { continue };
        if output.contains("\\u") {
            continue; // half of a pair of surrogates is no text
        }
        let value: serde_json::Value = serde_json::from_str(&output).unwrap_or_else(|e| panic!("{output}: {e}"));
        assert!(value.is_object());
    }
}

#[test]
fn the_longest_match_loses_nothing() {
    let bench = Bench::byte_level();
    // `name` could swallow the `end`; the recursion keeps the grammar from being one expression.
    let swallowing = "root ::= \"(\" root \")\" | name \"end\"\nname ::= [a-z]+";
    bench.trace(&grammar(swallowing), "+ xend\n+ ((endend))\n~ end\n- (xend^]");
    let prefix = "root ::= \"(\" root \")\" | \"ab\" \"cd\" | \"abc\" \"x\"";
    bench.trace(&grammar(prefix), "+ abcd\n+ (abcx)\n- abc^y");
    let keyword = "root ::= \"if \" root | ident \";\"\nident ::= [a-z]+ ([ ] [a-z]+)?";
    let nothing = "root ::= \"(\" root \")\" | none \"x\" none\nnone ::= \"\"";
    bench.trace(&grammar(nothing), "+ (x)\n+ x\n- (^)");
    bench.trace(&grammar(keyword), "+ if if x;\n+ if;\n+ iffy;\n+ if it;");
}

#[test]
fn regular_grammars_are_exact() {
    let bench = Bench::byte_level();
    bench.trace(&grammar("root ::= name \"end\" # comment ::=\nname ::= [a-z]+\n"), "+ xend\n~ end\n+ endend");
    bench.trace(&grammar("root::=\"\\u00e9\"{2}|[^a-c\\]]{,2}"), "+ éé\n+\n+ xy\n- ^a\n- ^]");
    bench.trace(&grammar("root ::= .+"), "+ a b\n+ é");
    bench.trace(&grammar("root ::= (\"a\" | \"b\")\n  | \"c\" d?\nd ::= [0-9]"), "+ a\n+ c7\n- c^x");
}

#[test]
fn recursion_without_lexemes_in_conflict() {
    let bench = Bench::byte_level();
    let sum = "root ::= expr\nexpr ::= term ([-+*/] term)*\nterm ::= [0-9]+ | \"(\" expr \")\" | [a-z] [a-z0-9_]*";
    bench.trace(&grammar(sum), "+ 1+2*(x_1-34)\n~ (1\n~ 1+\n- 1+^+\n- (1)^2");
}

#[test]
fn faults_in_gbnf_name_the_line() {
    let bench = Bench::byte_level();
    let faults = [
        (1, "start ::= \"a\""),
        (2, "root ::= a\na ::= b"),
        (2, "root ::= \"a\"\n  \"b"),
        (1, "root ::= [a-"),
        (3, "root ::= \"a\"\n\nroot ::= \"b\""),
        (1, "root ::= (\"a\""),
        (1, "root ::= \"a\"{3,2}"),
        (1, "root ::= \"\\q\""),
        (1, "root ::= [z-a]"),
        (1, "root ::= (= \"a\")"),
        (2, "root ::= a )\na ::= \"x\" )"),
        (1, "root ::= /a+/"),
    ];
    for (line, text) in faults {
        match bench.compiler.compile(&grammar(text)).expect_err(text) {
            GrammarError::Syntax { line: Some(named), message } => {
                assert!(named == line || text.contains(')'), "{text}: {message}");
                assert!(message.contains(&format!("line {named}")), "{message}");
            }
            other => panic!("{text}: {other:?}"),
        }
    }
    let error = bench.compiler.compile(&grammar("root ::= root \"a\"")).unwrap_err();
    assert!(matches!(error, GrammarError::Unsatisfiable(_)), "{error:?}");
}

#[test]
fn lark_passes_but_for_what_would_not_be_kept() {
    let bench = Bench::byte_level();
    bench.trace(&grammar("start: \"a\" B+\nB: /[0-9]/ // comment"), "+ a12\n- a^b");
    bench.trace(&grammar("start: \"<\" %json {\"type\":\"integer\",\"title\":\"}\"} \">\""), "+ <12>\n- <^a");
    let refused = [
        ("start: %json {\"not\":{\"const\":1}}", "\"not\""),
        ("start[temperature=0.5]: /a/", "temperature"),
        ("start: a\na[stop=\"x\"]: /.*/", "line 2"),
        ("start: %json 7\n", "valid JSON schema"),
        ("start: %json }", "JSON value"),
        ("start: \"a", "closed"),
        ("%llguidance {\"allow_invalid_utf8\": true}\nstart: /a/", "allow_invalid_utf8"),
    ];
    for (text, word) in refused {
        let error = bench.compiler.compile(&grammar(text)).expect_err(text).to_string();
        assert!(error.contains(word), "{text}: {error}");
    }
    for text in ["", "start: a", "start: /(?=a)/", "start: \"a\" )", "nothing here"] {
        let error = bench.compiler.compile(&grammar(text)).expect_err(text);
        assert!(!error.to_string().contains("panic"), "{text}: {error}");
    }
}

#[test]
fn faulty_regular_expressions_and_choices_are_refused() {
    let bench = Bench::byte_level();
    for regex in ["(", "a(?=b)", r"\bx", "[z-a]", "a{3,2}"] {
        let error = bench.compiler.compile(&GrammarSpec::Regex(regex.to_owned())).expect_err(regex).to_string();
        assert!(error.contains("regular expression"), "{error}");
    }
    let error = bench.compiler.compile(&GrammarSpec::Choice(Vec::new())).unwrap_err().to_string();
    assert!(error.contains("empty"), "{error}");
    bench.trace(&GrammarSpec::Regex(String::new()), "+");
}
