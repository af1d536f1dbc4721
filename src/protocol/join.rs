//! Join strings: all that a new agent needs, in one word to paste.
//!
//! `prj1_` and URL-safe base64 of a JSON document followed by the first four bytes of its SHA-256, so that a
//! truncated or mistyped string is told at once.

use super::ids::ServerId;
use crate::secret::{Secret, sha256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

/// How join strings of this version start.
pub const JOIN_PREFIX: &str = "prj1_";
/// Longest join string, in bytes.
pub const JOIN_BYTES_MAX: usize = 2048;
const CHECKSUM_BYTES: usize = 4;

/// What a join string holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinString {
    /// Where the server is, such as `http://192.0.2.1:7717`.
    pub url: String,
    /// Which server it must be.
    pub server_id: ServerId,
    /// What proves the right to enroll.
    pub secret: Secret,
}

#[derive(Serialize, Deserialize)]
struct Document {
    url: String,
    server_id: ServerId,
    secret: String,
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
    ///
    /// # Panics
    /// Never: the document serialises to JSON.
    pub fn encode(&self) -> String {
        let document =
            Document { url: self.url.clone(), server_id: self.server_id, secret: self.secret.expose().to_owned() };
        let mut bytes = serde_json::to_vec(&document).expect("plain data with string keys");
        let sum = sha256(&bytes);
        bytes.extend_from_slice(&sum[..CHECKSUM_BYTES]);
        format!("{JOIN_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
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
        let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| JoinStringError::Damaged)?;
        let (document, sum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(JoinStringError::Damaged)?;
        if sha256(document)[..CHECKSUM_BYTES] != sum[..] {
            return Err(JoinStringError::Damaged);
        }
        let document: Document = serde_json::from_slice(document).map_err(|_| JoinStringError::Damaged)?;
        Ok(Self { url: document.url, server_id: document.server_id, secret: Secret::new(document.secret) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn join_strings_read_back_and_damage_is_seen() {
        let join = JoinString {
            url: "http://127.0.0.1:7717".into(),
            server_id: ServerId::new(),
            secret: Secret::generate(""),
        };
        let text = join.encode();
        assert_eq!(JoinString::decode(&format!(" {text}\n")), Ok(join));
        for cut in JOIN_PREFIX.len()..text.len() {
            assert_eq!(JoinString::decode(&text[..cut]), Err(JoinStringError::Damaged), "{cut}");
        }
        assert_eq!(JoinString::decode("hello"), Err(JoinStringError::NotOne));
    }
}
