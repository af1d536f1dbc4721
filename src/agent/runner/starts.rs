//! How many commands the agent starts a minute: the brake at the endpoint.
//!
//! A server in wrong hands, or a loop in somebody's script, must not run thousands of commands in no time. Over the
//! limit nothing is refused: it waits as if all slots were taken. The bucket is in memory only and is full at the
//! agent's start. It counts starts; what one command does it cannot limit.

use std::time::{Duration, Instant};

/// A minute, in seconds: the unit of the limit.
const MINUTE_SECS: f64 = 60.0;

/// The bucket: it holds a minute's starts and is refilled evenly.
#[derive(Debug)]
pub struct Starts {
    per_minute: u32,
    tokens: f64,
    filled: Instant,
    held_up: bool,
}

/// There is no start left.
#[derive(Debug, PartialEq)]
pub struct HeldUp {
    /// Until the next one.
    pub left: Duration,
    /// Nobody was held up shortly before: worth a line in the log.
    pub is_new: bool,
}

impl Starts {
    /// A full bucket. Zero counts as one.
    pub fn new(per_minute: u32, now: Instant) -> Self {
        let per_minute = per_minute.max(1);
        Self { per_minute, tokens: f64::from(per_minute), filled: now, held_up: false }
    }

    /// The limit.
    pub fn per_minute(&self) -> u32 {
        self.per_minute
    }

    /// Takes a start.
    ///
    /// # Errors
    /// [`HeldUp`]: there is none now. Nothing is taken.
    pub fn take(&mut self, now: Instant) -> Result<(), HeldUp> {
        let burst = f64::from(self.per_minute);
        let per_second = burst / MINUTE_SECS;
        let new = now.saturating_duration_since(self.filled).as_secs_f64() * per_second;
        self.tokens = (self.tokens + new).min(burst);
        self.filled = now;
        if self.tokens < 1.0 {
            let is_new = !std::mem::replace(&mut self.held_up, true);
            return Err(HeldUp { left: Duration::from_secs_f64((1.0 - self.tokens) / per_second), is_new });
        }
        // Half full again: what comes next is another flood. At the limit's edge one line a start would be a flood, too.
        if self.tokens >= burst / 2.0 {
            self.held_up = false;
        }
        self.tokens -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(starts: &mut Starts, now: Instant) -> u32 {
        let mut taken = 0;
        while starts.take(now).is_ok() {
            taken += 1;
        }
        taken
    }

    #[test]
    fn a_minutes_starts_at_once_then_as_many_as_time_gives() {
        let begun = Instant::now();
        let mut starts = Starts::new(60, begun);
        assert_eq!(taken(&mut starts, begun), 60);
        assert_eq!(starts.take(begun), Err(HeldUp { left: Duration::from_secs(1), is_new: false }));
        let later = begun + Duration::from_millis(10_500);
        assert_eq!(taken(&mut starts, later), 10);
        assert_eq!(starts.take(later).unwrap_err().left, Duration::from_millis(500));
        assert_eq!(taken(&mut starts, later + Duration::from_secs(3600)), 60, "no more than a minute's are saved up");
        assert!(starts.take(begun).is_err(), "a clock that goes back gives nothing");
    }

    #[test]
    fn it_is_new_once_until_half_of_the_bucket_is_back() {
        let begun = Instant::now();
        let mut starts = Starts::new(4, begun);
        assert_eq!(starts.take(begun), Ok(()));
        let mut news = |now: Instant| (0..5).filter_map(|_| starts.take(now).err()).filter(|up| up.is_new).count();
        assert_eq!(news(begun), 1);
        assert_eq!(news(begun), 0);
        assert_eq!(news(begun + Duration::from_secs(15)), 0, "one start came back and is used");
        assert_eq!(news(begun + Duration::from_secs(45)), 1, "two came back: half");
    }

    #[test]
    fn the_smallest_limit_is_one() {
        let begun = Instant::now();
        for per_minute in [0, 1] {
            let mut starts = Starts::new(per_minute, begun);
            assert_eq!(taken(&mut starts, begun), 1);
            assert_eq!(taken(&mut starts, begun + Duration::from_secs(59)), 0);
            assert_eq!(taken(&mut starts, begun + Duration::from_secs(61)), 1);
        }
    }
}
