//! Reconnect delays: exponential with full jitter.

use crate::secret::random;
use std::time::Duration;

/// Waits between tries. Each wait is drawn evenly from zero to a ceiling that doubles, so that a fleet which
/// lost its server at one moment does not come back at one moment.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    ceiling: Duration,
}

impl Backoff {
    /// The first ceiling and the largest.
    pub fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, ceiling: first }
    }

    /// The next wait. `at_least` is what the other side asked for, if it did: jitter is added on top of it.
    pub fn next(&mut self, at_least: Option<Duration>) -> Duration {
        let wait = jitter(self.ceiling);
        self.ceiling = self.ceiling.saturating_mul(2).min(self.max);
        at_least.unwrap_or_default() + wait
    }

    /// A try succeeded: start over.
    pub fn reset(&mut self) {
        self.ceiling = self.first;
    }

    /// A try came so far that the next ceiling should be no larger than this.
    pub fn ease(&mut self, ceiling: Duration) {
        self.ceiling = self.ceiling.min(ceiling);
    }
}

/// An even draw from zero to `ceiling`.
pub fn jitter(ceiling: Duration) -> Duration {
    let draw = u32::from_le_bytes(random::<4>());
    ceiling.mul_f64(f64::from(draw) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_stay_below_their_ceiling() {
        let seconds = Duration::from_secs;
        let mut backoff = Backoff::new(Duration::from_millis(500), seconds(30));
        for failures in 0..40 {
            let ceiling = Duration::from_millis(500 << failures.min(6)).min(seconds(30));
            assert_eq!(backoff.ceiling, ceiling);
            assert!(backoff.next(None) <= ceiling);
        }
        assert!(backoff.next(Some(seconds(5))) >= seconds(5));
        backoff.ease(seconds(4));
        assert_eq!(backoff.ceiling, seconds(4));
        backoff.reset();
        backoff.ease(seconds(4));
        assert_eq!(backoff.ceiling, Duration::from_millis(500));
    }
}
