//! Why an agent cannot go on. What the network does is never among these: it is waited out.

use super::journal::JournalError;
use crate::http_client::HttpClientError;
use crate::protocol::ids::ServerId;
use crate::protocol::join::JoinStringError;
use crate::tls::TlsError;
use std::path::PathBuf;

/// Why an agent cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The number of slots is out of range.
    #[error("{0} runner slots: 1 to {max} are possible", max = super::config::SLOTS_MAX)]
    Slots(usize),
    /// The number of starts a minute is out of range.
    #[error("{0} starts a minute: 1 to {max} are possible", max = super::config::STARTS_PER_MINUTE_MAX)]
    StartsPerMinute(u32),
    /// Neither a credential nor a join string.
    #[error(
        "this agent has not enrolled yet: start it with --join STRING (`postrider join create` on the server makes one)"
    )]
    NoJoin,
    /// The join string cannot be read.
    #[error(transparent)]
    Join(#[from] JoinStringError),
    /// The join string holds an address that cannot be used.
    #[error("the join string's server address cannot be used: {0}")]
    Url(HttpClientError),
    /// The data folder belongs to an agent of another server.
    #[error(
        "{} holds the credential of an agent of server {enrolled}, but the join string is for server {joining}: \
         use another --data folder, or empty this one to leave the old server for good", .data.display()
    )]
    OtherServer {
        /// The data folder.
        data: PathBuf,
        /// The server that its credential is for.
        enrolled: ServerId,
        /// The join string's.
        joining: ServerId,
    },
    /// The server at the join string's address is not the one that made it.
    #[error(
        "the server at {url} is {found}, but the join string is for {expected}: make a new join string on the server \
         that you mean"
    )]
    NotThatServer {
        /// Where it was.
        url: String,
        /// The join string's.
        expected: ServerId,
        /// Who answered.
        found: ServerId,
    },
    /// What answers at the join string's address cannot show that it is the server that made the string.
    #[error("the server at {url} is not told the join string's secret: {source}")]
    Stranger {
        /// Where it was.
        url: String,
        /// What is wrong with its certificate.
        source: TlsError,
    },
    /// The server said no to the enrollment, for good.
    #[error("{url} refused the enrollment ({status} {code}): {detail}")]
    EnrollRefused {
        /// Where.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The problem's stable word.
        code: String,
        /// The problem's sentence.
        detail: String,
    },
    /// A file or folder of the data folder cannot be used.
    #[error("{}: {source}", .path.display())]
    Data {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Another agent process has the data folder.
    #[error("another agent is running on {}: stop it, or use another --data folder", .0.display())]
    Locked(PathBuf),
    /// The release that ran in place of the installed agent has ended by itself.
    #[error("the release that runs in place of the installed agent has ended: {0}")]
    ReleaseEnded(String),
    /// The credential file is damaged.
    #[error(
        "{} is damaged ({message}): restore it, or delete it and enroll again with a new join string", .path.display()
    )]
    Credential {
        /// The file.
        path: PathBuf,
        /// What is wrong. Never a piece of its content.
        message: String,
    },
    /// The journal cannot be opened.
    #[error(transparent)]
    Journal(#[from] JournalError),
}
