//! Recorded answers of every format, whole, cut everywhere, cut off, and mixed into garbage.

mod garbage;
mod published;

use std::cell::RefCell;
use std::sync::Arc;

use serde_json::{Value, json};

use super::formats::{CALLS, CHANNELS, REASONING};
use super::*;
use crate::types::FinishReason;

/// The first token that is a marker; ordinary text has tokens below.
const FIRST_MARK: u32 = 1000;

/// A style of the named parsers; with `tokens`, all its markers are tokens.
fn style(tool_parser: &str, reasoning_parser: &str, tokens: bool) -> AnswerStyle {
    let known = RefCell::new(Vec::<String>::new());
    let token_of = |text: &str| {
        let mut known = known.borrow_mut();
        known.push(text.to_owned());
        tokens.then_some(FIRST_MARK + known.len() as u32)
    };
    let calls = CALLS.iter().copied().find(|f| f.names.contains(&tool_parser));
    let reasoning = REASONING.iter().copied().find(|f| f.names.contains(&reasoning_parser));
    let channels = CHANNELS.iter().copied().find(|f| f.names.contains(&tool_parser));
    assert!(calls.is_some() || channels.is_some() || tool_parser.is_empty(), "{tool_parser}");
    assert!(reasoning.is_some() || reasoning_parser.is_empty(), "{reasoning_parser}");
    AnswerStyle::new(reasoning, calls, channels, token_of)
}

fn weather_tools() -> Vec<Tool> {
    let weather = json!({"type": "object", "required": ["city"], "properties": {
        "city": {"type": "string"}, "days": {"type": "integer"}, "detail": {"type": "boolean"},
        "opts": {"type": "object"}, "note": {"type": ["string", "null"]}, "rate": {"anyOf": [{"type": "number"}, {"type": "string"}]},
    }});
    let now = json!({"type": "object", "properties": {}});
    let tool = |name: &str, parameters| Tool { name: name.to_owned(), parameters, strict: false };
    vec![tool("get_weather", weather), tool("now", now)]
}

