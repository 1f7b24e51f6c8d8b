//! Every keyword of every draft: enforced, or refused by its name and place.

use super::*;

#[test]
fn what_cannot_be_enforced_is_named_with_its_place() {
    // Keyword, place, schema.
    let refused = [
        ("not", "#", r#"{"not":{"enum":["a"]}}"#),
        ("not", "#/properties/a~1b", r#"{"properties":{"a/b":{"not":{"minimum":3}}}}"#),
        ("if", "#", r#"{"if":{"type":"string"},"then":{"minLength":3}}"#),
        ("contains", "#/items", r#"{"items":{"contains":{"type":"string"}}}"#),
        ("uniqueItems", "#", r#"{"type":"array","uniqueItems":true}"#),
        ("not", "#/dependentSchemas/a", r#"{"dependentSchemas":{"a":{"not":{"const":1}}}}"#),
        ("propertyNames", "#", r#"{"propertyNames":{"maxLength":3}}"#),
        ("propertyNames", "#", r#"{"propertyNames":{"pattern":"^a"},"properties":{"a":{}}}"#),
        ("minProperties", "#", r#"{"minProperties":2}"#),
        ("minProperties", "#", r#"{"properties":{"a":{}},"minProperties":1}"#),
        ("maxProperties", "#", r#"{"properties":{"a":{},"b":{}},"maxProperties":1}"#),
        ("unevaluatedProperties", "#", r#"{"allOf":[{"properties":{"a":{}}}],"unevaluatedProperties":false}"#),
        ("unevaluatedItems", "#", r#"{"anyOf":[{"items":{}}],"unevaluatedItems":false}"#),
        ("$dynamicRef", "#", r##"{"$dynamicRef":"#a"}"##),
        ("$recursiveRef", "#", r##"{"$recursiveRef":"#"}"##),
        ("$ref", "#", r#"{"$ref":"https://example.com/other.json"}"#),
        ("$ref", "#/items", r##"{"items":{"$ref":"#/$defs/absent"}}"##),
        ("$ref", "#", r##"{"$ref":"#absent"}"##),
        ("format", "#/anyOf/1", r#"{"anyOf":[{"type":"null"},{"type":"string","format":"iri"}]}"#),
        ("pattern", "#", r#"{"pattern":"^(?!a)"}"#),
        ("patternProperties", "#", r#"{"patternProperties":{"\\bword":{}}}"#),
        ("oneOf", "#", r#"{"oneOf":[{"type":"string"},{"minLength":3}]}"#),
        ("oneOf", "#/properties/oneOf", r#"{"properties":{"oneOf":{"oneOf":[{"minimum":3},{"maximum":5}]}}}"#),
        ("type", "#", r#"{"type":"any"}"#),
        ("const", "#", r#"{"const":9007199254740993}"#),
        ("multipleOf", "#", r#"{"multipleOf":1e-20}"#),
        (
            "$ref",
            "#/$defs/a",
            r##"{"$ref":"#/$defs/a","$defs":{"a":{"properties":{"x":{"$ref":"#/$defs/a","type":"object"}}}}}"##,
        ),
        ("extends", "#", r##"{"extends":{"$ref":"#"}}"##),
        ("disallow", "#", r#"{"disallow":"string"}"#),
    ];
    let bench = Bench::byte_level();
    for (keyword, place, text) in refused {
        match bench.compiler.compile(&schema(text)).expect_err(text) {
            GrammarError::Keyword { keyword: named, pointer, reason } => {
                assert_eq!((named.as_str(), pointer.as_str()), (keyword, place), "{text}: {reason}");
            }
            other => panic!("{text}: {other}"),
        }
    }
}

#[test]
fn malformed_schemas_are_named_with_their_place() {
    let malformed = [
        ("#/items", r#"{"items":7}"#),
        ("#/required", r#"{"required":true}"#),
        ("#/properties", r#"{"properties":[]}"#),
        ("#/properties/a", r#"{"properties":{"a":"string"}}"#),
        ("#/anyOf", r#"{"anyOf":[]}"#),
        ("#/anyOf", r#"{"anyOf":{}}"#),
        ("#/enum", r#"{"enum":[]}"#),
        ("#/minLength", r#"{"minLength":-1}"#),
        ("#/maximum", r#"{"maximum":"3"}"#),
        ("#/multipleOf", r#"{"multipleOf":0}"#),
        ("#/pattern", r#"{"pattern":3}"#),
        ("#/format", r#"{"format":3}"#),
        ("#/$ref", r#"{"$ref":3}"#),
        ("#/type", r#"{"type":[]}"#),
    ];
    let bench = Bench::byte_level();
    for (place, text) in malformed {
        match bench.compiler.compile(&schema(text)).expect_err(text) {
            GrammarError::Malformed { pointer, .. } => assert_eq!(pointer, place, "{text}"),
            other => panic!("{text}: {other}"),
        }
    }
}

#[test]
fn what_no_value_fulfils_is_refused() {
    let bench = Bench::byte_level();
    let unsatisfiable = [
        "false",
        r##"{"$ref":"#"}"##,
        r##"{"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]}"##,
        r##"{"type":"array","items":{"$ref":"#"},"minItems":1}"##,
        r#"{"type":"integer","minimum":3,"maximum":2}"#,
        r#"{"allOf":[{"type":"string"},{"type":"null"}]}"#,
        r#"{"type":"object","properties":{"a":false},"required":["a"]}"#,
        r#"{"type":"string","minLength":3,"maxLength":2}"#,
        r#"{"type":"string","enum":[1,2]}"#,
    ];
    for text in unsatisfiable {
        let error = bench.compiler.compile(&schema(text)).expect_err(text);
        assert!(matches!(error, GrammarError::Unsatisfiable(_)), "{text}: {error:?}");
    }
}

#[test]
fn annotations_and_what_says_nothing_pass() {
    let bench = Bench::byte_level();
    let passing = [
        r#"{"title":"t","description":"d","examples":[1],"default":2,"deprecated":true,"readOnly":true,"x-any":{"not":{}},"$comment":"c","type":"integer"}"#,
        r#"{"type":"integer","uniqueItems":false,"if":{"type":"string"},"then2":1,"minContains":2,"nullable":true,"unknown":7}"#,
        r#"{"type":"integer","dependencies":{},"dependentRequired":{"a":[]},"propertyNames":true,"contentEncoding":"base64"}"#,
        r#"{"type":"integer","format":"date","$schema":"http://json-schema.org/draft-04/schema#","id":"http://example.com/x"}"#,
        r#"{"type":"integer","x-guidance":{"lenient":true},"maxLength":99999999999}"#,
        r##"{"type":"integer","$defs":{"unused":{"not":{}}},"definitions":{"also":{"$ref":"other.json"}}}"##,
    ];
    for text in passing {
        bench.trace(&schema(text), "+ 12\n- ^\"a\"");
    }
}

#[test]
fn dependencies_and_complements_are_enforced() {
    let bench = Bench::byte_level();
    for keyword in ["dependencies", "dependentRequired"] {
        let text = format!(
            r#"{{"type":"object","properties":{{"a":{{}},"b":{{}}}},"additionalProperties":false,"{keyword}":{{"a":["b"]}}}}"#
        );
        bench.trace(&schema(&text), "+ {\"a\":1,\"b\":2}\n+ {\"b\":2}\n+ {}\n- {\"a\":1^}");
    }
    let text = r#"{"type":"object","properties":{"a":{},"b":{}},"dependentSchemas":{"a":{"properties":{"b":{"type":"null"}}}}}"#;
    bench.trace(&schema(text), "+ {\"a\":1,\"b\":null}\n+ {\"b\":2}\n- {\"a\":1,\"b\":^2}");
    bench.trace(&schema(r#"{"not":{"type":["string","number"]}}"#), "+ null\n+ []\n- ^1\n- ^\"a\"");
    bench.trace(
        &schema(r#"{"type":"object","properties":{"a":{},"b":{}},"not":{"required":["a","b"]},"additionalProperties":false}"#),
        "+ {\"a\":1}\n+ {\"b\":1}\n+ {}\n- {\"a\":1^,\"b\":2}",
    );
    bench.trace(
        &schema(r#"{"type":"object","properties":{"a":{"not":{}},"b":{}},"additionalProperties":false}"#),
        "+ {\"b\":1}\n- {\"^a\":1}",
    );
}

#[test]
fn exactly_one_of_the_required_properties() {
    let text = r#"{"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"integer"},"c":{}},
        "additionalProperties":false,"oneOf":[{"required":["a"]},{"required":["b"]}]}"#;
    Bench::byte_level()
        .trace(&schema(text), "+ {\"a\":1}\n+ {\"b\":1,\"c\":2}\n- {\"a\":1,\"^b\":2}\n- {^}\n- {\"^c\":1}");
    // Without a type, other values fit both alternatives, so that none of them is allowed.
    let text = r#"{"oneOf":[{"required":["a"]},{"required":["b"]}]}"#;
    Bench::byte_level().trace(&schema(text), "+ {\"a\":1}\n- ^1\n- ^null");
    let text = r#"{"type":"object","oneOf":[{"properties":{"k":{"const":1}},"required":["k"]},{"properties":{"k":{"const":2}},"required":["k"]}]}"#;
    Bench::byte_level().trace(&schema(text), "+ {\"k\":1}\n+ {\"k\":2}\n- {\"k\":^3}");
}

#[test]
fn old_drafts_mean_what_they_meant() {
    let bench = Bench::byte_level();
    bench.trace(&schema(r#"{"type":"integer","minimum":5,"exclusiveMinimum":true,"maximum":7}"#), "+ 6\n+ 7\n- ^5");
    bench.trace(
        &schema(r#"{"type":"array","items":[{"type":"integer"}],"additionalItems":{"type":"null"}}"#),
        "+ [1,null]\n+ []\n- [^null]\n- [1,^1]",
    );
    bench.trace(&schema(r##"{"definitions":{"n":{"$id":"#num","type":"integer"}},"$ref":"#num"}"##), "+ 5\n- ^null");
    bench.trace(
        &schema(r##"{"$id":"https://example.com/s","type":"array","items":{"$ref":"https://example.com/s#/$defs/a%20b"},"$defs":{"a b":{"const":1}}}"##),
        "+ [1,1]\n- [^2]",
    );
    bench.trace(&schema(r#"{"type":"integer","divisibleBy":5}"#), "+ 10\n~ 1");
}

#[test]
fn alternatives_that_exclude_each_other_are_kept() {
    let bench = Bench::byte_level();
    let exclusive = [
        r#"{"oneOf":[{"type":"string"},{"type":"integer"},{"type":["null","boolean"]}]}"#,
        r#"{"oneOf":[{"enum":["a","b"]},{"const":"c"}]}"#,
        r##"{"oneOf":[{"$ref":"#/$defs/a"},{"$ref":"#/$defs/b"}],"$defs":{"a":{"type":"object","properties":{"k":{"const":1}},"required":["k"]},"b":{"type":"object","properties":{"k":{"const":2}},"required":["k"]}}}"##,
        r#"{"oneOf":[{"type":"integer","maximum":3},{"type":"integer","minimum":4}]}"#,
        r#"{"oneOf":[{"type":"object","required":["a"],"properties":{"a":{}},"additionalProperties":false},{"type":"object","required":["b"],"properties":{"b":{}},"additionalProperties":false}]}"#,
        r#"{"oneOf":[{"type":"object"},{"oneOf":[{"type":"string"},{"type":"null"}]}]}"#,
        r#"{"anyOf":[{"type":"string"},{"type":"integer"}],"oneOf":[{"type":"string"},{"type":"null"}]}"#,
    ];
    for text in exclusive {
        bench.compiler.compile(&schema(text)).unwrap_or_else(|e| panic!("{text}: {e}"));
    }
    bench.trace(&schema(exclusive[6]), "+ \"x\"\n- ^1\n- ^null");
}
