//! Buckets by key: how often somebody may ask, and who is locked out after failing too often.
//!
//! A bucket that has filled up again is forgotten, so their number is that of who was active lately; it has a limit, too.

use governor::clock::{Clock, DefaultClock, Reference};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use std::collections::HashMap;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Most buckets of one kind, each about 100 bytes. Strangers make some of them; those who come beyond are not counted
/// until others are forgotten.
const KEYS_MAX: usize = 65_536;

/// How often somebody may do something.
pub struct Rate<K: Hash + Eq + Clone, C: Clock = DefaultClock> {
    buckets: RateLimiter<K, HashMapStateStore<K>, C, NoOpMiddleware<C::Instant>>,
    clock: C,
}

impl<K: Hash + Eq + Clone, C: Clock + Clone> Rate<K, C> {
    /// `burst` (at least 1) at once, and one more after each `period` (more than 0).
    pub fn new(burst: u32, period: Duration, clock: C) -> Self {
        let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::with_period(period).unwrap_or_else(|| Quota::per_second(burst)).allow_burst(burst);
        Self { buckets: RateLimiter::new(quota, HashMapStateStore::default(), clock.clone()), clock }
    }

    /// Takes one from the bucket.
    ///
    /// # Errors
    /// It is empty: how long to wait for the next.
    pub fn take(&self, key: &K) -> Result<(), Duration> {
        if self.buckets.len() >= KEYS_MAX {
            return Ok(());
        }
        self.buckets.check_key(key).map_err(|until| until.wait_time_from(self.clock.now()))
    }

    /// Forgets the buckets that have filled up.
    pub fn tidy(&self) {
        self.buckets.retain_recent();
        self.buckets.shrink_to_fit();
    }
}

/// Who is locked out after failing too often.
pub struct Lockout<K: Hash + Eq + Clone, C: Clock = DefaultClock> {
    failures: Rate<K, C>,
    locked: Mutex<HashMap<K, C::Instant>>,
    lasts: Duration,
    clock: C,
}

impl<K: Hash + Eq + Clone, C: Clock + Clone> Lockout<K, C> {
    /// Whoever fails `failures` times (at least 2) within `lasts` is locked out for as long. Failures that lie apart by the share
    /// of each never lock out.
    pub fn new(failures: u32, lasts: Duration, clock: C) -> Self {
        // The one that finds the bucket empty locks.
        let rate = Rate::new(failures - 1, lasts / failures, clock.clone());
        Self { failures: rate, locked: Mutex::default(), lasts, clock }
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<K, C::Instant>> {
        self.locked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For how long this one is still locked out, if it is.
    pub fn left(&self, key: &K) -> Option<Duration> {
        let until = *self.locked().get(key)?;
        let left: Duration = until.duration_since(self.clock.now()).into();
        (!left.is_zero()).then_some(left)
    }

    /// This one failed.
    pub fn failed(&self, key: &K) {
        if self.failures.take(key).is_err() {
            let until = self.clock.now() + Nanos::from(self.lasts);
            self.locked().insert(key.clone(), until);
        }
    }

    /// Forgets what is over.
    pub fn tidy(&self) {
        self.failures.tidy();
        let now = self.clock.now();
        let mut locked = self.locked();
        locked.retain(|_, until| *until > now);
        locked.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use governor::clock::FakeRelativeClock;

    #[test]
    fn the_last_failure_locks_out_and_time_lets_in_again() {
        let clock = FakeRelativeClock::default();
        let lockout = Lockout::new(5, Duration::from_secs(60), clock.clone());
        for _ in 0..4 {
            lockout.failed(&"a");
            assert_eq!(lockout.left(&"a"), None);
        }
        lockout.failed(&"a");
        assert_eq!(lockout.left(&"a"), Some(Duration::from_secs(60)));
        assert_eq!(lockout.left(&"b"), None);
        clock.advance(Duration::from_secs(59));
        lockout.tidy();
        assert_eq!(lockout.left(&"a"), Some(Duration::from_secs(1)));
        clock.advance(Duration::from_secs(2));
        assert_eq!(lockout.left(&"a"), None);
        lockout.tidy();
        assert!(lockout.locked().is_empty() && lockout.failures.buckets.is_empty());
        // The same all over: a whole number of failures is needed again.
        for failure in 0..5 {
            assert_eq!(lockout.left(&"a"), None, "{failure}");
            lockout.failed(&"a");
        }
        assert!(lockout.left(&"a").is_some());
    }

    #[test]
    fn who_fails_now_and_then_is_not_locked_out() {
        let clock = FakeRelativeClock::default();
        let lockout = Lockout::new(5, Duration::from_secs(60), clock.clone());
        for _ in 0..100 {
            lockout.failed(&1);
            clock.advance(Duration::from_secs(12));
        }
        assert_eq!(lockout.left(&1), None);
    }

    #[test]
    fn a_rate_gives_its_burst_and_then_one_after_the_other() {
        let clock = FakeRelativeClock::default();
        let rate = Rate::new(3, Duration::from_secs(2), clock.clone());
        assert_eq!((0..4).filter(|_| rate.take(&7).is_ok()).count(), 3);
        assert_eq!(rate.take(&7), Err(Duration::from_secs(2)));
        assert_eq!(rate.take(&8), Ok(()));
        clock.advance(Duration::from_secs(2));
        assert_eq!(rate.take(&7), Ok(()));
        assert!(rate.take(&7).is_err());
        clock.advance(Duration::from_secs(60));
        rate.tidy();
        assert!(rate.buckets.is_empty());
    }
}
