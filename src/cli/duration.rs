//! Lengths of time, as people type and read them.

use std::time::Duration;

/// A text that is no length of time.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Not a number and a unit.
    #[error("{0:?} is not a length of time: a number and a unit, like 1500ms, 60s, 5m, 24h or 7d")]
    Form(String),
    /// The unit is unknown.
    #[error("{0:?} is not a unit of time: ms, s, m, h or d")]
    Unit(String),
    /// More than the caller allows, or zero.
    #[error("{text:?} is out of range: more than 0 and at most {max}")]
    Range {
        /// What was typed.
        text: String,
        /// The most that is allowed.
        max: String,
    },
}

/// Reads `60s`, `5m`, `24h`, `7d`, `1500ms`, `1.5h`; a number alone is seconds.
///
/// # Errors
/// [`DurationError::Form`], [`DurationError::Unit`].
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let text = text.trim();
    let form = || DurationError::Form(text.chars().take(40).collect());
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().map_err(|_| form())?;
    let unit_secs = match unit.trim() {
        "ms" => 0.001,
        "" | "s" | "sec" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        other if other.starts_with(|c: char| c.is_alphabetic()) => {
            return Err(DurationError::Unit(other.chars().take(20).collect()));
        }
        _ => return Err(form()),
    };
    // Whole milliseconds: 0.3 s must not become 299 ms on its way.
    let millis = (number * unit_secs * 1000.0).round();
    if !(0.0..=1e15).contains(&millis) {
        return Err(form());
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // In range, as checked above.
    Ok(Duration::from_millis(millis as u64))
}

/// Reads a length of time of more than 0 and at most `max_ms`.
///
/// # Errors
/// [`DurationError`].
pub fn parse_up_to(text: &str, max_ms: u64) -> Result<Duration, DurationError> {
    let duration = parse(text)?;
    if duration.is_zero() || duration > Duration::from_millis(max_ms) {
        return Err(DurationError::Range {
            text: text.chars().take(40).collect(),
            max: span(i64::try_from(max_ms).unwrap_or(i64::MAX)),
        });
    }
    Ok(duration)
}

/// A span of `ms` milliseconds for people: "340 ms", "3.2 s", "4 min 5 s", "3 h 5 min", "6 d 23 h". Negative is 0.
pub fn span(ms: i64) -> String {
    let ms = ms.max(0);
    let (secs, mins, hours, days) = (ms / 1000, ms / 60_000, ms / 3_600_000, ms / 86_400_000);
    let two = |big: i64, unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{big} {unit}"),
        _ => format!("{big} {unit} {small} {small_unit}"),
    };
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..60_000 if ms % 1000 < 100 => format!("{secs} s"),
        1000..60_000 => format!("{secs}.{} s", ms % 1000 / 100),
        60_000..3_600_000 => two(mins, "min", secs % 60, "s"),
        3_600_000..86_400_000 => two(hours, "h", mins % 60, "min"),
        _ => two(days, "d", hours % 24, "h"),
    }
}

/// How long ago something was: "just now", "3 s ago", "2 h 5 min ago". The future (clocks differ) is now.
pub fn ago(ms: i64) -> String {
    match ms {
        ..1000 => "just now".to_owned(),
        1000..60_000 => format!("{} s ago", ms / 1000),
        60_000..3_600_000 => format!("{} min ago", ms / 60_000),
        _ => format!("{} ago", span(ms)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_type() {
        let cases = [
            ("60s", 60_000),
            ("5m", 300_000),
            ("24h", 86_400_000),
            ("7d", 604_800_000),
            ("1500ms", 1500),
            ("0.3", 300),
            ("90", 90_000),
            ("1.5h", 5_400_000),
            (" 2 min ", 120_000),
        ];
        for (text, ms) in cases {
            assert_eq!(parse(text).unwrap(), Duration::from_millis(ms), "{text}");
        }
        for bad in ["", "s", "-5s", "1h30m", "1..2s", "5%", "nan", "1e400", "99999999999999999999d"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert_eq!(parse("5 weeks"), Err(DurationError::Unit("weeks".into())));
    }

    #[test]
    fn limits_are_told() {
        let error = parse_up_to("25h", 86_400_000).unwrap_err();
        assert_eq!(error.to_string(), "\"25h\" is out of range: more than 0 and at most 1 d");
        assert!(parse_up_to("0", 10).is_err());
        assert!(parse_up_to("24h", 86_400_000).is_ok());
    }

    #[test]
    fn what_people_read() {
        let cases = [
            (-5, "0 ms"),
            (340, "340 ms"),
            (3_000, "3 s"),
            (3_250, "3.2 s"),
            (245_000, "4 min 5 s"),
            (3_600_000, "1 h"),
            (11_100_000, "3 h 5 min"),
            (601_200_000, "6 d 23 h"),
        ];
        for (ms, text) in cases {
            assert_eq!(span(ms), text);
        }
        assert_eq!(ago(-1), "just now");
        assert_eq!(ago(3_900), "3 s ago");
        assert_eq!(ago(7_500_000), "2 h 5 min ago");
    }
}
