//! One answer in the terminal: prompt ids to the engine, its tokens to text as they come.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;

use super::CliError;
use crate::engine::{EngineHandle, EngineRequest, RequestStream};
use crate::text::{ChatMessage, RenderOptions, TextModel};
use crate::types::{Claim, EngineEvent, FinishReason, SamplingParams};

/// Ctrl-C, as a stream of events.
#[derive(Debug)]
pub(super) struct Interrupts(mpsc::UnboundedReceiver<()>);

impl Interrupts {
    /// From now on Ctrl-C no longer ends the process.
    pub(super) fn install() -> Result<Self, CliError> {
        let mut signal = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())
            .map_err(|e| CliError::Failed(format!("can't listen for Ctrl-C: {e}")))?;
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(async move { while signal.recv().await.is_some() && sender.send(()).is_ok() {} });
        Ok(Self(receiver))
    }

    #[cfg(test)]
    pub(super) fn from_channel(receiver: mpsc::UnboundedReceiver<()>) -> Self {
        Self(receiver)
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            // The source is gone: nothing will ever come.
            std::future::pending::<()>().await;
        }
    }

    /// Forgets those that came when nobody was asking.
    pub(super) fn clear(&mut self) {
        while self.0.try_recv().is_ok() {}
    }
}

/// A model to talk to, and how it shall answer.
pub(super) struct Speaker {
    pub(super) engine: EngineHandle,
    pub(super) text: Arc<TextModel>,
    /// Most tokens of an answer; `None`: what the context leaves.
    pub(super) max_tokens: Option<u32>,
    pub(super) temperature: Option<f32>,
    pub(super) seed: u64,
}

/// What came of a prompt.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) text: String,
    /// Why it ended; `None` when Ctrl-C did.
    pub(super) reason: Option<FinishReason>,
}

/// Takes pieces of text as they become complete.
pub(super) type Emit<'a> = &'a mut dyn FnMut(&str) -> Result<(), CliError>;

impl Speaker {
    /// Answers a conversation. A model without a chat template goes on with the last message's text.
    pub(super) async fn answer(
        &mut self,
        messages: &[ChatMessage],
        last: &str,
        interrupts: &mut Interrupts,
        emit: Emit<'_>,
    ) -> Result<Answer, CliError> {
        let failed = |e: crate::text::TextError| CliError::Failed(e.to_string());
        let chat = self.text.chat_template.is_some();
        let (prompt, mut decoder) = if chat {
            let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
            (self.text.encode_chat(messages, &options).map_err(failed)?, self.text.tokenizer.decoder(true))
        } else {
            (self.text.tokenizer.encode(last, true).map_err(failed)?, self.text.tokenizer.continuation_decoder(true))
        };
        let mut stream = self.submit(prompt)?;
        let mut answer = Answer { text: String::new(), reason: None };
        loop {
            let event = tokio::select! {
                event = stream.next() => event,
                // Dropping the stream tells the engine to stop.
                () = interrupts.next() => break,
            };
            let piece = match event {
                // An end-of-turn token is reported before the end; it is not part of the text.
                Some(EngineEvent::Token { token, .. }) if self.text.eos_token_ids.contains(&token) => continue,
                Some(EngineEvent::Token { token, .. }) => decoder.push(token),
                Some(EngineEvent::Finished { reason, .. }) => {
                    stream.complete();
                    answer.reason = Some(reason);
                    String::new()
                }
                Some(EngineEvent::Error(error)) => return Err(CliError::Failed(error.to_string())),
                Some(_) => continue,
                None => return Err(CliError::Failed("the engine stopped".to_owned())),
            };
            answer.text.push_str(&piece);
            if !piece.is_empty() {
                emit(&piece)?;
            }
            if answer.reason.is_some() {
                break;
            }
        }
        Ok(answer)
    }

    fn submit(&mut self, prompt: Vec<u32>) -> Result<RequestStream, CliError> {
        let info = self.engine.info();
        let context = info.max_model_len.min(info.kv_capacity_tokens);
        let room = context.saturating_sub(prompt.len());
        if prompt.is_empty() {
            return Err(CliError::Failed("the prompt has no tokens: the chat template renders nothing".to_owned()));
        }
        if room == 0 {
            let (length, limit) = (prompt.len(), context);
            return Err(CliError::Failed(format!(
                "the prompt has {length} tokens and the context holds {limit} with the answer; shorten it, or raise --max-model-len or --kv-cache-memory"
            )));
        }
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        let params = self.params(self.max_tokens.map_or(room, |most| most.clamp(1, room)));
        // Each answer draws from its own stream, all of them fixed by the first seed.
        self.seed = self.seed.wrapping_add(1);
        let request = EngineRequest {
            request_id: "run".to_owned(),
            prompt: prompt.into(),
            params: Arc::new(params),
            num_choices: 1,
            cache_salt: 0,
            claim: Claim::default(),
            constraint: None,
            arrival: Instant::now(),
            deadline: None,
        };
        self.engine.submit(request).map_err(|e| CliError::Failed(e.to_string()))
    }

