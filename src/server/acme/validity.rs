//! From when to when a certificate is good (RFC 5280, section 4.1.2.5): as much of DER as it takes to get there.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0] EXPLICIT`, the version.
const VERSION: u8 = 0xa0;

/// The first and the last moment of a certificate in DER, in Unix milliseconds. None: it is no certificate.
pub fn validity(certificate: &[u8]) -> Option<(i64, i64)> {
    let (certificate, _) = expect(SEQUENCE, certificate)?;
    let (mut fields, _) = expect(SEQUENCE, certificate)?;
    if fields.first() == Some(&VERSION) {
        (_, fields) = expect(VERSION, fields)?;
    }
    // Serial number, signature algorithm, issuer.
    for _ in 0..3 {
        (_, _, fields) = element(fields)?;
    }
    let (times, _) = expect(SEQUENCE, fields)?;
    let (first, times) = time(times)?;
    let (last, _) = time(times)?;
    Some((first, last))
}

/// The next element's tag and content, and what follows it.
fn element(input: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, input) = input.split_first()?;
    let (&length, mut input) = input.split_first()?;
    let mut length = usize::from(length);
    if length >= 0x80 {
        let bytes = length - 0x80;
        // Two bytes would do for any certificate; four cannot overflow.
        if bytes == 0 || bytes > 4 || input.len() < bytes {
            return None;
        }
        let (head, rest) = input.split_at(bytes);
        length = head.iter().fold(0, |length, &byte| (length << 8) | usize::from(byte));
        input = rest;
    }
    (input.len() >= length).then(|| (tag, &input[..length], &input[length..]))
}

fn expect(wanted: u8, input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (tag, content, rest) = element(input)?;
    (tag == wanted).then_some((content, rest))
}

/// A time in Unix milliseconds, and what follows it.
fn time(input: &[u8]) -> Option<(i64, &[u8])> {
    let (tag, content, rest) = element(input)?;
    let text = std::str::from_utf8(content).ok()?;
    let text = match tag {
        // Two digits of the year: from 1950 to 2049.
        UTC_TIME if text.get(..1)? < "5" => format!("20{text}"),
        UTC_TIME => format!("19{text}"),
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    let time = DateTime::strptime("%Y%m%d%H%M%SZ", &text).ok()?;
    Some((TimeZone::UTC.to_timestamp(time).ok()?.as_millisecond(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    fn certificate(from: (i32, u8, u8), to: (i32, u8, u8)) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.not_before = date_time_ymd(from.0, from.1, from.2);
        params.not_after = date_time_ymd(to.0, to.1, to.2);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn ms(time: &str) -> i64 {
        time.parse::<jiff::Timestamp>().unwrap().as_millisecond()
    }

    #[test]
    fn both_kinds_of_time_are_read() {
        let der = certificate((2026, 1, 31), (2049, 12, 31));
        assert_eq!(validity(&der), Some((ms("2026-01-31T00:00:00Z"), ms("2049-12-31T00:00:00Z"))));
        let der = certificate((1999, 2, 28), (2050, 1, 1));
        assert_eq!(validity(&der), Some((ms("1999-02-28T00:00:00Z"), ms("2050-01-01T00:00:00Z"))));
    }

    #[test]
    fn a_part_of_a_certificate_is_none() {
        let der = certificate((2026, 1, 31), (2026, 4, 30));
        assert!((0..der.len()).all(|end| validity(&der[..end]).is_none()));
        assert_eq!(validity(b"-----BEGIN CERTIFICATE-----"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            validity(&bytes);
            validity(&[&[SEQUENCE, 0x81, 0x80, SEQUENCE, 0x7d][..], &bytes].concat());
        }
    }
}
