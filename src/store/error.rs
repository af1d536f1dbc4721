//! What the store can answer instead of a result.

use crate::protocol::http::Candidate;
use rusqlite::ErrorCode;

/// Why an operation or a read failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// No row for that id or name.
    #[error("no {what} is known as {key:?}")]
    NotFound {
        /// `agent`, `command`, `token`, `join string`.
        what: &'static str,
        /// What was looked for.
        key: String,
    },
    /// Several agents have that name.
    #[error("{name:?} is the name of {} agents", .candidates.len())]
    Ambiguous {
        /// The name.
        name: String,
        /// All of them.
        candidates: Vec<Candidate>,
    },
    /// A submission that no agent matches.
    #[error("no agent matches the targets")]
    NoTargets,
    /// A submission to so many agents wants their number, and none or another one was given.
    #[error("{}", confirm_needed(*.count, *.given))]
    ConfirmNeeded {
        /// How many it would go to.
        count: u64,
        /// How many were said.
        given: Option<u64>,
        /// The first of them.
        candidates: Vec<Candidate>,
    },
    /// Somebody would approve what they submitted themselves.
    #[error("{by:?} submitted the command: a second person has to approve it, with a token of their own")]
    SamePerson {
        /// Who submitted it.
        by: String,
    },
    /// The same idempotency key came with another body.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// The operation goes against what is there.
    #[error("{0}")]
    Conflict(String),
    /// The actor's token is not enough for it.
    #[error("{0}")]
    Forbidden(String),
    /// The join string's secret is unknown, used up, expired or revoked.
    #[error("{0}")]
    JoinRefused(&'static str),
    /// The frame's session is no longer the agent's newest.
    #[error("a newer session of this agent exists")]
    Fenced,
    /// The quota is reached or the disk is nearly full: no submissions; all else goes on.
    #[error("{0}")]
    Quota(String),
    /// The disk is full, and giving up the ballast did not help.
    #[error("the disk is full")]
    Full,
    /// Too much is queued for the write connection, or it stayed locked by somebody else.
    #[error("the database is overloaded")]
    Busy,
    /// The database cannot go on: I/O error, corruption, read-only. The server drains and exits.
    #[error("the database cannot go on: {0}")]
    Fatal(String),
    /// The store was closed.
    #[error("the database is closed")]
    Closed,
    /// A row that the schema's rules forbid, or a statement that is wrong: a bug.
    #[error("database: {0}")]
    Sql(String),
}

fn confirm_needed(count: u64, given: Option<u64>) -> String {
    let agents = if count == 1 { "1 agent".to_owned() } else { format!("{count} agents") };
    match given {
        None => {
            format!("this would go to {agents}, which is to be confirmed (\"confirm\": {count}): nothing was submitted")
        }
        Some(given) => format!("this would go to {agents}, and {given} was confirmed: nothing was submitted"),
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy,
            Some(
                ErrorCode::SystemIoFailure
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::ReadOnly
                | ErrorCode::CannotOpen
                | ErrorCode::PermissionDenied,
            ) => Self::Fatal(error.to_string()),
            _ => Self::Sql(error.to_string()),
        }
    }
}
