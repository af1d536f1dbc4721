//! Who may connect now: a token bucket, so that a whole fleet can come back at once without drowning submissions.
//!
//! Places are taken by authenticated agents only, who then wait for their turn; while the queue is long, newcomers are
//! told when to come again, before anything is spent on them.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Sessions begun a second, once the burst is used up. Each costs a share of a commit.
pub const ADMITTED_PER_SECOND: f64 = 500.0;
/// Sessions begun at once.
pub const ADMITTED_BURST: f64 = 1000.0;
/// While the queue is longer than this, newcomers are sent away: an agent waits 15 s for its welcome.
const QUEUE_MAX: Duration = Duration::from_secs(5);

/// Agents whose hellos and sessions are looked up and written at one time. A submission has at most so many before it in
/// the database's queue, and not a whole fleet; a group of so many costs little more than one.
const AT_ONCE: usize = 64;

/// The bucket.
#[derive(Debug)]
pub struct Admission {
    bucket: Mutex<Bucket>,
    at_once: Semaphore,
}

#[derive(Debug)]
struct Bucket {
    /// Below zero: so many wait.
    tokens: f64,
    filled: Instant,
}

impl Default for Admission {
    fn default() -> Self {
        let bucket = Mutex::new(Bucket { tokens: ADMITTED_BURST, filled: Instant::now() });
        Self { bucket, at_once: Semaphore::new(AT_ONCE) }
    }
}

impl Bucket {
    fn wait(&self) -> Duration {
        Duration::from_secs_f64((-self.tokens / ADMITTED_PER_SECOND).max(0.0))
    }
}

impl Admission {
    /// Does a part of a handshake that needs the database, when it is its turn.
    pub async fn in_turn<T>(&self, part: impl Future<Output = T>) -> T {
        // It is never closed; were it, the part would not wait.
        let _turn = self.at_once.acquire().await;
        part.await
    }

    fn filled(&self) -> std::sync::MutexGuard<'_, Bucket> {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let new = now.duration_since(bucket.filled).as_secs_f64() * ADMITTED_PER_SECOND;
        bucket.tokens = (bucket.tokens + new).min(ADMITTED_BURST);
        bucket.filled = now;
        bucket
    }

    /// How long newcomers should stay away, if they should. Takes no place.
    pub fn crowded(&self) -> Option<Duration> {
        let wait = self.filled().wait();
        (wait > QUEUE_MAX).then_some(wait)
    }

    /// Takes a place; answers how long to wait for it.
    pub fn take_place(&self) -> Duration {
        let mut bucket = self.filled();
        bucket.tokens -= 1.0;
        bucket.wait()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_admitted_the_rest_waits_and_strangers_take_nothing() {
        let admission = Admission::default();
        for _ in 0..1000 {
            assert!(admission.crowded().is_none());
            assert_eq!(admission.take_place(), Duration::ZERO);
        }
        let waits: Vec<Duration> = (0..50_000).map(|_| admission.take_place()).collect();
        assert!(waits.last() > waits.first());
        assert!(admission.crowded().is_some_and(|wait| wait > QUEUE_MAX));
    }
}
