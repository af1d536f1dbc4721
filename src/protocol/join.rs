//! Join strings: all that a new agent needs, in one word to paste.
//!
//! `prj1_` and, as with [login strings](super::login), URL-safe base64 of a JSON document followed by the first four bytes of its SHA-256, so that a
//! truncated or mistyped string is told at once.

use super::ids::ServerId;
use super::login::{seal, unseal};
use crate::pin::Pin;
use crate::secret::Secret;
use serde::{Deserialize, Serialize};

/// How join strings of this version start.
pub const JOIN_PREFIX: &str = "prj1_";
/// Longest join string, in bytes.
pub const JOIN_BYTES_MAX: usize = 2048;

/// What a join string holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinString {
    /// Where the server is, such as `http://192.0.2.1:7717`.
    pub url: String,
    /// Which server it must be.
    pub server_id: ServerId,
    /// What proves the right to enroll.
    pub secret: Secret,
    /// By whose authority it must be that server, newest first; empty: the address decides.
    pub pins: Vec<Pin>,
}

#[derive(Serialize, Deserialize)]
struct Document {
    url: String,
    server_id: ServerId,
    secret: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pins: Vec<Pin>,
}

/// A text that is no join string. Never repeats the text: it holds a secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinStringError {
    /// Wrong prefix or length.
    #[error("this is not a join string: it starts with {JOIN_PREFIX}; `postrider join create` makes one")]
    NotOne,
    /// The checksum does not fit.
    #[error("the join string is damaged or cut off: copy it again, whole")]
    Damaged,
}

impl JoinString {
    /// The string to paste.
    pub fn encode(&self) -> String {
        let document = Document {
            url: self.url.clone(),
            server_id: self.server_id,
            secret: self.secret.expose().to_owned(),
            pins: self.pins.clone(),
        };
        seal(JOIN_PREFIX, &document)
    }

    /// Reads a pasted string. White space around it is ignored.
    ///
    /// # Errors
    /// [`JoinStringError`].
    pub fn decode(text: &str) -> Result<Self, JoinStringError> {
        let text = text.trim();
        let body = text.strip_prefix(JOIN_PREFIX).ok_or(JoinStringError::NotOne)?;
        if text.len() > JOIN_BYTES_MAX {
            return Err(JoinStringError::NotOne);
        }
        let Document { url, server_id, secret, pins } = unseal(body).ok_or(JoinStringError::Damaged)?;
        Ok(Self { url, server_id, secret: Secret::new(secret), pins })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pin::PINS_MAX;

    #[test]
    fn join_strings_read_back_and_damage_is_seen() {
        let join = JoinString {
            url: "http://127.0.0.1:7717".into(),
            server_id: ServerId::new(),
            secret: Secret::generate(""),
            pins: vec![Pin::of_key(b"a"); PINS_MAX],
        };
        let text = join.encode();
        assert_eq!(JoinString::decode(&format!(" {text}\n")), Ok(join));
        for cut in JOIN_PREFIX.len()..text.len() {
            assert_eq!(JoinString::decode(&text[..cut]), Err(JoinStringError::Damaged), "{cut}");
        }
        assert_eq!(JoinString::decode("hello"), Err(JoinStringError::NotOne));
    }

    #[test]
    fn a_string_without_pins_reads_as_one_with_none() {
        let old = serde_json::json!({ "url": "http://a:1", "server_id": ServerId::new(), "secret": "s" });
        assert_eq!(JoinString::decode(&seal(JOIN_PREFIX, &old)).unwrap().pins, []);
    }
}
