//! `GET /install/binary/{platform}`: an executable of `agents/`, piece by piece, so that none is ever in memory as a whole.
//!
//! A download that nobody reads on, or whose file is written to meanwhile, breaks off: what arrived is shorter than it was
//! said to be.

use super::holder;
use crate::release::Platform;
use crate::secret::hex;
use crate::server::agents_folder::{AgentExecutable, AgentsFolder, AgentsFolderError};
use crate::server::call::Call;
use crate::server::error::ApiError;
use bytes::Bytes;
use futures_util::stream;
use hyper::StatusCode;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderValue};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use warp::reply::{Reply, Response};

/// Downloads at one time. Each has three pieces in memory and reads the disk; a fleet that comes for its executable is told
/// to come again.
pub const DOWNLOADS_MAX: usize = 16;
/// Files that are hashed at one time: it costs a core while it lasts, and each is hashed once for each of its states.
const HASHED_AT_ONCE: usize = 2;
/// Bytes that are read at once.
const PIECE_BYTES: usize = 64 * 1024;
/// Pieces between the disk and the socket.
const PIECES: usize = 2;
/// How long a reader may leave a piece untaken.
const SLOW_TIMEOUT: Duration = Duration::from_secs(30);
/// When whoever found no place comes again.
const SOON: Duration = Duration::from_secs(5);
/// When whoever found a file that is not whole comes again: a copy takes some seconds.
const WHOLE_SOON: Duration = Duration::from_secs(10);

/// The executables of a server that runs.
#[derive(Debug)]
pub struct Executables {
    folder: Arc<AgentsFolder>,
    looks: Semaphore,
    places: Arc<Semaphore>,
}

impl From<AgentsFolderError> for ApiError {
    fn from(error: AgentsFolderError) -> Self {
        let detail = error.to_string();
        match error {
            AgentsFolderError::Missing { .. } => Self::new(StatusCode::NOT_FOUND, "no_executable", detail),
            AgentsFolderError::Unfit { .. } => Self::unavailable("unfit_executable", detail, WHOLE_SOON),
        }
    }
}

impl Executables {
    /// Those of a data folder.
    pub fn open(data: &Path) -> Self {
        let (looks, places) = (Semaphore::new(HASHED_AT_ONCE), Arc::new(Semaphore::new(DOWNLOADS_MAX)));
        Self { folder: Arc::new(AgentsFolder::open(data)), looks, places }
    }

    /// The executable for a platform.
    ///
    /// # Errors
    /// 404, 503.
    pub async fn find(&self, platform: Platform) -> Result<AgentExecutable, ApiError> {
        let _permit = self.looks.acquire().await.map_err(ApiError::internal)?;
        let folder = Arc::clone(&self.folder);
        let found = tokio::task::spawn_blocking(move || folder.find(platform)).await;
        Ok(found.map_err(ApiError::internal)??)
    }
}

/// `GET /install/binary/{platform}`.
///
/// # Errors
/// 401, 403, 404, 429, 503.
pub async fn download(call: Call, platform: &str) -> Result<Response, ApiError> {
    call.query(&[])?;
    holder::authorize(&call).await?;
    let platform: Platform =
        platform.parse().map_err(|error| ApiError::new(StatusCode::NOT_FOUND, "no_executable", format!("{error}")))?;
    let executables = &call.app.executables;
    let Ok(place) = Arc::clone(&executables.places).try_acquire_owned() else {
        let detail = format!("{DOWNLOADS_MAX} downloads are under way, more are not served; come again");
        return Err(ApiError::unavailable("too_many_downloads", detail, SOON));
    };
    let executable = executables.find(platform).await?;
    tracing::info!(%platform, bytes = executable.bytes, peer = %call.connection.peer, "an executable is handed out");
    let (bytes, etag) = (executable.bytes, format!("\"{}\"", hex(&executable.sha256)));
    let (sender, mut receiver) = mpsc::channel(PIECES);
    let stop = call.app.tasks.stop_token().clone();
    call.app.tasks.spawn("download", async move {
        let _place = place;
        stop.run_until_cancelled(feed(executable, sender)).await;
    });
    let pieces = stream::poll_fn(move |context| receiver.poll_recv(context));
    let mut response = warp::reply::stream(pieces).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes));
    headers.insert(ETAG, HeaderValue::from_str(&etag).map_err(ApiError::internal)?);
    Ok(response)
}

/// Sends the whole file, or an error in the place of what is missing.
async fn feed(executable: AgentExecutable, sender: mpsc::Sender<io::Result<Bytes>>) {
    let mut at = 0;
    while at < executable.bytes {
        let source = executable.clone();
        let read = tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; PIECE_BYTES];
            let read = source.read_at(&mut piece, at)?;
            piece.truncate(read);
            Ok(Bytes::from(piece))
        });
        let piece = read.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        if let Err(error) = &piece {
            tracing::warn!(platform = %executable.platform, %error, "a download broke off");
        }
        let broken = piece.is_err();
        at += piece.as_ref().map_or(0, |piece| piece.len() as u64);
        if sender.send_timeout(piece, SLOW_TIMEOUT).await.is_err() || broken {
            return;
        }
    }
}
