//! Secrets: made, hashed, compared, and kept out of logs.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use std::fmt;

/// Bytes of randomness in each secret: beyond guessing, so a plain hash is enough at rest.
pub const SECRET_BYTES: usize = 32;

/// A text that prints as `[redacted]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A fresh one: `prefix` and 32 random bytes in URL-safe base64. The prefix lets people and scanners tell
    /// what kind of secret lies before them.
    ///
    /// # Panics
    /// When the operating system has no randomness to give: nothing safe can be done without it.
    pub fn generate(prefix: &str) -> Self {
        Self(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(random::<SECRET_BYTES>())))
    }

    /// Wraps a text that came from outside.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself. What calls this must not log it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// SHA-256 of the text: what is stored.
    pub fn hash(&self) -> [u8; 32] {
        sha256(self.0.as_bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// How the texts begin that open something: tokens, operators' sessions, join strings.
pub const SECRET_PREFIXES: [&str; 3] = ["prt_", "prs_", "prj1_"];

/// `text` without the secrets in it, as far as their prefix tells: somebody may have put one where a name belongs.
pub fn redacted(text: &str) -> String {
    let mut left = text;
    let mut out = String::new();
    while let Some((at, prefix)) =
        SECRET_PREFIXES.iter().filter_map(|prefix| Some((left.find(prefix)?, prefix))).min_by_key(|(at, _)| *at)
    {
        let (before, rest) = left.split_at(at + prefix.len());
        out.push_str(before);
        left = rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
        if left.len() < rest.len() {
            out.push_str("[redacted]");
        }
    }
    out + left
}

/// SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Reads `N` bytes in hexadecimal; none for anything else.
pub fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// `N` random bytes from the operating system.
///
/// # Panics
/// When the operating system has none to give.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_taken_out_of_texts() {
        let (token, join) = (Secret::generate("prt_"), Secret::generate("prj1_"));
        let text = format!("/a/{}?b={}, prs_ and prt_x.", token.expose(), join.expose());
        assert_eq!(redacted(&text), "/a/prt_[redacted]?b=prj1_[redacted], prs_ and prt_[redacted].");
        assert_eq!(redacted("web-1"), "web-1");
    }

    #[test]
    fn hexadecimal_reads_back() {
        assert_eq!(from_hex(&hex(&[0, 255, 16])), Some([0, 255, 16]));
        for bad in ["", "00ff1", "00ff1g", "+0ff10", "00ff1000"] {
            assert_eq!(from_hex::<3>(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::generate("prt_");
        assert_eq!(format!("{secret:?}"), "[redacted]");
        assert!(secret.expose().starts_with("prt_"));
        assert_ne!(secret, Secret::generate("prt_"));
    }
}
