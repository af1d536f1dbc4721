//! The bodies of `/api/authorities`, and how answers tell the pins.

use crate::pin::Pin;
use serde::{Deserialize, Serialize};

/// The header of answers over TLS that carries the pins of the server's authorities: newest first, separated by commas.
pub const PINS_HEADER: &str = "x-postrider-pins";

/// An authority of the server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuthorityResponse {
    /// Its pin.
    pub pin: Pin,
    /// When it was made.
    pub created_ms: i64,
    /// Whether it is the one that fresh join and login strings name first.
    pub newest: bool,
    /// How many agents that are not revoked know no newer one, as far as the server knows.
    pub agents: u64,
}

/// `GET /api/authorities`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuthoritiesResponse {
    /// Newest first.
    pub authorities: Vec<AuthorityResponse>,
    /// The login string: the server's address and its pins. It holds no secret.
    pub login: String,
}
