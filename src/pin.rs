//! Pins: by which a client knows a server's authority, wherever the server is.
//!
//! A pin is the SHA-256 of the authority's SubjectPublicKeyInfo. Its name, of which the authority's leaf is made, is no
//! address: it is only what the client asks for in TLS.

use crate::secret::{from_hex, hex, sha256};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// Most pins of one server. A login or join string carries all of them, and stays one line to paste.
pub const PINS_MAX: usize = 8;
/// What the names of pins end with. `internal` is reserved for names that no public authority certifies.
const NAME_SUFFIX: &str = ".postrider.internal";
/// A label of a DNS name has at most 63 characters; 32 hexadecimal digits are 128 bits.
const NAME_DIGITS: usize = 32;

/// An authority's fingerprint.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pin([u8; 32]);

/// A text that is no pin.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no pin: it has 64 hexadecimal digits; `postrider authority list` shows them")]
pub struct PinError(String);

impl Pin {
    /// The pin of a DER-encoded SubjectPublicKeyInfo.
    pub fn of_key(subject_public_key_info: &[u8]) -> Self {
        Self(sha256(subject_public_key_info))
    }

    /// From the 32 bytes that the database holds.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The name to ask for in TLS.
    pub fn name(&self) -> String {
        format!("{}{NAME_SUFFIX}", &self.to_string()[..NAME_DIGITS])
    }

    /// Whether a lower-case name is some pin's.
    pub fn is_name(name: &str) -> bool {
        name.ends_with(NAME_SUFFIX)
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex(&self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Pin {
    type Err = PinError;
    fn from_str(text: &str) -> Result<Self, PinError> {
        from_hex(text).map(Self).ok_or_else(|| PinError(text.chars().take(80).collect()))
    }
}

impl Serialize for Pin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Pin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Pins in one line, separated by commas. What is none is left out.
pub fn parse_list(text: &str) -> Vec<Pin> {
    text.split(',').filter_map(|pin| pin.trim().parse().ok()).take(PINS_MAX).collect()
}

/// Pins in one line, separated by commas.
pub fn list(pins: &[Pin]) -> String {
    pins.iter().map(Pin::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_read_back_and_nothing_else_is_one() {
        let (one, two) = (Pin::of_key(b"one"), Pin::of_key(b"two"));
        assert_eq!(one.to_string().parse::<Pin>().unwrap(), one);
        assert_eq!(serde_json::from_str::<Pin>(&serde_json::to_string(&two).unwrap()).unwrap(), two);
        assert_eq!(parse_list(&list(&[one, two])), [one, two]);
        assert_ne!(one.name(), two.name());
        assert!(Pin::is_name(&one.name()) && one.name().split('.').all(|label| label.len() <= 63));
        for bad in ["", "ab", &"g".repeat(64), &"é".repeat(32), &format!("+{}", "a".repeat(63))] {
            assert!(bad.parse::<Pin>().is_err(), "{bad}");
        }
    }
}
