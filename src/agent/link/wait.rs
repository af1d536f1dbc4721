//! Why the agent has no connection, and how long it waits before the next try. It never gives up.

use crate::http_client::HttpClientError;
use crate::protocol::close::CloseReason;
use crate::protocol::ids::ServerId;
use hyper::HeaderMap;
use std::time::Duration;

/// First ceiling of the wait between connections.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(500);
/// Largest: a fleet of 5,000 then knocks 330 times a second, which a refusal costs next to nothing, and after an outage
/// of any length everybody has come back, and what was open has ended, well within a minute.
pub const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A session that lasted this long counts as a success: the next wait starts small again.
pub const SESSION_GOOD: Duration = Duration::from_secs(5);
/// Ceiling of the wait after a shorter session whose link broke or whose server went. It was welcomed, so the server is
/// there for us; but a server that dies of being come back to is not met every half second.
pub const BACKOFF_AFTER_WELCOME: Duration = Duration::from_secs(4);
/// Least wait where only a person can help.
const HOPELESS_WAIT: Duration = Duration::from_secs(60);
/// Least wait after another process took our identity: two such processes must not throw each other out in a spin.
pub const SUPERSEDED_WAIT: Duration = Duration::from_secs(10);
/// Least wait before asking again whether somebody has approved us: a person who has just done it should see it soon.
const PENDING_WAIT: Duration = Duration::from_secs(10);
/// Ceiling of what is drawn on top of that: a few thousand who wait must not keep a server busy.
pub const BACKOFF_PENDING: Duration = Duration::from_secs(20);
/// Longest wait that a server can ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// Why there is no connection (any more).
#[derive(Debug, thiserror::Error)]
pub enum Leave {
    /// It could not be opened.
    #[error("{0}")]
    Unreachable(#[from] HttpClientError),
    /// The server answered the upgrade with something else.
    #[error("the server answers {status}")]
    Declined {
        /// The HTTP status.
        status: u16,
        /// How long it wants us to wait.
        retry_after: Option<Duration>,
    },
    /// The handshake or the socket failed.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// Something of the handshake took too long.
    #[error("the server did not {0} in time")]
    Late(&'static str),
    /// What answers is not our server.
    #[error("{found} answers there, but this agent belongs to server {expected}: it is not told anything")]
    OtherServer {
        /// Ours.
        expected: ServerId,
        /// Who answered.
        found: ServerId,
    },
    /// The server closed.
    #[error("the server closed the connection: {reason}{}{text}", if .text.is_empty() { "" } else { ": " })]
    Closed {
        /// Why.
        reason: CloseReason,
        /// What it said beside.
        text: String,
    },
    /// We left.
    #[error("{reason}{}{text}", if .text.is_empty() { "" } else { ": " })]
    Left {
        /// Why.
        reason: CloseReason,
        /// What there is to say.
        text: String,
    },
}

impl Leave {
    /// We leave, for this reason.
    pub fn left(reason: CloseReason, text: impl Into<String>) -> Self {
        Self::Left { reason, text: text.into() }
    }

    /// Whether this can end a session with which nothing was wrong: its link or its server, not what was said on it.
    pub fn is_outage(&self) -> bool {
        match self {
            Leave::Broken(_) => true,
            Leave::Closed { reason, .. } => matches!(reason, CloseReason::Draining | CloseReason::AuthorityChanged),
            _ => false,
        }
    }

    /// Whether the server waits for somebody to approve us.
    pub fn is_pending(&self) -> bool {
        matches!(self, Leave::Closed { reason: CloseReason::Pending, .. })
    }

    /// The least wait before the next try.
    pub fn at_least(&self) -> Option<Duration> {
        match self {
            Leave::Declined { retry_after, .. } => *retry_after,
            Leave::OtherServer { .. } => Some(HOPELESS_WAIT),
            Leave::Unreachable(HttpClientError::Tls { source, .. }) if source.is_identity() => Some(HOPELESS_WAIT),
            Leave::Closed { reason: CloseReason::Revoked | CloseReason::Unauthorized, .. } => Some(HOPELESS_WAIT),
            Leave::Closed { reason: CloseReason::Superseded | CloseReason::TooOften, .. } => Some(SUPERSEDED_WAIT),
            Leave::Closed { reason: CloseReason::Pending, .. } => Some(PENDING_WAIT),
            Leave::Left { reason: CloseReason::AgentStorage, .. } => Some(SUPERSEDED_WAIT),
            _ => None,
        }
    }

    /// What a person should know, where waiting alone may not help.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Leave::OtherServer { .. } => Some("check the server's address, or enroll anew with a join string"),
            Leave::Closed { reason: CloseReason::Revoked, .. } => {
                Some("this agent was revoked on the server; to use it again, empty its data folder and enroll anew")
            }
            Leave::Closed { reason: CloseReason::Unauthorized, .. } => {
                Some("the server does not know this agent's key; was it restored from a backup, or this folder copied?")
            }
            Leave::Closed { reason: CloseReason::TooOften, .. } => Some(
                "this agent connects too often: its link breaks again and again, or another process uses its credential",
            ),
            Leave::Closed { reason: CloseReason::Superseded, .. } => {
                Some("another process connects with this agent's credential: each host needs a data folder of its own")
            }
            _ => None,
        }
    }
}

/// The seconds of a `Retry-After` header. Dates are not read: our server sends seconds.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get("retry-after")?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_that_was_said_is_no_outage() {
        assert!(Leave::Broken("reset".to_owned()).is_outage());
        for reason in CloseReason::ALL {
            let closed = Leave::Closed { reason, text: String::new() };
            let outage = matches!(reason, CloseReason::Draining | CloseReason::AuthorityChanged);
            assert_eq!(closed.is_outage(), outage, "{reason}");
            assert!(!Leave::left(reason, "").is_outage(), "{reason}");
        }
    }
}
