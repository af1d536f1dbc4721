//! The agent's own proof that the server is there: pings with a counter, each due back in time.
//!
//! Only the pong to the latest ping counts. Frames that merely arrive prove the direction that is not in doubt.
//!
//! Pings and pongs wait in line behind output, in buffers on both hosts and on the way. So that a slow link is not taken
//! for a dead one, by us or by the server, little output is on its way at any time: a pong proves what went before its ping.

use crate::backoff::jitter;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Shortest interval and timeout taken from a server: a broken one must not make agents spin.
const SHORTEST: Duration = Duration::from_millis(50);
/// Longest: a server's typing error must not switch the proof off.
const LONGEST: Duration = Duration::from_secs(600);

/// Output that may be on its way unproven, in bytes. At 7 kB a second it is through within the server's pong timeout of
/// 10 s; less would slow links with long round trips (this much for each).
const ON_ITS_WAY_MAX: u64 = 64 * 1024;
/// A ping goes along with so much output, so that proof comes before there is no more room.
const PING_EVERY: u64 = ON_ITS_WAY_MAX / 4;

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
            self.0.bell.notify_one();
        }
    }

    /// Waits for the next pong, for one waiter.
    pub async fn heard(&self) {
        self.0.bell.notified().await;
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
    /// Output written before the latest ping and not proven.
    before_ping: u64,
    /// Output written after it.
    since_ping: u64,
}

impl Keepalive {
    /// With the server's interval and timeout.
    pub fn new(interval_ms: u64, timeout_ms: u64, now: Instant, pongs: Pongs) -> Self {
        let interval = Duration::from_millis(interval_ms).clamp(SHORTEST, LONGEST);
        let timeout = Duration::from_millis(timeout_ms).clamp(SHORTEST, LONGEST);
        let next = now + spread(interval);
        Self { interval, timeout, counter: 0, pinged: now, next, pongs, before_ping: 0, since_ping: 0 }
    }

    /// The next ping is due now.
    pub fn ping_soon(&mut self) {
        self.next = self.pinged;
    }

    /// Whether a ping was answered: both directions work.
    pub fn is_proven(&self) -> bool {
        self.pongs.0.counter.load(Ordering::Acquire) > 0
    }

    /// Whether the latest ping is answered.
    fn answered(&mut self) -> bool {
        let answered = self.pongs.0.counter.load(Ordering::Acquire) >= self.counter;
        if answered {
            self.before_ping = 0;
        }
        answered
    }

    /// Where its pongs are heard.
    pub fn pongs(&self) -> Pongs {
        self.pongs.clone()
    }

    /// Output was written.
    pub fn wrote(&mut self, bytes: u64) {
        self.since_ping += bytes;
    }

    /// Whether more output may go on its way. If not, a pong is due and will be heard.
    pub fn has_room(&mut self) -> bool {
        self.answered();
        self.before_ping + self.since_ping < ON_ITS_WAY_MAX
    }

    /// What to do now; after [`Turn::Ping`] the ping counts as sent.
    pub fn turn(&mut self, now: Instant) -> Turn {
        let answered = self.answered();
        let deadline = self.pinged + self.timeout;
        if !answered && now >= deadline {
            return Turn::Silent;
        }
        if now < self.next && self.since_ping < PING_EVERY {
            return Turn::Wait(if answered { self.next } else { self.next.min(deadline) });
        }
        if !answered {
            return Turn::Wait(deadline);
        }
        self.counter += 1;
        self.pinged = now;
        self.next = now + spread(self.interval);
        self.before_ping += std::mem::take(&mut self.since_ping);
        Turn::Ping(self.counter)
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
    fn little_output_is_on_its_way_until_a_pong_proves_what_went_before() {
        let now = Instant::now();
        let pongs = Pongs::default();
        let mut keepalive = Keepalive::new(8_000, 10_000, now, pongs.clone());
        keepalive.wrote(PING_EVERY - 1);
        assert!(matches!(keepalive.turn(now), Turn::Wait(_)));
        keepalive.wrote(1);
        assert_eq!(keepalive.turn(now), Turn::Ping(1));
        keepalive.wrote(ON_ITS_WAY_MAX - PING_EVERY);
        assert!(!keepalive.has_room());
        // One ping at a time: its deadline is the next thing to wait for.
        assert_eq!(keepalive.turn(now), Turn::Wait(now + Duration::from_secs(10)));
        pongs.take(&1_u64.to_be_bytes());
        assert!(keepalive.has_room());
        assert_eq!(keepalive.turn(now), Turn::Ping(2));
        keepalive.wrote(PING_EVERY);
        assert!(!keepalive.has_room());
        pongs.take(&2_u64.to_be_bytes());
        assert!(keepalive.has_room());
    }
}
