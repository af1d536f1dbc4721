//! The way of an offer: judged, fetched, verified; then the agent waits until no command runs, decides, and ends so that the
//! release is started. What is decided is on disk before it is told.
//!
//! One task does it, for the latest offer. A new session brings the same offer with fresh credentials; then it begins again,
//! and what was fetched is there.

use super::book::{Kept, Releases, Trial};
use super::check::{may_take, runs_here, verify};
use super::fetch::{FetchError, fetch};
use super::key;
use crate::agent::config::Role;
use crate::agent::runner::queue::Runner;
use crate::backoff::Backoff;
use crate::ballast::free_bytes;
use crate::crash;
use crate::http_client::ServerUrl;
use crate::protocol::upgrade::{Ability, Offer, UpgradeReport, UpgradeState};
use crate::release::Platform;
use crate::secret::{Secret, hex};
use crate::tls::Trust;
use ring::digest::{Context, SHA256};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Free on the disk beside the release, in bytes: the journal and output need some.
const SPARE_BYTES: u64 = 32 * 1024 * 1024;
/// First and longest wait between tries to fetch it.
const RETRY_FIRST: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(120);
/// Tries in which nothing more arrived, after which it has failed.
const FETCHES_MAX: u32 = 20;
/// So long commands that come are held up while the last of those that run end: as long as nobody minds.
const HOLD_MAX: Duration = Duration::from_secs(60);
/// So long they go on again before the next try.
const PAUSE: Duration = Duration::from_secs(60);
/// All of the waiting: the longest command has ended by then.
const WAIT_MAX: Duration = Duration::from_secs(25 * 3600);
/// How long the last report may take to be sent. If it is not, the next `hello` has it.
const LAST_WORD: Duration = Duration::from_secs(1);

/// An offer, and how its release is fetched.
#[derive(Clone, Debug)]
pub struct Given {
    /// The offer.
    pub offer: Offer,
    /// The server.
    pub url: ServerUrl,
    /// Whom it must be.
    pub trust: Trust,
    /// The session's token for fetching.
    pub token: Arc<Secret>,
}

/// What an agent has to do with upgrades. Clones share it.
#[derive(Clone, Debug)]
pub struct Upgrader {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    data: PathBuf,
    releases: Releases,
    role: Role,
    /// SHA-256 of the release that this process is; none: it is what was installed.
    own: Option<String>,
    offer: watch::Sender<Option<Given>>,
    told: watch::Sender<Option<UpgradeReport>>,
    /// A round trip of a session of this process is proven.
    proven: CancellationToken,
    /// That is on disk.
    kept: CancellationToken,
    /// This process is to end, so that another release is started.
    decided: CancellationToken,
}

enum Judged {
    /// It has ended; that is told again.
    Ended(UpgradeReport),
    /// It is what runs, and will say so when that is proven.
    OnTrial,
    Begin,
}

