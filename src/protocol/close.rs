//! Why a connection ended: one list for both ends, for metrics and for `agents show`.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Why an agent connection ended. The number is the WebSocket close code, where one could still be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CloseReason {
    /// The server is shutting down; the agent comes back by itself.
    Draining,
    /// The same agent authenticated on a newer connection.
    Superseded,
    /// The agent was revoked.
    Revoked,
    /// The signature or the identity in `hello` was wrong.
    Unauthorized,
    /// No pong to our latest ping in time: the outward direction is dead.
    PongTimeout,
    /// A frame could not be written in time: the peer does not read.
    WriteTimeout,
    /// The agent answers pings but did not accept a dispatch in time.
    AcceptTimeout,
    /// Too many frames that break the protocol.
    ProtocolError,
    /// No `hello` in time after the connection was made.
    HelloTimeout,
    /// A frame over the limit.
    FrameTooLong,
    /// The server could not store what the agent reported; the agent keeps it and comes back.
    ServerStorage,
    /// The server's clock was set: the agent learns the time anew when it comes back.
    ClockStep,
    /// The server has another newest authority: the agent learns its pin when it comes back.
    AuthorityChanged,
    /// The agent has enrolled and waits for somebody's approval.
    Pending,
    /// The agent begins sessions too often, or is not known and comes again and again.
    TooOften,
    /// The agent is shutting down.
    AgentShutdown,
    /// The agent could not write its journal, so it can accept nothing.
    AgentStorage,
    /// The server was silent for too long, so the agent left.
    ServerSilent,
    /// The agent ends to start another release of itself.
    AgentUpgrade,
    /// The connection ended without a word: reset, closed, or the process died.
    ConnectionLost,
}

impl CloseReason {
    /// All reasons.
    pub const ALL: [CloseReason; 20] = [
        CloseReason::Draining,
        CloseReason::Superseded,
        CloseReason::Revoked,
        CloseReason::Unauthorized,
        CloseReason::PongTimeout,
        CloseReason::WriteTimeout,
        CloseReason::AcceptTimeout,
        CloseReason::ProtocolError,
        CloseReason::HelloTimeout,
        CloseReason::FrameTooLong,
        CloseReason::ServerStorage,
        CloseReason::ClockStep,
        CloseReason::AuthorityChanged,
        CloseReason::Pending,
        CloseReason::TooOften,
        CloseReason::AgentShutdown,
        CloseReason::AgentStorage,
        CloseReason::ServerSilent,
        CloseReason::AgentUpgrade,
        CloseReason::ConnectionLost,
    ];

    /// The WebSocket close code (4000–4999 are for applications, RFC 6455 section 7.4.2). `ConnectionLost` is
    /// never sent.
    pub fn code(self) -> u16 {
        match self {
            CloseReason::ConnectionLost => 4000,
            CloseReason::Draining => 4001,
            CloseReason::Superseded => 4002,
            CloseReason::Revoked => 4003,
            CloseReason::Unauthorized => 4004,
            CloseReason::PongTimeout => 4005,
            CloseReason::WriteTimeout => 4006,
            CloseReason::AcceptTimeout => 4007,
            CloseReason::ProtocolError => 4008,
            CloseReason::HelloTimeout => 4009,
            CloseReason::FrameTooLong => 4010,
            CloseReason::ServerStorage => 4011,
            CloseReason::ClockStep => 4012,
            CloseReason::AuthorityChanged => 4013,
            CloseReason::Pending => 4015,
            CloseReason::TooOften => 4016,
            CloseReason::AgentShutdown => 4020,
            CloseReason::AgentStorage => 4021,
            CloseReason::ServerSilent => 4022,
            CloseReason::AgentUpgrade => 4023,
        }
    }

    /// The reason with that code; any other code is a connection lost.
    pub fn from_code(code: u16) -> Self {
        Self::ALL.into_iter().find(|reason| reason.code() == code).unwrap_or(CloseReason::ConnectionLost)
    }

    /// The word in JSON, metrics and the database.
    pub fn as_str(self) -> &'static str {
        match self {
            CloseReason::Draining => "draining",
            CloseReason::Superseded => "superseded",
            CloseReason::Revoked => "revoked",
            CloseReason::Unauthorized => "unauthorized",
            CloseReason::PongTimeout => "pong_timeout",
            CloseReason::WriteTimeout => "write_timeout",
            CloseReason::AcceptTimeout => "accept_timeout",
            CloseReason::ProtocolError => "protocol_error",
            CloseReason::HelloTimeout => "hello_timeout",
            CloseReason::FrameTooLong => "frame_too_long",
            CloseReason::ServerStorage => "server_storage",
            CloseReason::ClockStep => "clock_step",
            CloseReason::AuthorityChanged => "authority_changed",
            CloseReason::Pending => "pending",
            CloseReason::TooOften => "too_often",
            CloseReason::AgentShutdown => "agent_shutdown",
            CloseReason::AgentStorage => "agent_storage",
            CloseReason::ServerSilent => "server_silent",
            CloseReason::AgentUpgrade => "agent_upgrade",
            CloseReason::ConnectionLost => "connection_lost",
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_words_are_unambiguous() {
        for reason in CloseReason::ALL {
            assert_eq!(CloseReason::from_code(reason.code()), reason);
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
        assert_eq!(CloseReason::from_code(1006), CloseReason::ConnectionLost);
    }
}
