//! Random walks: any text that the masks let through fulfils the specification.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

use super::*;

/// Draws allowed tokens until the grammar may end; `None` when `max_tokens` didn't suffice.
pub(super) fn walk(bench: &Bench, matcher: &mut Matcher, rng: &mut StdRng, max_tokens: usize) -> Option<String> {
    let mut bytes = Vec::new();
    for step in 0..max_tokens {
        let mask = bench.mask(matcher);
        let late = step > max_tokens / 3;
        if is_set(&mask, bench.end) && (matcher.is_over() || late || rng.random_bool(0.3)) {
            matcher.accept(bench.end).unwrap();
            return Some(String::from_utf8(bytes).expect("only whole characters"));
        }
        let token = choose(bench, &mask, rng, late);
        assert!(!bench.tokenizer.is_special(token), "a control token among those allowed");
        bytes.extend(bench.tokenizer.token_bytes(token));
        matcher.accept(token).unwrap_or_else(|e| panic!("{e} after {:?}", String::from_utf8_lossy(&bytes)));
    }
    None
}

/// One of the allowed tokens; soon or late one that closes something.
pub(super) fn choose(bench: &Bench, mask: &[u32], rng: &mut StdRng, late: bool) -> u32 {
    let closing = b"\"}]".iter().filter_map(|&b| bench.bytes[b as usize]).filter(|&t| is_set(mask, t));
    let closing: Vec<u32> = closing.collect();
    if !closing.is_empty() && rng.random_bool(if late { 0.9 } else { 0.2 }) {
        return closing[rng.random_range(0..closing.len())];
    }
    let all: Vec<u32> = (0..mask.len() as u32 * 32).filter(|&t| is_set(mask, t) && t != bench.end).collect();
    assert!(!all.is_empty(), "nothing is allowed");
    all[rng.random_range(0..all.len())]
}

const SCHEMAS: &[&str] = &[
    r#"{"type":"object","properties":{"name":{"type":"string","minLength":2,"maxLength":5},"age":{"type":"integer","minimum":0,"maximum":150}},"required":["name","age"],"additionalProperties":false}"#,
    r#"{"type":"object","properties":{"a":{"type":"integer"}},"additionalProperties":{"type":"string"}}"#,
    r#"{"type":"array","items":{"type":"number","exclusiveMinimum":-1.5,"maximum":2.25},"minItems":1,"maxItems":4}"#,
    r#"{"type":"array","prefixItems":[{"type":"string"},{"type":"boolean"}],"items":{"type":"null"},"minItems":2}"#,
    r#"{"$schema":"http://json-schema.org/draft-07/schema#","items":[{"const":1},{"enum":["a",null,{"x":[1]}]}],"additionalItems":false,"type":"array"}"#,
    r##"{"$ref":"#/$defs/tree","$defs":{"tree":{"type":"object","properties":{"v":{"type":"integer","multipleOf":3,"minimum":1,"maximum":9999},"kids":{"type":"array","items":{"$ref":"#/$defs/tree"},"maxItems":2}},"required":["v"],"additionalProperties":false}}}"##,
    r#"{"oneOf":[{"type":"object","properties":{"kind":{"const":"a"},"x":{"type":"integer"}},"required":["kind","x"]},{"type":"object","properties":{"kind":{"const":"b"}},"required":["kind"]},{"type":"string"}]}"#,
    r#"{"allOf":[{"type":"object","properties":{"a":{"minimum":3}}},{"properties":{"a":{"type":"integer","maximum":7}},"required":["a"]}]}"#,
    r#"{"type":"string","pattern":"^[a-f]{2,3}(-\\d+)?$"}"#,
    r#"{"type":"object","patternProperties":{"^x-":{"type":"integer"}},"additionalProperties":false,"minProperties":1}"#,
    r#"{"type":"object","propertyNames":{"enum":["red","green"]},"additionalProperties":{"type":"integer"}}"#,
    r#"{"type":["integer","null"],"format":"int8"}"#,
    r#"{"anyOf":[{"type":"integer","maximum":-10},{"enum":[0.5,"é\n",[],{}]}]}"#,
    r#"{"type":"object","properties":{"a":{},"b":{}},"additionalProperties":false,"minProperties":1}"#,
    r#"{"type":"number","minimum":0.1,"maximum":0.35}"#,
    r#"{"type":"integer","exclusiveMinimum":5,"multipleOf":7,"maximum":100}"#,
    "{}",
];

