//! `run`: one answer to a prompt (argument or piped input), or a chat in the terminal.

use std::io::{IsTerminal, Read};
use std::time::Instant;

use super::answer::{Interrupts, Speaker};
use super::args::RunArgs;
use super::banner::Phases;
use super::{CliError, chat, logging, startup, ui};
use crate::hub::Progress;
use crate::text::ChatMessage;

/// Largest prompt read from a pipe; a mistaken `< disk.img` must not fill the memory.
const MAX_PROMPT_BYTES: u64 = 16 << 20;

/// Loads the model and talks.
pub(super) async fn run(args: RunArgs, started: Instant) -> Result<(), CliError> {
    let config = args.resolve()?;
    logging::init(&config.log);
    if args.temperature.is_some_and(|t| !(0.0..=2.0).contains(&t)) {
        return Err(CliError::Failed("--temperature must be from 0 to 2".to_owned()));
    }
    let prompt = match &args.prompt {
        Some(prompt) => Some(prompt.clone()),
        None if std::io::stdin().is_terminal() => None,
        None => Some(piped()?),
    };
    let mut interrupts = Interrupts::install()?;
    let progress = Progress::stderr();
    let load = async {
        let model = startup::find(config.model.as_deref(), &progress).await?;
        startup::load(&config, model, None, &mut Phases::new(started)).await
    };
    let loaded = tokio::select! {
        loaded = load => loaded?,
        () = interrupts.next() => return Err(CliError::Interrupted),
    };
    let mut speaker = Speaker {
        engine: loaded.engine,
        text: loaded.text,
        max_tokens: args.max_tokens,
        temperature: args.temperature,
        seed: args.seed.unwrap_or_else(rand::random),
    };
    let Some(prompt) = prompt else {
        return chat::chat(&mut speaker, args.system, &mut interrupts).await;
    };
    let mut messages: Vec<ChatMessage> = args.system.iter().map(|text| ChatMessage::new("system", text)).collect();
    messages.push(ChatMessage::new("user", &prompt));
    let answer = speaker.answer(&messages, &prompt, &mut interrupts, &mut ui::out).await?;
    ui::out("\n")?;
    if answer.reason.is_none() { Err(CliError::Interrupted) } else { Ok(()) }
}

fn piped() -> Result<String, CliError> {
    let mut text = String::new();
    let read = std::io::stdin().lock().take(MAX_PROMPT_BYTES + 1).read_to_string(&mut text);
    read.map_err(|e| CliError::Failed(format!("can't read the prompt from stdin: {e}")))?;
    match text.trim_end_matches('\n') {
        "" => Err(CliError::Failed(
            "the prompt from stdin is empty; give one as an argument or pipe some text".to_owned(),
        )),
        _ if text.len() as u64 > MAX_PROMPT_BYTES => {
            Err(CliError::Failed(format!("the prompt from stdin is larger than {MAX_PROMPT_BYTES} bytes")))
        }
        prompt => Ok(prompt.to_owned()),
    }
}
