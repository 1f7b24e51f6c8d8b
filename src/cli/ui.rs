//! The terminal: results go to stdout, remarks to stderr.

use std::io::{ErrorKind, Write};

use super::CliError;

/// Writes to stdout at once.
///
/// # Errors
/// [`CliError::OutputClosed`] when nobody reads it, [`CliError::Failed`] otherwise.
pub(super) fn out(text: &str) -> Result<(), CliError> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Err(CliError::OutputClosed),
        Err(e) => Err(CliError::Failed(format!("can't write to stdout: {e}"))),
        Ok(()) => Ok(()),
    }
}

/// Writes a line to stderr. A closed stderr is no reason to stop.
pub(super) fn err(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Rows of two columns, the first padded.
pub(super) fn table<L: AsRef<str>, R: AsRef<str>>(rows: &[(L, R)]) -> String {
    let width = rows.iter().map(|(left, _)| left.as_ref().chars().count()).max().unwrap_or(0);
    rows.iter().map(|(left, right)| format!("  {:<width$}  {}\n", left.as_ref(), right.as_ref())).collect()
}