/// The value of a JSON text; `None` where a number is beyond doubles.
pub(super) fn parsed(text: &str) -> Option<Value> {
    // `serde_json` reads `-0` as a fraction, which the judge takes for no integer.
    let negative_zero = regex::Regex::new(r"([\[:,\s]|^)-0([\],}\s]|$)").unwrap();
    match serde_json::from_str(&negative_zero.replace_all(text, "${1}0${2}")) {
        Ok(value) => Some(value),
        Err(e) if e.to_string().contains("out of range") => None,
        Err(e) => panic!("{text}\n{e}"),
    }
}

/// Builds the independent judge.
pub(super) fn judge(schema: &Value) -> Option<jsonschema::Validator> {
    jsonschema::options().should_validate_formats(true).build(schema).ok()
}

#[test]
fn walks_end_in_valid_json() {
    let bench = Bench::byte_level();
    let mut rng = StdRng::seed_from_u64(5);
    let mut num_finished = 0;
    for text in SCHEMAS {
        let spec = schema(text);
        let GrammarSpec::JsonSchema(value) = &spec else { unreachable!() };
        let judge = judge(value).unwrap();
        for _ in 0..40 {
            let Some(output) = walk(&bench, &mut bench.matcher(&spec), &mut rng, 300) else { continue };
            num_finished += 1;
            let Some(value) = parsed(&output) else { continue };
            assert!(judge.is_valid(&value), "{text}\n{output}");
        }
    }
    assert!(num_finished > SCHEMAS.len() * 30, "only {num_finished} walks ended");
}

#[test]
fn walks_of_every_format_are_valid() {
    let bench = Bench::byte_level();
    let mut rng = StdRng::seed_from_u64(6);
    let names = ["date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"];
    for name in names {
        let value = serde_json::json!({"type": "string", "format": name});
        let judge = judge(&value).unwrap();
        let spec = GrammarSpec::JsonSchema(value);
        let mut num_finished = 0;
        for _ in 0..200 {
            let Some(output) = walk(&bench, &mut bench.matcher(&spec), &mut rng, 400) else { continue };
            num_finished += 1;
            let value: Value = serde_json::from_str(&output).unwrap();
            assert!(judge.is_valid(&value), "{name}: {output}");
        }
        assert!(num_finished > 100, "{name}: only {num_finished} walks ended");
    }
}

#[test]
fn walks_of_an_object_are_objects() {
    let bench = Bench::byte_level();
    let mut rng = StdRng::seed_from_u64(7);
    for _ in 0..50 {
        let Some(output) = walk(&bench, &mut bench.matcher(&GrammarSpec::JsonObject), &mut rng, 400) else { continue };
        assert!(serde_json::from_str::<Value>(&output).unwrap().is_object(), "{output}");
    }
}

#[test]
fn walks_of_a_regex_match_as_a_whole() {
    let bench = Bench::byte_level();
    let mut rng = StdRng::seed_from_u64(8);
    let cases = [r"[a-z]+@[a-z]+\.com", r"(foo|bar)*baz", r"\d{3}-\d{4}", r"^\w+( \w+){0,3}$", r"[^x]{1,6}x?", "a|b|"];
    for regex in cases {
        let judge = regex::Regex::new(&format!("^(?:{regex})$")).unwrap();
        let spec = GrammarSpec::Regex(regex.to_owned());
        for _ in 0..60 {
            let Some(output) = walk(&bench, &mut bench.matcher(&spec), &mut rng, 120) else { continue };
            assert!(judge.is_match(&output), "{regex}: {output:?}");
        }
    }
}

#[test]
fn walks_of_choices_give_each_of_them() {
    let bench = Bench::byte_level();
    let mut rng = StdRng::seed_from_u64(9);
    let choices: Vec<String> = ["yes", "yes, but", "no \"way\"\n", "né", "y"].map(str::to_owned).to_vec();
    let spec = GrammarSpec::Choice(choices.clone());
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..300 {
        seen.insert(walk(&bench, &mut bench.matcher(&spec), &mut rng, 100).expect("a choice is short"));
    }
    assert_eq!(seen, choices.into_iter().collect());
}

#[test]
fn other_vocabularies_spell_the_same_languages() {
    let bench = Bench::new(fixture("sentencepiece.gguf"));
    let mut rng = StdRng::seed_from_u64(10);
    for text in SCHEMAS {
        let spec = schema(text);
        let GrammarSpec::JsonSchema(value) = &spec else { unreachable!() };
        let judge = judge(value).unwrap();
        for _ in 0..10 {
            let Some(output) = walk(&bench, &mut bench.matcher(&spec), &mut rng, 300) else { continue };
            let Some(value) = parsed(&output) else { continue };
            assert!(judge.is_valid(&value), "{text}\n{output}");
        }
    }
}
