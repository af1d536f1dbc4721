//! Notices when another process changes the database, and rings all bells: the writers then find its rows, and tokens are
//! read anew.

use super::app::App;
use crate::store::error::StoreError;
use crate::store::op::LookOutside;
use std::sync::Arc;
use std::time::Duration;

/// How often to look. Each look costs the writing thread some microseconds and no fsync.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Looks until the tasks are asked to stop.
pub async fn watch(app: Arc<App>) {
    let stop = app.tasks.stop_token().clone();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = stop.cancelled() => return,
        }
        match app.store.write(LookOutside).await {
            Ok(true) => {
                app.store.watch.agents.ring_all();
                app.store.watch.commands.ring_all();
                app.store.watch.ends.ring_all();
                app.store.watch.tokens_changed();
                app.store.watch.tokens.ring_all();
            }
            Ok(false) => {}
            Err(StoreError::Closed | StoreError::Fatal(_)) => return,
            Err(error) => {
                tracing::warn!(%error, "cannot see whether another process changed the database; looking again")
            }
        }
    }
}
