//! An upgrade that was cut off, by a power cut or a kill: it is undone, or finished if it had proven itself.
//!
//! The unit of the server has this done before each start, by the executable of before, which is known to run.

use super::database::{drop_copy, put_back};
use super::error::UpgradeError;
use super::journal::{Ended, Step, UnderWay, forget};
use super::probe::Access;
use super::rehearsal::rehearse;
use super::releases::{CURRENT, PREVIOUS, Releases, remove};
use super::service::Service;
use crate::clock::Clock;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a rehearsal may take: a migration of a large database is tried on a copy.
pub const REHEARSAL_MAX: Duration = Duration::from_secs(600);

/// What an upgrade is about.
#[derive(Clone, Debug)]
pub struct Host {
    /// The folder of releases.
    pub releases: Releases,
    /// How the server is spoken to, and where its data is.
    pub access: Access,
    /// Its configuration file.
    pub config: Option<PathBuf>,
}

/// Deals with what is written down. The caller has the lock. With a service it is stopped for that and started again;
/// without, the server is about to be started by somebody else. Answers what was done, if there was anything.
///
/// # Errors
/// [`UpgradeError`]: it is still written down, and is tried again at the next start.
pub async fn recover(
    host: &Host,
    service: Option<&Service>,
    longest: Duration,
) -> Result<Option<String>, UpgradeError> {
    let releases = &host.releases;
    let Some(mut upgrade) = UnderWay::read(releases)? else { return Ok(None) };
    let now_ms = Clock::system().now_ms();
    let (from, to) = (upgrade.from.clone(), upgrade.to.clone());
    let cut_off = format!("the upgrade from {from} to {to} was cut off");
    if upgrade.step == Step::Proven {
        upgrade.end(releases, Ended::Finished, now_ms, None, None)?;
        clean_up(&upgrade)?;
        return Ok(Some(format!("{cut_off} at its very end: it is finished, {to} runs")));
    }
    if let Some(service) = service {
        service.stop().await?;
    }
    let done = if upgrade.step == Step::Stopping {
        forget(releases)?;
        clean_up(&upgrade)?;
        format!("{cut_off} before anything was changed: {from} runs")
    } else {
        upgrade.at(Step::Undoing, releases)?;
        match back(host, &upgrade).await {
            Ok(()) => {
                upgrade.end(releases, Ended::Undone, now_ms, Some(cut_off.clone()), None)?;
                clean_up(&upgrade)?;
                format!("{cut_off}: it is undone, {from} runs again")
            }
            // The new release has migrated and taken commands, and the old one cannot read them: there is no way back.
            Err(why) => {
                releases.point(PREVIOUS, &from)?;
                releases.point(CURRENT, &to)?;
                upgrade.end(releases, Ended::Finished, now_ms, Some(why.clone()), None)?;
                format!("{cut_off}, and cannot be undone: {why}; so {to} stays")
            }
        }
    };
    if let Some(service) = service {
        service.start(longest).await?;
    }
    Ok(Some(done))
}

/// Puts links and, where it must be, the database back. The server does not run.
///
/// # Errors
/// Why the old release cannot run on what is there.
pub async fn back(host: &Host, upgrade: &UnderWay) -> Result<(), String> {
    let releases = &host.releases;
    let failed = |error: UpgradeError| error.to_string();
    let program = releases.program(&upgrade.from);
    if let Err(why) = rehearse(&program, host.config.as_deref(), &host.access.data, REHEARSAL_MAX).await {
        let why = format!("{} would not start on what is there:\n{why}", upgrade.from);
        let Some(copied) = &upgrade.copy else { return Err(why) };
        put_back(&host.access.data, copied).map_err(|error| format!("{why}\n{error}"))?;
    }
    releases.point(CURRENT, &upgrade.from).map_err(failed)?;
    match &upgrade.previous {
        Some(previous) => releases.point(PREVIOUS, previous).map_err(failed),
        None => {
            let link = releases.file(PREVIOUS);
            remove(&link).map_err(UpgradeError::io(&link)).map_err(failed)
        }
    }
}

/// Removes what was only for the way back.
///
/// # Errors
/// [`UpgradeError::Io`].
pub fn clean_up(upgrade: &UnderWay) -> Result<(), UpgradeError> {
    upgrade.copy.as_deref().map_or(Ok(()), |copied: &Path| drop_copy(copied))
}
