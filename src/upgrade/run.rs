//! The order of things: look, stop, swap, start, prove; and back again if anything of it fails.

use super::database::set_aside;
use super::error::UpgradeError;
use super::journal::{Ended, Past, Step, UnderWay, forget, history};
use super::probe::{Access, Probe};
use super::recover::{Host, REHEARSAL_MAX, back, clean_up, recover};
use super::rehearsal::{rehearse, version};
use super::releases::{CURRENT, KEEPER, Lock, PREVIOUS, Releases};
use super::service::Service;
use crate::cli::out;
use crate::clock::Clock;
use crate::crash;
use crate::release::{Platform, ReleaseKey};
use crate::secret::hex;
use crate::server::backup::crypt::Recipients;
use crate::server::backup::make::{BackupOrder, make};
use crate::server::backup::stamp::stamp;
use crate::store::check::MIGRATION;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// How long the server that runs may take to pass the check before anything is changed.
const BEFORE_MAX: Duration = Duration::from_secs(30);
/// How long the look takes that finds out whether a server runs at all.
const LOOK_MAX: Duration = Duration::from_secs(3);
/// How long going back takes at least: agents that met a bad release come back later and later.
const BACK_MIN: Duration = Duration::from_secs(90);
/// Hexadecimal digits of an executable's hash in its release's name.
const NAME_DIGITS: usize = 12;
/// How the backups of upgrades are called.
const BACKUP_PREFIX: &str = "postrider-before-upgrade-";
/// So many of them are kept.
const BACKUPS_KEPT: usize = 3;
/// A release that crashes again and again is taken back if it is younger than this.
const CRASH_MS_MAX: i64 = 24 * 3600 * 1000;

/// What is known before an upgrade.
#[derive(Clone, Debug)]
pub struct Order {
    /// Releases, data, configuration.
    pub host: Host,
    /// What stops and starts the server.
    pub service: Service,
    /// The link by which unit and command line find what runs; none: they go by `current` themselves.
    pub link: Option<PathBuf>,
    /// Who signs releases.
    pub key: Option<ReleaseKey>,
    /// The folder of the backups that are made before.
    pub backup_to: PathBuf,
    /// For whom they are encrypted.
    pub recipients: Recipients,
    /// How long the new release may take to start, and how long to prove itself.
    pub longest: Duration,
    /// Who wants it.
    pub by: String,
}

/// Puts a signed executable in the place of what runs.
///
/// # Errors
/// [`UpgradeError`].
pub async fn upgrade(order: &Order, executable: &Path) -> Result<Past, UpgradeError> {
    let releases = &order.host.releases;
    let config = order.host.config.clone().unwrap_or_else(|| PathBuf::from("the configuration file"));
    let key = order.key.as_ref().ok_or(UpgradeError::NoKey(config))?;
    key.verify(executable)?;
    let _lock = lock(releases)?;
    first_what_was_cut_off(order).await?;
    let from = adopt(order).await?;
    let staged = releases.stage(executable)?;
    // What counts is what lies where nobody else may write.
    let release = key.verify(&staged)?;
    if Platform::here() != Some(release.platform) {
        let here = format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH);
        return Err(UpgradeError::Platform { path: executable.to_owned(), found: release.platform, here });
    }
    let to = named(&order.host.access.data, &staged, &release.sha256, executable).await?;
    if to == from {
        return Err(UpgradeError::Already(to));
    }
    releases.keep(&to)?;
    out::note(&format!("{to}: signed by the configured key"));
    releases.point(KEEPER, &from)?;
    exchange(order, from, to, false).await
}

/// Goes back to what ran before.
///
/// # Errors
/// [`UpgradeError`].
pub async fn rollback(order: &Order) -> Result<Past, UpgradeError> {
    let releases = &order.host.releases;
    let _lock = lock(releases)?;
    first_what_was_cut_off(order).await?;
    let none = || UpgradeError::NoPrevious(releases.file(""));
    let from = releases.named_by(CURRENT).ok_or_else(none)?;
    let to = releases.named_by(PREVIOUS).ok_or_else(none)?;
    releases.point(KEEPER, &to)?;
    exchange(order, from, to, true).await
}

