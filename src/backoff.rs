//! Reconnect delays: exponential with full jitter.

use crate::secret::random;
use std::time::Duration;

/// Waits between tries. Each wait is drawn evenly from zero to a ceiling that doubles, so that a fleet which
/// lost its server at one moment does not come back at one moment.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// The first ceiling and the largest.
    pub fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, failures: 0 }
    }

    /// The next wait. `at_least` is what the other side asked for, if it did: jitter is added on top of it.
    pub fn next(&mut self, at_least: Option<Duration>) -> Duration {
        let ceiling = self.first.saturating_mul(1 << self.failures.min(20)).min(self.max);
        self.failures = self.failures.saturating_add(1);
        at_least.unwrap_or_default() + jitter(ceiling)
    }

    /// A try succeeded: start over.
    pub fn reset(&mut self) {
        self.failures = 0;
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
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(60));
        for failures in 0..40 {
            let ceiling = Duration::from_millis(500 << failures.min(7)).min(Duration::from_secs(60));
            assert!(backoff.next(None) <= ceiling);
        }
        assert!(backoff.next(Some(Duration::from_secs(5))) >= Duration::from_secs(5));
        backoff.reset();
        assert!(backoff.next(None) <= Duration::from_millis(500));
    }
}
