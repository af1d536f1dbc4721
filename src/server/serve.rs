//! Starting the server, and ending it: in order, or because the database cannot go on.

use super::acme::config::AcmeConfig;
use super::acme::keep::Keeper;
use super::admission::Admission;
use super::app::{App, FetchKey, Keepalive};
use super::backup::crypt::Recipients;
use super::backup::error::BackupError;
use super::backup::schedule::{Schedule, Scheduler};
use super::backup::{restore, work};
use super::folder::{Folder, FolderError, LISTEN_FILE, OWNER_TOKEN_FILE, PINS_FILE};
use super::install::executables::Executables;
use super::limits::Limits;
use super::listener::Door;
use super::metrics::{Metrics, StoreMetrics};
#[cfg(unix)]
use super::notify;
use super::places::Places;
use super::presence::Presence;
use super::proxy::Proxy;
use super::refusals::{HOUR, MINUTE, Refusals};
use super::rollout::releases::Releases;
use super::rollout::turn;
use super::tls::own::OwnCertificate;
use super::tls::start::{Tls, TlsStartError, host_name};
use super::web_sessions::WebSessions;
use super::{files, limits, listener, outside, reaper};
use crate::clock::Clock;
use crate::crash;
use crate::http_client::{HttpClientError, ServerUrl};
use crate::protocol::access::Role;
use crate::protocol::scope::Scope;
use crate::release::ReleaseKey;
use crate::secret::Secret;
use crate::store::audit::Actor;
use crate::store::brake::Brake;
use crate::store::disk::DiskLimits;
use crate::store::error::StoreError;
use crate::store::handle::{OpenError, Store, StoreThread};
use crate::store::op::Close;
use crate::store::retain::{HISTORY_BYTES_MAX, HISTORY_MS_MAX, Retain};
use crate::store::tokens::CreateToken;
use crate::tasks::Tasks;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long drain waits for requests and sessions.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two backups that the server makes itself: a day's work is what a lost disk costs.
pub const BACKUP_EVERY: Duration = Duration::from_secs(86_400);
/// Backups that are kept: what went wrong is noticed within a week.
pub const BACKUP_KEEP: u32 = 7;
/// Good tokens of this kind, at most.
const OWNER_TOKENS_MAX: u32 = 100;
/// How operators' tokens begin.
pub const TOKEN_PREFIX: &str = "prt_";

/// How to serve.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// The data folder.
    pub data: PathBuf,
    /// Where to listen. Port 0: any free port.
    pub listen: SocketAddr,
    /// The address for join strings; none: where it listens.
    pub public_url: Option<String>,
    /// A TLS proxy stands in front: plain HTTP is spoken, to it and to this host alone.
    pub behind_proxy: Option<Proxy>,
    /// TLS on loopback, too; elsewhere it is always spoken, unless behind a proxy.
    pub tls: bool,
    /// The owner's own certificate; none: only those of our authorities.
    pub own_certificate: Option<OwnCertificate>,
    /// A public certificate that is ordered and renewed; none: no CA is asked.
    pub acme: Option<AcmeConfig>,
    /// Whether loopback has the limit of one address, too. For tests: there is no other address.
    pub count_loopback: bool,
    /// A fresh owner's token is to be made, because the earlier ones are lost.
    pub new_owner_token: bool,
    /// Times of sessions.
    pub keepalive: Keepalive,
    /// Limits of the disk's use.
    pub disk: DiskLimits,
    /// How much history is kept.
    pub retain: Retain,
    /// The folder of backups that the server makes itself; none: it makes none.
    pub backup_to: Option<PathBuf>,
    /// How old the newest of them is at most.
    pub backup_every: Duration,
    /// How many of them are kept, at least one.
    pub backup_keep: u32,
    /// For whom they are encrypted, `age1…`; nobody: they are not.
    pub backup_recipient: Vec<String>,
    /// By whose signature an executable is a release; none: nothing is one.
    pub release_key: Option<ReleaseKey>,
    /// Above which numbers of agents a submission is not just taken.
    pub brake: Brake,
}

