//! Time-based one-time passwords (RFC 6238): HMAC-SHA-1, 6 digits, a step of 30 s, as every authenticator knows them.

use crate::secret::random;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use ring::hmac::{HMAC_SHA1_FOR_LEGACY_USE_ONLY, Key, sign};

/// Bytes of a secret: as many as the hash has (RFC 4226, section 4).
pub const SECRET_BYTES: usize = 20;
/// Length of a step, in milliseconds.
pub const STEP_MS: i64 = 30_000;
/// So many steps before and after the present one are taken, too: clocks differ, and people type slowly.
const STEPS_AROUND: i64 = 1;
/// Digits of a password.
const DIGITS: u32 = 6;
/// RFC 4648, section 6.
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// A fresh secret.
pub fn new_secret() -> [u8; SECRET_BYTES] {
    random()
}

/// The secret as authenticators take it: base32 without padding.
pub fn base32(bytes: &[u8]) -> String {
    let mut text = String::new();
    for piece in bytes.chunks(5) {
        let mut five = [0; 8];
        five[3..3 + piece.len()].copy_from_slice(piece);
        let bits = u64::from_be_bytes(five);
        for letter in 0..(piece.len() * 8).div_ceil(5) {
            text.push(char::from(BASE32[(bits >> (35 - 5 * letter)) as usize & 31]));
        }
    }
    text
}

/// The URL that authenticators read, often as a picture.
pub fn url(name: &str, secret: &[u8]) -> String {
    let name = utf8_percent_encode(name, NON_ALPHANUMERIC);
    format!("otpauth://totp/postrider:{name}?secret={}&issuer=postrider", base32(secret))
}

/// HOTP (RFC 4226, section 5.3).
fn hotp(key: &Key, counter: u64) -> u32 {
    let tag = sign(key, &counter.to_be_bytes());
    let tag = tag.as_ref();
    let offset = usize::from(tag[tag.len() - 1] & 15);
    let four = [tag[offset] & 0x7f, tag[offset + 1], tag[offset + 2], tag[offset + 3]];
    u32::from_be_bytes(four) % 10_u32.pow(DIGITS)
}

/// The step whose password `code` is, if it is one of the present ones. White space in it does not count.
pub fn step_of(secret: &[u8], code: &str, now_ms: i64) -> Option<i64> {
    let digits: String = code.chars().filter(|c| !c.is_whitespace()).collect();
    if digits.len() != DIGITS as usize || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let given: u32 = digits.parse().ok()?;
    let key = Key::new(HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret);
    let now = now_ms.div_euclid(STEP_MS);
    // All are computed, whichever fits. The latest that fits is taken, so that it is not good a second time as another's.
    (now - STEPS_AROUND..=now + STEPS_AROUND)
        .filter(|step| u64::try_from(*step).is_ok_and(|step| hotp(&key, step) == given))
        .max()
}

/// The password of the present step.
pub fn code_at(secret: &[u8], now_ms: i64) -> String {
    let key = Key::new(HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret);
    format!("{:06}", hotp(&key, u64::try_from(now_ms.div_euclid(STEP_MS)).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RFC: &[u8] = b"12345678901234567890";

    #[test]
    fn rfc_4226_appendix_d() {
        let key = Key::new(HMAC_SHA1_FOR_LEGACY_USE_ONLY, RFC);
        let codes = [755_224, 287_082, 359_152, 969_429, 338_314, 254_676, 287_922, 162_583, 399_871, 520_489];
        for (counter, code) in (0..).zip(codes) {
            assert_eq!(hotp(&key, counter), code, "{counter}");
        }
    }

    #[test]
    fn rfc_6238_appendix_b() {
        // The RFC's have 8 digits; ours are the last 6.
        let codes = [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ];
        for (second, code) in codes {
            assert_eq!(code_at(RFC, second * 1000), code);
            assert_eq!(step_of(RFC, code, second * 1000), Some(second / 30));
        }
    }

    #[test]
    fn one_step_around_is_good_and_two_are_not() {
        let code = code_at(RFC, 3_000_000);
        for (now_ms, good) in
            [(2_940_000, false), (2_970_000, true), (3_029_999, true), (3_059_999, true), (3_060_000, false)]
        {
            assert_eq!(step_of(RFC, &code, now_ms).is_some(), good, "{now_ms}");
        }
        assert_eq!(step_of(RFC, &format!(" {} {}\n", &code[..3], &code[3..]), 3_000_000), Some(100));
        for bad in ["", "12345", "1234567", "+12345", "12345a", "١٢٣٤٥٦"] {
            assert_eq!(step_of(RFC, bad, 3_000_000), None, "{bad}");
        }
    }

    #[test]
    fn base32_is_that_of_rfc_4648() {
        let cases =
            [("", ""), ("f", "MY"), ("fo", "MZXQ"), ("foo", "MZXW6"), ("foob", "MZXW6YQ"), ("foobar", "MZXW6YTBOI")];
        for (text, coded) in cases {
            assert_eq!(base32(text.as_bytes()), coded);
        }
        assert_eq!(
            url("ann @ home", RFC),
            "otpauth://totp/postrider:ann%20%40%20home?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=postrider"
        );
    }
}
