//! Input made to hurt: it ends in a one-line error, or is simply encoded.

use super::*;

fn template(source: &str) -> Result<ChatTemplate, TextError> {
    ChatTemplate::new(source, Map::new(), "test.jinja")
}

fn render(source: &str) -> Result<String, TextError> {
    template(source)?.render(&[ChatMessage::new("user", "hi")], &RenderOptions::default())
}

#[test]
fn templates_that_never_end_are_stopped() {
    let sources = [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% for k in range(100000) %}{% endfor %}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ 'x' * 1000000000 }}",
        "{% for i in range(90000) %}{{ 'x' * 100000 }}{% endfor %}",
        "{% set ns = namespace(s='x') %}{% for i in range(64) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
        "{{ messages | tojson(indent=1000000000) | length }}{{ range(1000000000) | list }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(100000) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l | tojson }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ '{:>1000000000}'.format(1) }}",
        "{{ messages[0].content.rjust(1000000000) }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ undefined_thing.attribute }}",
        "{{ 1 // 0 }}",
    ];
    for source in sources {
        let error = render(source).expect_err(source);
        assert!(!error.to_string().contains('\n'), "{error}");
    }
}

#[test]
fn the_work_for_a_message_is_bounded() {
    let messages = vec![ChatMessage::new("user", ""); 2_000];
    let render = |source: String| template(&source).unwrap().render(&messages, &RenderOptions::default());
    let loops = |n| format!("{{% for m in messages %}}{{% for i in range({n}) %}}{{% endfor %}}{{% endfor %}}");
    assert!(render(loops(1_000)).is_ok());
    assert!(render(loops(6_000)).is_err());
}

#[test]
fn a_deeply_nested_value_is_dropped_without_harm() {
    let nest = "{% set ns = namespace(l=[]) %}{% for i in range(100000) %}{% set ns.l = [ns.l] %}{% endfor %}";
    assert!(render(nest).is_err());
    assert!(template(&"{% if 1 %}".repeat(100_000)).is_err());
    assert!(template(&format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000))).is_err());
}

#[test]
fn what_a_template_raises_is_told_as_it_stands() {
    let error = render("{{ raise_exception('Roles must\nalternate') }}").unwrap_err();
    assert_eq!(error, TextError::Template("Roles must alternate".into()));
    assert!(matches!(template("{% if %}"), Err(TextError::Load { .. })));
}

fn vocab<'a>(model: &'a str, tokens: &[&'a str]) -> GgufVocab<'a> {
    GgufVocab {
        model,
        pre: Some("gpt-2"),
        tokens: tokens.to_vec(),
        scores: vec![0.0; tokens.len()],
        ..GgufVocab::default()
    }
}

#[test]
fn contradictory_vocabularies_are_refused_by_name() {
    let cases: Vec<(GgufVocab<'_>, &str)> = vec![
        (vocab("gpt2", &[]), "tokens"),
        (vocab("gpt2", &["a", "b", "a"]), "\"a\" stands at 0 and at 2"),
        (GgufVocab { merges: vec!["a c"], ..vocab("gpt2", &["a", "b"]) }, "merge 0"),
        (GgufVocab { merges: vec!["a b"], ..vocab("gpt2", &["a", "b"]) }, "\"ab\", which is no token"),
        (GgufVocab { merges: vec!["ab"], ..vocab("gpt2", &["a", "b", "ab"]) }, "not a pair"),
        (GgufVocab { bos: Some(2), ..vocab("gpt2", &["a", "b"]) }, "bos_token_id"),
        (GgufVocab { eot: Some(u32::MAX), ..vocab("llama", &["a", "b"]) }, "eot_token_id"),
        (GgufVocab { scores: vec![0.0], ..vocab("llama", &["a", "b"]) }, "scores"),
        (GgufVocab { scores: vec![], ..vocab("llama", &["a", "b"]) }, "scores"),
        (GgufVocab { token_types: vec![1], ..vocab("llama", &["a", "b"]) }, "token_type"),
        (GgufVocab { token_types: vec![6, 1], ..vocab("llama", &["a", "b"]) }, "byte token 0"),
        (GgufVocab { token_types: vec![1, 7], ..vocab("llama", &["a", "b"]) }, "token_type: token 1 is of type 7"),
        (GgufVocab { token_types: vec![-1, 1], ..vocab("gpt2", &["a", "b"]) }, "token_type: token 0 is of type -1"),
        (vocab("gpt2", &["a", "b"]), "tokenizer.ggml.merges: there are none"),
        (GgufVocab { pre: Some("no-such"), ..vocab("gpt2", &["a", "b"]) }, "no-such"),
        (vocab("bert", &["a", "b"]), "bert"),
    ];
    for (vocab, expected) in cases {
        let error = Tokenizer::from_gguf(&vocab).unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains('\n'), "{error} lacks {expected}");
    }
}