/// What a machine is given at once: a marker's token, or a character.
#[derive(Clone, Debug, PartialEq)]
enum Unit {
    Mark(u32, &'static str),
    Char(char),
}

fn units(style: &AnswerStyle, text: &str) -> Vec<Unit> {
    let marks = &style.inner().marks;
    let mut units = Vec::new();
    let mut rest = marks.literal(text).into_iter();
    let mut plain = Vec::new();
    let flush = |plain: &mut Vec<u8>, units: &mut Vec<Unit>| {
        units.extend(String::from_utf8(std::mem::take(plain)).unwrap().chars().map(Unit::Char));
    };
    while let Some(byte) = rest.next() {
        if byte == input::MARK {
            flush(&mut plain, &mut units);
            let index = rest.next().unwrap();
            units.push(Unit::Mark(marks.token(index).unwrap(), marks.text(index)));
        } else {
            plain.push(byte);
        }
    }
    flush(&mut plain, &mut units);
    units
}

/// An answer put together from its parts.
#[derive(Clone, Debug, Default, PartialEq)]
struct Whole {
    reasoning: String,
    content: String,
    calls: Vec<(String, String)>,
    ids: Vec<Option<String>>,
    ending: Option<Ending>,
}

impl Whole {
    fn add(&mut self, parts: Vec<Part>) {
        for part in parts {
            match part {
                Part::Reasoning(text) => self.reasoning += &text,
                Part::Content(text) => self.content += &text,
                Part::ToolCall { index, name, id } => {
                    assert_eq!(index, self.calls.len(), "calls come in order");
                    self.calls.push((name, String::new()));
                    self.ids.push(id);
                }
                Part::ToolArguments { index, text } => {
                    assert_eq!(index + 1, self.calls.len(), "arguments are those of the last call");
                    assert!(!text.is_empty());
                    self.calls[index].1 += &text;
                }
            }
        }
    }
}

/// Runs a machine over `units`, with a cut before each index for which `cut` says so.
fn run(
    style: &AnswerStyle,
    rules: &Arc<AnswerRules>,
    units: &[Unit],
    reason: FinishReason,
    cut: impl Fn(usize) -> bool,
) -> Whole {
    let mut machine = style.machine(rules);
    let (mut whole, mut text) = (Whole::default(), String::new());
    for (i, unit) in units.iter().enumerate() {
        if cut(i) && !text.is_empty() {
            whole.add(machine.push(1, &std::mem::take(&mut text)));
        }
        match unit {
            Unit::Char(c) => text.push(*c),
            Unit::Mark(token, shown) => {
                whole.add(machine.push(1, &std::mem::take(&mut text)));
                // Some vocabularies' markers are special tokens, which have no text.
                whole.add(machine.push(*token, if i % 2 == 0 { shown } else { "" }));
            }
        }
    }
    whole.add(machine.push(1, &text));
    let (parts, ending) = machine.finish(reason);
    whole.add(parts);
    whole.ending = Some(ending);
    whole
}

fn corpus() -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/text/answers.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// One recorded answer.
struct Recorded {
    name: String,
    style: AnswerStyle,
    rules: Arc<AnswerRules>,
    units: Vec<Unit>,
    reason: FinishReason,
}

/// Every recorded answer, with and without tokens for the markers.
fn recorded() -> Vec<(Recorded, Value)> {
    let mut all = Vec::new();
    for case in corpus() {
        let text = |key: &str| case[key].as_str().unwrap_or_default();
        for tokens in [true, false] {
            if case["tokens"].as_bool().is_some_and(|only| only != tokens) {
                continue;
            }
            let style = style(text("tool_parser"), text("reasoning_parser"), tokens);
            let rules = AnswerRules {
                tools: weather_tools(),
                calls: case["calls_on"].as_bool().unwrap_or(true),
                parallel: case["parallel"].as_bool().unwrap_or(true),
                opening: style.opening(text("prompt")),
            };
            let reason = if text("ending") == "length" { FinishReason::Length } else { FinishReason::Stop };
            let units = units(&style, text("text"));
            let name = format!("{}{}", text("name"), if tokens { "" } else { " (no tokens)" });
            all.push((Recorded { name, style, rules: Arc::new(rules), units, reason }, case.clone()));
        }
    }
    all
}

#[test]
fn recorded_answers_come_apart_as_they_should() {
    for (r, case) in recorded() {
        let whole = run(&r.style, &r.rules, &r.units, r.reason, |_| false);
        let text = |key: &str| case[key].as_str().unwrap_or_default();
        assert_eq!(
            (whole.reasoning.as_str(), whole.content.as_str()),
            (text("reasoning"), text("content")),
            "{}",
            r.name
        );
        let ending = whole.ending.unwrap();
        let half = case["half"].as_str();
        let complete = whole.calls.len() - usize::from(ending.half_call);
        let calls: Vec<Value> = whole.calls[..complete]
            .iter()
            .map(|(n, a)| json!([n, serde_json::from_str::<Value>(a).unwrap()]))
            .collect();
        assert_eq!(json!(calls), case.get("calls").cloned().unwrap_or(json!([])), "{}", r.name);
        assert_eq!(whole.calls.get(complete).map(|c| c.1.as_str()), half, "{}", r.name);
        assert_eq!(ending.calls_tools, text("ending") == "tool_calls", "{}", r.name);
        if let Some(ids) = case.get("ids") {
            assert_eq!(&json!(whole.ids), ids, "{}", r.name);
        }
    }
}

#[test]
fn every_split_gives_the_same_answer() {
    for (r, _) in recorded() {
        let whole = run(&r.style, &r.rules, &r.units, r.reason, |_| false);
        for at in 0..r.units.len() {
            assert_eq!(run(&r.style, &r.rules, &r.units, r.reason, |i| i == at), whole, "{} cut at {at}", r.name);
        }
        assert_eq!(run(&r.style, &r.rules, &r.units, r.reason, |_| true), whole, "{} by characters", r.name);
        let mut seed = r.units.len() as u64;
        for _ in 0..50 {
            let salt = garbage::lcg(&mut seed) as u64;
            let cut = |i: usize| {
                (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(salt).count_ones().is_multiple_of(3)
            };
            assert_eq!(run(&r.style, &r.rules, &r.units, r.reason, cut), whole, "{} salt {salt}", r.name);
        }
    }
}

#[test]
fn an_answer_cut_off_anywhere_has_no_half_call_that_is_said_to_be_whole() {
    for (r, _) in recorded() {
        let full = run(&r.style, &r.rules, &r.units, r.reason, |_| false);
        for at in 0..r.units.len() {
            let cut = run(&r.style, &r.rules, &r.units[..at], FinishReason::Length, |_| true);
            let ending = cut.ending.unwrap();
            assert!(!ending.calls_tools, "{} cut off at {at}", r.name);
            let complete = cut.calls.len() - usize::from(ending.half_call);
            for (i, call) in cut.calls[..complete].iter().enumerate() {
                assert_eq!(call, &full.calls[i], "{} cut off at {at}", r.name);
            }
            if ending.half_call {
                assert!(
                    full.calls[complete].1.starts_with(&cut.calls[complete].1),
                    "{} cut off at {at}: {cut:?}",
                    r.name
                );
            }
        }
    }
}

#[test]
fn thoughts_are_counted_in_tokens() {
    let style = style("hermes", "deepseek_r1", true);
    let mark = |text: &str| units(&style, text).remove(0);
    let rules = Arc::new(AnswerRules { calls: true, parallel: true, ..AnswerRules::default() });
    let mut machine = style.machine(&rules);
    let Unit::Mark(open, _) = mark("<think>") else { panic!() };
    let Unit::Mark(close, _) = mark("</think>") else { panic!() };
    assert!(machine.is_marker(open) && !machine.is_marker(1));
    machine.push(open, "<think>");
    assert!(machine.is_reasoning());
    machine.push(1, "Hm");
    machine.push(2, ".");
    machine.push(close, "</think>");
    assert!(!machine.is_reasoning());
    machine.push(3, "Yes");
    assert_eq!(machine.reasoning_tokens(), 4);
}

#[test]
fn markers_typed_as_text_are_none_where_they_are_tokens() {
    let style = style("hermes", "deepseek_r1", true);
    let rules = Arc::new(AnswerRules { tools: weather_tools(), calls: true, parallel: true, ..AnswerRules::default() });
    let typed = "<think>no</think> <tool_call>{\"name\": \"now\", \"arguments\": {}}</tool_call>";
    let units: Vec<Unit> = typed.chars().map(Unit::Char).collect();
    let whole = run(&style, &rules, &units, FinishReason::Stop, |_| true);
    assert_eq!((whole.content.as_str(), whole.calls.len()), (typed, 0));
}

#[test]
fn an_answer_of_a_model_without_a_style_passes_as_it_is() {
    let style = style("", "", true);
    let rules = Arc::new(AnswerRules { tools: weather_tools(), calls: true, parallel: true, ..AnswerRules::default() });
    let mut machine = style.machine(&rules);
    assert_eq!(machine.push(1, " \n a "), [Part::Content(" \n a ".into())]);
    assert_eq!(machine.push(1, "\n"), [Part::Content("\n".into())]);
}
