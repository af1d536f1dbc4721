//! Control frames: JSON texts on the WebSocket, tagged by `type`.
//!
//! Unknown fields are ignored, so that either end can be newer; an unknown type is told apart from a broken frame.

use super::ids::{AgentId, DeliveryId, ServerId};
use super::outcome::Outcome;
use super::plain::{PLAIN_CHARS_MAX, plain};
use super::secret_env::SecretEnv;
use super::state::State;
use super::upgrade::{Ability, Offer, UpgradeReport};
use crate::pin::Pin;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The WebSocket subprotocol.
pub const SUBPROTOCOL: &str = "postrider.v1";
/// Largest frame and message either way, in bytes: the WebSocket layer's buffers grow to the largest ever seen.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;
/// Deliveries an agent may hold unfinished (dispatched, accepted or running). More wait in the outbox, where they
/// can be cancelled and expire without the agent. It also bounds `hello`.
pub const WINDOW_DEFAULT: u32 = 32;
/// Most journal entries in one `hello`, so that it stays under [`FRAME_BYTES_MAX`]. The window keeps journals far
/// below; an agent whose journal is fuller accepts nothing more.
pub const JOURNAL_ENTRIES_MAX: usize = 256;
/// Largest epoch: every integer up to here is exact in JSON, whatever reads it.
pub const EPOCH_MAX: u64 = 1 << 53;
/// Largest facts document, in bytes.
pub const FACTS_BYTES_MAX: usize = 16 * 1024;
/// What the signature in `hello` is over: this text, then the challenge's nonce, the server's id and the agent's id
/// (32, 16 and 16 raw bytes). The text keeps it from being taken for a signature of anything else.
pub const HELLO_SIGNATURE_CONTEXT: &[u8] = b"postrider.v1 hello\0";

/// The bytes that `hello` signs.
pub fn hello_signature_input(nonce: &[u8; 32], server: ServerId, agent: AgentId) -> Vec<u8> {
    [HELLO_SIGNATURE_CONTEXT, nonce, server.as_bytes(), agent.as_bytes()].concat()
}

/// Server → agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerFrame {
    /// First frame on a connection: sign this.
    Challenge {
        /// 32 random bytes, URL-safe base64 without padding. Never used twice.
        nonce: String,
        /// Which server speaks.
        server_id: ServerId,
    },
    /// The answer to a good `hello`.
    Welcome {
        /// This connection's epoch: higher than that of every earlier one of this agent.
        epoch: u64,
        /// The server's clock, in Unix milliseconds: expiry is judged by it.
        server_time_ms: i64,
        /// The server pings about this often.
        ping_interval_ms: u64,
        /// A ping unanswered for this long ends the connection. The agent applies both rules too.
        pong_timeout_ms: u64,
        /// [`WINDOW_DEFAULT`].
        window: u32,
        /// Bearer token for `GET /agent/deliveries/{id}/spec`, good while this server process lives.
        fetch_token: String,
        /// The pins of the server's authorities, newest first. Only on a connection that was checked by a pin: the agent
        /// keeps them instead of its own before it says `ready`. Empty: nothing changes.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pins: Vec<Pin>,
        /// The key that releases for agents are signed with, as minisign writes it; none: there are none. An agent keeps
        /// the first that it is told.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        release_key: Option<String>,
        /// What to do with each entry of the journal in `hello`, same order.
        journal: Vec<JournalVerdict>,
    },
    /// Run this. At-least-once: the journal makes a repetition harmless.
    Dispatch {
        /// Which delivery.
        delivery: DeliveryId,
        /// 1 for the first time.
        attempt: u32,
        /// The specification document; none: fetch it (it is over `SPEC_INLINE_BYTES_MAX`).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        spec: Option<String>,
        /// SHA-256 of the document, hexadecimal.
        spec_sha256: String,
        /// The values of the document's `secret_env`.
        #[serde(default, skip_serializing_if = "SecretEnv::is_empty")]
        secrets: SecretEnv,
    },
    /// End it if it has not ended.
    Cancel {
        /// Which delivery.
        delivery: DeliveryId,
    },
    /// Become this release. Only to agents that said in `hello` that they can.
    Upgrade(Offer),
    /// The outcome is durable here: forget it.
    Stored {
        /// Which delivery.
        delivery: DeliveryId,
    },
    /// The last frame made no sense.
    Error(ErrorFrame),
}

