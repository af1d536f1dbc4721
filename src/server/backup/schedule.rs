//! Backups by the clock, made by the server itself: one every so often, the newest few kept.
//!
//! Which files are ours is written in the data folder before they get their names, so that nobody else's backup in the same
//! folder is ever removed, whatever it is called. An older one is removed when a newer one has been read back.

use super::crypt::Recipients;
use super::error::BackupError;
use super::make::{BackupOrder, prepare};
use super::stamp::stamp;
use crate::clock::Clock;
use crate::server::folder::write_private;
use crate::server::metrics::Metrics;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Which backups are ours, in the data folder.
const MADE_FILE: &str = "backups.json";
/// Before a failed one is tried again, at most: long enough for somebody to make room, short enough for a day's backup to
/// be of that day.
const RETRY_MAX: Duration = Duration::from_secs(600);
/// Between two looks at the clock, at most: it may be set, and a wait by another clock would not notice.
const LOOK_MAX: Duration = Duration::from_secs(60);

/// When and where to.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// A folder, which must be there: a disk that is not mounted is no place for a backup.
    pub to: PathBuf,
    /// At most so old is the newest one.
    pub every: Duration,
    /// For whom they are encrypted, if at all.
    pub recipients: Recipients,
    /// So many are kept, at least one.
    pub keep: u32,
}

/// A backup of ours.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Made {
    file: PathBuf,
    at_ms: i64,
}

/// When the newest of them that is still there was made, for the server with this data folder.
pub fn newest(data: &Path) -> Option<i64> {
    made(data).last().map(|made| made.at_ms)
}

/// Those that are still there, oldest first.
fn made(data: &Path) -> Vec<Made> {
    let text = fs::read(data.join(MADE_FILE)).unwrap_or_default();
    // A damaged list means that nothing is removed, and that one is made.
    let mut made: Vec<Made> = serde_json::from_slice(&text).unwrap_or_default();
    made.retain(|made| made.file.exists());
    made.sort_by_key(|made| made.at_ms);
    made
}

/// Makes them for one server.
pub struct Scheduler {
    schedule: Schedule,
    data: PathBuf,
    clock: Clock,
    metrics: Arc<Metrics>,
}

impl Scheduler {
    /// For the server with this data folder.
    pub fn new(schedule: Schedule, data: &Path, clock: Clock, metrics: Arc<Metrics>) -> Self {
        Self { schedule, data: data.to_owned(), clock, metrics }
    }

    /// Makes backups until `stop`. One that is under way then is given up.
    pub async fn run(self, stop: CancellationToken) {
        let this = Arc::new(self);
        loop {
            let (other, told) = (Arc::clone(&this), stop.clone());
            // A thread of its own, for the look too: a folder on another host may not answer.
            let wait = match tokio::task::spawn_blocking(move || other.turn(&told)).await {
                Ok(Ok(left)) => left.min(LOOK_MAX),
                Ok(Err(BackupError::Stopped)) => return,
                Ok(Err(error)) => this.failed(&error),
                Err(error) => this.failed(&error),
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Makes one if it is due; answers until when none is.
    fn turn(&self, stop: &CancellationToken) -> Result<Duration, BackupError> {
        let left = self.due_in();
        if left.is_zero() {
            self.make_one(stop)?;
            return Ok(self.due_in());
        }
        Ok(left)
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> Duration {
        let wait = RETRY_MAX.min(self.schedule.every);
        self.metrics.backup_failures.inc();
        tracing::error!("no backup was made: {error}; it is tried again in {} s", wait.as_secs());
        wait
    }

    /// Until the next one is due. A newest one from the future says nothing: the clock was set.
    fn due_in(&self) -> Duration {
        let newest_ms = self.made().iter().map(|made| made.at_ms).max();
        if let Some(newest_ms) = newest_ms {
            self.metrics.backup_last_success.set(newest_ms / 1000);
        }
        let every_ms = i64::try_from(self.schedule.every.as_millis()).unwrap_or(i64::MAX);
        let age_ms = newest_ms.map(|newest_ms| self.clock.now_ms() - newest_ms).filter(|age_ms| *age_ms >= 0);
        let left_ms = age_ms.map_or(0, |age_ms| every_ms.saturating_sub(age_ms).max(0));
        Duration::from_millis(u64::try_from(left_ms).unwrap_or(0))
    }

    fn make_one(&self, stop: &CancellationToken) -> Result<(), BackupError> {
        let at_ms = self.clock.now_ms();
        let recipients = self.schedule.recipients.clone();
        let end = if recipients.is_empty() { "" } else { ".age" };
        let file = self.schedule.to.join(format!("postrider-{}.backup{end}", stamp(at_ms)));
        let mut made = self.made();
        let order = BackupOrder { data: self.data.clone(), file: file.clone(), force: false, recipients };
        made.push(Made { file: file.clone(), at_ms });
        let ready = prepare(&order, &self.clock, stop)?;
        self.remember(&made)?;
        let report = ready.name()?;
        tracing::info!("a backup of {} bytes is in {}", report.bytes, file.display());
        self.remove_old(made)
    }

    /// Ours that are still there, oldest first.
    fn made(&self) -> Vec<Made> {
        made(&self.data)
    }

    fn remember(&self, made: &[Made]) -> Result<(), BackupError> {
        let path = self.data.join(MADE_FILE);
        let text = serde_json::to_string_pretty(made).map_err(io::Error::other).map_err(BackupError::io(&path))?;
        Ok(write_private(&self.data, MADE_FILE, &text)?)
    }

    /// All but the newest in this folder. What was made for another folder stays there.
    fn remove_old(&self, mut made: Vec<Made>) -> Result<(), BackupError> {
        let keep = usize::try_from(self.schedule.keep.max(1)).unwrap_or(usize::MAX);
        let here = |made: &Made| made.file.parent() == Some(&self.schedule.to);
        let surplus = made.iter().filter(|made| here(made)).count().saturating_sub(keep);
        let old: Vec<PathBuf> =
            made.iter().filter(|made| here(made)).take(surplus).map(|made| made.file.clone()).collect();
        for file in &old {
            match fs::remove_file(file) {
                Ok(()) => tracing::info!("the older backup {} is removed", file.display()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // It stays on the list, and is tried again after the next one.
                Err(error) => tracing::warn!(%error, "the older backup {} cannot be removed", file.display()),
            }
        }
        made.retain(|made| made.file.exists());
        self.remember(&made)
    }
}
