//! The server's clock, as the agent knows it.
//!
//! `welcome` brings the server's time; from then on a clock that cannot be set carries it on, so that a wrong or
//! jumping wall clock on this host neither runs an expired command nor drops a fresh one. Before the first `welcome`
//! the time is not known, and nothing is judged by it.

use crate::uptime::uptime;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// The server's clock. Clones share it.
#[derive(Clone, Debug)]
pub struct ServerTime {
    learned: Arc<Mutex<Option<Learned>>>,
    known: watch::Sender<bool>,
}

#[derive(Clone, Copy, Debug)]
struct Learned {
    server_ms: i64,
    at: Duration,
}

impl Default for ServerTime {
    fn default() -> Self {
        Self { learned: Arc::default(), known: watch::Sender::new(false) }
    }
}

impl ServerTime {
    /// Takes the time of a `welcome` that has just come.
    pub fn learn(&self, server_ms: i64) {
        let learned = Learned { server_ms, at: uptime() };
        *self.learned.lock().unwrap_or_else(PoisonError::into_inner) = Some(learned);
        self.known.send_replace(true);
    }

    /// The server's time in Unix milliseconds; none before the first `welcome`.
    pub fn now_ms(&self) -> Option<i64> {
        let learned = (*self.learned.lock().unwrap_or_else(PoisonError::into_inner))?;
        let since = uptime().saturating_sub(learned.at);
        Some(learned.server_ms.saturating_add(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)))
    }

    /// Ends when the time is known.
    pub async fn known(&self) {
        // It fails only when the sender is gone, and `self` holds it.
        let _ = self.known.subscribe().wait_for(|known| *known).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_servers_time_goes_on_from_what_it_said() {
        let time = ServerTime::default();
        assert_eq!(time.now_ms(), None);
        time.learn(5_000_000);
        time.known().await;
        let first = time.now_ms().unwrap();
        assert!(first >= 5_000_000);
        assert!(time.clone().now_ms().unwrap() >= first);
    }
}
