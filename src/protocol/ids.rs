//! Identifiers: UUIDv7, one type for each kind, so that no id is taken for another.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A fresh one (version 7: its first 48 bits are the time in milliseconds).
            #[allow(clippy::new_without_default)] // A default id would be a different one each time.
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// From the 16 bytes that databases and output frames hold.
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// The 16 bytes.
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Uuid::parse_str(text).map(Self).map_err(|_| IdError { what: $what, text: text.chars().take(64).collect() })
            }
        }
    };
}

id!(
    /// One command: what was asked, once.
    CommandId,
    "command"
);
id!(
    /// One delivery: a command × an agent.
    DeliveryId,
    "delivery"
);
id!(
    /// One enrolled agent.
    AgentId,
    "agent"
);
id!(
    /// One rollout of a release to agents.
    RolloutId,
    "rollout"
);
id!(
    /// One operator's token.
    TokenId,
    "token"
);
id!(
    /// One join string.
    JoinId,
    "join string"
);
id!(
    /// One server database, from its creation on.
    ServerId,
    "server"
);
id!(
    /// One HTTP request, to find it in the log.
    RequestId,
    "request"
);

/// A text that is no id.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is not a {what} id (a UUID like 01928c3e-5a70-7e63-9f0a-3c1f0d6b2a11)")]
pub struct IdError {
    what: &'static str,
    text: String,
}
