//! The installed agent: the agent itself, or the process that starts the release in its place, and puts the old one back if
//! the new one does not prove itself.
//!
//! It holds `releases/lock` all its life, so there is one such process for a data folder; the agent that runs, child or
//! ourselves, holds `lock`, so there is one agent. A child that runs is not started again when it ends: whoever started us is.

use super::book::{Book, Kept, Releases, Trial};
use super::child::Child;
use super::take::report;
use crate::agent::config::{AgentConfig, Role};
use crate::agent::error::AgentError;
use crate::agent::run::{Ended, live};
use crate::crash;
use crate::protocol::upgrade::{UpgradeReport, UpgradeState};
use crate::version::Version;
use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// How long a release may take to prove a round trip. Its server may be away meanwhile, for which it can do nothing; but what
/// cannot be told from a broken one is not left in charge, and is offered again.
const PROBATION: Duration = Duration::from_secs(120);
/// The same for tests, in milliseconds; debug builds only.
const PROBATION_MS: &str = "POSTRIDER_PROBATION_MS";
/// How often a release is started that was killed before it had proven itself: once more than a host is shut down at the
/// wrong moment.
const TRIES_MAX: u32 = 2;
/// A release that ends by itself so often in a row, without a proven round trip, is given up.
const CRASHES_MAX: u32 = 3;

/// The flags of a release that is started in our place.
pub const RELEASE_FLAG: &str = "--supervised";
/// The same for one on trial.
pub const TRIAL_FLAG: &str = "--probation";

enum Plan {
    Ourselves,
    Release(Kept),
    Trial(Trial),
}

/// Runs the agent until `stop`: itself, or as the release that it has become.
///
/// # Errors
/// [`AgentError`].
pub async fn host(config: AgentConfig, stop: CancellationToken) -> Result<(), AgentError> {
    if config.role != Role::Installed {
        return Box::pin(live(config, stop)).await.map(drop);
    }
    let host = Host::open(&config.data)?;
    loop {
        let over = match host.plan() {
            Plan::Ourselves => match Box::pin(live(config.clone(), stop.clone())).await? {
                Ended::Stopped => true,
                Ended::Upgrade => false,
            },
            Plan::Release(kept) => host.run(&kept, &stop).await?,
            Plan::Trial(trial) => host.try_out(&trial, &stop).await?,
        };
        if over || stop.is_cancelled() {
            return Ok(());
        }
    }
}

struct Host {
    releases: Releases,
    /// Which state of the installed executable we are.
    stamp: String,
    // Held for its lock.
    _lock: File,
}

