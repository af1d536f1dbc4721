//! Login strings: where a server is and by which authorities it is known, in one word to paste. They hold no secret.
//!
//! `prl1_` and URL-safe base64 of a JSON document followed by the first four bytes of its SHA-256, so that a truncated
//! or mistyped string is told at once. Join strings are sealed in the same way.

use super::ids::ServerId;
use crate::pin::Pin;
use crate::secret::sha256;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// How login strings of this version start.
pub const LOGIN_PREFIX: &str = "prl1_";
/// Longest login string, in bytes.
const LOGIN_BYTES_MAX: usize = 2048;
const CHECKSUM_BYTES: usize = 4;

/// What a login string holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginString {
    /// Where the server is, such as `https://192.0.2.1:7717`.
    pub url: String,
    /// Which server made it.
    pub server_id: ServerId,
    /// By whose authority it must be that server, newest first.
    pub pins: Vec<Pin>,
}

/// A text that is no login string.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the login string is damaged or cut off: copy it again, whole (`postrider authority list` on the server shows it)"
)]
pub struct LoginStringError;

impl LoginString {
    /// The string to paste.
    pub fn encode(&self) -> String {
        seal(LOGIN_PREFIX, self)
    }

    /// Reads a pasted string; none: it is something else, such as an address.
    ///
    /// # Errors
    /// [`LoginStringError`] for what starts like one.
    pub fn decode(text: &str) -> Result<Option<Self>, LoginStringError> {
        let Some(body) = text.trim().strip_prefix(LOGIN_PREFIX) else { return Ok(None) };
        if body.len() > LOGIN_BYTES_MAX {
            return Err(LoginStringError);
        }
        unseal(body).map(Some).ok_or(LoginStringError)
    }
}

/// A document as text to paste.
///
/// # Panics
/// Never: the documents are plain data.
pub(super) fn seal<T: Serialize>(prefix: &str, document: &T) -> String {
    let mut bytes = serde_json::to_vec(document).expect("plain data with string keys");
    let sum = sha256(&bytes);
    bytes.extend_from_slice(&sum[..CHECKSUM_BYTES]);
    format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// The document of a pasted text without its prefix; none: it is damaged.
pub(super) fn unseal<T: DeserializeOwned>(body: &str) -> Option<T> {
    let bytes = URL_SAFE_NO_PAD.decode(body).ok()?;
    let (document, sum) = bytes.split_last_chunk::<CHECKSUM_BYTES>()?;
    if sha256(document)[..CHECKSUM_BYTES] != sum[..] {
        return None;
    }
    serde_json::from_slice(document).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn login_strings_read_back_and_damage_is_seen() {
        let pins = vec![Pin::of_key(b"a"), Pin::of_key(b"b")];
        let login = LoginString { url: "https://192.0.2.1:7717".into(), server_id: ServerId::new(), pins };
        let text = login.encode();
        assert_eq!(LoginString::decode(&format!(" {text}\n")), Ok(Some(login)));
        assert_eq!(LoginString::decode(&text[..text.len() - 2]), Err(LoginStringError));
        assert_eq!(LoginString::decode("https://192.0.2.1:7717"), Ok(None));
    }
}
