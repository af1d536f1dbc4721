//! The agent's own proof that the server is there: pings with a counter, each due back in time.
//!
//! Only the pong to the latest ping counts. Frames that merely arrive prove the direction that is not in doubt.
//!
//! Output is paced by the same pings: one follows each block, and only [`UNANSWERED_MAX`] may be unanswered before the
//! next. Otherwise a slow line would hold minutes of output in its buffers, and every pong, ours and the server's, would
//! come too late behind it.

use crate::backoff::jitter;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

/// Blocks of output on their way. With blocks of 32 KiB a line of 7 kB/s is fast enough for the pong's 10 s, and one with
/// a round trip of 0.6 s still carries 100 kB/s.
const UNANSWERED_MAX: u64 = 2;
/// Shortest interval and timeout taken from a server: a broken one must not make agents spin.
const SHORTEST: Duration = Duration::from_millis(50);
/// Longest: a server's typing error must not switch the proof off.
const LONGEST: Duration = Duration::from_secs(600);

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing before this moment.
    Wait(Instant),
    /// Send a ping with this counter.
    Ping(u64),
    /// The pong is overdue: leave.
    Silent,
}

/// The latest pong's counter, written by the reader.
#[derive(Clone, Debug, Default)]
pub struct Pongs(Arc<Latest>);

#[derive(Debug, Default)]
struct Latest {
    counter: AtomicU64,
    bell: Notify,
}

impl Pongs {
    /// Takes a pong's payload. What is none of ours is ignored.
    pub fn take(&self, payload: &[u8]) {
        if let Ok(counter) = payload.try_into().map(u64::from_be_bytes) {
            self.0.counter.fetch_max(counter, Ordering::AcqRel);
            self.0.bell.notify_waiters();
        }
    }

    /// Ends at the next pong. One is heard from this call on, if the future is enabled: call it before looking.
    pub fn listen(&self) -> Notified<'_> {
        self.0.bell.notified()
    }

    fn latest(&self) -> u64 {
        self.0.counter.load(Ordering::Acquire)
    }
}

/// The rule for one connection.
#[derive(Debug)]
pub struct Keepalive {
    interval: Duration,
    timeout: Duration,
    counter: u64,
    pinged: Instant,
    next: Instant,
    pongs: Pongs,
}

impl Keepalive {
    /// With the server's interval and timeout.
    pub fn new(interval_ms: u64, timeout_ms: u64, now: Instant, pongs: Pongs) -> Self {
        let interval = Duration::from_millis(interval_ms).clamp(SHORTEST, LONGEST);
        let timeout = Duration::from_millis(timeout_ms).clamp(SHORTEST, LONGEST);
        Self { interval, timeout, counter: 0, pinged: now, next: now + spread(interval), pongs }
    }

    /// What to do now; after [`Turn::Ping`] the ping counts as sent.
    pub fn turn(&mut self, now: Instant) -> Turn {
        let answered = self.pongs.latest() >= self.counter;
        let deadline = self.pinged + self.timeout;
        if !answered && now >= deadline {
            return Turn::Silent;
        }
        if now < self.next {
            return Turn::Wait(if answered { self.next } else { self.next.min(deadline) });
        }
        if !answered {
            return Turn::Wait(deadline);
        }
        Turn::Ping(self.ping(now))
    }

    /// Where pongs are counted.
    pub fn pongs(&self) -> Pongs {
        self.pongs.clone()
    }

    /// Whether a block of output may go out.
    pub fn has_room(&self) -> bool {
        self.counter.saturating_sub(self.pongs.latest()) < UNANSWERED_MAX
    }

    /// A ping that counts as sent: its counter.
    pub fn ping(&mut self, now: Instant) -> u64 {
        self.counter += 1;
        self.pinged = now;
        self.next = now + spread(self.interval);
        self.counter
    }
}

/// The interval, a fifth more or less: a fleet that connected at one moment must not ping at one moment.
fn spread(interval: Duration) -> Duration {
    interval * 4 / 5 + jitter(interval * 2 / 5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_pong_to_the_latest_ping_keeps_a_connection() {
        let start = Instant::now();
        let pongs = Pongs::default();
        let mut keepalive = Keepalive::new(8_000, 10_000, start, pongs.clone());
        let Turn::Wait(first) = keepalive.turn(start) else { panic!("it waits") };
        assert!((6400..=9600).contains(&(first - start).as_millis()));
        assert_eq!(keepalive.turn(first), Turn::Ping(1));
        pongs.take(b"garbage");
        pongs.take(&0_u64.to_be_bytes());
        assert_eq!(keepalive.turn(first + Duration::from_millis(9_999)), Turn::Wait(first + Duration::from_secs(10)));
        assert_eq!(keepalive.turn(first + Duration::from_secs(10)), Turn::Silent);
        pongs.take(&1_u64.to_be_bytes());
        assert_eq!(keepalive.turn(first + Duration::from_secs(10)), Turn::Ping(2));
    }

    #[test]
    fn output_goes_no_further_than_the_pongs_allow() {
        let now = Instant::now();
        let pongs = Pongs::default();
        let mut keepalive = Keepalive::new(8_000, 10_000, now, pongs.clone());
        let mut sent = 0;
        while keepalive.has_room() {
            sent = keepalive.ping(now);
        }
        assert_eq!(sent, UNANSWERED_MAX);
        pongs.take(&(sent - 1).to_be_bytes());
        assert!(keepalive.has_room());
        assert_eq!(keepalive.turn(now + Duration::from_secs(10)), Turn::Silent, "the latest is not answered");
    }
}
