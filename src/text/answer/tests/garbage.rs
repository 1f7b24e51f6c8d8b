//! Answers that no model should write: nothing panics, nothing is lost, arguments stay JSON.

use std::sync::Arc;

use serde_json::Value;

use super::{AnswerRules, FinishReason, Unit, run, style, units, weather_tools};
use crate::text::answer::formats::{CALLS, CHANNELS};

pub(super) fn lcg(state: &mut u64) -> usize {
    *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    (*state >> 33) as usize
}

/// Pieces that calls are made of.
const SCRAPS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    "\"",
    "'",
    ",",
    ":",
    "=",
    "\\",
    "\\u",
    "d83d",
    " ",
    "\n",
    "```json",
    "```",
    "{\"name\": \"get_weather\", \"arguments\": {\"city\": ",
    "{\"name\": \"now\", \"parameters\": {}}",
    "\"name\"",
    "\"arguments\": {",
    "get_weather",
    "now",
    "get_weather(city=",
    "city",
    "functions.now:0",
    "call:now{",
    "true",
    "None",
    "12",
    "-",
    ".5",
    "é",
    "🙂",
    "<function=now>",
    "<parameter=days>",
    "</parameter>",
    "</function>",
    "function",
    " to=functions.now",
    "analysis",
    "commentary json",
    "final",
    "assistant",
    "<atem:invoke name=\"now\">",
];

/// A mix of scraps, markers and words that stand for text.
fn mix(marks: &[&'static str], state: &mut u64) -> (String, Vec<String>) {
    let (mut text, mut words) = (String::new(), Vec::new());
    for i in 0..lcg(state) % 24 {
        match lcg(state) % 7 {
            0 => {
                let word = format!("w{i}w");
                text += &word;
                words.push(word);
            }
            1..4 if !marks.is_empty() => text += marks[lcg(state) % marks.len()],
            _ => text += SCRAPS[lcg(state) % SCRAPS.len()],
        }
    }
    (text, words)
}

#[test]
fn garbage_is_not_lost_and_no_call_is_made_of_it() {
    let names: Vec<&str> = CALLS.iter().map(|f| f.names[f.names.len() - 1]).collect();
    let channels: Vec<&str> = CHANNELS.iter().map(|f| f.names[0]).collect();
    let mut state = 11;
    let mut calls = 0;
    for case in 0..20_000 {
        let all = names.len() + channels.len();
        let name = if case % all < names.len() { names[case % all] } else { channels[case % all - names.len()] };
        let tokens = !lcg(&mut state).is_multiple_of(3);
        let style = style(name, if names.contains(&name) { "deepseek_r1" } else { "" }, tokens);
        let marks: Vec<&'static str> = match names.iter().position(|n| *n == name) {
            Some(i) => CALLS[i].marks().filter(|m| !m.is_empty()).chain(["<think>", "</think>"]).collect(),
            None => {
                let format = CHANNELS.iter().find(|f| f.names[0] == name).unwrap();
                [format.start, format.message, format.channel].into_iter().chain(format.ends.iter().copied()).collect()
            }
        };
        let (text, words) = mix(&marks, &mut state);
        let rules = Arc::new(AnswerRules {
            tools: weather_tools(),
            calls: true,
            parallel: true,
            opening: style.opening(if case % 5 == 0 { "<think>\n" } else { "<|start|>assistant" }),
        });
        let units: Vec<Unit> = units(&style, &text);
        let reason = if case % 2 == 0 { FinishReason::Stop } else { FinishReason::Length };
        let whole = run(&style, &rules, &units, reason, |_| false);
        let salt = lcg(&mut state);
        let cut = run(&style, &rules, &units, reason, |i| (i * 7 + salt).is_multiple_of(3));
        assert_eq!(cut, whole, "{name} {text:?}");
        assert_eq!(run(&style, &rules, &units, reason, |_| true), whole, "{name} {text:?}");
        let ending = whole.ending.unwrap();
        let complete = whole.calls.len() - usize::from(ending.half_call);
        calls += complete;
        for (_, arguments) in &whole.calls[..complete] {
            let value = serde_json::from_str::<Value>(arguments);
            assert!(value.is_ok_and(|v| v.is_object()), "{name} {text:?} {arguments}");
        }
        // Headers of messages and ids of calls aren't shown.
        if names.contains(&name) && !text.contains("[CALL_ID]") {
            let shown = format!("{whole:?}");
            assert!(words.iter().all(|w| shown.contains(w)), "{name} {text:?} {whole:?}");
        }
    }
    assert!(calls > 50, "{calls} calls came about");
}

#[test]
fn long_answers_take_linear_time_whatever_they_are() {
    let style = style("hermes", "deepseek_r1", false);
    let rules = Arc::new(AnswerRules { tools: weather_tools(), calls: true, parallel: true, ..AnswerRules::default() });
    let pieces = [
        "<tool_call>{\"arguments\": {\"a\": \"",
        "<tool_call>",
        "\n",
        "<",
        "{\"name\": \"now\", \"arguments\": {\"a\": [[[",
    ];
    for piece in pieces {
        let mut machine = style.machine(&rules);
        let mut bytes = 0;
        for _ in 0..400_000 {
            bytes += piece.len();
            machine.push(1, piece);
        }
        machine.finish(FinishReason::Length);
        assert!(bytes >= 400_000);
    }
}
