//! The conversation in the terminal: lines with history, answers as they come. Ctrl-C stops an answer,
//! Ctrl-D ends the program.

use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::answer::{Interrupts, Speaker};
use super::{CliError, ui};
use crate::hub::HubSettings;
use crate::text::ChatMessage;

const HELP: &str = "/clear forgets the conversation, /exit or Ctrl-D ends, Ctrl-C stops an answer";

/// What a line means.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Empty,
    Clear,
    Exit,
    Help,
    Unknown,
    Say(&'a str),
}

fn classify(line: &str) -> Line<'_> {
    match line.trim() {
        "" => Line::Empty,
        "/clear" => Line::Clear,
        "/exit" | "/quit" | "/bye" => Line::Exit,
        "/help" | "/?" => Line::Help,
        // A lone word after a slash is a mistyped command; a path or a sentence is not.
        word if word.starts_with('/') && word[1..].chars().all(char::is_alphabetic) => Line::Unknown,
        text => Line::Say(text),
    }
}

/// Talks until the end of input.
pub(super) async fn chat(
    speaker: &mut Speaker,
    system: Option<String>,
    interrupts: &mut Interrupts,
) -> Result<(), CliError> {
    let history = HubSettings::from_env().model_cache.with_file_name("history.txt");
    let mut editor = DefaultEditor::new().map_err(terminal)?;
    if let Some(dir) = history.parent() {
        let _ = std::fs::create_dir_all(dir);
    }
    // There is none the first time.
    let _ = editor.load_history(&history);
    let opening: Vec<ChatMessage> = system.iter().map(|text| ChatMessage::new("system", text)).collect();
    let mut messages = opening.clone();
    ui::err(HELP);
    loop {
        let (back, line) = read_line(editor).await?;
        editor = back;
        let line = match line {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(terminal(error)),
        };
        match classify(&line) {
            Line::Empty => {}
            Line::Exit => break,
            Line::Clear => messages = opening.clone(),
            Line::Help => ui::err(HELP),
            Line::Unknown => ui::err(&format!("no such command: {}; {HELP}", line.trim())),
            Line::Say(text) => {
                // A line that can't be kept is still answered.
                let _ = editor.add_history_entry(text);
                let _ = editor.append_history(&history);
                turn(speaker, &mut messages, text, interrupts).await?;
            }
        }
    }
    Ok(())
}

/// One question and its answer. What went wrong is told, the question forgotten, and the chat goes on.
async fn turn(
    speaker: &mut Speaker,
    messages: &mut Vec<ChatMessage>,
    text: &str,
    interrupts: &mut Interrupts,
) -> Result<(), CliError> {
    interrupts.clear();
    messages.push(ChatMessage::new("user", text));
    let answer = speaker.answer(messages, text, interrupts, &mut ui::out).await;
    match answer {
        Ok(answer) => {
            ui::out("\n")?;
            // A stopped answer stays: it is what the next question refers to.
            messages.push(ChatMessage::new("assistant", &answer.text));
            Ok(())
        }
        Err(CliError::Failed(message)) => {
            messages.pop();
            ui::err(&format!("error: {message}"));
            Ok(())
        }
        Err(error) => Err(error),
    }
}

type Read = (DefaultEditor, Result<String, ReadlineError>);

/// Reading blocks, so it has a thread of its own.
async fn read_line(mut editor: DefaultEditor) -> Result<Read, CliError> {
    let read = move || {
        let line = editor.readline(">>> ");
        (editor, line)
    };
    tokio::task::spawn_blocking(read).await.map_err(|e| CliError::Failed(format!("the line editor failed: {e}")))
}

fn terminal(error: ReadlineError) -> CliError {
    CliError::Failed(format!("the terminal can't be used: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_what_only_looks_like_one() {
        for (line, expected) in [
            ("  ", Line::Empty),
            ("/clear", Line::Clear),
            (" /quit ", Line::Exit),
            ("/?", Line::Help),
            ("/claer", Line::Unknown),
            ("/etc/passwd says?", Line::Say("/etc/passwd says?")),
            (" hello ", Line::Say("hello")),
        ] {
            assert_eq!(classify(line), expected, "{line}");
        }
    }
}