/// The same for a server that crashed too often to be started again: only if what crashes is a fresh release. None: it is
/// not, and nothing was done.
///
/// # Errors
/// [`UpgradeError`].
pub async fn rollback_after_crash(order: &Order) -> Result<Option<Past>, UpgradeError> {
    let releases = &order.host.releases;
    let now_ms = Clock::system().now_ms();
    // One that was gone back to is not fresh, or two that crash would take turns for ever.
    let fresh = history(releases)?.pop().filter(|past| {
        past.ended == Ended::Upgraded
            && Some(&past.to) == releases.named_by(CURRENT).as_ref()
            && Some(&past.from) == releases.named_by(PREVIOUS).as_ref()
            && now_ms.saturating_sub(past.ended_ms) < CRASH_MS_MAX
    });
    match fresh {
        Some(_) => rollback(order).await.map(Some),
        None => Ok(None),
    }
}

/// Deals with an upgrade that was cut off, unless somebody is at it. Answers what was done.
///
/// # Errors
/// [`UpgradeError`].
pub async fn recover_if_cut_off(
    host: &Host,
    service: Option<&Service>,
    longest: Duration,
) -> Result<Option<String>, UpgradeError> {
    match host.releases.lock()? {
        Some(_lock) => recover(host, service, longest).await,
        None => Ok(None),
    }
}

fn lock(releases: &Releases) -> Result<Lock, UpgradeError> {
    if let Some(lock) = releases.lock()? {
        return Ok(lock);
    }
    let what = UnderWay::read(releases).ok().flatten();
    let what = what.map_or("it has just begun".to_owned(), |upgrade| format!("to {}, by {}", upgrade.to, upgrade.by));
    Err(UpgradeError::Busy(what))
}

async fn first_what_was_cut_off(order: &Order) -> Result<(), UpgradeError> {
    if let Some(done) = recover(&order.host, Some(&order.service), order.longest).await? {
        out::note(&done);
    }
    Ok(())
}

/// What runs, as a release. At the first upgrade what runs becomes one, so that there is something to go back to.
async fn adopt(order: &Order) -> Result<String, UpgradeError> {
    let releases = &order.host.releases;
    let current = match releases.named_by(CURRENT) {
        Some(current) => current,
        None => {
            let own = || std::env::current_exe().map_err(UpgradeError::io(Path::new("this very program")));
            let running = order.service.running().await.map_or_else(own, Ok)?;
            let staged = releases.stage(&running)?;
            let bytes = fs::read(&staged).map_err(UpgradeError::io(&staged))?;
            let name = named(&order.host.access.data, &staged, &crate::secret::sha256(&bytes), &running).await?;
            releases.keep(&name)?;
            releases.point(CURRENT, &name)?;
            name
        }
    };
    if let Some(link) = &order.link {
        releases.lead(link)?;
    }
    Ok(current)
}

/// The name of a release: its version, and of which bytes it is.
async fn named(data: &Path, staged: &Path, sha256: &[u8; 32], shown: &Path) -> Result<String, UpgradeError> {
    let does_not_run = |why| UpgradeError::DoesNotRun { path: shown.to_owned(), why };
    let version = version(staged, data).await.map_err(does_not_run)?;
    Ok(format!("{version}-{}", &hex(sha256)[..NAME_DIGITS]))
}

/// Puts the release `to` in the place of `from`, both of which are there.
async fn exchange(order: &Order, from: String, to: String, backwards: bool) -> Result<Past, UpgradeError> {
    let Order { host, .. } = order;
    let (releases, access) = (&host.releases, &host.access);
    let program = releases.program(&to);
    let rehearsed = rehearse(&program, host.config.as_deref(), &access.data, REHEARSAL_MAX).await;
    let migrates = rehearsed.map_err(UpgradeError::Rehearsal)?.contains(MIGRATION);
    out::note(if migrates { "it would start, after a migration" } else { "it would start" });
    access.check_token().map_err(UpgradeError::Token)?;
    let mut probe = before(access).await?;
    let backup = back_up(order)?;
    out::note(&format!("backup: {}", backup.display()));
    let mut upgrade = UnderWay {
        step: Step::Stopping,
        from,
        to,
        began_ms: Clock::system().now_ms(),
        by: order.by.clone(),
        backup,
        copy: None,
        previous: releases.named_by(PREVIOUS),
        backwards,
    };
    let ended = match forward(order, &mut upgrade, &mut probe, migrates).await {
        Ok(pause) => proven(order, &mut upgrade, pause),
        Err(why) if upgrade.step == Step::Stopping => Err(resume(order, &upgrade, &mut probe, why).await),
        Err(why) => undo(order, &mut upgrade, &mut probe, why.to_string()).await,
    };
    if let Some(probe) = probe {
        probe.end().await;
    }
    ended
}