/// Agent → server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AgentFrame {
    /// Answer to the challenge.
    Hello(Hello),
    /// The connection's epoch is in the journal, on disk: deliveries may come. It is what the next `hello` shows.
    Ready,
    /// The delivery is in the journal, on disk. Sent again every [`ACCEPTED_AGAIN_SECS`] while it waits for a slot.
    Accepted {
        /// Which delivery.
        delivery: DeliveryId,
    },
    /// The start is in the journal and the process is about to be spawned.
    Started {
        /// Which delivery.
        delivery: DeliveryId,
    },
    /// It ended. Repeated on every connection until `stored`.
    Finished {
        /// Which delivery.
        delivery: DeliveryId,
        /// How.
        outcome: Outcome,
    },
    /// Host inventory: a `Facts` document.
    Facts {
        /// At most [`FACTS_BYTES_MAX`] as JSON.
        facts: serde_json::Value,
    },
    /// What became of an offered release. Only to servers that have sent `upgrade`.
    Upgrading(UpgradeReport),
    /// The last frame made no sense.
    Error(ErrorFrame),
}

/// While a delivery waits for a slot the agent repeats `accepted` this often, in seconds: a report that keeps it from
/// being counted as lost.
pub const ACCEPTED_AGAIN_SECS: u64 = 20;

/// Who the agent is and what its journal holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// Given at enrollment.
    pub agent_id: AgentId,
    /// Ed25519 over [`hello_signature_input`], URL-safe base64 without padding.
    pub signature: String,
    /// The agent's version.
    pub version: String,
    /// Operating system, as `std::env::consts::OS` names it.
    pub os: String,
    /// Identifies this boot of the host.
    pub boot_id: String,
    /// The latest epoch that the journal has, at most [`EPOCH_MAX`]; 0: none yet, or the data folder was moved. It
    /// shows whether this is the journal that the server knows, or a copy or an older state of it.
    pub last_epoch: u64,
    /// Every delivery that the journal has not been allowed to forget; at most [`JOURNAL_ENTRIES_MAX`].
    pub journal: Vec<JournalEntry>,
    /// What it says of upgrades; none: it knows nothing of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<Box<Ability>>,
}

/// One line of the journal in `hello`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalEntry {
    /// Which delivery.
    pub delivery: DeliveryId,
    /// Where it stands on the agent. A terminal state means that `finished` follows.
    pub state: State,
}

/// What the server says to one journal entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalVerdict {
    /// Which delivery.
    pub delivery: DeliveryId,
    /// True: go on with it and report. False: the server has its end already, or does not know it; do not start it,
    /// and forget it.
    pub keep: bool,
    /// Send standard output from this position on.
    pub stdout_from: u64,
    /// Send standard error from this position on.
    pub stderr_from: u64,
}

/// What was wrong with a frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorFrame {
    /// A stable word: `malformed`, `unknown_type`, `unknown_delivery`, `not_dispatched`, `unexpected`, `agent_storage`.
    pub code: String,
    /// A sentence.
    pub message: String,
}

/// A text frame that cannot be taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Its type is none that we know: a newer peer.
    #[error("no frame has the type {0:?}")]
    UnknownType(String),
    /// It is no JSON object, or a field is missing or wrong.
    #[error("the frame cannot be read: {0}")]
    Malformed(String),
}

