//! The reaper: the one task that owns everything that ends by time.
//!
//! It sleeps until the next row is due instead of scanning. Because the wall clock can jump and rows can come in that
//! are due sooner, it never sleeps longer than [`SLEEP_MAX`].

use super::app::App;
use crate::store::error::StoreError;
use crate::store::reap::{REAP_MAX, Reap};
use crate::store::retain::{RETAIN_MAX, Retain};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Longest sleep: how late an expiry can be noticed. Each look costs one index lookup.
pub const SLEEP_MAX: Duration = Duration::from_secs(1);
/// How often history is checked against its limits.
pub const RETAIN_EVERY: Duration = Duration::from_secs(60);

/// Ends what is due until the tasks are asked to stop.
pub async fn reap(app: Arc<App>, retain: Retain) {
    let stop = app.tasks.stop_token().clone();
    let mut retain_at = Instant::now() + RETAIN_EVERY;
    loop {
        let sleep = match turn(&app, &retain, &mut retain_at).await {
            Ok(sleep) => sleep,
            Err(StoreError::Closed | StoreError::Fatal(_)) => return,
            Err(error) => {
                tracing::warn!(%error, "the reaper could not write; it tries again");
                SLEEP_MAX
            }
        };
        tokio::select! {
            () = tokio::time::sleep(sleep) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn turn(app: &App, retain: &Retain, retain_at: &mut Instant) -> Result<Duration, StoreError> {
    let reaped = app.store.write(Reap).await?;
    if Instant::now() >= *retain_at {
        let deleted = app.store.write(retain.clone()).await?;
        if deleted > 0 {
            tracing::info!(deleted, "old commands were removed from history");
        }
        // A full round: there is more to delete, after others have had their turn.
        *retain_at = Instant::now() + if deleted < u64::from(RETAIN_MAX) { RETAIN_EVERY } else { Duration::ZERO };
    }
    if reaped.rows >= REAP_MAX {
        return Ok(Duration::ZERO);
    }
    let wait_ms = reaped.next_ms.map_or(i64::MAX, |next_ms| next_ms.saturating_sub(app.store.clock.now_ms()));
    Ok(Duration::from_millis(u64::try_from(wait_ms).unwrap_or(0)).clamp(Duration::from_millis(10), SLEEP_MAX))
}