impl Host {
    fn open(data: &Path) -> Result<Self, AgentError> {
        let releases = Releases::open(data)?;
        let path = releases.folder().join("lock");
        let failed = |source| AgentError::Data { path: path.clone(), source };
        let mut options = crate::agent::data::private();
        let lock = options.write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { releases, stamp: stamp(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(AgentError::Locked(data.to_owned())),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// What runs next.
    fn plan(&self) -> Plan {
        let mut book = self.releases.read();
        if book.installed != self.stamp {
            self.installed_anew(&mut book);
        }
        if let Some(mut trial) = book.trial.clone() {
            if trial.tries >= TRIES_MAX {
                let why = format!("it was started {TRIES_MAX} times and ended before it had proven itself");
                self.put_back(&trial, why, false);
                return self.plan();
            }
            trial.tries += 1;
            book.trial = Some(trial.clone());
            book.installed.clone_from(&self.stamp);
            match self.releases.write(&book) {
                Ok(()) => {
                    crash::point("upgrade.counted");
                    return Plan::Trial(trial);
                }
                // Without its count it could be tried for ever.
                Err(why) => error!("the new release is not tried: its try cannot be written down: {why}"),
            }
        }
        match book.current {
            Some(current) if self.releases.path(&current).is_file() => Plan::Release(current),
            Some(current) => {
                error!("{} is gone: the installed agent runs", self.releases.path(&current).display());
                Plan::Ourselves
            }
            None => Plan::Ourselves,
        }
    }

    /// Another executable was installed since the release was taken. The newer of both runs; of one version, what was
    /// installed, because somebody did that by hand.
    fn installed_anew(&self, book: &mut Book) {
        let is_newer = |kept: &Kept| {
            kept.version.parse().is_ok_and(|version: Version| version.precedence(&Version::own()).is_gt())
        };
        if book.current.as_ref().is_some_and(|current| !is_newer(current)) {
            info!("another executable was installed: it runs, and no longer the release that was taken before");
            (book.current, book.trial) = (None, None);
            book.installed.clone_from(&self.stamp);
            if let Err(why) = self.releases.write(book) {
                warn!("that cannot be written down: {why}");
            }
        }
    }

    /// Runs a release that has proven itself. True: that was all.
    async fn run(&self, kept: &Kept, stop: &CancellationToken) -> Result<bool, AgentError> {
        info!("starting release {}", kept.version);
        let mut child = match Child::start(&self.releases.path(kept), &[RELEASE_FLAG]) {
            Ok(child) => child,
            Err(why) => {
                let why = format!("it could not be started: {why}");
                return self.crashed(kept, CRASHES_MAX, why).map(|()| false);
            }
        };
        let status = tokio::select! {
            status = child.ended() => status,
            () = stop.cancelled() => {
                child.end().await;
                return Ok(true);
            }
        };
        let book = self.releases.read();
        if book.trial.as_ref().is_some_and(|trial| trial.tries == 0) {
            return Ok(false);
        }
        let said = child.last_words().await;
        let why = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        let why = format!("it ended with {why}: {said}");
        if !child.is_proven() {
            let crashes = book.current.as_ref().map_or(0, |current| current.crashes) + 1;
            self.crashed(kept, crashes, why.clone())?;
            if crashes >= CRASHES_MAX {
                return Ok(false);
            }
        }
        Err(AgentError::ReleaseEnded(why))
    }

    /// A release that had proven itself ends before it does so again. After some times the installed agent runs.
    fn crashed(&self, kept: &Kept, crashes: u32, why: String) -> Result<(), AgentError> {
        let mut book = self.releases.read();
        if crashes >= CRASHES_MAX {
            error!("release {} is given up: {why}", kept.version);
            book.current = None;
            if let Some(last) = book.last.as_mut().filter(|last| last.state == UpgradeState::Upgraded) {
                (last.state, last.reason) = (UpgradeState::RolledBack, Some(why));
                last.cut_reason();
            }
        } else if let Some(current) = &mut book.current {
            current.crashes = crashes;
        }
        let written = self.releases.write(&book);
        written.map_err(|source| AgentError::Data { path: self.releases.folder().to_owned(), source })
    }

    /// Tries a release. True: we were asked to stop.
    async fn try_out(&self, trial: &Trial, stop: &CancellationToken) -> Result<bool, AgentError> {
        info!("release {} is on trial (start {})", trial.release.version, trial.tries);
        let mut child = match Child::start(&self.releases.path(&trial.release), &[RELEASE_FLAG, TRIAL_FLAG]) {
            Ok(child) => child,
            Err(why) => {
                self.put_back(trial, format!("it could not be started: {why}"), false);
                return Ok(false);
            }
        };
        crash::point("upgrade.started");
        let probation =
            crash::said(PROBATION_MS).and_then(|ms| ms.parse().ok()).map_or(PROBATION, Duration::from_millis);
        let proof = child.proof();
        let (why, again) = tokio::select! {
            () = proof.cancelled() => {
                info!("release {} has proven itself", trial.release.version);
                return self.follow(child, stop).await;
            }
            status = child.ended() => {
                let why = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                (format!("it ended with {why}"), false)
            }
            () = tokio::time::sleep(probation) => {
                (format!("it did not prove a round trip to the server within {} s", probation.as_secs_f32()), true)
            }
            () = stop.cancelled() => {
                child.end().await;
                return Ok(true);
            }
        };
        child.end().await;
        let said = child.last_words().await;
        // It may have written down its proof before we heard of it.
        if self.releases.read().trial.is_some() {
            self.put_back(trial, format!("{why}; it said: {said}"), again);
        }
        Ok(false)
    }

    /// A release that has just proven itself goes on. True: that was all.
    async fn follow(&self, mut child: Child, stop: &CancellationToken) -> Result<bool, AgentError> {
        let status = tokio::select! {
            status = child.ended() => status,
            () = stop.cancelled() => {
                child.end().await;
                return Ok(true);
            }
        };
        if self.releases.read().trial.is_some() {
            return Ok(false);
        }
        let why = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        Err(AgentError::ReleaseEnded(format!("it ended with {why}: {}", child.last_words().await)))
    }

    /// What ran before runs again.
    fn put_back(&self, trial: &Trial, why: String, again: bool) {
        error!("release {} is not kept, and what ran before runs again: {why}", trial.release.version);
        let mut book = self.releases.read();
        let mut last =
            UpgradeReport { again, ..report(trial.rollout, trial.attempt, UpgradeState::RolledBack, Some(why)) };
        last.cut_reason();
        (book.trial, book.last) = (None, Some(last));
        crash::point("upgrade.given_up");
        match self.releases.write(&book) {
            Ok(()) => self.releases.sweep(&book),
            // The next start finds the trial, whose tries are counted.
            Err(why) => error!("that cannot be written down: {why}"),
        }
        crash::point("upgrade.put_back");
    }
}

/// Which state of its file the executable is that runs: length and time.
fn stamp() -> String {
    let own = if cfg!(target_os = "linux") { Ok("/proc/self/exe".into()) } else { std::env::current_exe() };
    let found = own.and_then(std::fs::metadata);
    let since = |found: &std::fs::Metadata| found.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok();
    found.map_or_else(
        |_| String::new(),
        |found| format!("{} bytes, {} ns", found.len(), since(&found).unwrap_or_default().as_nanos()),
    )
}
