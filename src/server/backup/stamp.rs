//! Times in names of files and folders: UTC, to the second, sorting as they went by.

use jiff::Timestamp;

/// `YYYYMMDDTHHMMSSZ`.
pub fn stamp(at_ms: i64) -> String {
    let at = Timestamp::from_millisecond(at_ms).unwrap_or(Timestamp::UNIX_EPOCH);
    at.strftime("%Y%m%dT%H%M%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_of_utc() {
        assert_eq!(stamp(1_763_980_953_999), "20251124T104233Z");
        assert_eq!(stamp(i64::MAX), "19700101T000000Z");
    }
}
