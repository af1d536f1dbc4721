//! The wall clock, read in one place.
//!
//! Wall time is for what people read and for what is stored (`*_ms`, Unix milliseconds). Waiting and
//! deadlines inside a process use `tokio::time::Instant`, which never jumps.

use crate::uptime::uptime;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

/// A step of the wall clock that is not worth a new connection, in milliseconds: far less than any sensible expiry, and
/// more than a time service corrects at once in daily work.
const STEP_MS_MAX: i64 = 5_000;

/// One moment by the wall clock, and by a clock that nobody can set and that a suspend does not stop.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// By the wall clock, in Unix milliseconds.
    pub wall_ms: i64,
    uptime: Duration,
}

impl Moment {
    /// Now; the wall clock shows `wall_ms`.
    pub fn now(wall_ms: i64) -> Self {
        Self { wall_ms, uptime: uptime() }
    }

    /// Whether the wall clock was set between this moment and a later one.
    pub fn clock_was_set(self, later: Self) -> bool {
        let since_ms = i64::try_from(later.uptime.saturating_sub(self.uptime).as_millis()).unwrap_or(i64::MAX);
        later.wall_ms.saturating_sub(self.wall_ms).saturating_sub(since_ms).abs() > STEP_MS_MAX
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
