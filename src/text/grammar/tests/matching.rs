//! Matchers: masks and acceptance agree, ends, forced tokens, forks, limits, the cache.

use super::*;

#[test]
fn compilers_are_shared_and_matchers_travel() {
    fn shared<T: Send + Sync>() {}
    fn travels<T: Send>() {}
    shared::<GrammarCompiler>();
    shared::<CompiledGrammar>();
    travels::<Matcher>();
}

#[test]
fn objects_in_the_schema_s_order() {
    let spec = schema(
        r#"{"type":"object","properties":{"a":{"type":"integer"},"b":{"enum":["x","y"]}},
            "required":["a"],"additionalProperties":false}"#,
    );
    Bench::byte_level().trace(
        &spec,
        r#"
        + {"a":1}
        + {"a":-12,"b":"x"}
        + {"a": 1, "b": "y"}
        ~ {"a":1
        - {^}
        - {"a":1,"b":"^z"}
        - {"^b":"x","a":1}
        - {"a":1,"b":"x"^,"c":1}
        - {"a":0^1}
        - ^[]
        "#,
    );
}

#[test]
fn white_space_is_bounded() {
    let bench = Bench::byte_level();
    let spec = schema(r#"{"type":"array","items":{"type":"integer"}}"#);
    for (text, taken) in [("[\n  1,\n  2\n]", 12), ("[1, 2]", 6), ("[1,  2]", 4), ("[\n\n1]", 2), ("[1]\n", 3)] {
        assert_eq!(bench.follow(&mut bench.matcher(&spec), text).0, taken, "{text:?}");
    }
}

#[test]
fn a_key_has_one_spelling() {
    let spec =
        schema(r#"{"type":"object","properties":{"a":{"type":"integer"}},"additionalProperties":{"type":"string"}}"#);
    Bench::byte_level().trace(&spec, "+ {\"a\":1,\"b\":\"x\"}\n- {\"b\":\"\",\"a^\":\"x\"}\n- {\"\\^u0061\":\"x\"}");
}

#[test]
fn the_end_is_allowed_exactly_where_the_grammar_may_end() {
    let bench = Bench::byte_level();
    let mut matcher = bench.matcher(&GrammarSpec::Regex("ab+".to_owned()));
    assert!(!bench.may_end(&mut matcher));
    assert_eq!(matcher.accept(bench.end), Err(GrammarError::NotAllowed(bench.end)));
    assert_eq!(bench.follow(&mut matcher, "abb"), (3, true));
    assert!(!matcher.is_over(), "more b may follow");
    matcher.accept(bench.end).unwrap();
    assert!(matcher.is_over());
    let mut matcher = bench.matcher(&GrammarSpec::Choice(vec!["on".to_owned()]));
    assert_eq!(bench.follow(&mut matcher, "on"), (2, true));
    assert!(matcher.is_over());
    let mask = bench.mask(&mut matcher);
    assert_eq!(mask.iter().map(|w| w.count_ones()).sum::<u32>(), 1, "nothing but the end");
    assert_eq!(matcher.forced().unwrap(), Vec::<u32>::new());
    matcher.accept(bench.end).unwrap();
}

#[test]
fn a_refused_token_changes_nothing() {
    let bench = Bench::byte_level();
    let mut matcher = bench.matcher(&GrammarSpec::Regex("[ab]{3}".to_owned()));
    let before = bench.mask(&mut matcher);
    for token in [bench.bytes[b'c' as usize].unwrap(), bench.end, u32::MAX, bench.tokenizer.vocab_size() as u32] {
        assert_eq!(matcher.accept(token), Err(GrammarError::NotAllowed(token)));
    }
    assert_eq!(bench.mask(&mut matcher), before);
    assert_eq!(bench.follow(&mut matcher, "aba"), (3, true));
}

#[test]
fn masks_of_any_length_are_filled() {
    let bench = Bench::byte_level();
    let mut matcher = bench.matcher(&GrammarSpec::Regex("[a-z]+".to_owned()));
    let exact = bench.mask(&mut matcher);
    let mut wide = vec![u32::MAX; exact.len() + 7];
    matcher.allowed(&mut wide).unwrap();
    assert_eq!(wide[..exact.len()], exact[..]);
    assert!(wide[exact.len()..].iter().all(|&word| word == 0), "no token lies there");
    let mut short = vec![0; 2];
    matcher.allowed(&mut short).unwrap();
    assert_eq!(short[..], exact[..2]);
}

#[test]
fn forced_tokens_are_what_the_tokenizer_writes() {
    for name in ["byte_level.gguf", "sentencepiece.gguf"] {
        let bench = Bench::new(fixture(name));
        let spec = schema(
            r#"{"type":"object","properties":{"the name":{"const":"hello <s> world"}},"required":["the name"],"additionalProperties":false}"#,
        );
        let mut matcher = bench.matcher(&spec);
        let mut bytes = Vec::new();
        while !matcher.is_over() {
            let forced = matcher.forced().unwrap();
            let mask = bench.mask(&mut matcher);
            // Where white space may stand nothing is forced.
            let byte = b"\"}:{".iter().filter_map(|&b| bench.bytes[b as usize]).find(|&t| is_set(&mask, t));
            let next = forced.first().copied().or(byte).expect("one way to go on");
            assert!(is_set(&mask, next), "{name}");
            for token in if forced.is_empty() { vec![next] } else { forced } {
                assert!(!bench.tokenizer.is_special(token), "{name}: text of a control token stays text");
                bytes.extend(bench.tokenizer.token_bytes(token));
                matcher.accept(token).unwrap();
            }
        }
        assert_eq!(String::from_utf8(bytes).unwrap(), r#"{"the name":"hello <s> world"}"#, "{name}");
    }
}

#[test]
fn a_choice_of_one_is_forced_canonically() {
    let bench = Bench::byte_level();
    let text = "the quick brown fox";
    let mut matcher = bench.matcher(&GrammarSpec::Choice(vec![text.to_owned()]));
    let forced = matcher.forced().unwrap();
    assert_eq!(forced, bench.tokenizer.encode(text, false).unwrap());
}

#[test]
fn forks_go_their_own_ways() {
    let bench = Bench::byte_level();
    let mut one = bench.matcher(&GrammarSpec::Choice(vec!["left".to_owned(), "leap".to_owned()]));
    assert_eq!(bench.follow(&mut one, "le"), (2, false));
    let mut other = one.fork();
    assert_eq!(bench.follow(&mut one, "ft"), (2, true));
    assert_eq!(bench.follow(&mut other, "ap"), (2, true));
}

#[test]
fn a_used_matcher_starts_again_for_the_next_request() {
    let bench = Bench::byte_level();
    let spec = GrammarSpec::Regex("a{2}b?".to_owned());
    for _ in 0..40 {
        let mut matcher = bench.matcher(&spec);
        assert_eq!(bench.follow(&mut matcher, "aab"), (3, true));
        let mut cut_short = bench.matcher(&spec);
        assert_eq!(bench.follow(&mut cut_short, "a"), (1, false));
    }
}

#[test]
fn one_specification_compiles_once() {
    let bench = Bench::byte_level();
    let spec = schema(r#"{"type":"string","pattern":"^(a|b|c)*$"}"#);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(bench.follow(&mut bench.matcher(&spec), "\"abc\""), (5, true)));
        }
    });
    let first = bench.compiler.compile(&spec).unwrap();
    assert!(first.is_same_as(&bench.compiler.compile(&spec).unwrap()));
    // The order of properties is part of the specification.
    let (ab, ba) = (r#"{"properties":{"a":{},"b":{}}}"#, r#"{"properties":{"b":{},"a":{}}}"#);
    let (ab, ba) = (bench.compiler.compile(&schema(ab)).unwrap(), bench.compiler.compile(&schema(ba)).unwrap());
    assert!(!ab.is_same_as(&ba));
}

#[test]
fn the_cache_is_bounded() {
    let limits = GrammarLimits { max_cached: 3, ..GrammarLimits::default() };
    let tokenizer = byte_level();
    let compiler = GrammarCompiler::new(tokenizer.clone(), &[tokenizer.eos().unwrap()], limits);
    let spec = |i: usize| GrammarSpec::Choice(vec![format!("choice {i}")]);
    let first = compiler.compile(&spec(0)).unwrap();
    for i in 1..10 {
        compiler.compile(&spec(i)).unwrap();
        assert!(compiler.compile(&spec(0)).unwrap().is_same_as(&first), "used, so kept");
    }
    assert_eq!(compiler.num_cached(), 3);
}

#[test]
fn a_step_that_costs_too_much_fails_alone() {
    let limits = GrammarLimits { step_fuel: 300, step_items: 300, ..GrammarLimits::default() };
    let tokenizer = byte_level();
    let compiler = GrammarCompiler::new(tokenizer.clone(), &[tokenizer.eos().unwrap()], limits);
    let bench = Bench { compiler, ..Bench::byte_level() };
    let spec = GrammarSpec::Regex("(a|b)*(a[ab]{12}|b[ab]{14}|[ab]{3}a[ab]{16})".to_owned());
    let Ok(compiled) = bench.compiler.compile(&spec) else { panic!("the start is cheap") };
    let mut costly = compiled.matcher();
    let mut outcome = Ok(());
    for i in 0..200 {
        let token = bench.bytes[if i * i % 7 < 3 { b'a' } else { b'b' } as usize].unwrap();
        let mut words = vec![0; 64];
        outcome = costly.allowed(&mut words).and_then(|()| costly.accept(token));
        if outcome.is_err() {
            break;
        }
    }
    assert_eq!(outcome, Err(GrammarError::StepTooCostly));
    assert_eq!(costly.accept(0), Err(GrammarError::StepTooCostly), "it stays failed");
    let mut neighbour = compiled.matcher();
    neighbour.allowed(&mut [0; 64]).unwrap();
}

#[test]
fn specifications_beyond_the_limits_are_refused() {
    let limits =
        GrammarLimits { max_spec_bytes: 2000, max_depth: 10, max_schema_nodes: 50, ..GrammarLimits::default() };
    let tokenizer = byte_level();
    let compiler = GrammarCompiler::new(tokenizer.clone(), &[tokenizer.eos().unwrap()], limits);
    let deep = format!("{}true{}", "{\"items\":".repeat(20), "}".repeat(20));
    let wide = format!("{{\"enum\":{:?}}}", (0..60).collect::<Vec<_>>());
    let cases = [
        (GrammarSpec::Regex("a".repeat(3000)), "size of the specification", "2000"),
        (schema(&deep), "nesting", "10"),
        (schema(&wide), "subschemas", "50"),
    ];
    for (spec, what, limit) in cases {
        let error = compiler.compile(&spec).unwrap_err().to_string();
        assert!(error.contains(what) && error.contains(limit), "{error}");
    }
}

#[test]
fn hostile_specifications_end_soon() {
    let bench = Bench::byte_level();
    let chain: String = (0..4000)
        .map(|i| format!(r##""d{i}":{{"type":"object","properties":{{"x":{{"$ref":"#/$defs/d{}"}}}}}}"##, i + 1))
        .collect::<Vec<_>>()
        .join(",");
    let chain = format!(r##"{{"$ref":"#/$defs/d0","$defs":{{{chain},"d4000":{{"type":"null"}}}}}}"##);
    let members = (0..512).map(|i| format!(r#""property {i}":{{"type":"integer"}}"#)).collect::<Vec<_>>().join(",");
    let product = |n: usize| {
        let any = format!(
            r#"{{"anyOf":[{}]}}"#,
            (0..n).map(|i| format!(r#"{{"minimum":{i}}}"#)).collect::<Vec<_>>().join(",")
        );
        format!(r#"{{"allOf":[{any},{any},{any},{any}]}}"#)
    };
    let nasty = |i: usize| format!("(a|b|{i})*a(a|b){{{}}}", 10 + i % 4);
    let patterns = (0..2000).map(|i| format!(r#"{{"type":"string","pattern":"{}","maxLength":40}}"#, nasty(i)));
    let patterns = format!(r#"{{"anyOf":[{}]}}"#, patterns.collect::<Vec<_>>().join(","));
    let members_of = |from: usize| {
        let members = (0..20).map(|i| format!(r#""^x{}-{i}$":{{"type":"null"}}"#, nasty(from + i))).collect::<Vec<_>>();
        format!(r#"{{"patternProperties":{{{}}}}}"#, members.join(","))
    };
    let overlaps = format!(r#"{{"prefixItems":[{}]}}"#, (0..6).map(members_of).collect::<Vec<_>>().join(","));
    let doubling = (0..60).map(|i| format!("r{i} ::= r{} r{}\n", i + 1, i + 1)).collect::<String>();
    let overlapping = (0..150).map(|i| format!(" | [a-z]{{1,{}}} \"x{i}\"", i + 2)).collect::<String>();
    let cases = [
        schema(&patterns),
        schema(&overlaps),
        GrammarSpec::Grammar(format!("root ::= r0\n{doubling}r60 ::= \"\"\n")),
        GrammarSpec::Grammar(format!("root ::= \"(\" root \")\" | r0\n{doubling}r60 ::= \"a\"\n")),
        GrammarSpec::Grammar(format!("root ::= \"(\" root \")\"{overlapping}\n")),
        GrammarSpec::Grammar(format!("root ::= \"a\"{}", "*".repeat(100_000))),
        schema(&chain),
        schema(&format!(r#"{{"type":"object","properties":{{{members}}}}}"#)),
        schema(&product(40)),
        schema(r#"{"type":"string","pattern":"^(((a{1,60}){1,60}){1,60}){1,60}$"}"#),
        schema(r#"{"type":"string","minLength":100000000}"#),
        schema(r#"{"type":"array","items":{"type":"integer"},"minItems":100000000}"#),
        schema(r#"{"type":"string","pattern":"(a|aa|aaa)*(b|bb)*[^a]{0,5000}$","maxLength":4000}"#),
        GrammarSpec::Regex("(((((.{0,99}a){0,99}b){0,99}c){0,99}d){0,99}e){0,99}".to_owned()),
        GrammarSpec::Regex("(".repeat(50_000)),
        GrammarSpec::Regex("(?:".repeat(5000) + &")".repeat(5000)),
        GrammarSpec::Choice((0..5000).map(|i| format!("choice {i}")).collect()),
    ];
    for spec in cases {
        let start = std::time::Instant::now();
        let outcome = bench.compiler.compile(&spec);
        let took = start.elapsed();
        let name: String = format!("{spec:?}").chars().take(80).collect();
        println!(
            "{:8.1} ms {name}: {}",
            took.as_secs_f64() * 1e3,
            outcome.err().map_or("ok".to_owned(), |e| e.to_string())
        );
        assert!(took.as_secs() < 60, "{name}: {took:?}");
    }
}