/// The server that runs passes the check, too, or what follows would prove nothing. None: no server runs.
async fn before(access: &Access) -> Result<Option<Probe>, UpgradeError> {
    if let Err(why) = access.ready(Instant::now() + LOOK_MAX).await {
        out::note(&format!("no server runs now: {why}"));
        return Ok(None);
    }
    let mut probe = Probe::begin(access).await.map_err(UpgradeError::Token)?;
    if let Err(why) = probe.round_trip(Instant::now() + BEFORE_MAX).await {
        probe.end().await;
        return Err(UpgradeError::Before(why));
    }
    Ok(Some(probe))
}

/// From the stop of the old to the proof of the new. Answers how long nobody answered.
async fn forward(
    order: &Order,
    upgrade: &mut UnderWay,
    probe: &mut Option<Probe>,
    migrates: bool,
) -> Result<Duration, UpgradeError> {
    let Order { host, service, .. } = order;
    let releases = &host.releases;
    upgrade.at(Step::Stopping, releases)?;
    crash::point("upgrade.stopping");
    let stopped = Instant::now();
    service.stop().await?;
    if migrates {
        upgrade.copy = Some(set_aside(&host.access.data, releases)?);
    }
    upgrade.at(Step::Swapping, releases)?;
    crash::point("upgrade.swapping");
    releases.point(PREVIOUS, &upgrade.from)?;
    releases.point(CURRENT, &upgrade.to)?;
    crash::point("upgrade.swapped");
    upgrade.at(Step::Starting, releases)?;
    start(order, &upgrade.to, order.longest, probe, stopped).await
}

/// Starts what `current` names and has it prove itself. Answers for how long nobody answered since `stopped`.
async fn start(
    order: &Order,
    name: &str,
    longest: Duration,
    probe: &mut Option<Probe>,
    stopped: Instant,
) -> Result<Duration, UpgradeError> {
    let Order { host, service, .. } = order;
    let failed = UpgradeError::Service;
    let started = Instant::now();
    service.start(longest).await?;
    crash::point("upgrade.started");
    let late = Instant::now() + longest;
    if let Err(why) = host.access.ready(late).await {
        let log = service.last_words().await;
        return Err(failed(format!("{name} started, but {why}{log}")));
    }
    let pause = stopped.elapsed();
    out::note(&format!(
        "{name} answers after {:.2} s, {:.2} s after the stop began",
        started.elapsed().as_secs_f64(),
        pause.as_secs_f64()
    ));
    if let Some(running) = service.running().await
        && fs::read_link(&running).is_ok_and(|program| program != host.releases.program(name))
    {
        let program = fs::read_link(&running).unwrap_or(running);
        return Err(failed(format!(
            "the unit runs {} and not what {} names: give its ExecStart as `postrider serve …`, without a path",
            program.display(),
            host.releases.file(CURRENT).display()
        )));
    }
    let probe = match probe {
        Some(probe) => probe,
        None => {
            let begun = Probe::begin(&host.access).await;
            probe.insert(begun.map_err(|error| failed(format!("{name} answers, but takes no agent: {error}")))?)
        }
    };
    let proven = probe.round_trip(late).await;
    proven.map_err(|why| failed(format!("{name} answers, but {why}")))?;
    out::note(&format!(
        "a command went to an agent and came back, {:.2} s after the stop began",
        stopped.elapsed().as_secs_f64()
    ));
    // One that dies a moment after its start is no good either.
    still_there(&host.access).await.map_err(|why| failed(format!("{name} answered for a moment, but then {why}")))?;
    Ok(pause)
}

/// Looks once more, a little later.
async fn still_there(access: &Access) -> Result<(), String> {
    sleep(Duration::from_secs(1)).await;
    access.ready(Instant::now() + LOOK_MAX).await
}

