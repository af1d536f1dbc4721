//! The wall clock, read in one place.
//!
//! Wall time is for what people read and for what is stored (`*_ms`, Unix milliseconds). Waiting and
//! deadlines inside a process use `tokio::time::Instant`, which never jumps.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// A wall clock with an offset that its clones share.
///
/// Tests set the offset to move time; in use it stays 0.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    offset_ms: Arc<AtomicI64>,
}

impl Clock {
    /// A clock that shows the system's wall time.
    pub fn system() -> Self {
        Self::default()
    }

    /// Now, in Unix milliseconds. A system clock before 1970 reads as 0.
    #[allow(clippy::disallowed_methods)] // The one place.
    pub fn now_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        wall.saturating_add(self.offset_ms.load(Ordering::Relaxed))
    }

    /// Shows `offset_ms` more than the system's wall clock from now on (negative: less), for all clones.
    pub fn set_offset_ms(&self, offset_ms: i64) {
        self.offset_ms.store(offset_ms, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_the_offset() {
        let clock = Clock::system();
        let clone = clock.clone();
        let before = clone.now_ms();
        clock.set_offset_ms(3_600_000);
        assert!(clone.now_ms() >= before + 3_600_000);
    }
}
