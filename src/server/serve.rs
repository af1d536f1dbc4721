//! Starting the server, and ending it: in order, or because the database cannot go on.

use super::app::{App, Keepalive};
use super::folder::{Folder, FolderError, LISTEN_FILE, OWNER_TOKEN_FILE};
use super::metrics::{Metrics, StoreMetrics};
use super::refusals::{HOUR, MINUTE};
use super::{files, listener, outside, reaper};
use crate::clock::Clock;
use crate::http_client::ServerUrl;
use crate::protocol::access::Role;
use crate::protocol::scope::Scope;
use crate::secret::Secret;
use crate::store::audit::Actor;
use crate::store::disk::DiskLimits;
use crate::store::error::StoreError;
use crate::store::handle::{OpenError, Store, StoreThread};
use crate::store::op::Close;
use crate::store::retain::{HISTORY_BYTES_MAX, HISTORY_MS_MAX, Retain};
use crate::store::tokens::CreateToken;
use crate::tasks::Tasks;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long drain waits for requests and sessions.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
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
    /// A tunnel in front keeps strangers out.
    pub behind_proxy: bool,
    /// Times of sessions.
    pub keepalive: Keepalive,
    /// Limits of the disk's use.
    pub disk: DiskLimits,
    /// How much history is kept.
    pub retain: Retain,
}

impl ServeConfig {
    /// The defaults, with this data folder, on a free port of the loopback.
    pub fn new(data: PathBuf) -> Self {
        Self {
            data,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            public_url: None,
            behind_proxy: false,
            keepalive: Keepalive::default(),
            disk: DiskLimits::default(),
            retain: Retain { history_ms_max: HISTORY_MS_MAX, history_bytes_max: HISTORY_BYTES_MAX },
        }
    }
}

/// Why the server does not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
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
        "{0} is not a loopback address, and postrider speaks plain HTTP: listen on 127.0.0.1, or on an address inside a tunnel (WireGuard, SSH) and say --behind-proxy"
    )]
    Exposed(SocketAddr),
    /// The public URL.
    #[error("--public-url: {0}")]
    PublicUrl(#[from] crate::http_client::HttpClientError),
    /// The database, at the first writes.
    #[error(transparent)]
    Store(#[from] StoreError),
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
    if !config.listen.ip().is_loopback() && !config.behind_proxy {
        return Err(ServeError::Exposed(config.listen));
    }
    let public_url = config.public_url.as_deref().map(ServerUrl::parse).transpose()?;
    let folder = Folder::open(&config.data)?;
    let listener =
        listener::listen(config.listen).map_err(|source| ServeError::Listen { address: config.listen, source })?;
    let address = listener.local_addr().map_err(|source| ServeError::Listen { address: config.listen, source })?;
    let metrics = Arc::new(Metrics::default());
    let counter = Box::new(StoreMetrics(Arc::clone(&metrics)));
    let (store, thread) = Store::open(folder.path(), clock, config.disk, counter)?;
    make_owner_token(&store, &folder).await?;
    // In a log that others keep it tells later whether rows were taken away, or the chain was made anew.
    let (seq, hash) = store.audit_head().await?;
    tracing::info!("the audit's head is {seq}:{hash}");
    let url = format!("http://{address}");
    let connections_max = files::connections_max();
    folder.write(LISTEN_FILE, &format!("{url}\n"))?;
    let tasks = Tasks::default();
    let join_url = public_url.map_or_else(|| url.clone(), |url| url.to_string());
    let app =
        App::new(store, metrics, tasks.clone(), config.keepalive, join_url, !config.behind_proxy, folder.seal_key()?);
    let app = Arc::new(app);
    tasks.spawn("listener", listener::accept(Arc::clone(&app), listener, connections_max));
    tasks.spawn("reaper", reaper::reap(Arc::clone(&app), config.retain));
    let (keeper, stop) = (Arc::clone(&app), tasks.stop_token().clone());
    tasks.spawn("refusals", async move {
        let refusals = keeper.refusals.keep(MINUTE, &keeper.store, &stop);
        tokio::join!(refusals, keeper.turned_away.keep(HOUR, &keeper.store, &stop));
    });
    tasks.spawn("outside", outside::watch(Arc::clone(&app)));
    Ok(Running { address, url, app, folder, thread })
}

/// At the first start: the owner's token. The file is written before the database knows the token, so that no start leaves a server that nobody can enter.
async fn make_owner_token(store: &Store, folder: &Folder) -> Result<(), ServeError> {
    if store.has_tokens().await? {
        return Ok(());
    }
    let token = Secret::generate(TOKEN_PREFIX);
    folder.write(OWNER_TOKEN_FILE, &format!("{}\n", token.expose()))?;
    let operation = CreateToken {
        actor: Actor::server("first start"),
        name: "owner".to_owned(),
        role: Role::Owner,
        scope: Scope::default(),
        hash: token.hash(),
        expires_ms: None,
    };
    store.write(operation).await?;
    tracing::info!("first start: the owner's token is in {}", folder.path().join(OWNER_TOKEN_FILE).display());
    Ok(())
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
    tokio::select! {
        () = stop.cancelled() => tracing::info!("draining"),
        () = running.failed() => tracing::error!("draining: the database cannot go on"),
    }
    running.drain().await
}
