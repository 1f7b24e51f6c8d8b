//! The `sconce` program; everything is in the library's `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    sconce::cli::main()
}