impl FrameError {
    /// The error frame that answers it.
    pub fn answer(&self) -> ErrorFrame {
        let code = match self {
            FrameError::UnknownType(_) => "unknown_type",
            FrameError::Malformed(_) => "malformed",
        };
        ErrorFrame { code: code.to_owned(), message: self.to_string() }
    }
}

#[derive(Deserialize)]
struct Tag {
    #[serde(rename = "type")]
    kind: String,
}

/// Reads a control frame: [`AgentFrame`] on the server, [`ServerFrame`] on the agent.
///
/// # Errors
/// [`FrameError`].
pub fn decode<T: DeserializeOwned>(text: &str) -> Result<T, FrameError> {
    serde_json::from_str(text).map_err(|error| match serde_json::from_str::<Tag>(text) {
        Ok(tag) if !is_type::<T>(&tag.kind) => FrameError::UnknownType(plain(&tag.kind, 64)),
        _ => FrameError::Malformed(plain(&error.to_string(), PLAIN_CHARS_MAX)),
    })
}

/// A frame of its type alone fails on its fields, if there is such a type: an unknown word further in is another matter.
fn is_type<T: DeserializeOwned>(kind: &str) -> bool {
    let alone = serde_json::from_value::<T>(serde_json::json!({ "type": kind }));
    alone.map_or_else(|error| !error.to_string().starts_with("unknown variant"), |_| true)
}

/// Writes a control frame.
///
/// # Panics
/// Never: the frames' types serialise to JSON.
pub fn encode<T: Serialize>(frame: &T) -> String {
    serde_json::to_string(frame).expect("frames are plain data with string keys")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ids::RolloutId;
    use crate::protocol::upgrade::{UPGRADE_REASON_BYTES_MAX, UpgradeState};

    #[test]
    fn unknown_types_and_broken_frames_are_told_apart() {
        assert_eq!(decode::<AgentFrame>(r#"{"type":"dance"}"#), Err(FrameError::UnknownType("dance".into())));
        for broken in [
            "",
            "[]",
            "{}",
            r#"{"type":"accepted"}"#,
            r#"{"type":7}"#,
            r#"{"type":"accepted","delivery":"x"}"#,
            r#"{"type":"finished","delivery":"01a20a7e-6bbd-7776-9104-798256d5db22","outcome":{"state":"finished"}}"#,
        ] {
            assert!(matches!(decode::<AgentFrame>(broken), Err(FrameError::Malformed(_))), "{broken}");
        }
    }

    #[test]
    fn unknown_fields_are_ignored() {
        let id = DeliveryId::new();
        let frame = decode::<AgentFrame>(&format!(r#"{{"type":"accepted","delivery":"{id}","later":1}}"#));
        assert_eq!(frame, Ok(AgentFrame::Accepted { delivery: id }));
    }

    #[test]
    fn a_full_hello_fits_its_frame() {
        let entry = JournalEntry { delivery: DeliveryId::new(), state: State::Interrupted };
        let hello = AgentFrame::Hello(Hello {
            agent_id: AgentId::new(),
            signature: "s".repeat(86),
            version: "v".repeat(64),
            os: "linux".into(),
            boot_id: "b".repeat(64),
            last_epoch: EPOCH_MAX,
            journal: vec![entry; JOURNAL_ENTRIES_MAX],
            upgrade: Some(Box::new(Ability {
                platform: Some("p".repeat(64)),
                release: Some("f".repeat(64)),
                cannot: Some("c".repeat(UPGRADE_REASON_BYTES_MAX)),
                last: Some(UpgradeReport {
                    rollout: RolloutId::new(),
                    attempt: u32::MAX,
                    state: UpgradeState::RolledBack,
                    reason: Some("\u{1}".repeat(UPGRADE_REASON_BYTES_MAX)),
                    again: true,
                }),
            })),
        });
        assert!(encode(&hello).len() < FRAME_BYTES_MAX);
    }
}
