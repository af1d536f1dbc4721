//! Asking a person, at the terminal, for the number of agents that a submission reaches.

use super::client::ApiClient;
use super::error::CliError;
use super::out;
use super::submit::submit;
use super::table::{self, Field, To};
use crate::protocol::http::{CommandResponse, Problem, SubmitRequest};
use crate::protocol::scope::SITE;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};

/// The server's word for wanting a number.
pub const CONFIRM_NEEDED: &str = "confirm_needed";
/// Longest line that is read as a number, in bytes.
const LINE_BYTES_MAX: u64 = 64;

/// Submits. Where the server wants to know how many agents are meant, shows them and asks for their number; without a
/// terminal that is an error. What was refused submitted nothing, so each try has an idempotency key of its own.
///
/// # Errors
/// Those of [`submit`]; [`CliError::Unconfirmed`] for any other answer than the number.
pub async fn submit_confirmed(client: &ApiClient, mut request: SubmitRequest) -> Result<CommandResponse, CliError> {
    loop {
        let error = match submit(client, &request).await {
            Ok(command) => return Ok(command),
            Err(error) => error,
        };
        let (Some((problem, count)), Some(terminal)) = (asked(&error), terminal()) else { return Err(error) };
        out::note(&list(problem, count));
        let _ = write!(std::io::stderr(), "type the number of agents to send it to all of them: ");
        // A thread of its own: a read of the terminal cannot be taken back, and Ctrl-C must not wait for it.
        let typed = tokio::task::spawn_blocking(move || read_line(terminal)).await.unwrap_or_default();
        if typed.trim().parse() != Ok(count) {
            return Err(CliError::Unconfirmed);
        }
        request.confirm = Some(count);
    }
}

fn asked(error: &CliError) -> Option<(&Problem, u64)> {
    let CliError::Problem { problem, .. } = error else { return None };
    problem.count.filter(|_| problem.code == CONFIRM_NEEDED).map(|count| (&**problem, count))
}

/// Where a person can answer: standard input if it is a terminal, else the terminal that the process belongs to. None
/// when nobody would see the question.
fn terminal() -> Option<Box<dyn Read + Send>> {
    if !std::io::stderr().is_terminal() {
        return None;
    }
    if std::io::stdin().is_terminal() {
        return Some(Box::new(std::io::stdin()));
    }
    std::fs::File::open("/dev/tty").ok().map(|file| Box::new(file) as _)
}

fn read_line(terminal: Box<dyn Read + Send>) -> String {
    let mut line = String::new();
    let _ = BufReader::new(terminal.take(LINE_BYTES_MAX)).read_line(&mut line);
    line
}

fn list(problem: &Problem, count: u64) -> String {
    let site = |tags: &crate::protocol::name::Tags| tags.get(SITE).cloned().unwrap_or_default();
    let rows =
        problem.candidates.iter().map(|agent| vec![Field::from(&agent.name), site(&agent.tags).into()]).collect();
    let more = count.saturating_sub(problem.candidates.len() as u64);
    let more = if more > 0 { format!("\n… and {more} more") } else { String::new() };
    let agents = if count == 1 { "1 agent".to_owned() } else { format!("{count} agents") };
    format!("{}{more}\nthis goes to {agents}", table::draw(&["agent", "site"], rows, To::Stderr))
}
