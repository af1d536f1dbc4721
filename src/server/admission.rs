//! Who may connect now: a token bucket, so that a whole fleet can come back at once without drowning submissions.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Agent connections admitted a second, once the burst is used up. Each costs two frames and a share of a commit.
pub const ADMITTED_PER_SECOND: f64 = 500.0;
/// Agent connections admitted at once.
pub const ADMITTED_BURST: f64 = 1000.0;
/// Longest time for which a refused agent is told to stay away.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// The bucket.
#[derive(Debug)]
pub struct Admission {
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Default for Admission {
    fn default() -> Self {
        Self { bucket: Mutex::new(Bucket { tokens: ADMITTED_BURST, filled: Instant::now() }) }
    }
}

impl Admission {
    /// Admits one connection, or says when to come again.
    ///
    /// # Errors
    /// How long to stay away. The wait grows with the crowd: it is the time after which there will be room.
    pub fn admit(&self) -> Result<(), Duration> {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let filled = now.duration_since(bucket.filled).as_secs_f64() * ADMITTED_PER_SECOND;
        bucket.tokens = (bucket.tokens + filled).min(ADMITTED_BURST);
        bucket.filled = now;
        // Each refusal books a later place (down to a floor), so that those refused come back spread out.
        bucket.tokens = (bucket.tokens - 1.0).max(-ADMITTED_PER_SECOND * RETRY_MAX.as_secs_f64());
        if bucket.tokens >= 0.0 {
            Ok(())
        } else {
            Err(Duration::from_secs_f64((-bucket.tokens / ADMITTED_PER_SECOND).max(1.0)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_admitted_and_the_rest_told_when_to_come() {
        let admission = Admission::default();
        for _ in 0..1000 {
            assert!(admission.admit().is_ok());
        }
        let refused: Vec<Duration> = (0..100_000).filter_map(|_| admission.admit().err()).collect();
        assert!(!refused.is_empty());
        assert!(refused.iter().all(|wait| (Duration::from_secs(1)..=RETRY_MAX).contains(wait)));
    }
}
