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
            json!({"eos_token_id": 4, "temperature": 0.6, "top_k": 20.0, "top_p": null, "repetition_penalty": 1.1, "max_new_tokens": 9}),
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
    assert_eq!(model.sampling_defaults, defaults);
    let options = TextOptions { use_generation_config: false, ..TextOptions::default() };
    let model = TextModel::from_dir(dir.path(), &options).unwrap();
    assert_eq!(model.sampling_defaults, SamplingDefaults::default());
}

#[test]
fn sampling_defaults_out_of_range_are_refused_by_name() {
    let rows = [
        ("temperature", json!(-5), "-5 isn't a number from 0 to 2"),
        ("temperature", json!("hot"), "\"hot\" isn't a number from 0 to 2"),
        ("top_p", json!(7), "7 isn't a number from 0 to 1"),
        ("top_k", json!(1.5), "1.5 isn't a whole number from -1 to 2147483647"),
        ("max_new_tokens", json!(0), "0 isn't a whole number from 1"),
    ];
    for (key, value, expected) in rows {
        let dir = folder(&[("generation_config.json", json!({ key: value }))]);
        let error = TextModel::from_dir(dir.path(), &TextOptions::default()).unwrap_err().to_string();
        let file = dir.path().join("generation_config.json").display().to_string();
        assert!(error.starts_with(&format!("{file}: {key}: {expected}")), "{error}");
        assert!(error.ends_with("start with --generation-config none"), "{error}");
        let options = TextOptions { use_generation_config: false, ..TextOptions::default() };
        assert!(TextModel::from_dir(dir.path(), &options).is_ok());
    }
}

#[test]
fn every_broken_file_is_named_in_full() {
    let files =
        ["tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json", "chat_template.jinja"];
    for name in files {
        let broken = if name.ends_with("jinja") { "{% if %}" } else { "{" };
        let dir = folder(&[(name, json!(broken))]);
        let error = TextModel::from_dir(dir.path(), &TextOptions::default()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}: ", dir.path().join(name).display())), "{error}");
        assert!(error.contains("download it again") || error.contains("--chat-template FILE.jinja"), "{error}");
    }
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.gguf");
    let mut bytes = fs::read(fixture("byte_level.gguf")).unwrap();
    let model = b"tokenizer.ggml.model\x08\0\0\0\x04\0\0\0\0\0\0\0gpt2";
    let at = bytes.windows(model.len()).position(|w| w == model).unwrap() + model.len();
    bytes[at - 4..at].copy_from_slice(b"bert");
    fs::write(&path, bytes).unwrap();
    let error = TextModel::from_gguf(&Gguf::open(&path).unwrap(), &TextOptions::default()).unwrap_err().to_string();
    let expected = "tokenizer.ggml.model: tokenizer \"bert\" is not supported; supported: gpt2, llama";
    assert_eq!(error, format!("{}: {expected}", path.display()));
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
    assert!(error.to_string().contains("generation_config.json: "));
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
