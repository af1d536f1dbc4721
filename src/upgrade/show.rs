//! Upgrades in words.

use super::journal::Past;
use crate::cli::error::CliError;
use crate::cli::out;
use crate::cli::table::{self, Field, To};
use crate::cli::time::moment;
use crate::clock::Clock;

/// Prints what became of upgrades.
///
/// # Errors
/// [`CliError::StdoutClosed`], [`CliError::Stdout`].
pub fn show(all: &[Past], json: bool) -> Result<(), CliError> {
    if json {
        return all.iter().try_for_each(out::json);
    }
    let now_ms = Clock::system().now_ms();
    let headings = ["ended", "from", "to", "by", "result", "pause", "reason"];
    let row = |past: &Past| {
        vec![
            Field::from(moment(past.ended_ms, now_ms)),
            Field::from(&past.from),
            Field::from(&past.to),
            Field::from(&past.by),
            Field::from(past.ended.words()),
            Field::from(past.pause_ms.map_or_else(|| "–".to_owned(), seconds)),
            Field::from(past.reason.as_deref().unwrap_or_default()),
        ]
    };
    out::line(&table::draw(&headings, all.iter().map(row).collect(), To::Stdout))
}

/// Milliseconds as seconds with two digits.
pub fn seconds(ms: u64) -> String {
    format!("{}.{:02} s", ms / 1000, ms % 1000 / 10)
}