    fn params(&self, max_tokens: u32) -> SamplingParams {
        let (model, neutral) = (&self.text.sampling_defaults, SamplingParams::default());
        SamplingParams {
            temperature: self.temperature.or(model.temperature).unwrap_or(0.7),
            top_k: model.top_k.unwrap_or(neutral.top_k),
            top_p: model.top_p.unwrap_or(neutral.top_p),
            min_p: model.min_p.unwrap_or(neutral.min_p),
            repetition_penalty: model.repetition_penalty.unwrap_or(neutral.repetition_penalty),
            max_tokens,
            eos_token_ids: self.text.eos_token_ids.clone(),
            seed: self.seed,
            ..neutral
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Command, EngineEnd, EngineInfo, engine_channel};
    use crate::text::{SamplingDefaults, Tokenizer};

    const END: u32 = 9;

    /// Letters a-e, a space, the two bytes of an e with an accent, one letter more, an end token.
    fn text() -> Arc<TextModel> {
        let words = ["a", "b", "c", "d", "e", "\u{120}", "\u{c3}", "\u{a9}", "f"];
        let vocab: serde_json::Map<String, serde_json::Value> =
            words.iter().enumerate().map(|(id, word)| ((*word).to_owned(), id.into())).collect();
        let byte_level = serde_json::json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true
        });
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
            "added_tokens": [{"id": END, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true}],
            "pre_tokenizer": byte_level, "decoder": byte_level,
            "model": {"type": "BPE", "vocab": vocab, "merges": []},
        });
        let tokenizer = Tokenizer::from_json(json.to_string().as_bytes(), "t", None, Some("</s>")).unwrap();
        let sampling_defaults = SamplingDefaults { top_k: Some(3), ..SamplingDefaults::default() };
        Arc::new(TextModel::new(tokenizer, None, vec![END], sampling_defaults))
    }

    fn speaker(max_model_len: usize) -> (Speaker, EngineEnd) {
        let (engine, end) = engine_channel(EngineInfo {
            max_model_len,
            vocab_size: 10,
            kv_capacity_tokens: 64,
            max_queued_tokens: 1000,
            max_num_seqs: 1,
            block_size: 32,
            num_blocks: 2,
        });
        (Speaker { engine, text: text(), max_tokens: None, temperature: Some(0.0), seed: 7 }, end)
    }

    /// Answers the next request with `events`, then hands the engine's end back.
    fn script(end: EngineEnd, events: Vec<EngineEvent>) -> std::thread::JoinHandle<(EngineEnd, EngineRequest)> {
        std::thread::spawn(move || {
            let Ok(Command::Add { request, events: sender, .. }) = end.commands.recv() else { panic!("no request") };
            events.into_iter().for_each(|event| sender.send(event).unwrap());
            // An answer without an end stays open until it is aborted.
            let open = end.commands.recv();
            assert!(matches!(open, Ok(Command::Abort { .. }) | Err(_) | Ok(Command::Shutdown)), "{open:?}");
            (end, request)
        })
    }

    fn token(token: u32) -> EngineEvent {
        EngineEvent::Token { choice: 0, token, logprobs: None }
    }

    fn interrupts() -> (mpsc::UnboundedSender<()>, Interrupts) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (sender, Interrupts::from_channel(receiver))
    }

    #[tokio::test]
    async fn pieces_are_whole_characters_and_the_end_token_is_no_text() {
        let (mut speaker, end) = speaker(32);
        let finished = EngineEvent::Finished { choice: 0, reason: FinishReason::Stop, stop_token: Some(END) };
        let engine = script(end, vec![token(0), token(5), token(6), token(7), token(END), finished]);
        let (_sender, mut interrupts) = interrupts();
        let mut pieces = Vec::new();
        let answer = speaker
            .answer(&[], "ab", &mut interrupts, &mut |piece| {
                pieces.push(piece.to_owned());
                Ok(())
            })
            .await
            .unwrap();
        assert_eq!(answer, Answer { text: "a \u{e9}".to_owned(), reason: Some(FinishReason::Stop) });
        assert_eq!(pieces, ["a", " ", "\u{e9}"]);
        speaker.engine.shutdown();
        let (_, request) = engine.join().unwrap();
        assert_eq!(&request.prompt[..], [0, 1]);
        assert_eq!((request.params.max_tokens, request.params.top_k, request.params.temperature), (30, 3, 0.0));
        assert_eq!(request.params.eos_token_ids, [END]);
    }

    #[tokio::test]
    async fn ctrl_c_stops_the_answer_and_tells_the_engine() {
        let (mut speaker, end) = speaker(32);
        let engine = script(end, vec![token(0), token(1)]);
        let (sender, mut interrupts) = interrupts();
        let answer = speaker
            .answer(&[], "ab", &mut interrupts, &mut |piece| {
                if piece == "b" {
                    sender.send(()).unwrap();
                }
                Ok(())
            })
            .await
            .unwrap();
        assert_eq!(answer, Answer { text: "ab".to_owned(), reason: None });
        // `script` sees the abort.
        engine.join().unwrap();
    }

    #[tokio::test]
    async fn what_does_not_fit_is_said_with_both_counts() {
        let (mut speaker, _end) = speaker(3);
        let (_sender, mut interrupts) = interrupts();
        let error = speaker.answer(&[], "abc", &mut interrupts, &mut |_| Ok(())).await.unwrap_err().to_string();
        assert!(
            error.contains("3 tokens") && error.contains("holds 3") && error.contains("--max-model-len"),
            "{error}"
        );
    }
}
