//! Moments, as people read them: local time.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// `ms` (Unix milliseconds) as local time with seconds: "08:12:05" on the day of `now_ms`, else with the date.
pub fn moment(ms: i64, now_ms: i64) -> String {
    in_zone(ms, now_ms, "%H:%M:%S", &TimeZone::system())
}

/// Like [`moment`], to the minute.
pub fn minute(ms: i64, now_ms: i64) -> String {
    in_zone(ms, now_ms, "%H:%M", &TimeZone::system())
}

/// `ms` (Unix milliseconds) as local time with milliseconds, without the date: to compare the steps of a delivery.
pub fn step(ms: i64, now_ms: i64) -> String {
    in_zone(ms, now_ms, "%H:%M:%S%.3f", &TimeZone::system())
}

fn in_zone(ms: i64, now_ms: i64, clock: &str, zone: &TimeZone) -> String {
    let (Ok(then), Ok(now)) = (Timestamp::from_millisecond(ms), Timestamp::from_millisecond(now_ms)) else {
        return "an unknown time".to_owned();
    };
    let (then, now) = (then.to_zoned_datetime(zone.clone()), now.to_zoned_datetime(zone.clone()));
    if then.date() == now.date() {
        then.strftime(clock).to_string()
    } else {
        then.strftime(&format!("%Y-%m-%d {clock}")).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_only_when_it_is_another_day() {
        let zone = TimeZone::UTC;
        let now = 1_700_000_000_000; // 2023-11-14 22:13:20
        assert_eq!(in_zone(now - 60_000, now, "%H:%M", &zone), "22:12");
        assert_eq!(in_zone(now + 7_200_000, now, "%H:%M", &zone), "2023-11-15 00:13");
        assert_eq!(in_zone(now + 250, now, "%H:%M:%S%.3f", &zone), "22:13:20.250");
        assert_eq!(in_zone(i64::MAX, now, "%H:%M", &zone), "an unknown time");
    }
}
