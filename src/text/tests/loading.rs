//! Where each piece of a model's text side comes from, and which source wins.

use std::fs;

use tempfile::TempDir;

use super::*;

/// A folder with the byte-level tokenizer and the given files.
fn folder(files: &[(&str, Value)]) -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::copy(fixture("byte_level.json"), dir.path().join("tokenizer.json")).unwrap();
    for (name, value) in files {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn render(model: &TextModel) -> String {
    model.render_chat(&[ChatMessage::new("user", "hi")], &RenderOptions::default()).unwrap()
}

#[test]
fn end_tokens_and_defaults_are_gathered_from_all_configurations() {
    let dir = folder(&[
        ("config.json", json!({"eos_token_id": [3, 4]})),
        (
            "tokenizer_config.json",
            json!({"bos_token": {"content": "<s>"}, "eos_token": "<|im_end|>", "pad_token": null}),
        ),
        (
            "generation_config.json",
            json!({"eos_token_id": 4, "temperature": 0.6, "top_k": 20, "top_p": 7.0, "repetition_penalty": 1.1, "max_new_tokens": 9}),
        ),
    ]);
    let model = TextModel::from_dir(dir.path(), &TextOptions::default()).unwrap();
    let eos = model.tokenizer.token_to_id("<|im_end|>").unwrap();
    assert_eq!(model.tokenizer.eos(), Some(eos));
    assert_eq!(model.tokenizer.bos(), model.tokenizer.token_to_id("<s>"));
    assert_eq!(model.eos_token_ids, [eos, 3, 4]);
    let defaults = SamplingDefaults {
        temperature: Some(0.6),
        top_k: Some(20),
        repetition_penalty: Some(1.1),
        max_tokens: Some(9),
        ..SamplingDefaults::default()
    };
    assert_eq!(model.sampling_defaults, defaults, "top_p = 7 is nonsense and left out");
    let options = TextOptions { use_generation_config: false, ..TextOptions::default() };
    let model = TextModel::from_dir(dir.path(), &options).unwrap();
    assert_eq!(model.sampling_defaults, SamplingDefaults::default());
}

#[test]
fn the_operators_template_comes_first_then_the_file_then_the_configuration() {
    let named =
        json!([{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "named {{ bos_token }}"}]);
    let dir = folder(&[("tokenizer_config.json", json!({"chat_template": named, "bos_token": "<s>"}))]);
    let load = |options: &TextOptions| TextModel::from_dir(dir.path(), options);
    assert_eq!(render(&load(&TextOptions::default()).unwrap()), "named <s>");
    fs::write(dir.path().join("chat_template.jinja"), "file").unwrap();
    assert_eq!(render(&load(&TextOptions::default()).unwrap()), "file");
    let own = dir.path().join("own.jinja");
    fs::write(&own, "own").unwrap();
    let options = TextOptions { chat_template: Some(own.clone()), ..TextOptions::default() };
    assert_eq!(render(&load(&options).unwrap()), "own");
    fs::remove_file(own).unwrap();
    assert!(load(&options).unwrap_err().to_string().contains("own.jinja"));
}

#[test]
fn what_is_missing_is_named() {
    let model = TextModel::from_dir(folder(&[]).path(), &TextOptions::default()).unwrap();
    let refused = model.encode_chat(&[ChatMessage::new("user", "hi")], &RenderOptions::default());
    assert_eq!(refused, Err(TextError::NoChatTemplate));
    let empty = TempDir::new().unwrap();
    assert!(
        TextModel::from_dir(empty.path(), &TextOptions::default()).unwrap_err().to_string().contains("tokenizer.json")
    );
    let broken = folder(&[("generation_config.json", json!("{"))]);
    let error = TextModel::from_dir(broken.path(), &TextOptions::default()).unwrap_err();
    assert!(error.to_string().starts_with("generation_config.json: "));
}

#[test]
fn bos_stands_first_exactly_once() {
    let gguf = Gguf::open(&fixture("sentencepiece.gguf")).unwrap();
    let mut model = TextModel::from_gguf(&gguf, &TextOptions::default()).unwrap();
    let bos = model.tokenizer.bos().unwrap();
    let tokens: Map<String, Value> = [("bos_token".to_owned(), Value::from("<s>"))].into_iter().collect();
    for source in ["{{ bos_token }}[INST] hi", "[INST] hi", "  [INST] {{ messages[0].content }}", ""] {
        model.chat_template = Some(ChatTemplate::new(source, tokens.clone(), "test").unwrap());
        let ids = model.encode_chat(&[ChatMessage::new("user", "hi")], &RenderOptions::default()).unwrap();
        assert_eq!(ids.iter().filter(|&&id| id == bos).count(), 1, "{source}");
        assert_eq!(ids.first(), Some(&bos), "{source}");
    }
    assert_eq!(model.tokenizer.encode("hi", true).unwrap()[0], bos);
    assert_eq!(model.eos_token_ids, [2]);
}

#[test]
fn text_parts_are_joined_unless_the_template_wants_them_typed() {
    let message = ChatMessage {
        role: "user".into(),
        content: Some(MessageContent::Parts(vec!["one ".into(), "two".into()])),
        ..ChatMessage::default()
    };
    let plain = ChatTemplate::new("{{ messages[0].content }}", Map::new(), "plain").unwrap();
    assert_eq!(plain.render(std::slice::from_ref(&message), &RenderOptions::default()).unwrap(), "one two");
    let source =
        "{% for part in messages[0].content %}{% if part.type == 'text' %}<{{ part.text }}>{% endif %}{% endfor %}";
    let typed = ChatTemplate::new(source, Map::new(), "typed").unwrap();
    assert_eq!(typed.render(&[message], &RenderOptions::default()).unwrap(), "<one ><two>");
    assert_eq!(typed.render(&[ChatMessage::new("user", "x")], &RenderOptions::default()).unwrap(), "<x>");
}

#[test]
fn arguments_of_calls_reach_the_template_as_objects() {
    let call =
        json!({"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"b\": 1, \"a\": [true]}"}});
    let message = ChatMessage { role: "assistant".into(), tool_calls: Some(vec![call]), ..ChatMessage::default() };
    let source = "{{ messages[0].tool_calls[0].function.arguments | tojson }}{{ messages[0].content is defined }}";
    let template = ChatTemplate::new(source, Map::new(), "calls").unwrap();
    assert_eq!(template.render(&[message], &RenderOptions::default()).unwrap(), "{\"b\": 1, \"a\": [true]}False");
}