/// The new release stays.
fn proven(order: &Order, upgrade: &mut UnderWay, pause: Duration) -> Result<Past, UpgradeError> {
    let releases = &order.host.releases;
    upgrade.at(Step::Proven, releases)?;
    crash::point("upgrade.proven");
    let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
    let ended = if upgrade.backwards { Ended::WentBack } else { Ended::Upgraded };
    let past = write_down(releases, upgrade, ended, None, Some(pause_ms))?;
    clean_up(upgrade)?;
    releases.prune()?;
    Ok(past)
}

/// Nothing was changed: the old server goes on. Answers why.
async fn resume(order: &Order, upgrade: &UnderWay, probe: &mut Option<Probe>, why: UpgradeError) -> UpgradeError {
    out::note(&format!("postrider: {why}\npostrider: nothing was changed, {} goes on", upgrade.from));
    let resumed =
        start(order, &upgrade.from, order.longest.max(BACK_MIN), probe, Instant::now()).await.and_then(|_| {
            clean_up(upgrade)?;
            forget(&order.host.releases)
        });
    match resumed {
        Ok(()) => why,
        Err(back) => stuck(upgrade, why.to_string(), &back),
    }
}

/// The old release is put back.
async fn undo(
    order: &Order,
    upgrade: &mut UnderWay,
    probe: &mut Option<Probe>,
    why: String,
) -> Result<Past, UpgradeError> {
    let releases = &order.host.releases;
    out::note(&format!("postrider: {why}\npostrider: going back to {}", upgrade.from));
    let undone = async {
        // On a full disk it stays written down as it is, which is undone in the same way.
        let _ = upgrade.at(Step::Undoing, releases);
        crash::point("upgrade.undoing");
        let stopped = Instant::now();
        order.service.stop().await?;
        back(&order.host, upgrade).await.map_err(UpgradeError::Service)?;
        crash::point("upgrade.undone");
        start(order, &upgrade.from, order.longest.max(BACK_MIN), probe, stopped).await
    };
    let pause = undone.await;
    match pause {
        Ok(pause) => {
            let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
            let (from, to) = (upgrade.from.clone(), upgrade.to.clone());
            write_down(releases, upgrade, Ended::RolledBack, Some(why.clone()), Some(pause_ms))?;
            clean_up(upgrade)?;
            Err(UpgradeError::RolledBack { to, from, why })
        }
        Err(back) => Err(stuck(upgrade, why, &back)),
    }
}

/// Neither runs. It is still written down: the next start tries again.
fn stuck(upgrade: &UnderWay, why: String, back: &UpgradeError) -> UpgradeError {
    let (from, to, backup) = (upgrade.from.clone(), upgrade.to.clone(), upgrade.backup.display().to_string());
    UpgradeError::Stuck { to, from, why, back: back.to_string(), backup }
}

fn write_down(
    releases: &Releases,
    upgrade: &UnderWay,
    ended: Ended,
    reason: Option<String>,
    pause_ms: Option<u64>,
) -> Result<Past, UpgradeError> {
    upgrade.end(releases, ended, Clock::system().now_ms(), reason, pause_ms)?;
    history(releases)?.pop().ok_or_else(|| UpgradeError::Service("the history was not written".to_owned()))
}

/// A backup of before, read back and checked. The oldest of those that upgrades made are removed.
fn back_up(order: &Order) -> Result<PathBuf, UpgradeError> {
    let folder = &order.backup_to;
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder).map_err(UpgradeError::io(folder))?;
    let ending = if order.recipients.is_empty() { "backup" } else { "backup.age" };
    let clock = Clock::system();
    let file = folder.join(format!("{BACKUP_PREFIX}{}.{ending}", stamp(clock.now_ms())));
    let data = order.host.access.data.clone();
    let backup = BackupOrder { data, file: file.clone(), force: true, recipients: order.recipients.clone() };
    make(&backup, &clock, &CancellationToken::new())?;
    let entries = fs::read_dir(folder).map_err(UpgradeError::io(folder))?;
    let mut made: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(|path| is_ours(path)).collect();
    // Their names sort as they were made.
    made.sort();
    for old in &made[..made.len().saturating_sub(BACKUPS_KEPT)] {
        fs::remove_file(old).map_err(UpgradeError::io(old))?;
    }
    Ok(file)
}

fn is_ours(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.starts_with(BACKUP_PREFIX) && (name.ends_with(".backup") || name.ends_with(".backup.age"))
}
