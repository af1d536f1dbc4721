//! Named tasks in one set that drain can wait for.
//!
//! Every task of a process is spawned here. Stopping is asked for by a token that all share; a task that does
//! not look at it is waited for, up to the caller's limit.

use std::future::Future;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, info_span};

/// The set. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    /// Runs `future` as a task that logs under `name`. A panic in it ends that task alone and is logged by the
    /// panic hook.
    #[allow(clippy::disallowed_methods)] // The one place.
    pub fn spawn<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let task = self.tracker.track_future(future).instrument(info_span!(parent: None, "task", name));
        drop(tokio::spawn(task));
    }

    /// The token that is cancelled when the tasks are asked to stop.
    pub fn stop_token(&self) -> &CancellationToken {
        &self.stop
    }

    /// Asks all tasks to stop, without waiting.
    pub fn ask_to_stop(&self) {
        self.stop.cancel();
    }

    /// Waits until every task has ended or `limit` is over. False: some are still running.
    pub async fn drained(&self, limit: Duration) -> bool {
        self.tracker.close();
        tokio::time::timeout(limit, self.tracker.wait()).await.is_ok()
    }

    /// How many tasks are running now.
    pub fn running(&self) -> usize {
        self.tracker.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn drain_waits_for_what_was_spawned() {
        let tasks = Tasks::default();
        let stop = tasks.stop_token().clone();
        tasks.spawn("sleeper", async move { stop.cancelled().await });
        assert!(!tasks.drained(Duration::from_millis(1)).await);
        tasks.ask_to_stop();
        assert!(tasks.drained(Duration::from_secs(60)).await);
        assert_eq!(tasks.running(), 0);
    }
}
