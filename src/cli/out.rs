//! Writing to standard output and standard error.
//!
//! A closed standard output ends the verb quietly; a closed standard error is ignored.

use super::error::CliError;
use serde::Serialize;
use std::io::{self, Write};

/// Prints a line to standard output.
///
/// # Errors
/// [`CliError::StdoutClosed`], [`CliError::Stdout`].
pub fn line(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    written(writeln!(stdout, "{text}").and_then(|()| stdout.flush()))
}

/// Prints a value as one line of JSON.
///
/// # Errors
/// [`CliError::StdoutClosed`], [`CliError::Stdout`].
pub fn json<T: Serialize>(value: &T) -> Result<(), CliError> {
    let text = serde_json::to_string(value).map_err(|error| CliError::Stdout(error.into()))?;
    line(&text)
}

/// Prints a line to standard error.
pub fn note(text: &str) {
    // Nobody is left to be told that it could not be written.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// What a write to standard output came to.
///
/// # Errors
/// [`CliError::StdoutClosed`] when the reader has gone, else [`CliError::Stdout`].
pub fn written(result: io::Result<()>) -> Result<(), CliError> {
    result.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => CliError::StdoutClosed,
        _ => CliError::Stdout(error),
    })
}
