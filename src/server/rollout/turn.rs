//! The one task that makes offers. It wakes when an agent is ready or has reported, when an operator changes something, and
//! now and then, because hours and waits end by themselves. Without an open rollout it sleeps.

use crate::server::app::App;
use crate::store::error::StoreError;
use crate::store::rollout_turn::{RolloutStep, RolloutTurn};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::sync::Arc;
use std::time::Duration;

/// Longest sleep while a rollout is open.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Between two steps: a fleet that comes back at one moment is one step or two.
const BREATH: Duration = Duration::from_millis(100);

/// Takes steps until the tasks are asked to stop.
pub async fn keep(app: Arc<App>) {
    let stop = app.tasks.stop_token().clone();
    let work = async {
        let mut open = true;
        loop {
            if open {
                let _ = tokio::time::timeout(LOOK_EVERY, app.releases.rung()).await;
            } else {
                app.releases.rung().await;
            }
            // Before the look: who changes something after it rings again.
            app.releases.set_open(true);
            open = match step(&app).await {
                Ok(open) => open,
                Err(StoreError::Closed | StoreError::Fatal(_)) => return,
                Err(error) => {
                    tracing::warn!(%error, "the rollout could not take its next step; it tries again");
                    true
                }
            };
            app.releases.set_open(open);
            tokio::time::sleep(BREATH).await;
        }
    };
    // At the start there may be one that is open.
    app.releases.wake();
    stop.run_until_cancelled(work).await;
}

async fn step(app: &Arc<App>) -> Result<bool, StoreError> {
    let Some(releases) = app.store.rollout_releases().await? else { return Ok(false) };
    let folder = Arc::clone(app);
    let changed = tokio::task::spawn_blocking(move || {
        releases.iter().find_map(|(platform, sha256)| folder.releases.changed(platform, sha256))
    });
    let changed = changed.await.unwrap_or_default();
    let RolloutStep { open, offers, notes } =
        app.store.write(RolloutTurn { minute: minute(app.store.clock.now_ms()), changed }).await?;
    for note in notes {
        tracing::info!("{note}");
    }
    for (agent, epoch, offer) in offers {
        // If the session has gone meanwhile, the next one is sent the offer.
        if let Some(standing) = app.presence.get(agent).filter(|standing| standing.epoch == epoch) {
            standing.offer(offer);
        }
    }
    Ok(open)
}

/// The minute of the day, in this host's zone.
fn minute(now_ms: i64) -> u16 {
    let Ok(now) = Timestamp::from_millisecond(now_ms) else { return 0 };
    let now = now.to_zoned_datetime(TimeZone::system());
    u16::try_from(i32::from(now.hour()) * 60 + i32::from(now.minute())).unwrap_or_default()
}
