//! The command line: arguments in two stages (raw flags, then a validated `Config`) and one file a verb.
//!
//! # Layout
//! - `args`: every verb and its flags; `error`: what ends a verb and its exit code
//! - `serve`, `run` (with `chat`, `answer`), `plan` (with `capacity`), `models` (pull, list): the verbs
//! - `gpu_check`: is this machine's GPU right, and how fast; `health`: is a running server well
//! - `startup`: from a name to a running engine, phase by phase; `banner`: what `serve` prints
//! - `ui`, `logging`: the only places that write to the terminal

mod answer;
mod args;
mod banner;
mod capacity;
mod chat;
mod error;
mod gpu_check;
mod health;
mod logging;
mod models;
mod plan;
mod run;
mod serve;

mod startup;
mod ui;

use std::process::ExitCode;
use std::time::Instant;

use clap::{CommandFactory, Parser};

pub use args::{Cli, Command};
pub use error::CliError;

/// Runs the program: parses the arguments of this process, executes the verb, reports a failure in one line.
pub fn main() -> ExitCode {
    let started = Instant::now();
    let cli = Cli::try_parse().unwrap_or_else(|error| args::unknown_flag(error).exit());
    match execute(cli, started) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if let Some(message) = error.message() {
                ui::err(&format!("error: {message}"));
            }
            ExitCode::from(error.exit_code())
        }
    }
}

fn execute(cli: Cli, started: Instant) -> Result<(), CliError> {
    match cli.command {
        Command::Serve(args) => with_runtime(serve::serve(*args, started)),
        Command::Run(args) => with_runtime(run::run(args, started)),
        Command::Plan(args) => with_runtime(plan::plan(*args)),
        Command::Pull(args) => with_runtime(models::pull(args)),
        Command::GpuCheck(args) => gpu_check::gpu_check(&args, started),
        Command::Health(args) => with_runtime(health::health(args)),
        Command::List => models::list(),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "sconce", &mut script);
            ui::out(&String::from_utf8_lossy(&script))
        }
    }
}

/// Runs a verb to its end. Work still on the runtime's threads (a name look-up, a download) doesn't hold up the exit.
fn with_runtime(verb: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| CliError::Failed(format!("can't start the async runtime: {e}")))?;
    let result = runtime.block_on(verb);
    runtime.shutdown_background();
    result
}
