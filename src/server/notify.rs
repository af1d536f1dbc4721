//! Tells systemd how the server is (sd_notify(3)): that it serves, how it stands, that it lives, and that it ends. Without
//! `NOTIFY_SOCKET` in the environment nobody is told anything.
//!
//! The watchdog is beaten by the committing thread, not by a timer: a beat is an operation that went through it. If that
//! thread hangs, no beat comes, and systemd ends the server and starts it again.

use super::app::App;
use super::health::unwell;
use crate::store::error::StoreError;
use crate::store::op::Beat;
use sd_notify::NotifyState;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks where no watchdog asks for another pace.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// So many beats within the watchdog's time: two may be late.
const BEATS: u32 = 3;

fn say(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told how the server is");
    }
}

/// The server serves.
pub fn ready(app: &App) {
    say(&[NotifyState::Ready, NotifyState::Status(&status(app))]);
}

/// The server ends; `why` is for people.
pub fn stopping(why: &str) {
    say(&[NotifyState::Stopping, NotifyState::Status(&one_line(why))]);
}

fn status(app: &App) -> String {
    match unwell(app) {
        Some(why) => one_line(&format!("{why}; {} agents connected", app.presence.count())),
        None => format!("{} agents connected", app.presence.count()),
    }
}

/// A line break would begin another assignment.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// Tells on, until the tasks are asked to stop.
pub async fn keep(app: Arc<App>) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let every = sd_notify::watchdog_enabled().map_or(LOOK_EVERY, |within| within / BEATS);
    let stop = app.tasks.stop_token().clone();
    let mut told = status(&app);
    loop {
        let beat = async {
            tokio::time::sleep(every).await;
            app.store.write(Beat).await
        };
        match stop.run_until_cancelled(beat).await {
            None | Some(Err(StoreError::Closed | StoreError::Fatal(_))) => return,
            // It waited for somebody else's lock, or the disk is full: it lives, but it did not get through.
            Some(Err(error)) => tracing::warn!(%error, "no beat for the watchdog: nothing can be committed at present"),
            Some(Ok(())) => {
                let now = status(&app);
                let changed = (now != told).then(|| NotifyState::Status(&now));
                let states: Vec<_> = [NotifyState::Watchdog].into_iter().chain(changed).collect();
                say(&states);
                told = now;
            }
        }
    }
}