impl Upgrader {
    /// For the agent of this data folder.
    pub fn new(data: &Path, releases: Releases, role: Role) -> Self {
        let book = releases.read();
        let own = match role {
            Role::Installed => None,
            Role::Release => book.current.map(|kept| kept.sha256),
            Role::Trial => book.trial.map(|trial| trial.release.sha256),
        };
        let shared = Shared {
            data: data.to_owned(),
            releases,
            role,
            own,
            offer: watch::Sender::new(None),
            told: watch::Sender::new(None),
            proven: CancellationToken::new(),
            kept: CancellationToken::new(),
            decided: CancellationToken::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// What `hello` says.
    pub fn ability(&self) -> Ability {
        let last = self.shared.releases.read().last;
        if !cfg!(unix) {
            let cannot = Some("agents on this system cannot upgrade themselves yet".to_owned());
            return Ability { cannot, last, ..Ability::default() };
        }
        let platform = Platform::here().map(|platform| platform.to_string());
        let cannot = platform.is_none().then(|| "there are no releases for hosts of this kind".to_owned());
        Ability { platform, release: self.shared.own.clone(), cannot, last }
    }

    /// Keeps the key that the server tells, if it is the first.
    pub fn learn_key(&self, told: &str) {
        key::learn(&self.shared.data, told);
    }

    /// The server offers a release.
    pub fn offered(&self, given: Given) {
        self.shared.offer.send_replace(Some(given));
    }

    /// What there is to tell the server, now and whenever it changes.
    pub fn told(&self) -> watch::Receiver<Option<UpgradeReport>> {
        self.shared.told.subscribe()
    }

    /// Whether this process is on trial, and that it has proven itself is not on disk yet.
    pub fn is_on_trial(&self) -> bool {
        self.shared.role == Role::Trial && !self.shared.kept.is_cancelled()
    }

    /// A session is ready and has had a ping answered.
    pub fn prove(&self) {
        self.shared.proven.cancel();
    }

    /// Ends when this process is to end for another release.
    pub async fn decided(&self) {
        self.shared.decided.cancelled().await;
    }

    /// Whether it is to end for another release.
    pub fn is_decided(&self) -> bool {
        self.shared.decided.is_cancelled()
    }

    /// Writes down what is proven, once, and tells the process that started this one.
    pub async fn keep_proof(&self) {
        self.shared.proven.cancelled().await;
        let this = self.clone();
        match on_disk(move || this.write_proof()).await {
            Ok(None) => {}
            Ok(Some(report)) => {
                info!("this release has proven itself and stays");
                self.shared.told.send_replace(Some(report));
            }
            // The trial goes on, then, and ends with the old one.
            Err(why) => return warn!("that this release has proven itself cannot be written down: {why}"),
        }
        self.shared.kept.cancel();
        if self.shared.role != Role::Installed {
            crash::point("upgrade.confirmed");
            // Whoever reads it may be gone.
            let _ = writeln!(io::stdout(), "proven").and_then(|()| io::stdout().flush());
        }
    }

    fn write_proof(&self) -> io::Result<Option<UpgradeReport>> {
        let releases = &self.shared.releases;
        match self.shared.role {
            Role::Installed => Ok(None),
            Role::Release => releases.change(|book| {
                if let Some(current) = &mut book.current {
                    current.crashes = 0;
                }
                None
            }),
            Role::Trial => {
                crash::point("upgrade.proven");
                let proven = releases.change(|book| {
                    let trial = book.trial.take()?;
                    let report = report(trial.rollout, trial.attempt, UpgradeState::Upgraded, None);
                    book.current = Some(trial.release);
                    book.last = Some(report.clone());
                    Some(report)
                })?;
                releases.sweep(&releases.read());
                Ok(proven)
            }
        }
    }

    /// Takes offers, one after the other, until this process ends.
    pub async fn take_offers(&self, runner: &Runner) {
        let mut offers = self.shared.offer.subscribe();
        loop {
            let given = offers.borrow_and_update().clone();
            if let Some(given) = given {
                tokio::select! {
                    () = self.take(&given, runner) => {}
                    _ = offers.changed() => continue,
                }
            }
            if offers.changed().await.is_err() {
                return;
            }
        }
    }

    async fn take(&self, given: &Given, runner: &Runner) {
        let offer = &given.offer;
        match self.judge(offer).await {
            Judged::OnTrial => return,
            Judged::Ended(report) => return self.tell(report),
            Judged::Begin => {}
        }
        info!("release {} is offered (attempt {})", offer.version, offer.attempt);
        self.tell(report(offer.rollout, offer.attempt, UpgradeState::Taken, None));
        let release = match self.obtain(given).await {
            Ok(Some(release)) => release,
            Ok(None) => return info!("release {} is not given any more", offer.version),
            Err(why) => return self.end(offer, UpgradeState::Failed, Some(why)).await,
        };
        let held = match self.quiet(offer, runner).await {
            Ok(held) => held,
            Err(why) => return self.end(offer, UpgradeState::Failed, Some(why)).await,
        };
        let last = report(offer.rollout, offer.attempt, UpgradeState::Restarting, None);
        let trial = Trial { release, rollout: offer.rollout, attempt: offer.attempt, tries: 0 };
        let (releases, written) = (self.shared.releases.clone(), last.clone());
        let written = on_disk(move || releases.change(|book| (book.trial, book.last) = (Some(trial), Some(written))));
        if let Err(why) = written.await {
            drop(held);
            return self.end(offer, UpgradeState::Failed, Some(format!("it cannot be written down: {why}"))).await;
        }
        crash::point("upgrade.decided");
        info!("release {} is verified, and no command runs: this process ends and it is started", offer.version);
        self.tell(last);
        tokio::time::sleep(LAST_WORD).await;
        self.shared.decided.cancel();
        // With the slots in its hands: nothing starts any more.
        std::future::pending::<()>().await;
    }

    async fn judge(&self, offer: &Offer) -> Judged {
        if let Some(last) = self.shared.releases.read().last
            && (last.rollout, last.attempt) == (offer.rollout, offer.attempt)
            && !matches!(last.state, UpgradeState::Taken | UpgradeState::Restarting)
        {
            return Judged::Ended(last);
        }
        let runs = match &self.shared.own {
            Some(own) => *own == offer.sha256,
            None => on_disk(hash_of_own).await.is_ok_and(|own| own == offer.sha256),
        };
        if !runs {
            return Judged::Begin;
        }
        if self.is_on_trial() {
            return Judged::OnTrial;
        }
        let why = Some("it runs already".to_owned());
        self.end(offer, UpgradeState::Upgraded, why.clone()).await;
        Judged::Ended(report(offer.rollout, offer.attempt, UpgradeState::Upgraded, why))
    }

    /// The release in its place, verified. None: the server gives it no more.
    async fn obtain(&self, given: &Given) -> Result<Option<Kept>, String> {
        let (offer, releases) = (given.offer.clone(), self.shared.releases.clone());
        may_take(&offer, Platform::here())?;
        let key = key::kept(&self.shared.data).map_err(|error| format!("the release key cannot be read: {error}"))?;
        let key = key.ok_or("this agent knows no release key yet")?;
        let name = Releases::name(&offer.sha256);
        let (place, part) = (releases.folder().join(&name), releases.folder().join(format!("{name}.part")));
        if !place.exists() {
            let found = std::fs::metadata(&part).map_or(0, |found| found.len());
            let needed = offer.bytes.saturating_sub(found).saturating_add(SPARE_BYTES);
            if let Some(free) = free_bytes(releases.folder()).filter(|free| *free < needed) {
                return Err(format!("its disk has {free} bytes free, and the release needs {needed}"));
            }
            if !self.fetch_all(given, &part).await? {
                return Ok(None);
            }
            crash::point("upgrade.fetched");
        }
        let kept = Kept { file: name, sha256: offer.sha256.clone(), version: offer.version.clone(), crashes: 0 };
        let checked = on_disk(move || {
            let found = if place.exists() { &place } else { &part };
            let judged = verify(found, &offer, &key).and_then(|()| {
                settle(found, &place).map_err(|error| format!("the release cannot be put in its place: {error}"))
            });
            let judged = judged.and_then(|()| runs_here(&place));
            if judged.is_err() {
                let _ = (std::fs::remove_file(&part), std::fs::remove_file(&place));
            }
            Ok(judged)
        });
        checked.await.map_err(|error| error.to_string())??;
        crash::point("upgrade.verified");
        Ok(Some(kept))
    }

    /// Fetches until it is there. False: the server gives it no more.
    async fn fetch_all(&self, given: &Given, part: &Path) -> Result<bool, String> {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        let (mut left, mut had) = (FETCHES_MAX, 0);
        loop {
            let (why, at_least) = match fetch(given, part).await {
                Ok(()) => return Ok(true),
                Err(FetchError::Gone(_)) => return Ok(false),
                Err(FetchError::Disk(error)) => return Err(format!("the release cannot be written: {error}")),
                Err(FetchError::Later { why, at_least }) => (why, at_least),
            };
            let has = std::fs::metadata(part).map_or(0, |found| found.len());
            left = if has > had { FETCHES_MAX } else { left - 1 };
            had = has;
            if left == 0 {
                return Err(format!("the release could not be fetched: {why}"));
            }
            let wait = backoff.next(at_least);
            warn!("the release is not fetched yet: {why}; trying again in {:.1} s", wait.as_secs_f32());
            tokio::time::sleep(wait).await;
        }
    }

    /// All slots, when no command runs. Nothing starts until they are given back.
    async fn quiet(&self, offer: &Offer, runner: &Runner) -> Result<OwnedSemaphorePermit, String> {
        let since = Instant::now();
        loop {
            match tokio::time::timeout(HOLD_MAX, runner.quiet()).await {
                Ok(Some(held)) => return Ok(held),
                Ok(None) => std::future::pending::<()>().await,
                Err(_) => {}
            }
            if since.elapsed() > WAIT_MAX {
                return Err(format!("there was no moment without a command in {} h", WAIT_MAX.as_secs() / 3600));
            }
            let why = Some("it waits until no command runs".to_owned());
            self.tell(report(offer.rollout, offer.attempt, UpgradeState::Taken, why));
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The offer has ended: that is written down and told.
    async fn end(&self, offer: &Offer, state: UpgradeState, reason: Option<String>) {
        let mut last = report(offer.rollout, offer.attempt, state, reason);
        last.cut_reason();
        if state == UpgradeState::Failed {
            warn!("release {} is not taken: {}", offer.version, last.reason.as_deref().unwrap_or_default());
        }
        let (releases, written) = (self.shared.releases.clone(), last.clone());
        let written = on_disk(move || releases.change(|book| book.last = Some(written)));
        if let Err(why) = written.await {
            warn!("what became of an offer cannot be written down: {why}");
        }
        self.tell(last);
    }

    fn tell(&self, report: UpgradeReport) {
        self.shared.told.send_replace(Some(report));
    }
}

/// A report of an attempt.
pub fn report(
    rollout: crate::protocol::ids::RolloutId,
    attempt: u32,
    state: UpgradeState,
    reason: Option<String>,
) -> UpgradeReport {
    UpgradeReport { rollout, attempt, state, reason, again: false }
}

async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Makes it executable, has it on disk, and gives it its name.
fn settle(found: &Path, place: &Path) -> io::Result<()> {
    let file = std::fs::File::open(found)?;
    #[cfg(unix)]
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    file.sync_all()?;
    drop(file);
    std::fs::rename(found, place)?;
    match place.parent() {
        Some(folder) if cfg!(unix) => std::fs::File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

/// SHA-256 of the executable that runs.
fn hash_of_own() -> io::Result<String> {
    let own = if cfg!(target_os = "linux") { PathBuf::from("/proc/self/exe") } else { std::env::current_exe()? };
    let (mut file, mut hash, mut buffer) = (std::fs::File::open(own)?, Context::new(&SHA256), vec![0; 256 * 1024]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(hash.finish().as_ref())),
            read => hash.update(&buffer[..read]),
        }
    }
}