impl ServeConfig {
    /// The defaults, with this data folder, on a free port of the loopback.
    pub fn new(data: PathBuf) -> Self {
        Self {
            data,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            public_url: None,
            behind_proxy: None,
            tls: false,
            own_certificate: None,
            acme: None,
            count_loopback: false,
            new_owner_token: false,
            keepalive: Keepalive::default(),
            disk: DiskLimits::default(),
            retain: Retain { history_ms_max: HISTORY_MS_MAX, history_bytes_max: HISTORY_BYTES_MAX },
            backup_to: None,
            backup_every: BACKUP_EVERY,
            backup_keep: BACKUP_KEEP,
            backup_recipient: Vec::new(),
            release_key: None,
            brake: Brake::default(),
        }
    }

    /// Whether TLS is spoken: to the world always, on loopback when asked to, behind a proxy never.
    pub fn speaks_tls(&self) -> bool {
        let asked = self.tls || self.own_certificate.is_some() || self.acme.is_some();
        self.behind_proxy.is_none() && (asked || !self.listen.ip().is_loopback())
    }

    /// Whether the settings go together; the public URL, if there is one.
    ///
    /// # Errors
    /// [`ServeError::Exposed`], [`ServeError::PublicUrl`], [`ServeError::PublicUrlPlain`], [`ServeError::Backup`].
    pub fn checked(&self) -> Result<Option<ServerUrl>, ServeError> {
        Recipients::parse(&self.backup_recipient)?;
        if !self.listen.ip().is_loopback() && self.behind_proxy == Some(Proxy::Here) {
            return Err(ServeError::Exposed(self.listen));
        }
        match self.public_url.as_deref().map(ServerUrl::parse).transpose()? {
            Some(url) if self.speaks_tls() && !url.is_tls() => Err(ServeError::PublicUrlPlain(url)),
            url => Ok(url),
        }
    }
}

