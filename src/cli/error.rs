//! What can go wrong on the command line, and the exit code of each.
//!
//! The one place where errors become exit codes. An error carries its cure, where there is one.

use super::confirm::CONFIRM_NEEDED;
use super::text::{clean, tags_line};
use crate::http_client::HttpClientError;
use crate::protocol::http::Problem;
use crate::protocol::login::LoginStringError;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// The server ended the command at its timeout.
pub const EXIT_TIMED_OUT: u8 = 124;
/// postrider itself failed, or the delivery ended without an outcome of its own.
pub const EXIT_FAILED: u8 = 125;
/// The command line is wrong. clap uses the same number.
pub const EXIT_USAGE: u8 = 2;
/// Ctrl-C: 128 + SIGINT.
pub const EXIT_INTERRUPTED: u8 = 130;
/// The reader of standard output has gone: 128 + SIGPIPE.
pub const EXIT_PIPE: u8 = 141;

/// What a request was about: it decides the cure of "not found".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// Agents by name or id.
    Agents,
    /// Commands by id.
    Commands,
    /// Join strings by id.
    Joins,
    /// Tokens by id.
    Tokens,
    /// Authorities by pin.
    Authorities,
    /// The audit.
    Audit,
    /// Rollouts.
    Rollout,
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The arguments do not make sense together.
    #[error("{0}")]
    Usage(String),
    /// Nothing says where the server is.
    #[error("no server is known")]
    NoServer,
    /// Nothing says which token to use there.
    #[error("no token is known for {url}")]
    NoToken {
        /// The server.
        url: String,
    },
    /// A file that says where the server is, or who we are, cannot be used.
    #[error("{}: {message}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        message: String,
    },
    /// The server's address cannot be used.
    #[error("{0}")]
    Address(HttpClientError),
    /// The login string cannot be read.
    #[error("{0}")]
    Login(#[from] LoginStringError),
    /// The server did not answer.
    #[error("{0}")]
    Unreachable(HttpClientError),
    /// The server was unreachable for so long that following was given up.
    #[error("the server was unreachable for {}; the command goes on without us", super::duration::span(i64::try_from(.after.as_millis()).unwrap_or(i64::MAX)))]
    GaveUp {
        /// For how long.
        after: Duration,
        /// The command.
        id: String,
    },
    /// The server answered with a problem document.
    #[error("{}", without_route(&.problem.detail))]
    Problem {
        /// The document.
        problem: Box<Problem>,
        /// When to try again.
        retry_after: Option<Duration>,
        /// What was asked for.
        about: About,
    },
    /// The server's answer is not one of postrider's.
    #[error("{url} answered something that is not postrider's: {message}")]
    Answer {
        /// The server.
        url: String,
        /// What is wrong with it.
        message: String,
    },
    /// Standard input cannot be sent.
    #[error("standard input: {0}")]
    Stdin(String),
    /// The reader of standard output has gone.
    #[error("standard output is closed")]
    StdoutClosed,
    /// Standard output cannot be written.
    #[error("cannot write to standard output: {0}")]
    Stdout(io::Error),
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
    /// The number of agents was asked for, and the answer was another.
    #[error("not confirmed: nothing was submitted")]
    Unconfirmed,
    /// The server's part could not be done on this host.
    #[error("{0}")]
    Host(String),
    /// A server or agent of our own did not come up.
    #[error("{0}")]
    Child(String),
}