#[test]
fn odd_but_possible_vocabularies_work() {
    let nan = GgufVocab {
        scores: vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0],
        ..vocab("llama", &["a", "b", "ab", ""])
    };
    let tokenizer = Tokenizer::from_gguf(&GgufVocab { add_space_prefix: Some(false), ..nan }).unwrap();
    assert_eq!(tokenizer.encode("ab", false).unwrap(), [2]);
    assert!(matches!(tokenizer.encode("é", false), Err(TextError::Encode(_))));
}

#[test]
fn damaged_tokenizer_files_are_refused_in_one_line() {
    let good = read_json("byte_level.json");
    let edit = |pointer: &str, value: Value| {
        let mut json = good.clone();
        *json.pointer_mut(pointer).unwrap() = value;
        serde_json::to_vec(&json).unwrap()
    };
    let bytes = serde_json::to_vec(&good).unwrap();
    let cases = [
        b"".to_vec(),
        b"[]".to_vec(),
        b"{\"model\": {\"type\": \"WordPiece\", \"vocab\": {}}}".to_vec(),
        bytes[..bytes.len() / 2].to_vec(),
        vec![b'['; 1 << 20],
        edit("/model/vocab", json!({})),
        edit("/model/vocab/a", json!(4_000_000_000u32)),
        edit("/model/vocab/a", json!(-1)),
        edit("/model/vocab", json!([["a", 0.0]])),
        edit("/model/type", json!("Unigram")),
        edit("/model/merges/0", json!(["no", "such"])),
        edit("/model/merges/0", json!("nopair")),
        edit("/model/merges/0", json!(["x".repeat(100_000), "y"])),
        edit("/model/unk_token", json!("nowhere")),
        edit("/decoder", json!({"type": "CTC"})),
        edit("/decoder", Value::Null),
        edit("/added_tokens/0/id", json!(4_000_000_000u32)),
        edit(
            "/pre_tokenizer",
            json!({"type": "Split", "pattern": {"Regex": "(("}, "behavior": "Isolated", "invert": false}),
        ),
    ];
    for (i, case) in cases.iter().enumerate() {
        let error = Tokenizer::from_json(case, "tokenizer.json", None, None).expect_err(&i.to_string()).to_string();
        assert!(error.starts_with("tokenizer.json: ") && !error.contains('\n'), "{i}: {error}");
        assert!(error.len() < 2000, "{i}: {} bytes", error.len());
    }
}

#[test]
fn a_megabyte_of_one_thing_is_encoded() {
    for pre in ["gpt-2", "llama-bpe", "gpt-4o", "deepseek-v3", "default"] {
        check_long_texts(&gguf_tokenizer(&fixture("byte_level.gguf"), Some(pre)));
    }
    check_long_texts(&gguf_tokenizer(&fixture("sentencepiece.gguf"), None));
}

fn check_long_texts(tokenizer: &Tokenizer) {
    let units =
        [("a", 1 << 20), (" ", 1 << 18), ("\n", 1 << 16), ("1", 1 << 16), ("é", 1 << 16), ("<|im_end|>", 1 << 16)];
    for (unit, bytes) in units {
        let text = unit.repeat(bytes / unit.len()) + "x";
        let ids = tokenizer.encode(&text, false).unwrap();
        assert_eq!(tokenizer.decode(&ids, false), text, "{unit:?}");
    }
}
