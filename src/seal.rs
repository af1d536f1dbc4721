//! Sealing: small secrets that the database has to keep for a while, unreadable without a key that lies outside of it.
//!
//! A stolen database or backup of it alone opens nothing. Whoever has the whole data folder has the key, too.

use crate::secret::random;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;

/// Bytes of a key.
pub const SEAL_KEY_BYTES: usize = 32;

/// A key. Prints as nothing.
pub struct SealKey {
    sealing: LessSafeKey,
    marking: hmac::Key,
}

impl std::fmt::Debug for SealKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealKey")
    }
}

impl SealKey {
    /// From the bytes of its file.
    ///
    /// # Panics
    /// Never: any 32 bytes are a key of this cipher.
    pub fn new(bytes: &[u8; SEAL_KEY_BYTES]) -> Self {
        let sealing = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, bytes).expect("32 bytes are a key"));
        // One key for one purpose: the other is derived.
        let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, bytes), b"postrider marks");
        Self { sealing, marking: hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()) }
    }

    /// Seals `plain`. `context` says what it is and whose: it opens under the same one only, so that one sealed text
    /// cannot be put in the place of another.
    ///
    /// # Panics
    /// When the operating system has no randomness to give.
    pub fn seal(&self, context: &[u8], plain: &[u8]) -> Vec<u8> {
        // A nonce is random: 2^32 of them under one key are far more than there will be.
        let nonce = random::<NONCE_LEN>();
        let mut sealed = plain.to_vec();
        let tag = self
            .sealing
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(context), &mut sealed)
            .expect("far below the cipher's limit of 256 GiB");
        [&nonce[..], &sealed, tag.as_ref()].concat()
    }

    /// Opens what was sealed under the same key and context; none for anything else.
    pub fn open(&self, context: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, rest) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut rest = rest.to_vec();
        let plain =
            self.sealing.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(context), &mut rest).ok()?.len();
        rest.truncate(plain);
        Some(rest)
    }

    /// A mark of `bytes` by which they are known again. Unlike a plain hash it lets nobody without the key try out what
    /// they were.
    pub fn mark(&self, bytes: &[u8]) -> [u8; 32] {
        let mut mark = [0; 32];
        mark.copy_from_slice(hmac::sign(&self.marking, bytes).as_ref());
        mark
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_under_its_key_and_context_alone() {
        let key = SealKey::new(&[7; SEAL_KEY_BYTES]);
        let sealed = key.seal(b"totp 1", b"secret");
        assert_eq!(key.open(b"totp 1", &sealed).as_deref(), Some(&b"secret"[..]));
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        assert_ne!(sealed, key.seal(b"totp 1", b"secret"));
        assert_eq!(key.open(b"totp 2", &sealed), None);
        assert_eq!(SealKey::new(&[8; SEAL_KEY_BYTES]).open(b"totp 1", &sealed), None);
        for cut in 0..sealed.len() {
            assert_eq!(key.open(b"totp 1", &sealed[..cut]), None);
        }
        assert_eq!(key.mark(b"a"), SealKey::new(&[7; SEAL_KEY_BYTES]).mark(b"a"));
        assert_ne!(key.mark(b"a"), key.mark(b"b"));
        assert_ne!(key.mark(b"a"), SealKey::new(&[8; SEAL_KEY_BYTES]).mark(b"a"));
        let mut changed = sealed;
        changed[NONCE_LEN] ^= 1;
        assert_eq!(key.open(b"totp 1", &changed), None);
    }
}