impl CliError {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            CliError::Usage(_) => EXIT_USAGE,
            CliError::Interrupted => EXIT_INTERRUPTED,
            CliError::StdoutClosed => EXIT_PIPE,
            CliError::NoServer
            | CliError::NoToken { .. }
            | CliError::File { .. }
            | CliError::Address(_)
            | CliError::Login(_)
            | CliError::Unreachable(_)
            | CliError::GaveUp { .. }
            | CliError::Problem { .. }
            | CliError::Answer { .. }
            | CliError::Stdin(_)
            | CliError::Stdout(_)
            | CliError::Unconfirmed
            | CliError::Host(_)
            | CliError::Child(_) => EXIT_FAILED,
        }
    }

    /// Whether it is to be printed: some ends need no words.
    pub fn is_silent(&self) -> bool {
        matches!(self, CliError::StdoutClosed | CliError::Interrupted)
    }

    /// What to do about it, in a sentence, where the message does not say it.
    pub fn cure(&self) -> Option<String> {
        match self {
            CliError::NoServer => Some(
                "give --server URL, run `postrider login` once, or on the server's own host give --data DIR".to_owned(),
            ),
            CliError::NoToken { url } => Some(format!(
                "give --token-file FILE, set POSTRIDER_TOKEN, or run `postrider login --server {url}` once"
            )),
            // It says the cure itself.
            CliError::Unreachable(HttpClientError::Tls { .. }) => None,
            CliError::Unreachable(_) => {
                Some("is the server running? `postrider serve` starts it; --server says where it is".to_owned())
            }
            CliError::GaveUp { id, .. } => Some(format!("`postrider output {id} --follow` follows it again")),
            CliError::Problem { problem, about, .. } => problem_cure(problem, *about),
            CliError::Answer { .. } => Some("is this the address of a postrider server?".to_owned()),
            _ => None,
        }
    }

    /// The agents that an ambiguous name may mean, or that are to be confirmed, one a line for people.
    pub fn candidates(&self) -> Vec<String> {
        let CliError::Problem { problem, .. } = self else { return Vec::new() };
        let more = problem.count.unwrap_or_default().saturating_sub(problem.candidates.len() as u64);
        problem
            .candidates
            .iter()
            .map(|candidate| {
                let pending = if candidate.pending { "  pending" } else { "" };
                let tags = tags_line(&candidate.tags);
                clean(format!("{}  {}{pending}  {tags}", candidate.id, candidate.name).trim_end())
            })
            .chain((more > 0).then(|| format!("… and {more} more")))
            .collect()
    }
}

/// The server tells its HTTP clients which route helps; here a verb does, see [`CliError::cure`].
fn without_route(detail: &str) -> String {
    clean(detail.split_once("; GET /").map_or(detail, |(what, _)| what))
}

fn problem_cure(problem: &Problem, about: About) -> Option<String> {
    if problem.detail.contains("`postrider") {
        return None;
    }
    if let Some(count) = problem.count.filter(|_| problem.code == CONFIRM_NEEDED) {
        return Some(format!("repeat with --confirm {count}"));
    }
    if !problem.candidates.is_empty() {
        return Some("give the id of the one that you mean".to_owned());
    }
    match (problem.status, about) {
        (401, _) if problem.code == "wrong_code" => None,
        (403, _) if problem.code != "role_too_low" => None,
        (401, _) => Some("the token is wrong, expired or revoked: run `postrider login` with a good one".to_owned()),
        (403, About::Audit) => Some("an owner's token without a scope may read the audit".to_owned()),
        (403, _) if problem.code == "role_too_low" => {
            Some("this needs a token with a higher role; `postrider tokens create` makes one".to_owned())
        }
        (404, About::Agents) => Some("`postrider agents` lists them".to_owned()),
        (404, About::Commands) => Some("`postrider commands` lists them".to_owned()),
        (404, About::Joins) => Some("`postrider join list` lists them".to_owned()),
        (404, About::Tokens) => Some("`postrider tokens list` lists them".to_owned()),
        (404, About::Authorities) => Some("`postrider authority list` lists them".to_owned()),
        (500.., _) => Some(format!("the server's log has more under request {}", clean(&problem.request_id))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(status: u16, detail: &str) -> CliError {
        CliError::Problem {
            problem: Box::new(Problem {
                status,
                title: String::new(),
                code: String::new(),
                detail: detail.into(),
                request_id: "r-1".into(),
                field: None,
                count: None,
                candidates: Vec::new(),
            }),
            retry_after: None,
            about: About::Agents,
        }
    }

    #[test]
    fn each_error_has_its_exit_code() {
        let cases = [
            (CliError::Usage("x".into()), 2),
            (CliError::NoServer, 125),
            (CliError::NoToken { url: "http://a:1".into() }, 125),
            (problem(404, "no agent is named web-3"), 125),
            (CliError::Stdin("x".into()), 125),
            (CliError::StdoutClosed, 141),
            (CliError::Interrupted, 130),
        ];
        for (error, code) in cases {
            assert_eq!(error.exit_code(), code, "{error}");
        }
    }

    #[test]
    fn problems_carry_a_cure() {
        let error = problem(404, "no agent is known as \"x\"; GET /api/agents lists them");
        assert_eq!(error.to_string(), "no agent is known as \"x\"");
        let cure = |status, detail| problem(status, detail).cure();
        assert_eq!(cure(404, "no agent is named web-3").unwrap(), "`postrider agents` lists them");
        assert_eq!(cure(404, "none; `postrider agents` lists them"), None);
        assert!(cure(401, "no").unwrap().contains("login"));
        assert!(cure(500, "no").unwrap().contains("r-1"));
        assert_eq!(cure(422, "timeout_s: is -1"), None);
    }
}
