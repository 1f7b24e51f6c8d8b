//! Chat templates as published: what a template writes for a turn that calls tools is read back as those calls.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{AnswerRules, FinishReason, run, units, weather_tools};
use crate::text::answer::formats::{CALLS, CHANNELS, REASONING};
use crate::text::answer::style::{AnswerStyle, has_signs};
use crate::text::{ChatMessage, ChatTemplate, RenderOptions};

/// Ends of an assistant's turn.
const ENDS: &[&str] = &[
    "<|im_end|>",
    "<|eot_id|>",
    "<|eot|>",
    "</s>",
    "<turn|>",
    "<|tool_response>",
    "[|endofturn|]",
    "<|END_OF_TURN_TOKEN|>",
    "<｜end▁of▁sentence｜>",
    "<|user|>",
];

/// The style of a template in a vocabulary in which all markers are tokens, or none.
fn style_of(template: &str, tokens: bool) -> AnswerStyle {
    let channels = CHANNELS.iter().copied().find(|f| has_signs(template, f.signs));
    let calls = CALLS.iter().copied().find(|f| channels.is_none() && has_signs(template, f.signs));
    let reasoning =
        REASONING.iter().copied().find(|f| channels.is_none() && f.signs.iter().any(|s| template.contains(s)));
    let next = std::cell::Cell::new(super::FIRST_MARK);
    AnswerStyle::new(reasoning, calls, channels, |_| {
        next.set(next.get() + 1);
        tokens.then_some(next.get())
    })
}

fn tools() -> Vec<Value> {
    let function = |t: &super::Tool| json!({"name": t.name, "description": "d", "parameters": t.parameters});
    weather_tools().iter().map(|t| json!({"type": "function", "function": function(t)})).collect()
}

/// The prompt that `template` makes and the assistant's turn that follows it.
fn turn(template: &ChatTemplate, assistant: Value) -> Option<(String, String)> {
    let messages: Vec<ChatMessage> =
        serde_json::from_value(json!([{"role": "user", "content": "Weather?"}, assistant])).unwrap();
    let mut options = RenderOptions { tools: Some(tools()), ..RenderOptions::default() };
    let full = template.render(&messages, &options).ok()?;
    options.add_generation_prompt = true;
    let prompt = template.render(&messages[..1], &options).ok()?;
    let shared = full.char_indices().zip(prompt.chars()).take_while(|((_, a), b)| a == b);
    let mut at = shared.last().map_or(0, |((i, c), _)| i + c.len_utf8());
    // Not in the midst of a marker.
    for mark in style_of(template.source(), true).inner().marks.texts() {
        if let Some(begin) = full.match_indices(mark).map(|(i, _)| i).find(|i| *i < at && at < i + mark.len()) {
            at = begin;
        }
    }
    let answer = &full[at..];
    // Muse goes on behind this.
    let eom = (!template.source().contains("<atem:")).then_some(&"<|eom|>");
    let end = ENDS.iter().chain(eom).filter_map(|e| answer.find(e)).min().unwrap_or(answer.len());
    Some((full[..at].to_owned(), answer[..end].to_owned()))
}

#[test]
fn turns_that_published_templates_write_are_read_back() {
    let Some(path) = std::env::var_os("SCONCE_TEST_CHATS") else {
        println!("skipped: SCONCE_TEST_CHATS names no file");
        return;
    };
    let fixtures: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let arguments = json!({"city": "Tōkyō \"x\"", "days": 2, "detail": true, "opts": {"a": [1, null]}, "note": "a\nb"});
    let call = |id: &str, name: &str, arguments: &Value| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments.to_string()}});
    let both = [call("abcdef123", "get_weather", &arguments), call("abcdef124", "now", &json!({}))];
    let (mut writing, mut read, mut thinking, mut wrong) = (0, 0, 0, Vec::new());
    let templates = fixtures["templates"].as_array().unwrap();
    for entry in templates {
        let (name, source) = (entry["name"].as_str().unwrap(), entry["source"].as_str().unwrap());
        let tokens: Map<String, Value> =
            [("bos_token", "<s>"), ("eos_token", "</s>")].map(|(k, v)| (k.to_owned(), v.into())).into_iter().collect();
        let template = ChatTemplate::new(source, tokens, name).unwrap();
        let (mut turns, mut good) = (0, 0);
        let mut thinks = false;
        for (calls, content, thoughts) in [
            (&both[..], None, None),
            (&both[..1], None, None),
            (&both[1..], None, None),
            (&both[..1], Some("Look."), None),
            (&both[..1], None, Some("I think")),
            (&both[..], Some("Look."), Some("I think")),
        ] {
            for in_tokens in [true, false] {
                let style = style_of(source, in_tokens);
                let mut assistant = json!({"role": "assistant", "tool_calls": calls});
                for (key, value) in [("content", content), ("reasoning_content", thoughts)] {
                    if let Some(value) = value {
                        assistant[key] = value.into();
                    }
                }
                let Some((prompt, answer)) = turn(&template, assistant) else { continue };
                let names = calls.iter().map(|c| c["function"]["name"].as_str().unwrap());
                if !names.clone().any(|n| answer.contains(n)) {
                    continue;
                }
                turns += 1;
                let rules = AnswerRules {
                    tools: weather_tools(),
                    calls: true,
                    parallel: true,
                    opening: style.opening(&prompt),
                };
                let whole = run(&style, &Arc::new(rules), &units(&style, &answer), FinishReason::Stop, |_| true);
                let shown = |text: Option<&str>| text.filter(|t| answer.contains(t)).unwrap_or_default().to_owned();
                thinks |= !whole.reasoning.is_empty();
                let got: Vec<Value> = whole
                    .calls
                    .iter()
                    .map(|(n, a)| json!([n, serde_json::from_str::<Value>(a).unwrap_or_default()]))
                    .collect();
                // A template may know one call at a time.
                let all = calls.iter().filter(|c| answer.contains(c["function"]["name"].as_str().unwrap()));
                let want: Vec<Value> = all
                    .map(|c| {
                        json!([
                            c["function"]["name"],
                            serde_json::from_str::<Value>(c["function"]["arguments"].as_str().unwrap()).unwrap()
                        ])
                    })
                    .collect();
                let ending = whole.ending.unwrap();
                // Jamba's template puts a space before every turn.
                let said = (whole.reasoning.clone(), whole.content.trim_start().to_owned());
                // gpt-oss's template writes text beside calls as thoughts.
                let is_said = said == (shown(thoughts), shown(content)) || said == (shown(content), shown(thoughts));
                if got == want && is_said && ending.calls_tools {
                    good += 1;
                } else {
                    wrong.push(format!(
                        "{name} (tokens {in_tokens}, {:?})\n  {answer:?}\n  {whole:?}",
                        style.tool_parser()
                    ));
                }
            }
        }
        writing += usize::from(turns > 0);
        read += usize::from(turns > 0 && turns == good);
        thinking += usize::from(thinks);
    }
    println!(
        "{} templates, {writing} write calls, {read} of them are read back, {thinking} also with thoughts",
        templates.len()
    );
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
}