/// Why the server does not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A restore that was not finished, or a recipient of backups that is none.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The database.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The address.
    #[error("cannot listen on {address}: {source}; is another server running there? choose another with --listen")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// Plain HTTP to the world.
    #[error(
        "{0} is not a loopback address, and behind a proxy postrider speaks plain HTTP, to anybody who reaches it there: \
         listen on 127.0.0.1, or say whose connections are taken with --behind-proxy=ADDR; \
         without --behind-proxy it speaks TLS itself"
    )]
    Exposed(SocketAddr),
    /// TLS cannot be had.
    #[error(transparent)]
    Tls(#[from] TlsStartError),
    /// An address that no agent could use.
    #[error("--public-url {0} is not https://, but this server speaks TLS: give the https:// address")]
    PublicUrlPlain(ServerUrl),
    /// The public URL.
    #[error("--public-url: {0}")]
    PublicUrl(#[from] HttpClientError),
    /// The database, at the first writes.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Each start with the flag makes one.
    #[error("there are too many owners' tokens already: leave out --new-owner-token, and revoke some")]
    OwnerTokens,
    /// The database could not go on; everything accepted is on disk.
    #[error("the database cannot go on ({0}); free the cause and start again, nothing needs repair by hand")]
    Fatal(String),
}

/// A server that runs.
pub struct Running {
    /// Where it really listens.
    pub address: SocketAddr,
    /// The same as a URL.
    pub url: String,
    app: Arc<App>,
    folder: Folder,
    thread: StoreThread,
}

/// Starts a server.
///
/// # Errors
/// [`ServeError`], before anything is served.
pub async fn start(config: ServeConfig, clock: Clock) -> Result<Running, ServeError> {
    let public_url = config.checked()?;
    let recipients = Recipients::parse(&config.backup_recipient)?;
    restore::check_start(&config.data)?;
    let folder = Folder::open(&config.data)?;
    restore::finish(folder.path());
    work::clear_leftovers(folder.path());
    let listener =
        listener::listen(config.listen).map_err(|source| ServeError::Listen { address: config.listen, source })?;
    let address = listener.local_addr().map_err(|source| ServeError::Listen { address: config.listen, source })?;
    let metrics = Arc::new(Metrics::default());
    let counter = Box::new(StoreMetrics(Arc::clone(&metrics)));
    let tasks = Tasks::default();
    let tls = match config.speaks_tls() {
        true => Some(Arc::new(Tls::open(folder.path(), address, public_url.as_ref(), &clock)?)),
        false => None,
    };
    let acceptor = tls.as_ref().map(|tls| tls.start(config.own_certificate, &clock, &tasks)).transpose()?;
    let keeper = match (&tls, config.acme) {
        (Some(tls), Some(acme)) => {
            Some(Keeper::open(acme, folder.path(), Arc::clone(&tls.certificates), clock.clone())?)
        }
        _ => None,
    };
    let (store, thread) = Store::open(folder.path(), clock, config.disk, counter)?;
    assert!(!crash::is_broken("start") && !crash::is_broken("new-major-dies"), "broken by a test");
    make_owner_token(&store, &folder).await?;
    if config.new_owner_token {
        make_another_owner_token(&store, &folder).await?;
    }
    // In a log that others keep it tells later whether rows were taken away, or the chain was made anew.
    let (seq, hash) = store.audit_head().await?;
    tracing::info!("the audit's head is {seq}:{hash}");
    let scheme = if tls.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{address}");
    let join_url = match public_url {
        Some(url) => url,
        None => reachable(scheme, address)?,
    };
    let app = Arc::new(App {
        store,
        presence: Presence::default(),
        admission: Admission::default(),
        limits: Limits::default(),
        web_sessions: WebSessions::default(),
        refusals: Refusals::default(),
        turned_away: Refusals::default(),
        challenges: AtomicI64::new(0),
        metrics,
        tasks: tasks.clone(),
        keepalive: config.keepalive,
        url: join_url,
        tls: tls.clone(),
        open_on_loopback: config.behind_proxy.is_none(),
        brake: config.brake,
        seal: folder.seal_key()?,
        executables: Executables::open(folder.path()),
        releases: Releases::new(folder.path(), config.release_key),
        fetch_key: FetchKey::default(),
    });
    match tls {
        None => folder.remove(PINS_FILE),
        Some(tls) if tls.authorities.is_first_start => {
            tracing::info!("to use this server from elsewhere: postrider login --server {}", app.login_string());
        }
        Some(_) => {}
    }
    let connections_max = files::connections_max();
    folder.write(LISTEN_FILE, &format!("{scheme}://{}\n", own(address)))?;
    let places = Places::new(connections_max, config.behind_proxy, config.count_loopback);
    let door = Door { tls: acceptor, proxy: config.behind_proxy, places };
    tasks.spawn("listener", listener::accept(Arc::clone(&app), listener, door));
    if let Some(keeper) = keeper {
        tasks.spawn("acme", keeper.keep(tasks.stop_token().clone()));
    }
    if let Some(to) = config.backup_to {
        let schedule = Schedule { to, every: config.backup_every, keep: config.backup_keep, recipients };
        let scheduler = Scheduler::new(schedule, folder.path(), app.store.clock.clone(), Arc::clone(&app.metrics));
        tasks.spawn("backups", scheduler.run(tasks.stop_token().clone()));
    }
    tasks.spawn("reaper", reaper::reap(Arc::clone(&app), config.retain));
    let (keeper, stop) = (Arc::clone(&app), tasks.stop_token().clone());
    tasks.spawn("refusals", async move {
        let refusals = keeper.refusals.keep(MINUTE, &keeper.store, &stop);
        tokio::join!(refusals, keeper.turned_away.keep(HOUR, &keeper.store, &stop));
    });
    tasks.spawn("outside", outside::watch(Arc::clone(&app)));
    tasks.spawn("rollout", turn::keep(Arc::clone(&app)));
    tasks.spawn("limits", limits::tidy(Arc::clone(&app)));
    Ok(Running { address, url, app, folder, thread })
}

/// Where this host reaches what listens there.
fn own(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Where other hosts may reach what listens there, as far as this one can tell. With pins the name proves nothing, so it
/// need not be the right one for TLS.
fn reachable(scheme: &str, address: SocketAddr) -> Result<ServerUrl, HttpClientError> {
    let name = host_name().filter(|_| address.ip().is_unspecified());
    let named = name.and_then(|name| ServerUrl::parse(&format!("{scheme}://{name}:{}", address.port())).ok());
    named.map_or_else(|| ServerUrl::parse(&format!("{scheme}://{}", own(address))), Ok)
}

/// At the first start: the owner's token. The file is written before the database knows the token, so that no start leaves a server that nobody can enter.
async fn make_owner_token(store: &Store, folder: &Folder) -> Result<(), ServeError> {
    if store.has_tokens().await? {
        return Ok(());
    }
    let token = Secret::generate(TOKEN_PREFIX);
    folder.write(OWNER_TOKEN_FILE, &format!("{}\n", token.expose()))?;
    store.write(owner_token("first start", "owner".to_owned(), &token)).await?;
    tracing::info!("first start: the owner's token is in {}", folder.path().join(OWNER_TOKEN_FILE).display());
    Ok(())
}

fn owner_token(part: &str, name: String, token: &Secret) -> CreateToken {
    CreateToken {
        actor: Actor::server(part),
        name,
        role: Role::Owner,
        scope: Scope::default(),
        hash: token.hash(),
        expires_ms: None,
    }
}

/// When all owners' tokens are lost: another one, under the first free name. The database knows it before it takes the file's
/// place, so that a failure in between costs no token that is in use.
async fn make_another_owner_token(store: &Store, folder: &Folder) -> Result<(), ServeError> {
    let token = Secret::generate(TOKEN_PREFIX);
    for number in 2..OWNER_TOKENS_MAX {
        match store.write(owner_token("new owner token", format!("owner-{number}"), &token)).await {
            Err(StoreError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
            Ok(made) => {
                folder.write(OWNER_TOKEN_FILE, &format!("{}\n", token.expose()))?;
                tracing::warn!(
                    "a new owner's token, named {}, is in {}; the earlier ones stay good until they are revoked",
                    made.name,
                    folder.path().join(OWNER_TOKEN_FILE).display()
                );
                return Ok(());
            }
        }
    }
    Err(ServeError::OwnerTokens)
}

impl Running {
    /// The shared parts, for tests that look inside.
    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// Waits until the database cannot go on, if ever.
    pub async fn failed(&self) {
        self.app.store.watch.fatal.cancelled().await;
    }

    /// Stops accepting, answers what is under way, closes the sessions, and closes the database.
    ///
    /// # Errors
    /// [`ServeError::Fatal`] when the database had given up.
    pub async fn drain(self) -> Result<(), ServeError> {
        let tasks = &self.app.tasks;
        tasks.ask_to_stop();
        if !tasks.drained(DRAIN_TIMEOUT).await {
            tracing::warn!("{} tasks did not end within {} s", tasks.running(), DRAIN_TIMEOUT.as_secs());
        }
        self.app.refusals.count(&self.app.store).await;
        self.app.turned_away.count(&self.app.store).await;
        let closed = self.app.store.write(Close).await;
        tracing::debug!(?closed, "database closed");
        let thread = self.thread;
        if let Err(error) = tokio::task::spawn_blocking(move || thread.join()).await {
            tracing::error!(%error, "the database thread could not be waited for");
        }
        self.folder.remove(LISTEN_FILE);
        match (self.app.store.watch.fatal_reason(), closed) {
            (Some(why), _) => Err(ServeError::Fatal(why)),
            (None, Err(StoreError::Closed)) => Err(ServeError::Fatal("its thread ended; see the log".to_owned())),
            (None, _) => Ok(()),
        }
    }
}

/// Serves until `stop`, or until the database cannot go on.
///
/// # Errors
/// [`ServeError`].
pub async fn serve(config: ServeConfig, stop: CancellationToken) -> Result<(), ServeError> {
    let running = start(config, Clock::system()).await?;
    // Nobody may be there to read it; `println!` would panic.
    let _ = writeln!(std::io::stdout(), "listening on {}", running.url);
    #[cfg(unix)]
    {
        notify::ready(&running.app);
        running.app.tasks.spawn("notify", notify::keep(Arc::clone(&running.app)));
    }
    let why = tokio::select! {
        () = stop.cancelled() => {
            tracing::info!("draining");
            "draining"
        }
        () = running.failed() => {
            let why = running.app.store.watch.fatal_reason().unwrap_or_default();
            tracing::error!("draining: the database cannot go on ({why}); free the cause, then start again");
            "draining: the database cannot go on"
        }
    };
    #[cfg(unix)]
    notify::stopping(why);
    running.drain().await
}
