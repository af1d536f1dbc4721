//! Asking for a secret on standard input: a person at a terminal, or a script's line.

use super::error::CliError;
use super::out;
use crate::secret::Secret;
use std::io::{BufRead, IsTerminal, Read};

/// Longest line that is read, in bytes.
const LINE_BYTES_MAX: u64 = 4096;

/// Reads one line, after showing `prompt` where somebody can read it. `what` it should hold is for the error.
///
/// # Errors
/// [`CliError::Stdin`]: it cannot be read, or is empty.
pub fn ask(prompt: &str, what: &str) -> Result<Secret, CliError> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        out::note(prompt);
    }
    let mut text = String::new();
    let mut lines = stdin.lock().take(LINE_BYTES_MAX);
    lines.read_line(&mut text).map_err(|error| CliError::Stdin(error.to_string()))?;
    match text.trim() {
        "" => Err(CliError::Stdin(format!("it holds no {what}"))),
        text => Ok(Secret::new(text)),
    }
}

/// Asks for what an authenticator shows.
///
/// # Errors
/// As [`ask`].
pub fn ask_code() -> Result<Secret, CliError> {
    ask("type the one-time password that your authenticator shows, and press Enter:", "one-time password")
}
